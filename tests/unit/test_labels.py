from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.labels import (
    DEFAULT_LABELS,
    MAX_TYPES,
    LabelSet,
    Span,
    allowed,
    allowed_starts,
    repair,
    spans_of,
    split_tag,
)

TAGS = st.lists(st.sampled_from(DEFAULT_LABELS.tags), max_size=12)


def test_default_labels() -> None:
    """The default set has the paper's nine tags, O first."""
    assert len(DEFAULT_LABELS) == 9
    assert DEFAULT_LABELS.tags[:3] == ("O", "B-PER", "I-PER")
    assert DEFAULT_LABELS.types == ("PER", "LOC", "ORG", "MISC")
    assert [DEFAULT_LABELS.index(tag) for tag in DEFAULT_LABELS.tags] == list(range(9))


def test_unknown_tag() -> None:
    """Looking up a tag outside the set says which tags there are."""
    with pytest.raises(ValueError, match="'B-X' is not one of O, B-A, I-A"):
        LabelSet.of_types(["A"]).index("B-X")


@pytest.mark.parametrize(
    "tags",
    [
        (),
        ("B-A", "I-A"),
        ("O", "O"),
        ("O", "B-A"),
        ("O", "I-A"),
        ("O", "A"),
        ("O", "S-A"),
        ("O", "B-\x1b[31mA", "I-\x1b[31mA"),
        ("O", f"B-{'A' * 65}", f"I-{'A' * 65}"),
        ("O", "B-<img src=x>", "I-<img src=x>"),
        ("O", "B-tv show", "I-tv show"),
        (*LabelSet.of_types(map(str, range(MAX_TYPES))).tags, "B-x", "I-x"),
    ],
)
def test_bad_label_sets(tags: tuple[str, ...]) -> None:
    """A label set without O first, without both tags of a type, with types too many, or no plain names, is refused."""
    with pytest.raises(ValueError):
        LabelSet(tags)


@pytest.mark.parametrize("type_", ["PER", "geo-loc", "WORK_OF_ART", "person-artist/author", "/person/artist", "A" * 64])
def test_types_as_corpora_name_them(type_: str) -> None:
    """None of the known corpora is kept out."""
    assert LabelSet.of_types([type_]).types == (type_,)


def test_types_may_hold_dashes() -> None:
    """Only the first dash separates the prefix from a fine-grained type."""
    assert split_tag("B-person-artist") == ("B", "person-artist")


def test_repair() -> None:
    """An I- after O, after another type or at the start becomes a B-, and each is counted."""
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-ORG", "I-PER", "I-PER"]
    assert repair(tags) == (("B-PER", "I-PER", "O", "B-LOC", "B-ORG", "B-PER", "I-PER"), 3)


def test_spans() -> None:
    """Names that touch, and one at the end, are read with their borders."""
    tags = ["B-PER", "I-PER", "B-PER", "O", "B-LOC"]
    assert spans_of(tags) == [Span("PER", 0, 2), Span("PER", 2, 3), Span("LOC", 4, 5)]


def test_spans_are_strict() -> None:
    """An I- that continues no name is an error, not a guess."""
    with pytest.raises(ValueError, match="I-PER at token 1"):
        spans_of(["B-LOC", "I-PER"])


@given(TAGS)
def test_repaired_tags_are_legal(tags: list[str]) -> None:
    """Repair yields only legal transitions, is idempotent, and changes nothing legal."""
    repaired, num_repairs = repair(tags)
    legal = _is_legal(tags)
    assert _is_legal(repaired)
    assert repair(repaired) == (repaired, 0)
    assert legal == (num_repairs == 0)
    assert num_repairs == sum(a != b for a, b in zip(tags, repaired, strict=True))


@given(TAGS)
def test_spans_restore_the_tags(tags: list[str]) -> None:
    """Writing the spans as tags again gives the repaired tags."""
    repaired, _ = repair(tags)
    written = ["O"] * len(tags)
    for span in spans_of(repaired):
        names = [f"B-{span.type}"] + [f"I-{span.type}"] * (span.end - span.start - 1)
        written[span.start : span.end] = names
    assert tuple(written) == repaired


def _is_legal(tags: list[str] | tuple[str, ...]) -> bool:
    numbers = [DEFAULT_LABELS.index(tag) for tag in tags]
    follows = allowed(DEFAULT_LABELS)
    return all(allowed_starts(DEFAULT_LABELS)[number] for number in numbers[:1]) and all(
        follows[before][after] for before, after in pairwise(numbers)
    )
