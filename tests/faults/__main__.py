"""`python -m tests.faults`: runs of the fault harness, a line each, and the table at the end."""

import argparse
import contextlib
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.plan import DELIVERIES, FAULTS, SHUTDOWN, Plan, make_bounces, make_plan, make_shutdown

if TYPE_CHECKING:
    from tests.faults.run import Result


def main() -> int:
    """Run the plans; gives back 0, or 1 where a promise was broken."""
    # Set before the processes start, so that no signal leaves them behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    options = _parser().parse_args()
    results = run_all(_plans(options), Path(tempfile.mkdtemp(prefix="nametag-faults-")), keep=options.keep)
    from tests.faults import report

    text = f"{report.table(results)}\n{report.summary(results)}\n"
    print(f"\n{text}", end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(report.as_json(results), encoding="utf-8")
    return int(any(result.problems for result in results))


def run_all(plans: list[Plan], folder: Path, *, keep: bool = False) -> "list[Result]":
    """Run `plans` on services of their own; the logs of those that failed stay in `folder`."""
    from tests.faults import report
    from tests.faults.cluster import Cluster
    from tests.faults.crew import Nest
    from tests.faults.run import run_plan

    results = []
    with Nest() as nest, Cluster() as cluster:
        for plan in plans:
            results.append(run_plan(plan, cluster, nest, folder / f"run-{plan.number}", keep=keep))
            print(report.line(results[-1]), flush=True)
            for told in results[-1].problems:
                print(f"    {told[:400]}", flush=True)
    if keep:
        print(f"the logs are in {folder}")
    with contextlib.suppress(OSError):
        folder.rmdir()  # nothing is kept
    return results


def _plans(options: argparse.Namespace) -> list[Plan]:
    numbers = [options.only] if options.only is not None else range(options.runs)
    deliveries = DELIVERIES if options.delivery == "both" else (options.delivery,)
    if options.bounces:
        return [
            make_bounces(options.seed, number, count=options.bounces, deliveries=deliveries)
            for number in range(len(deliveries))
        ]
    if options.kind == SHUTDOWN:
        return [
            make_shutdown(options.seed, number, num_posts=options.posts, deliveries=deliveries) for number in numbers
        ]
    faults = (options.kind,) if options.kind else FAULTS
    return [
        make_plan(options.seed, number, num_posts=options.posts, faults=faults, deliveries=deliveries)
        for number in numbers
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description="Strikes workers, broker, Redis and image host at named steps; counts what is lost or doubled.",
    )
    parser.add_argument("--runs", type=int, default=20, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other runs (default: 0)")
    parser.add_argument("--posts", type=int, default=1000, help="posts a run (default: %(default)s)")
    parser.add_argument(
        "--kind", choices=(*FAULTS, SHUTDOWN), help=f"this fault only; {SHUTDOWN} is a shutdown under load"
    )
    parser.add_argument("--delivery", choices=(*DELIVERIES, "both"), default="both")
    parser.add_argument("--bounces", type=int, metavar="N", help="instead: a run in which the broker goes N times")
    parser.add_argument("--only", type=int, metavar="K", help="run number K alone, as it was among others")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the runs that went well, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run's result here")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table here")
    return parser


if __name__ == "__main__":
    sys.exit(main())
