"""The paired bootstrap: differences that are there, and some that aren't."""

import numpy as np
import pytest

from model.bootstrap import Counts, counts_of, paired_bootstrap
from model.labels import Span


def system(share: float, seed: int, runs: int = 3, sentences: int = 200) -> Counts:
    """Runs that find the given share of two names a sentence, and nothing else."""
    found = np.random.default_rng(seed).binomial(2, share, (runs, sentences))
    return np.stack([found, found, np.full_like(found, 2)], axis=2).astype(np.float64)


def test_a_large_difference_is_found() -> None:
    """A system that finds 90 % against 60 %: the interval is above 0 and holds the difference."""
    told = paired_bootstrap(system(0.9, 1), system(0.6, 2))
    assert 0 < told.low < told.difference < told.high
    assert told.p_value < 0.001


def test_the_same_system_differs_by_nothing() -> None:
    """A system against itself: no difference, no interval, p = 1."""
    told = paired_bootstrap(system(0.7, 1), system(0.7, 1))
    assert (told.difference, told.low, told.high, told.p_value) == (0, 0, 0, 1)


def test_it_is_paired() -> None:
    """One more name found in a tenth of the sentences is sure, though the sentences differ widely."""
    baseline = system(0.5, 1, runs=1)
    better = baseline.copy()
    better[:, ::10, :2] = 2
    told = paired_bootstrap(better, baseline)
    assert told.low > 0
    assert told.p_value < 0.001


def test_the_same_seed_gives_the_same_figures() -> None:
    """Results can be repeated, and another seed gives others that are near."""
    left, right = system(0.7, 1), system(0.68, 2)
    assert paired_bootstrap(left, right) == paired_bootstrap(left, right)
    assert paired_bootstrap(left, right, seed=1).p_value == pytest.approx(
        paired_bootstrap(left, right).p_value, abs=0.03
    )


def test_chance_alone_is_rarely_called_a_difference() -> None:
    """Of 40 pairs of equal systems about 5 % have p < 0.05; a broken p-value would give many more."""
    called = sum(paired_bootstrap(system(0.7, n), system(0.7, 1000 + n)).p_value < 0.05 for n in range(40))
    assert called <= 6


def test_other_sentences_are_refused() -> None:
    """Systems scored on other numbers of sentences can't be paired."""
    with pytest.raises(ValueError, match="paired"):
        paired_bootstrap(system(0.7, 1), system(0.7, 1, sentences=199))


def test_counts_by_sentence() -> None:
    """A span is correct where type, start and end agree."""
    gold = [[Span("PER", 0, 2), Span("LOC", 3, 4)], []]
    assert counts_of(gold, [[Span("PER", 0, 2), Span("ORG", 3, 4)], [Span("PER", 0, 1)]]) == [(1, 2, 2), (0, 1, 0)]
