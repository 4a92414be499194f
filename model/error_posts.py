"""Finds the posts of a data set that a checkpoint tags wrong, and what each error owes to its picture."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from model.captions import NamedSpan
from model.data import Dataset, ImageFolder, Sentence
from model.error_groups import Evidence, Group, GroupRules, PictureReport
from model.errors import PictureError
from model.features import load_pixels
from model.labels import spans_of
from model.pictures import sharpness, thumbnail
from model.tagging import TaggedSpan, Tagging, TaggingInput
from model.tokenizer import Token

CHUNK_POSTS = 32
"""Posts at once; memory is bounded by them and not by the data set."""
_SHARPNESS_SIDE = 448


class SeeingTagger(Protocol):
    """What is asked of a tagger here."""

    uses_image: bool

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Features (N, R, D) in fp16 of pixels (N, 3, 224, 224)."""

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """As many taggings as inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A name of the gold at text[start:end], in code points."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorPost:
    """A post tagged wrong. `text` is its tokens with a space between; `number` counts the posts from 1.

    `tagging` is what the tagger says, `without_picture` its names for the caption alone.
    """

    number: int
    image_id: str | None
    tokens: tuple[Token, ...]
    text: str
    gold: tuple[Mention, ...]
    tagging: Tagging
    without_picture: tuple[TaggedSpan, ...]
    picture: Path | None
    evidence: Evidence
    group: Group

    @property
    def missed(self) -> frozenset[tuple[str, int, int]]:
        """Type, start and end of the gold names that weren't found."""
        return _keys(self.gold) - _keys(self.tagging.spans)

    @property
    def wrong(self) -> frozenset[tuple[str, int, int]]:
        """Type, start and end of the found names that aren't gold."""
        return _keys(self.tagging.spans) - _keys(self.gold)

    @property
    def wrong_without_picture(self) -> frozenset[tuple[str, int, int]]:
        """The same for the caption alone."""
        return _keys(self.without_picture) - _keys(self.gold)


@dataclass(frozen=True, slots=True)
class _Seen:
    path: Path
    features: np.ndarray


def find_errors(
    tagger: SeeingTagger,
    data: Dataset,
    folder: ImageFolder | None,
    rules: GroupRules,
    on_progress: Callable[[int], None] = lambda _num_posts: None,
) -> Iterator[ErrorPost]:
    """The posts of `data` that are tagged wrong, in order; without a folder no picture counts as missing.

    They are those that `nametag evaluate` counts: a picture that stands under several ids is as good as missing.
    `on_progress` learns how many posts were read.
    """
    copies = _copies(data, folder) if tagger.uses_image else frozenset()
    for start in range(0, len(data.sentences), CHUNK_POSTS):
        sentences = data.sentences[start : start + CHUNK_POSTS]
        seen = _look(tagger, sentences, folder, copies)
        posts = [_post(sentence) for sentence in sentences]
        features = [None if one is None else one.features for one in seen]
        taggings = _tag(tagger, posts, features)
        wrong = [row for row, post in enumerate(posts) if _keys(post[2]) != _keys(taggings[row].spans)]
        blind = _tag(tagger, [posts[row] for row in wrong], [None] * len(wrong))
        level = _tag(tagger, [posts[row] for row in wrong], [_levelled(features[row]) for row in wrong])
        for row, without, levelled in zip(wrong, blind, level, strict=True):
            tokens, text, gold = posts[row]
            found = seen[row]
            evidence = Evidence(
                num_errors=_num_errors(gold, taggings[row].spans),
                num_errors_without_picture=None if found is None else _num_errors(gold, without.spans),
                num_errors_levelled=None if found is None else _num_errors(gold, levelled.spans),
                names_picture=tagger.uses_image and folder is not None and sentences[row].image_id is not None,
                picture=None if found is None else _report(found.path),
            )
            yield ErrorPost(
                number=start + row + 1,
                image_id=sentences[row].image_id,
                tokens=tokens,
                text=text,
                gold=gold,
                tagging=taggings[row],
                without_picture=without.spans,
                picture=None if found is None else found.path,
                evidence=evidence,
                group=rules.group_of(evidence),
            )
        on_progress(start + len(sentences))


