"""Precision, recall and F1 of spans, as conlleval counts them and as strict IOB2 does."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from model.labels import OUTSIDE, Span, repair, spans_of, split_tag

OVERALL = "overall"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Precision, recall and F1 in percent, and what was counted."""

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_predicted: int

    @classmethod
    def of(cls, num_correct: int, num_predicted: int, num_gold: int) -> "Score":
        """The score for these counts; 0 where there is nothing to divide by."""
        precision = 100 * num_correct / num_predicted if num_predicted else 0.0
        recall = 100 * num_correct / num_gold if num_gold else 0.0
        both = precision + recall
        return cls(
            precision=precision,
            recall=recall,
            f1=2 * precision * recall / both if both else 0.0,
            num_gold=num_gold,
            num_predicted=num_predicted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Familiarity:
    """Scores of the mentions whose surface form the training data holds as a mention, and of the others.

    A predicted span belongs to one side by its own form, so precision has both sides too.
    """

    seen: Score
    unseen: Score


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """Spans as conlleval and seqeval's default read them: an I- after nothing of its type begins a name too."""
    return spans_of(repair(tags)[0])


def strict_spans(tags: Sequence[str]) -> list[Span]:
    """Spans of strict IOB2, as seqeval's strict mode reads them: an I- that continues nothing is no name."""
    kept, open_type = [], ""
    for tag in tags:
        prefix, type_ = split_tag(tag)
        legal = prefix != "I" or type_ == open_type
        kept.append(tag if legal else OUTSIDE)
        open_type = type_ if legal else ""
    return spans_of(kept)


def score(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, Score]:
    """Scores by type, and `overall`; a span counts where type, start and end agree."""
    num_gold = Counter(span.type for spans in gold for span in spans)
    num_predicted = Counter(span.type for spans in predicted for span in spans)
    num_correct = Counter(
        span.type for left, right in zip(gold, predicted, strict=True) for span in set(left) & set(right)
    )
    types = sorted(num_gold | num_predicted)
    scores = {type_: Score.of(num_correct[type_], num_predicted[type_], num_gold[type_]) for type_ in types}
    overall = Score.of(num_correct.total(), num_predicted.total(), num_gold.total())
    return {OVERALL: overall, **scores}


def familiarity(
    gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], is_seen: Callable[[int, Span], bool]
) -> Familiarity:
    """Scores of seen and unseen mentions; `is_seen` takes the sentence's number and the span."""

    def side(of: Sequence[Sequence[Span]], seen: bool) -> list[list[Span]]:
        return [[span for span in spans if is_seen(number, span) is seen] for number, spans in enumerate(of)]

    seen, unseen = (score(side(gold, which), side(predicted, which))[OVERALL] for which in (True, False))
    return Familiarity(seen=seen, unseen=unseen)
