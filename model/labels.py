"""IOB2 labels: the set, its repair, its spans and its legal transitions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

OUTSIDE = "O"

MAX_TYPES = 256
"""The finest tag sets that we know of have about a hundred; each type is a series of the metrics."""

_TYPE = re.compile(r"[A-Za-z0-9_./&+:-]{1,64}")
"""As corpora name types: `geo-loc`, `WORK_OF_ART`, `person-artist/author`. They go into events, metrics and pages."""


@dataclass(frozen=True, slots=True)
class Span:
    """A name of one type over tokens ``start`` to ``end``, the end excluded."""

    type: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The tags a model knows, in the order of its outputs.

    Raises:
        ValueError: the tags don't start with O, repeat, aren't a B- and an I- for each type, or are too many;
            or a type's name is too long, or not in the alphabet of `_TYPE`.
    """

    tags: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.tags) > 1 + 2 * MAX_TYPES:
            raise ValueError(f"its {len(self.tags)} labels: there are at most {MAX_TYPES} types, of two each")
        if not self.tags or self.tags[0] != OUTSIDE:
            raise ValueError(f"a label set starts with {OUTSIDE}, got {self.tags[:1]}")
        if len(set(self.tags)) != len(self.tags):
            raise ValueError(f"a label set holds each tag once, got {self.tags}")
        for tag in self.tags[1:]:
            prefix, type_ = split_tag(tag)
            if not _TYPE.fullmatch(type_):
                raise ValueError(
                    f"the label {tag[:40]!r}: a type has 1 to 64 characters, of A to Z, a to z, 0 to 9, _ . / & + : -"
                )
            partner = f"{'I' if prefix == 'B' else 'B'}-{type_}"
            if partner not in self.tags:
                raise ValueError(f"a label set with {tag} also needs {partner}")

    @classmethod
    def of_types(cls, types: Iterable[str]) -> Self:
        """Build the set O, B-X, I-X, B-Y, I-Y ... in the order of the types."""
        return cls((OUTSIDE, *(f"{prefix}-{type_}" for type_ in types for prefix in "BI")))

    @property
    def types(self) -> tuple[str, ...]:
        """The types, in the order in which their tags come first."""
        return tuple(dict.fromkeys(split_tag(tag)[1] for tag in self.tags[1:]))

    def __len__(self) -> int:
        return len(self.tags)

    def index(self, tag: str) -> int:
        """The output number of a tag.

        Raises:
            ValueError: the set doesn't hold the tag.
        """
        try:
            return self.tags.index(tag)
        except ValueError:
            raise ValueError(f"tag {tag!r} is not one of {', '.join(self.tags)}") from None


def split_tag(tag: str) -> tuple[str, str]:
    """Split ``B-PER`` into ``B`` and ``PER``; O has no type, the empty string.

    Raises:
        ValueError: it isn't an IOB2 tag, or its type can't be printed.
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    prefix, dash, type_ = tag.partition("-")
    if prefix not in ("B", "I") or not dash or not type_ or not type_.isprintable():
        raise ValueError(f"{tag!r} is not an IOB2 tag: O, B-TYPE or I-TYPE")
    return prefix, type_


def repair(tags: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """Make each I- that continues no name of its type a B-; also how many were changed.

    Raises:
        ValueError: one of them isn't an IOB2 tag.
    """
    repaired: list[str] = []
    num_repairs = 0
    open_type = ""
    for tag in tags:
        prefix, type_ = split_tag(tag)
        if prefix == "I" and type_ != open_type:
            tag = f"B-{type_}"
            num_repairs += 1
        repaired.append(tag)
        open_type = type_
    return tuple(repaired), num_repairs


def spans_of(tags: Sequence[str]) -> list[Span]:
    """Read the names off strict IOB2 tags, in order.

    Raises:
        ValueError: an I- continues no name of its type (`repair` first), or a tag isn't IOB2.
    """
    spans: list[Span] = []
    start, open_type = 0, ""
    for position, tag in enumerate(tags):
        prefix, type_ = split_tag(tag)
        if prefix == "I":
            if type_ != open_type:
                raise ValueError(f"{tag} at token {position} continues no name")
            continue
        if open_type:
            spans.append(Span(open_type, start, position))
        start, open_type = position, type_
    if open_type:
        spans.append(Span(open_type, start, len(tags)))
    return spans


def allowed(labels: LabelSet) -> list[list[bool]]:
    """Which tag may follow which in strict IOB2: ``allowed(labels)[before][after]``, K x K."""
    return [[_may_follow(before, after) for after in labels.tags] for before in labels.tags]


def allowed_starts(labels: LabelSet) -> list[bool]:
    """Which tags may open a post in strict IOB2: all but the I- tags, K."""
    return [_may_follow(OUTSIDE, tag) for tag in labels.tags]


def _may_follow(before: str, after: str) -> bool:
    prefix, type_ = split_tag(after)
    return prefix != "I" or split_tag(before)[1] == type_


DEFAULT_LABELS = LabelSet.of_types(("PER", "LOC", "ORG", "MISC"))
