"""The table of `make bench`: how fast each part is, against something measured in the same run, turn about.

    python -m tests.benchmarks [NAMES…] [--out FOLDER] [--rounds N] [--long] [--list]

All rows take about 15 minutes on two cores; without names all are measured, but those that have to be asked for with
--long. The ratio is the median of the ratios of the pairs, the spread their least and greatest; so the ratio needn't be
that of the two medians beside it. Needs ../shared, Redis, and a Kafka: NAMETAG_TEST_KAFKA, or Java for a native one.
"""

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.benchmarks import model_rows, process_rows, stream_rows
from tests.benchmarks.bench import Bench
from tests.benchmarks.rows import ROWS, Row, markdown, measure, write

THEMES = (stream_rows, model_rows, process_rows)
"""In the order of the table; within each, its rows are in the order in which they stand in its file."""


def main() -> int:
    """Measure what is asked for; 1 where a row couldn't be measured, whether or not the others reach."""
    parser = argparse.ArgumentParser(description="How fast nametag is on this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a row; all of them without")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where bench.md and bench.json go")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="pairs of a worker and its baseline (3)")
    parser.add_argument("--scale", type=int, default=1, metavar="N", help="so many times the posts, for a GPU (1)")
    parser.add_argument("--long", action="store_true", help="also the rows that take an hour")
    parser.add_argument("--list", action="store_true", help="tell the rows' names, and measure nothing")
    wanted = parser.parse_args()
    if wanted.rounds < 1:
        parser.error(f"--rounds must be at least 1, not {wanted.rounds}")
    if unknown := set(wanted.names) - {each.name for each in ROWS}:
        parser.error(f"there is no row {', '.join(sorted(unknown))}; --list tells which there are")
    ordered = [each for theme in THEMES for each in ROWS if each.measure.__module__ == theme.__name__]
    rows = [
        each for each in ordered if (each.name in wanted.names if wanted.names else wanted.long or not each.is_long)
    ]
    if wanted.list:
        for each in ordered:
            print(f"{each.name:18} {each.what}{' (--long)' if each.is_long else ''}")
        return 0
    # Workers and services of our own are ended also where we are asked to end, such as by `timeout`.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ExitStack() as stack:
        return _run(rows, Bench(stack, wanted.rounds, wanted.scale), wanted.out)


def _run(rows: list[Row], bench: Bench, out: Path | None) -> int:
    machine = bench.describe()
    told: list[dict[str, Any]] = []
    for each in rows:
        told.append(measure(each, bench))
        print(json.dumps(told[-1], ensure_ascii=False), flush=True)
        if out is not None:  # after each row, so that a run that is cut off leaves what it has
            write(told, machine, out)
    print(markdown(told, machine))
    return int(any("error" in each for each in told))


if __name__ == "__main__":
    raise SystemExit(main())
