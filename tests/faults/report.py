"""The table of what the runs came to, as Markdown and as JSON."""

import json
import os
import platform
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tests.faults.run import Result

COLUMNS = (
    "fault", "delivery", "runs", "struck", "posts", "lost", "doubled", "out of order", "foreign", "failed runs",
    "longest silence s", "longest stop s", "s a run",
)  # fmt: skip


def line(result: Result) -> str:
    """One run in one line, from which it can be repeated."""
    verdict = result.verdict
    counts = f"lost {len(verdict.lost)} doubled {len(verdict.doubled)} disordered {len(verdict.disordered)}"
    end = f"FAILED, see {result.folder}" if result.problems else "ok"
    struck = "" if result.is_struck else " (not struck)"
    return f"{result.plan}{struck}: {counts}, silence {result.longest_silence:.1f} s, {result.seconds:.1f} s, {end}"


def table(results: Sequence[Result]) -> str:
    """Markdown: a row for each fault and delivery, and a row for all."""
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        groups[result.plan.name, result.plan.delivery].append(result)
    rows = [_row(*names, group) for names, group in sorted(groups.items())]
    rows.append(_row("**all**", "", results))
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(fault: str, delivery: str, group: Sequence[Result]) -> list[str]:
    verdicts = [result.verdict for result in group]
    numbers = (
        len(group),
        sum(result.is_struck for result in group),
        sum(result.plan.num_posts for result in group),
        sum(len(verdict.lost) for verdict in verdicts),
        sum(len(verdict.doubled) for verdict in verdicts),
        sum(len(verdict.disordered) for verdict in verdicts),
        sum(len(verdict.foreign) for verdict in verdicts),
        sum(bool(result.problems) for result in group),
    )
    seconds = (
        max(result.longest_silence for result in group),
        max(result.longest_stop for result in group),
        sum(result.seconds for result in group) / len(group),
    )
    return [fault, delivery, *map(str, numbers), *(f"{each:.1f}" for each in seconds)]


def summary(results: Sequence[Result]) -> str:
    """All in a line, with the machine."""
    failed = sum(bool(result.problems) for result in results)
    lost = sum(len(result.verdict.lost) for result in results)
    once = [result for result in results if result.plan.delivery == "exactly_once"]
    doubled = sum(len(result.verdict.doubled) for result in once)
    return (
        f"{len(results)} runs, {failed} failed; {sum(r.plan.num_posts for r in results)} posts, {lost} lost, "
        f"{doubled} doubled under exactly once; {sum(r.seconds for r in results):.0f} s on {machine()}"
    )


def machine() -> str:
    """What it ran on."""
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


def as_json(results: Sequence[Result]) -> str:
    """All results, for machines."""
    return json.dumps({"machine": machine(), "runs": [_fields(result) for result in results]}, indent=1)


def _fields(result: Result) -> dict[str, Any]:
    fields = asdict(result)
    del fields["plan"]["moves"]
    return fields | {"folder": str(result.folder) if result.problems else None}
