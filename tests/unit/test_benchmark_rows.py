"""The table of `make bench`: what is compared how, and that one row's trouble costs none of the others."""

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.benchmarks.bench import Bench
from tests.benchmarks.rows import Measured, Reach, Row, compare_rates, compare_times, measure, write
from tests.benchmarks.stream import steady_rate


def row(measured: Measured | Exception, reach: Reach | None = None) -> Row:
    def act(_bench: Bench) -> Measured:
        if isinstance(measured, Exception):
            raise measured
        return measured

    return Row(name="a_row", what="what", against="that", reach=reach, measure=act)


@pytest.fixture
def bench() -> Bench:
    """Of two rounds; nothing is started before a row asks for it."""
    return Bench(ExitStack(), rounds=2)


def test_rates_and_times_are_told_as_how_many_times_as_fast(bench: Bench) -> None:
    """Twice the rate is 2, and so is half the time; the median and the ends are those of the pairs' ratios."""
    rates = measure(row(compare_rates([(20.0, 10.0), (30.0, 10.0), (10.0, 10.0)], "posts/s"), Reach("≥", 2.0)), bench)
    assert (rates["figure"], rates["baseline"], rates["ratio"], rates["spread"]) == (20.0, 10.0, 2.0, [1.0, 3.0])
    assert rates["reached"] is True
    assert measure(row(compare_times([(5.0, 10.0)], "ms")), bench)["ratio"] == 2.0


def test_without_a_baseline_the_figure_has_to_reach(bench: Bench) -> None:
    """8.5 ms are more than 8."""
    told = measure(row(Measured(figures=[8.0, 9.0], unit="ms"), Reach("≤", 8.0)), bench)
    assert (told["ratio"], told["figure"], told["reached"]) == (None, 8.5, False)


def test_a_row_that_fails_is_told_in_its_place(bench: Bench, tmp_path: Path) -> None:
    """The table and the JSON have the others, and what was wrong with this one."""
    rows = [measure(row(RuntimeError("no | broker")), bench), measure(row(Measured(figures=[1.0], unit="s")), bench)]
    write(rows, {"date": "today"}, tmp_path / "new")
    lines = (tmp_path / "new" / "bench.md").read_text().splitlines()
    assert lines[0] == "date today"
    assert "not measured: RuntimeError: no / broker" in lines[4]
    assert "1 s" in lines[5]
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["rows"][0]["error"] == "RuntimeError: no | broker"


def test_a_steady_rate_is_of_whole_batches() -> None:
    """Batches of 16 that end 1 s apart are 16 a second, however late those at both ends come."""
    ends = [0.0, 3.0, *map(float, range(4, 14)), 20.0]
    assert steady_rate([end + place / 1000 for end in ends for place in range(16)]) == pytest.approx(16.0)


def test_what_several_rows_need_is_measured_once(bench: Bench) -> None:
    """Also where it fails: each row tells of it, and none tries again."""
    num_calls = 0

    def fail(_bench: Bench) -> Measured:
        nonlocal num_calls
        num_calls += 1
        raise RuntimeError("no broker")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no broker"):
            bench.keep(fail)
    assert num_calls == 1
