"""A checkpoint at work: tokens and features in, named spans with their confidence out.

N pictures, R regions (49), D the tower's width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load
from model.crf import TagSpan
from model.errors import CheckpointError, TaggingError
from model.labels import Span, spans_of
from model.tagger import NUM_REGIONS
from model.tokenizer import Token, tokenize
from model.tower import Tower
from model.tower_file import tower_of

WINDOW = 512
"""Tokens that are tagged at once; a longer post is cut into windows, so that memory is bounded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggingInput:
    """A post for the tagger; `features` (R, D) in fp16, None where there is no picture."""

    tokens: tuple[Token, ...]
    features: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggedSpan:
    """A name at text[start:end], in code points; `confidence` is the probability of this very span."""

    type: str
    start: int
    end: int
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tagging:
    """The names of a post, the weights of the picture's regions (49), row by row, and the gate of each word.

    The gate is the mean of β_v (section 2.4), 0 to 1: how much of the picture goes into the word. Attention and gate
    are None where no picture was looked at, or where the variant has no such part.
    """

    spans: tuple[TaggedSpan, ...] = ()
    attention: tuple[float, ...] | None = None
    gate: tuple[float, ...] | None = None


class Tagger:
    """A checkpoint and its visual tower, ready to tag."""

    def __init__(self, checkpoint: Checkpoint, checkpoint_id: str, tower: Tower | None, device: str = "cpu") -> None:
        self._checkpoint = checkpoint
        self._device = torch.device(device)
        self._network = checkpoint.build().to(self._device)
        self._tower = None if tower is None else tower.to(self._device)
        self.checkpoint_id = checkpoint_id
        self.variant = str(checkpoint.config.variant)
        self.uses_image = checkpoint.config.uses_image
        self.has_attention = checkpoint.config.variant in ("attention", "attention_gate")
        self.labels = checkpoint.labels
        self.tower_digest = checkpoint.tower_digest
        self.feature_shape = (NUM_REGIONS, checkpoint.config.region_width)

    @classmethod
    def load(cls, path: Path, device: str = "cpu") -> Self:
        """The tagger in `path`. Raises `CheckpointError` on a bad file, or on another tower's weights."""
        checkpoint, identity = load(path)
        tower = tower_of(checkpoint, path) if checkpoint.config.uses_image else None
        return cls(checkpoint, identity, tower, device)

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """The tokens of a caption, by the scheme that the checkpoint was trained with."""
        return tuple(tokenize(text, self._checkpoint.scheme))

    @torch.inference_mode()
    def look(self, pixels: Tensor) -> Tensor:
        """Features (N, R, D) in fp16, on the CPU, of pixels (N, 3, 224, 224) in uint8."""
        if self._tower is None:
            raise CheckpointError(f"the variant {self.variant} has no visual tower")
        features: Tensor = self._tower(pixels.to(self._device))
        return features.cpu()

    @torch.inference_mode()
    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order, whatever else is in the batch.

        Raises `TaggingError` where the weights make no numbers of one of them.
        """
        pieces = [
            (row, post.tokens[start : start + WINDOW], post.features)
            for row, post in enumerate(inputs)
            for start in range(0, len(post.tokens), WINDOW)
        ]
        spans: list[list[TaggedSpan]] = [[] for _ in inputs]
        attention: list[tuple[float, ...] | None] = [None] * len(inputs)
        gates: list[list[float]] = [[] for _ in inputs]
        if pieces:
            for (row, _, _), tagging in zip(pieces, self._tag_pieces(pieces), strict=True):
                spans[row] += tagging.spans
                attention[row] = attention[row] or tagging.attention
                gates[row] += tagging.gate or ()
        return [
            Tagging(spans=tuple(found), attention=weights, gate=tuple(gate) or None)
            for found, weights, gate in zip(spans, attention, gates, strict=True)
        ]

    def _tag_pieces(self, pieces: Sequence[tuple[int, tuple[Token, ...], Tensor | None]]) -> list[Tagging]:
        checkpoint = self._checkpoint
        batch = checkpoint.vocabulary.encode(
            [[token.text for token in tokens] for _, tokens, _ in pieces],
            [features if self.uses_image else None for _, _, features in pieces],
            checkpoint.config.region_width,
        ).to(self._device)
        emissions, attention, gates = self._network(batch)
        seen = [row for row, (_, _, features) in enumerate(pieces) if features is not None]
        # Finite weights may still overflow; from what is no number the CRF would read that there are no names.
        if not _are_numbers(emissions[batch.mask]) or (attention is not None and not _are_numbers(attention[seen])):
            raise TaggingError("the network computes what is no number")
        by_word = None if gates is None else gates.mean(dim=2)  # (B, T)
        paths = self._network.crf.decode(emissions, batch.mask)
        found = [spans_of([self.labels.tags[tag] for tag in path]) for path in paths]
        # Of the whole batch at once: one post at a time takes ten times as long.
        confidences = self._network.crf.batch_span_marginals(
            emissions, batch.mask, [[self._numbered(span) for span in spans] for spans in found], checkpoint.temperature
        )
        return [
            Tagging(
                spans=tuple(
                    TaggedSpan(
                        type=span.type,
                        start=tokens[span.start].start,
                        end=tokens[span.end - 1].end,
                        confidence=confidence,
                    )
                    for span, confidence in zip(found[row], confidences[row], strict=True)
                ),
                attention=None if attention is None or features is None else tuple(attention[row].float().tolist()),
                gate=None if by_word is None or features is None else tuple(by_word[row, : len(paths[row])].tolist()),
            )
            for row, (_, tokens, features) in enumerate(pieces)
        ]

    def _numbered(self, span: Span) -> TagSpan:
        return span.start, span.end, self.labels.index(f"B-{span.type}"), self.labels.index(f"I-{span.type}")


def _are_numbers(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