def _post(sentence: Sentence) -> tuple[tuple[Token, ...], str, tuple[Mention, ...]]:
    tokens, place = [], 0
    for word in sentence.tokens:
        tokens.append(Token(word, place, place + len(word)))
        place += len(word) + 1
    gold = tuple(
        Mention(type=span.type, start=tokens[span.start].start, end=tokens[span.end - 1].end)
        for span in spans_of(sentence.tags)
    )
    return tuple(tokens), " ".join(sentence.tokens), gold


def _copies(data: Dataset, folder: ImageFolder | None) -> frozenset[str]:
    """The image ids under which one and the same picture stands, put there in the place of pictures that were lost."""
    if folder is None:
        return frozenset()
    of_size: dict[int, dict[str, Path]] = {}
    for sentence in data.sentences:
        path = None if sentence.image_id is None else folder.find(sentence.image_id)
        if sentence.image_id is not None and path is not None:
            with suppress(OSError):  # what can't be read is no picture anyway
                of_size.setdefault(path.stat().st_size, {})[sentence.image_id] = path
    copies: set[str] = set()
    for group in of_size.values():
        if len(group) > 1:  # only pictures of one size are worth reading
            digests = {identity: _digest(path) for identity, path in group.items()}
            counted = Counter(digests.values())
            copies |= {identity for identity, digest in digests.items() if digest is not None and counted[digest] > 1}
    return frozenset(copies)


def _digest(path: Path) -> bytes | None:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return None


def _look(
    tagger: SeeingTagger, sentences: Sequence[Sentence], folder: ImageFolder | None, copies: frozenset[str]
) -> list[_Seen | None]:
    seen: list[_Seen | None] = [None] * len(sentences)
    if folder is None or not tagger.uses_image:
        return seen
    rows, paths, pixels = [], [], []
    for row, sentence in enumerate(sentences):
        identity = sentence.image_id
        path = None if identity is None or identity in copies else folder.find(identity)
        if path is None:
            continue
        try:
            pixels.append(load_pixels(path))
        except PictureError:  # broken: as good as missing
            continue
        rows.append(row)
        paths.append(path)
    if pixels:
        for row, path, features in zip(rows, paths, tagger.look(np.stack(pixels)), strict=True):
            seen[row] = _Seen(path, features)
    return seen


def _tag(
    tagger: SeeingTagger,
    posts: Sequence[tuple[tuple[Token, ...], str, tuple[Mention, ...]]],
    features: Sequence[np.ndarray | None],
) -> list[Tagging]:
    return tagger.tag(
        [TaggingInput(tokens=tokens, features=seen) for (tokens, _, _), seen in zip(posts, features, strict=True)]
    )


def _levelled(features: np.ndarray | None) -> np.ndarray | None:
    """Each region as the mean of all (R, D): the attention has nothing to choose from."""
    if features is None:
        return None
    return np.broadcast_to(features.mean(axis=0, dtype=np.float32).astype(features.dtype), features.shape)


def _report(path: Path) -> PictureReport:
    with Image.open(path) as image:
        shorter_side = min(image.size)
    return PictureReport(shorter_side=shorter_side, sharpness=sharpness(thumbnail(path, _SHARPNESS_SIDE)))


def _num_errors(gold: Sequence[NamedSpan], predicted: Sequence[NamedSpan]) -> int:
    return len(_keys(gold) ^ _keys(predicted))


def _keys(spans: Sequence[NamedSpan]) -> frozenset[tuple[str, int, int]]:
    return frozenset((span.type, span.start, span.end) for span in spans)
