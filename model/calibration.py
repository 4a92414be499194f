"""One temperature for all confidences, fitted on data that the network wasn't trained on (Guo et al., 2017)."""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor

from model.checkpoint import ID_LENGTH, Checkpoint, load, save
from model.corpora import Corpus
from model.crf import LinearChainCRF, TagSpan
from model.data import Dataset
from model.errors import DataError
from model.evaluate import emissions_of, read_with_features
from model.features import ImageFeatures
from model.labels import LabelSet, Span, spans_of
from model.reliability import Reliability, reliability
from model.tagger import NameTagger
from model.vocabulary import Vocabulary

MIN_SPANS = 20
"""Fewer predicted spans than these say nothing of a temperature."""
COLDEST, HOTTEST = 0.1, 10.0
_STEPS = 25  # of the golden section: the bracket of ln 100 shrinks to less than 1e-4
_GOLDEN = (math.sqrt(5) - 1) / 2
_SMALLEST = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What a temperature did to the confidences on the data it was fitted on; the ids are checkpoints'."""

    data: str
    digest: str
    old_id: str
    new_id: str
    old_temperature: float
    temperature: float
    before: Reliability
    after: Reliability


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Posts with at least one predicted span: emissions (B, T, K), mask (B, T), each post's spans."""

    emissions: Tensor
    mask: Tensor
    spans: list[list[TagSpan]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedSpans:
    """The spans a network predicts on labelled data, with all that their confidences depend on.

    The best path doesn't depend on the temperature, so the spans are found once.
    """

    crf: LinearChainCRF
    batches: list[_Batch]
    correct: list[bool]

    def confidences(self, temperature: float) -> list[float]:
        """The confidence of each span at `temperature`, in the order of `correct`."""
        return [
            confidence
            for batch in self.batches
            for of_post in self.crf.batch_span_marginals(batch.emissions, batch.mask, batch.spans, temperature)
            for confidence in of_post
        ]

    def reliability(self, temperature: float) -> Reliability:
        """How reliable the confidences are at `temperature`."""
        return reliability(self.confidences(temperature), self.correct)


def predicted_spans(
    network: NameTagger, labels: LabelSet, vocabulary: Vocabulary, data: Dataset, features: ImageFeatures
) -> PredictedSpans:
    """The spans that `network` predicts on `data`; it is in evaluation mode afterwards."""
    batches: list[_Batch] = []
    correct: list[bool] = []
    for rows, emissions, mask in emissions_of(network, vocabulary, data, features):
        kept: list[int] = []
        asked: list[list[TagSpan]] = []
        for position, path in enumerate(network.crf.decode(emissions, mask)):
            found = spans_of([labels.tags[tag] for tag in path])
            if found:
                gold = set(spans_of(data.sentences[rows[position]].tags))
                correct += [span in gold for span in found]
                kept.append(position)
                asked.append([_numbered(span, labels) for span in found])
        if kept:
            batches.append(_Batch(emissions=emissions[kept], mask=mask[kept], spans=asked))
    return PredictedSpans(crf=network.crf, batches=batches, correct=correct)


def fit_temperature(
    network: NameTagger, labels: LabelSet, vocabulary: Vocabulary, data: Dataset, features: ImageFeatures
) -> float:
    """The temperature for the confidences of `network`, fitted on `data`, its development set.

    It minimises the mean negative log-likelihood of "this predicted span is right" under the spans'
    confidences. That is a proper score, smooth in the temperature, and least where the confidences are
    the true chances; the calibration error itself has bins, jumps, and is least for useless confidences
    as well. 1.0 where there are fewer than 20 spans to fit on.
    """
    return best_temperature(predicted_spans(network, labels, vocabulary, data, features))


def best_temperature(spans: PredictedSpans) -> float:
    """`fit_temperature` of spans that are predicted already."""
    if len(spans.correct) < MIN_SPANS:
        return 1.0

    def loss(log_temperature: float) -> float:
        confidences = spans.confidences(math.exp(log_temperature))
        chances = [p if right else 1 - p for p, right in zip(confidences, spans.correct, strict=True)]
        return -sum(math.log(max(chance, _SMALLEST)) for chance in chances) / len(chances)

    return math.exp(_least(loss, math.log(COLDEST), math.log(HOTTEST)))


def calibrate(checkpoint_path: Path, corpus: Corpus, *, dry_run: bool = False) -> Calibration:
    """Fit a checkpoint's temperature on a corpus, and write it anew, atomically and under a new id.

    A dry run measures the checkpoint as it is. Raises `CheckpointError` or `DataError`.
    """
    checkpoint, identity = load(checkpoint_path)
    data, features = read_with_features(corpus, checkpoint, checkpoint_path)
    spans = predicted_spans(checkpoint.build(), checkpoint.labels, checkpoint.vocabulary, data, features)
    if len(spans.correct) < MIN_SPANS:
        raise DataError(
            f"{data.name} gives {len(spans.correct)} predicted names, too few to judge confidences by; "
            f"take a file with {MIN_SPANS} or more"
        )
    before = spans.reliability(checkpoint.temperature)
    temperature = checkpoint.temperature if dry_run else best_temperature(spans)
    after = spans.reliability(temperature)
    new_id = identity
    if not dry_run:
        new_id = save(_calibrated(checkpoint, data, temperature, before, after), checkpoint_path)
    return Calibration(
        data=data.name,
        digest=data.digest,
        old_id=identity,
        new_id=new_id,
        old_temperature=checkpoint.temperature,
        temperature=temperature,
        before=before,
        after=after,
    )


def _calibrated(
    checkpoint: Checkpoint, data: Dataset, temperature: float, before: Reliability, after: Reliability
) -> Checkpoint:
    noted = {
        "file": data.name,
        "sha256": data.digest,
        "num_spans": after.num_spans,
        "ece_before": before.ece,
        "ece_after": after.ece,
    }
    return replace(checkpoint, temperature=temperature, notes={**checkpoint.notes, "calibration": noted})


def _numbered(span: Span, labels: LabelSet) -> TagSpan:
    return span.start, span.end, labels.index(f"B-{span.type}"), labels.index(f"I-{span.type}")


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where `function`, which has one valley, is least between `low` and `high`: golden section search."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_STEPS):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2


def render(calibration: Calibration) -> str:
    """A few lines for people."""
    before, after = calibration.before, calibration.after
    lines = [
        f"{calibration.data}  {after.num_spans} predicted names, {after.num_correct} right, "
        f"sha256 {calibration.digest[:ID_LENGTH]}",
        f"temperature  {calibration.old_temperature:.3f} -> {calibration.temperature:.3f}",
        f"ECE          {before.ece:.4f} -> {after.ece:.4f}  (10 bins of equal width)",
        f"checkpoint   {calibration.old_id} -> {calibration.new_id}",
        f"{'confidence':>12}{'names':>8}{'said':>8}{'right':>8}",
    ]
    lines += [
        f"{f'{one.low:.1f} to {one.high:.1f}':>12}{one.num_spans:8d}{one.mean_confidence:8.3f}{one.share_correct:8.3f}"
        for one in after.bins
        if one.num_spans
    ]
    return "\n".join(lines)


def to_json(calibration: Calibration) -> str:
    """The same for programs."""
    return json.dumps(asdict(calibration), indent=2)
