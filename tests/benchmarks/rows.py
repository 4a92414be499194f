"""A row of the benchmarks' table: what it measures, how that is compared, and how the table is written."""

import json
import operator
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.bench import Bench

Pairs = list[tuple[float, float]]
"""Figure and baseline of each round, measured one right after the other."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What is to be reached: `sign` is ≥ or ≤. It's asked of the ratio; of the figure where there is none."""

    sign: str
    value: float

    def __str__(self) -> str:
        return f"{self.sign} {self.value:g}"

    def is_met(self, value: float) -> bool:
        """Whether `value` will do."""
        return {"≥": operator.ge, "≤": operator.le}[self.sign](value, self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One figure a round, in `unit`, what each was compared with, and their ratios; the latter two may be empty."""

    figures: Sequence[float]
    unit: str
    baselines: Sequence[float] = ()
    ratios: Sequence[float] = ()
    note: str = ""

    @property
    def judged(self) -> Sequence[float]:
        """What has to reach: the ratios of the pairs, or the figures."""
        return self.ratios or self.figures


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A line of the table, and what measures it."""

    name: str
    what: str
    against: str
    reach: Reach | None
    measure: Callable[[Bench], Measured]
    is_long: bool = False
    """Whether it takes so long that it has to be asked for."""


ROWS: list[Row] = []
"""All rows, as they are defined."""


def row(
    what: str, *, against: str = "", reach: Reach | None = None, is_long: bool = False
) -> Callable[[Callable[[Bench], Measured]], Callable[[Bench], Measured]]:
    """Makes a function that measures a row, which has the function's name."""

    def add(measure: Callable[[Bench], Measured]) -> Callable[[Bench], Measured]:
        name = measure.__name__
        ROWS.append(Row(name=name, what=what, against=against, reach=reach, measure=measure, is_long=is_long))
        return measure

    return add


def by_turns(figure: Callable[[], float], baseline: Callable[[], float], rounds: int) -> Pairs:
    """Figure, baseline, figure, baseline, …: what the machine does besides hits both."""
    return [(figure(), baseline()) for _ in range(rounds)]


def seconds_of(act: Callable[[], object]) -> float:
    """By the clock."""
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def compare_rates(pairs: Pairs, unit: str, note: str = "") -> Measured:
    """Of rates: how many times as fast as the baseline."""
    return _compare(pairs, unit, note, [figure / baseline for figure, baseline in pairs])


def compare_times(pairs: Pairs, unit: str, note: str = "") -> Measured:
    """Of durations: how many times as fast as the baseline."""
    return _compare(pairs, unit, note, [baseline / figure for figure, baseline in pairs])


def compare_sizes(pairs: Pairs, unit: str, note: str = "") -> Measured:
    """Of what is to be small: how many times the baseline."""
    return _compare(pairs, unit, note, [figure / baseline for figure, baseline in pairs])


def _compare(pairs: Pairs, unit: str, note: str, ratios: list[float]) -> Measured:
    figures, baselines = zip(*pairs, strict=True)
    return Measured(figures=figures, baselines=baselines, unit=unit, ratios=ratios, note=note)


def measure(each: Row, bench: Bench) -> dict[str, Any]:
    """The row as it stands in the JSON: medians, and the least and the greatest of what is judged."""
    begun = time.monotonic()
    told: dict[str, Any] = {"name": each.name, "what": each.what, "against": each.against}
    try:
        measured = each.measure(bench)
    except (Exception, SystemExit) as error:
        # The border of a row: what is wrong with one costs none of the others.
        traceback.print_exc()
        told |= {"error": f"{type(error).__name__}: {error}"}
    else:
        value = median(measured.judged)
        told |= {
            "unit": measured.unit,
            "figure": _short(median(measured.figures)),
            "baseline": _short(median(measured.baselines)) if measured.baselines else None,
            "ratio": _short(value) if measured.ratios else None,
            "spread": [_short(min(measured.judged)), _short(max(measured.judged))],
            "rounds": len(measured.judged),
            "reach": str(each.reach) if each.reach else None,
            "reached": each.reach.is_met(value) if each.reach else None,
            "note": measured.note,
        }
    return told | {"seconds": round(time.monotonic() - begun, 1)}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def write(rows: Sequence[dict[str, Any]], machine: dict[str, Any], folder: Path) -> None:
    """`bench.json` and `bench.md` in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"machine": machine, "rows": list(rows)}
    (folder / "bench.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")
    (folder / "bench.md").write_text(markdown(rows, machine))


def markdown(rows: Iterable[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table, with what it was measured on above it, and the remarks below."""
    rows = list(rows)
    lines = ["; ".join(f"{name} {value}" for name, value in machine.items()), ""]
    lines += ["| row | what | against | figure | baseline | ratio | spread | reach | reached |", "|---" * 9 + "|"]
    lines += [f"| {' | '.join(_cells(each))} |" for each in rows]
    notes = [f"* `{each['name']}`: {each['note']}" for each in rows if each.get("note")]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _cells(told: dict[str, Any]) -> list[str]:
    head = [f"`{told['name']}`", told["what"], told["against"]]
    if "error" in told:
        first_line = str(told["error"]).partition("\n")[0].replace("|", "/")
        return [*head, f"not measured: {first_line}", "", "", "", "", "no"]
    unit = told["unit"]
    return [
        *head,
        f"{told['figure']:g} {unit}",
        "" if told["baseline"] is None else f"{told['baseline']:g} {unit}",
        "" if told["ratio"] is None else f"**{told['ratio']:.3g}**",
        f"{told['spread'][0]:.3g} to {told['spread'][1]:.3g}",
        told["reach"] or "",
        {True: "yes", False: "**no**", None: ""}[told["reached"]],
    ]
