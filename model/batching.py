"""The training posts as batches: of like length, of one guideline, encoded, with chance where training wants it.

B posts, T tokens.
"""

import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.data import Sentence
from model.features import ImageFeatures, load_pixels
from model.labels import LabelSet
from model.tagger import Batch
from model.vocabulary import UNKNOWN, Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """A labelled post, the guideline by which it was labelled, and the types that its O may mean as well."""

    sentence: Sentence
    guideline: str
    open_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledBatch:
    """Encoded posts of one guideline, with their tags (B, T).

    `possible` (B, T, K) is there where some tags are open: it says which ones a token may have.
    `pixels` (N, 3, 224, 224) in uint8 are there where the tower learns: those of the N posts with a picture.
    """

    batch: Batch
    tags: Tensor
    guideline: str
    possible: Tensor | None = None
    pixels: Tensor | None = None

    def to(self, device: torch.device) -> "LabelledBatch":
        """The same on `device`."""
        return replace(
            self,
            batch=self.batch.to(device),
            tags=self.tags.to(device),
            possible=None if self.possible is None else self.possible.to(device),
            pixels=None if self.pixels is None else self.pixels.to(device),
        )


def make_batches(posts: Sequence[Post], size: int, chance: random.Random) -> list[list[Post]]:
    """Batches of one guideline and of like length, in random order.

    Shuffled before they are sorted, so that posts of one length change their company.
    """
    shuffled = list(posts)
    chance.shuffle(shuffled)
    shuffled.sort(key=lambda post: (post.guideline, len(post.sentence.tokens)))
    batches: list[list[Post]] = []
    for post in shuffled:
        if not batches or len(batches[-1]) == size or batches[-1][0].guideline != post.guideline:
            batches.append([])
        batches[-1].append(post)
    chance.shuffle(batches)
    return batches


class Encoder:
    """Turns posts into batches, dropping pictures and rare words by chance as training wants it.

    With `pictures`, files by image id, a batch brings pixels for a tower that learns.
    """

    def __init__(
        self,
        labels: LabelSet,
        vocabulary: Vocabulary,
        features: ImageFeatures,
        *,
        region_width: int,
        pictures: Mapping[str, Path] | None,
        rare: Tensor,
        unknown_dropout: float,
        word_dropout: float,
        modality_dropout: float,
    ) -> None:
        self._tags = {tag: number for number, tag in enumerate(labels.tags)}
        self._vocabulary = vocabulary
        self._features = features
        self._region_width = region_width
        self._pictures = pictures
        self._rare = rare  # (V,) bool
        self._unknown_dropout = unknown_dropout
        self._word_dropout = word_dropout
        self._modality_dropout = modality_dropout

    def encode(self, posts: Sequence[Post]) -> LabelledBatch:
        """A batch of `posts`, all of one guideline."""
        sentences = [post.sentence for post in posts]
        batch = self._vocabulary.encode(
            [sentence.tokens for sentence in sentences],
            [self._features.of(sentence.image_id) for sentence in sentences],
            self._region_width,
        )
        tags = torch.zeros_like(batch.words)
        for row, sentence in enumerate(sentences):
            tags[row, : len(sentence.tags)] = torch.tensor([self._tags[tag] for tag in sentence.tags])
        share = self._rare[batch.words].float() * self._unknown_dropout
        forgotten = (torch.rand(share.shape) < share.clamp(min=self._word_dropout)) & batch.mask
        seen = batch.has_image & (torch.rand(len(sentences)) >= self._modality_dropout)
        dropped = replace(batch, words=batch.words.masked_fill(forgotten, UNKNOWN), has_image=seen)
        pixels = self._pixels([s.image_id for s, kept in zip(sentences, seen.tolist(), strict=True) if kept])
        return LabelledBatch(
            batch=dropped,
            tags=tags,
            guideline=posts[0].guideline,
            possible=self._possible(posts, tags),
            pixels=pixels,
        )

    def _possible(self, posts: Sequence[Post], tags: Tensor) -> Tensor | None:
        if not any(post.open_types for post in posts):
            return None
        possible = torch.nn.functional.one_hot(tags, len(self._tags)).bool()
        outside = possible[:, :, :1]
        for row, post in enumerate(posts):
            names = (f"{prefix}-{type_}" for type_ in post.open_types for prefix in "BI")
            numbers = [self._tags[name] for name in names if name in self._tags]
            possible[row, :, numbers] |= outside[row]
        return possible

    def _pixels(self, image_ids: Sequence[str | None]) -> Tensor | None:
        if self._pictures is None or not image_ids:
            return None
        return torch.from_numpy(np.stack([load_pixels(self._pictures[name]) for name in image_ids if name is not None]))


def rare_words(vocabulary: Vocabulary, posts: Sequence[Post], known: Collection[str]) -> Tensor:
    """Which rows (V,) are of words that occur once in `posts` and aren't `known` to the embeddings.

    Nothing but these teach the network what an unknown word is.
    """
    # A corpus that is repeated doesn't make its words less rare.
    sentences = dict.fromkeys(post.sentence for post in posts)
    counts = Counter(vocabulary.word(token) for sentence in sentences for token in sentence.tokens)
    rare = torch.zeros(vocabulary.num_words, dtype=torch.bool)
    for number, word in enumerate(vocabulary.words, start=2):
        rare[number] = counts[number] == 1 and word not in known
    return rare
