"""The hot path gets no heavier unnoticed: counts of bytecodes and operators against those that are kept beside this."""

import pytest

from tests.benchmarks import hot_path


def test_the_hot_path_is_no_heavier() -> None:
    """No step has grown by more than a tenth since its figures were kept."""
    version = hot_path.python_version()
    if version not in hot_path.kept():
        pytest.skip(f"hot_path.json has no figures of Python {version}: `make hot-path` counts them")
    heavier = hot_path.heavier(hot_path.count(), hot_path.kept()[version])
    assert not heavier, (
        f"the hot path is over a tenth heavier than hot_path.json allows ({'; '.join(heavier)}); make it lighter, or "
        "where that is its price on purpose, keep the new figures: make hot-path"
    )


def test_what_is_heavier_is_told() -> None:
    """More than a tenth, and what has no figure yet; a tenth is let through."""
    told = hot_path.heavier({"a": 110.0, "b": 111.0, "c": 1.0}, than={"a": 100.0, "b": 100.0})
    assert told == ["b: 111, 100 before", "c: 1, not counted before"]


def test_counts_grow_with_the_work() -> None:
    """Twice the posts are about twice the bytecodes, and it's the same count each time."""

    def loop(times: int) -> int:
        return hot_path.num_bytecodes(lambda: [number + 1 for number in range(times)])

    assert loop(1000) == loop(1000)
    assert 1.9 < loop(2000) / loop(1000) < 2.1
