"""A paired bootstrap over sentences: is one system's F1 truly higher than another's? (Koehn, 2004)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.labels import Span

NUM_RESAMPLES = 10_000
_AT_ONCE = 500  # resamples: 500 draws over 10,000 sentences are 40 MB

Counts = NDArray[np.float64]
"""By run and sentence (runs, sentences, 3): spans that are correct, predicted and gold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean F1 of some runs above that of a baseline's, in points.

    `low` and `high` hold 95 % of the resampled differences. `p_value` is two-sided: twice the share of
    resamples in which the difference lies on the other side of 0. Sentences are resampled, seeds aren't:
    how far the seeds scatter, the standard deviations tell.
    """

    difference: float
    low: float
    high: float
    p_value: float


def counts_of(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> list[tuple[int, int, int]]:
    """Spans that are correct, predicted and gold, by sentence."""
    return [(len(set(left) & set(right)), len(right), len(left)) for left, right in zip(gold, predicted, strict=True)]


def paired_bootstrap(system: Counts, baseline: Counts, seed: int = 0) -> Difference:
    """Compare two systems on the same sentences; each has one or more runs, whose F1s are averaged.

    Raises:
        ValueError: the two weren't scored on the same number of sentences, or on none.
    """
    num_sentences = system.shape[1]
    if num_sentences == 0 or baseline.shape[1] != num_sentences:
        raise ValueError(f"{num_sentences} sentences can't be paired with {baseline.shape[1]}")
    chance = np.random.default_rng(seed)
    drawn = []
    for start in range(0, NUM_RESAMPLES, _AT_ONCE):
        size = min(_AT_ONCE, NUM_RESAMPLES - start)
        # How often each sentence is drawn says as much as which were drawn.
        times = chance.multinomial(num_sentences, np.full(num_sentences, 1 / num_sentences), size=size)
        drawn.append(_mean_f1(times, system) - _mean_f1(times, baseline))
    differences = np.concatenate(drawn)
    once = np.ones((1, num_sentences))
    low, high = np.percentile(differences, [2.5, 97.5])
    # The real data count as one resample, so that no p-value is 0.
    beyond = min(np.sum(differences <= 0), np.sum(differences >= 0)) + 1
    return Difference(
        difference=float((_mean_f1(once, system) - _mean_f1(once, baseline))[0]),
        low=float(low),
        high=float(high),
        p_value=float(min(1.0, 2 * beyond / (NUM_RESAMPLES + 1))),
    )


def _mean_f1(times: NDArray[np.float64] | NDArray[np.int64], counts: Counts) -> NDArray[np.float64]:
    """The F1 in percent of each resample (N,), averaged over the runs."""
    correct, predicted, gold = np.moveaxis(times @ counts, 2, 0)  # (runs, N) each
    both = predicted + gold
    f1 = np.divide(200 * correct, both, out=np.zeros_like(both), where=both > 0)
    return np.asarray(f1.mean(axis=0))
