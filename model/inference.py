"""A checkpoint at work: tokens and features in, named spans with their confidence out; NumPy's arrays at its border.

N pictures, R regions (49), D the tower's width.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load
from model.crf import TagSpan
from model.cuda_tower import CudaTower, Precision, check_precision, device_turn, use_full_precision
from model.device_memory import DeviceMemory
from model.errors import CheckpointError, TaggingError
from model.labels import Span, spans_of
from model.tagger import NUM_REGIONS
from model.tagging import TaggedSpan, Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from model.tower import Tower
from model.tower_file import tower_of
from model.word_cache import WordCache

WINDOW = 512
"""Tokens that are tagged at once; a longer post is cut into windows, so that memory is bounded."""


class Tagger:
    """A checkpoint and its visual tower, ready to tag.

    `tower_digest` names its features in a cache. It is the checkpoint's, for those of CPUs and of CUDA devices in fp32
    differ in the last bit of a few, as a folded tower's do; those in bf16 are others, under a name of their own.
    Raises `DeviceError` where the device can't compute in `tower_precision`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        checkpoint_id: str,
        tower: Tower | None,
        device: str = "cpu",
        *,
        tower_precision: Precision = "fp32",
    ) -> None:
        self._checkpoint = checkpoint
        self._device = torch.device(device)
        check_precision(self._device, tower_precision)
        self._is_cuda = self._device.type == "cuda"
        self._stream: torch.cuda.Stream | None = None
        if self._is_cuda:
            use_full_precision()
            self._stream = torch.cuda.Stream(self._device, priority=-1)  # type: ignore[no-untyped-call] # torch's own gap
        self._network = checkpoint.build().to(self._device)
        # Of so many small steps that to launch them on a device would take longer than they do here.
        self._network.crf.cpu()
        self._tower: Tower | CudaTower | None = tower
        if tower is not None:
            on_cuda = self._is_cuda
            self._tower = CudaTower(tower, self._device, tower_precision) if on_cuda else tower.to(self._device)
        self.checkpoint_id = checkpoint_id
        self.variant = str(checkpoint.config.variant)
        self.uses_image = checkpoint.config.uses_image
        self.has_attention = checkpoint.config.variant in ("attention", "attention_gate")
        self.labels = checkpoint.labels
        self.scheme = checkpoint.scheme
        self.tower_digest = features_name(checkpoint.tower_digest, tower_precision)
        self.feature_shape = (NUM_REGIONS, checkpoint.config.region_width)
        self._words = WordCache(self._embed)
        self._memory = DeviceMemory()

    @classmethod
    def load(
        cls, path: Path, device: str = "cpu", *, tower_precision: Precision = "fp32", may_download: bool = True
    ) -> Self:
        """The tagger in `path`. Raises `CheckpointError` on a bad file, or on another tower's weights.

        `may_download`: the tower's weights may come from torchvision, where they aren't here.
        Raises `DeviceError` where the device can't compute in `tower_precision`, `OutOfMemory` where it's too small.
        """
        with DeviceMemory():
            checkpoint, identity = load(path)
            uses_image = checkpoint.config.uses_image
            tower = tower_of(checkpoint, path, may_download=may_download) if uses_image else None
            return cls(checkpoint, identity, tower, device, tower_precision=tower_precision)

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """The tokens of a caption, by the scheme that the checkpoint was trained with."""
        return tuple(tokenize(text, self.scheme))

    @torch.inference_mode()
    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Features (N, R, D) in fp16 of pixels (N, 3, 224, 224) in uint8. Raises `OutOfMemory`."""
        if self._tower is None:
            raise CheckpointError(f"the variant {self.variant} has no visual tower")
        with self._memory:
            given = torch.from_numpy(pixels)
            if isinstance(self._tower, CudaTower):
                return self._tower.look(given).numpy()
            features: Tensor = self._tower(given.to(self._device))
            return features.cpu().numpy()

    @property
    def begin_look(self) -> Callable[[Sequence[np.ndarray]], Callable[[], np.ndarray]] | None:
        """`look` for pictures (3, 224, 224), in two steps: it begins, and what it gives back waits for the features.

        None where nothing is gained by it, on a CPU.
        """
        return self._begin_look if isinstance(self._tower, CudaTower) else None

    begin_tag: ClassVar[None] = None
    """Nothing is gained by two steps within a process."""

    def _begin_look(self, pixels: Sequence[np.ndarray]) -> Callable[[], np.ndarray]:
        assert isinstance(self._tower, CudaTower)
        with self._memory:
            look = self._tower.begin([torch.from_numpy(each) for each in pixels])

        def features() -> np.ndarray:
            with self._memory:
                return look.features().numpy()

        return features

    @torch.inference_mode()
    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order, whatever else is in the batch.

        Raises `TaggingError` where the weights make no numbers of one of them, and `OutOfMemory`.
        """
        with self._memory:
            return self._tag(inputs)

    def _tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        pieces = [
            (row, post.tokens[start : start + WINDOW], post.features)
            for row, post in enumerate(inputs)
            for start in range(0, len(post.tokens), WINDOW)
        ]
        spans: list[list[TaggedSpan]] = [[] for _ in inputs]
        attention: list[tuple[float, ...] | None] = [None] * len(inputs)
        gates: list[list[float]] = [[] for _ in inputs]
        if pieces:
            with self._before_the_tower():
                taggings = self._tag_pieces(pieces)
            for (row, _, _), tagging in zip(pieces, taggings, strict=True):
                spans[row] += tagging.spans
                attention[row] = attention[row] or tagging.attention
                gates[row] += tagging.gate or ()
        return [
            Tagging(spans=tuple(found), attention=weights, gate=tuple(gate) or None)
            for found, weights, gate in zip(spans, attention, gates, strict=True)
        ]

    def _tag_pieces(self, pieces: Sequence[tuple[int, tuple[Token, ...], np.ndarray | None]]) -> list[Tagging]:
        x, lengths = self._words.inputs([[token.text for token in tokens] for _, tokens, _ in pieces])
        seen = {
            row: features for row, (_, _, features) in enumerate(pieces) if features is not None and self.uses_image
        }
        on_device = self._network.infer(
            x, lengths, torch.tensor(list(seen), dtype=torch.int64), self._stack(seen.values())
        )
        # All that comes back from a device, at once: each thing that is asked of it waits for all before.
        emissions = on_device.emissions.cpu()
        attention = None if on_device.attention is None else on_device.attention.cpu()
        gates = None if on_device.gate is None else on_device.gate.mean(dim=2).cpu()
        mask = torch.arange(x.shape[1]) < lengths.unsqueeze(1)
        # Finite weights may still overflow; from what is no number the CRF would read that there are no names.
        if not _are_numbers(emissions[mask]) or (attention is not None and not _are_numbers(attention)):
            raise TaggingError("the network computes what is no number")
        weights = {} if attention is None else dict(zip(seen, attention.float().tolist(), strict=True))
        by_word = {} if gates is None else dict(zip(seen, gates.tolist(), strict=True))
        crf = self._network.crf
        paths = crf.decode(emissions, mask)
        found = [spans_of([self.labels.tags[tag] for tag in path]) for path in paths]
        # Of the whole batch at once: one post at a time takes ten times as long.
        asked = [[self._numbered(span) for span in spans] for spans in found]
        confidences = crf.batch_span_marginals(emissions, mask, asked, self._checkpoint.temperature)
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
                attention=tuple(weights[row]) if row in weights else None,
                gate=tuple(by_word[row][: len(tokens)]) if row in by_word else None,
            )
            for row, (_, tokens, _) in enumerate(pieces)
        ]

    @contextmanager
    def _before_the_tower(self) -> Iterator[None]:
        """Where the tagging's short steps needn't wait behind the tower's long ones, on a CUDA device."""
        if self._stream is None:
            yield
            return
        with device_turn, torch.cuda.stream(self._stream):
            yield

    def _embed(self, words: Sequence[str]) -> Tensor:
        encoded = self._checkpoint.vocabulary.encode_words(words)
        numbers, characters, lengths = (each.unsqueeze(0).to(self._device) for each in encoded)
        return self._network.embed(numbers, characters, lengths)[0]

    def _stack(self, features: Collection[np.ndarray]) -> Tensor:
        """Features (M, R, D) on the device; halves go there, and become floats there."""
        if not features:
            return torch.empty(0, *self.feature_shape, device=self._device)
        if not self._is_cuda:
            return torch.from_numpy(np.stack(list(features))).to(self._device)
        # Page-locked, so that nobody waits for the copy.
        here = torch.empty(len(features), *self.feature_shape, dtype=torch.float16, pin_memory=True)
        np.stack(list(features), out=here.numpy())
        return here.to(self._device, non_blocking=True)

    def _numbered(self, span: Span) -> TagSpan:
        return span.start, span.end, self.labels.index(f"B-{span.type}"), self.labels.index(f"I-{span.type}")


def features_name(tower_digest: str, precision: Precision) -> str:
    """What the features of a tower are kept under: those of different precisions are never mixed."""
    return tower_digest if precision == "fp32" else f"{tower_digest}-{precision}"


def _are_numbers(values: Tensor) -> bool:
    return bool(torch.isfinite(values).all())
