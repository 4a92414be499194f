"""Scores, with seqeval as the referee, and seen against unseen mentions."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from model.data import Sentence
from model.errors import CheckpointError
from model.labels import Span, repair, spans_of
from model.mentions import Mentions, mention_hashes, surface
from model.scores import OVERALL, Score, familiarity, lenient_spans, score, strict_spans

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-MISC", "I-MISC")


@st.composite
def labelled(draw: st.DrawFn) -> tuple[list[list[str]], list[list[str]]]:
    """Gold and predicted tags of some sentences, illegal sequences among both."""
    lengths = draw(st.lists(st.integers(1, 8), min_size=1, max_size=6))
    rows = [[draw(st.lists(st.sampled_from(TAGS), min_size=n, max_size=n)) for n in lengths] for _ in range(2)]
    rows[0][0][0] = "B-PER"  # seqeval's report can't do without any gold span
    return rows[0], rows[1]


def compare(ours: dict[str, Score], theirs: dict[str, dict[str, float]]) -> None:
    """All numbers of seqeval's report are ours, in percent."""
    for name, told in theirs.items():
        if name in ("macro avg", "weighted avg"):
            continue
        mine = ours[OVERALL if name == "micro avg" else name]
        assert mine.precision == pytest.approx(100 * told["precision"])
        assert mine.recall == pytest.approx(100 * told["recall"])
        assert mine.f1 == pytest.approx(100 * told["f1-score"])
        assert mine.num_gold == told["support"]


@settings(deadline=None)
@given(labelled())
def test_lenient_scores_are_seqevals_default(rows: tuple[list[list[str]], list[list[str]]]) -> None:
    """Lenient: labels as they came, read as seqeval reads them without a scheme."""
    gold, predicted = rows
    ours = score([lenient_spans(tags) for tags in gold], [lenient_spans(tags) for tags in predicted])
    compare(ours, classification_report(gold, predicted, output_dict=True, zero_division=0))


@settings(deadline=None)
@given(labelled())
def test_strict_scores_are_seqevals_strict_iob2(rows: tuple[list[list[str]], list[list[str]]]) -> None:
    """Strict: repaired gold, and predictions that must be IOB2 to count."""
    gold, predicted = [list(repair(tags)[0]) for tags in rows[0]], rows[1]
    ours = score([spans_of(tags) for tags in gold], [strict_spans(tags) for tags in predicted])
    theirs = classification_report(gold, predicted, output_dict=True, zero_division=0, mode="strict", scheme=IOB2)
    compare(ours, theirs)


def sentence(text: str, *tags: str) -> Sentence:
    return Sentence(tuple(text.split()), tags, tags, None)


def test_seen_mentions_are_told_from_unseen_ones() -> None:
    """A mention is seen if its surface form, whatever its case, is a mention of the training data."""
    train = [sentence("in New York now", "O", "B-LOC", "I-LOC", "O"), sentence("york is old", "O", "O", "O")]
    data = [sentence("NEW YORK and York", "B-LOC", "I-LOC", "O", "B-LOC")]
    mentions = Mentions.of(train)
    assert len(mentions) == 1
    gold = [spans_of(data[0].tags)]
    predicted = [[Span("LOC", 0, 2), Span("PER", 3, 4)]]
    split = familiarity(gold, predicted, lambda number, span: surface(data[number].tokens, span) in mentions)
    assert (split.seen.f1, split.seen.num_gold, split.seen.num_predicted) == (100, 1, 1)
    assert (split.unseen.f1, split.unseen.num_gold, split.unseen.num_predicted) == (0, 1, 1)


def test_hashes_are_small_sorted_and_survive_json() -> None:
    """The notes hold 64 bits a distinct mention, the same whatever the order of the sentences."""
    sentences = [sentence(f"name{number}", "B-PER") for number in range(300)]
    noted = mention_hashes(sentences)
    assert noted == mention_hashes(reversed(sentences + sentences))
    assert len(noted) <= 300 * 11
    again = Mentions(json.loads(json.dumps(noted)))
    assert len(again) == 300
    assert "name7" in again
    assert "name300" not in again


@pytest.mark.parametrize("noted", ["*", 7, ["a"], "é"])
def test_mentions_of_another_kind_are_refused(noted: object) -> None:
    """Notes that aren't what `mention_hashes` wrote end in one sentence."""
    with pytest.raises(CheckpointError, match="--train"):
        Mentions(noted)  # type: ignore[arg-type]
