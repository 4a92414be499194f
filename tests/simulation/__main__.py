"""Take the measured worker to a fleet, and print the tables of deploy/SCALING.md.

    python -m tests.simulation --rate 6000 --charts deploy/scaling      sizes, and what happens to the fleet
    python -m tests.simulation --rate 6000 --workers 70                 the same with so many workers
    python -m tests.simulation --check                                  one worker, simulated and real

What a worker costs comes from measured.json, which `python -m tests.benchmarks.capacity` writes.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tests.simulation.charts import chart
from tests.simulation.check import check_worker
from tests.simulation.costs import Costs
from tests.simulation.fleet import simulate
from tests.simulation.popularity import PictureCache, Popularity
from tests.simulation.scenarios import SCENARIOS, TITLES, Outcome, outcome
from tests.simulation.sizing import Size, size_for

HEAD = """
| what happens | p50 / p99 before | worst p99 | p99 at the end | most lag | lag under 2 s after | busiest |
|---|---|---|---|---|---|---|"""


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--rate", type=float, default=6000.0, help="posts a second")
    parser.add_argument("--workers", type=int, help="instead of those that the rate needs")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", help="all of them where none is named")
    parser.add_argument("--seconds", type=float, default=1800.0, help="how long a run is")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--charts", type=Path, help="a folder for the charts")
    parser.add_argument("--check", action="store_true", help="compare one worker with the real one")
    arguments = parser.parse_args()
    costs = Costs.measured()
    if arguments.check:
        print(check_worker(costs, seed=arguments.seed))
        return
    size = size_for(arguments.rate, costs)
    _print_size(size, costs)
    fleet = size.fleet(costs, workers=arguments.workers)
    print(HEAD)
    for name in arguments.scenario or SCENARIOS:
        trace = simulate(fleet, SCENARIOS[name], seconds=arguments.seconds, seed=arguments.seed)
        if trace.arrived != trace.done + trace.left:
            raise SystemExit("posts were lost or doubled")
        print(_row(name, outcome(trace, fleet.rate)), flush=True)
        if arguments.charts is not None and name != "steady":
            path = arguments.charts / f"{name}-{arguments.rate:.0f}.svg"
            title = f"{arguments.rate:,.0f} posts/s, {fleet.workers} workers: {TITLES[name]}"
            path.write_text(chart(title, trace), encoding="utf-8")


def _print_size(size: Size, costs: Costs) -> None:
    popularity = Popularity()
    share = popularity.picture_share
    cores = costs.work_seconds(size.new_pictures_per_post) * size.rate / size.workers
    print(f"{size.rate:,.0f} posts/s: {size.workers} workers, {size.partitions} partitions")
    print(f"a worker: {size.warm:.0f} posts/s warm, {size.cold:.0f} cold; {cores:.2f} cores used")
    print(f"new pictures: {size.new_pictures_per_post:.3f} a post, {size.new_pictures_per_post * size.rate:,.0f}/s")
    print(
        f"hit ratio of pictures: {1 - size.new_pictures_per_post / share:.2f}; kept: {size.cached_pictures / 1e6:.1f} M"
    )
    work = 1e6 * costs.work_seconds(size.new_pictures_per_post)
    print(
        f"work of a million posts: {work / 3600:.2f} core-hours; of this fleet: {_fleet_hours(size):.2f} worker-hours"
    )
    print("\n| kept pictures | Redis, features alone | hits | workers |\n|---|---|---|---|")
    for kept in (10.0, 400.0, 1600.0, 6400.0):
        other = size_for(size.rate, costs, popularity=replace(popularity, kept_per_rate=kept))
        hits = 1 - other.new_pictures_per_post / share
        gigabytes = other.cached_pictures * costs.features_bytes / 1e9
        print(f"| {other.cached_pictures / 1e6:.2f} M | {gigabytes:,.0f} GB | {hits:.2f} | {other.workers} |")
    for told in (0.5, 0.9):
        print(f"after an empty cache, {told:.0%} of the usual hits: {_warm_after(size.rate, told) / 3600:.1f} h")


def _fleet_hours(size: Size) -> float:
    return size.workers * 1e6 / size.rate / 3600


def _warm_after(rate: float, share: float) -> float:
    cache = PictureCache(Popularity(), rate)
    usual, step, seconds = cache.hit_ratio, 60.0, 0.0
    cache.clear()
    while cache.hit_ratio < share * usual:
        cache.show(rate * Popularity().picture_share * step, step)
        seconds += step
    return seconds


def _row(name: str, told: Outcome) -> str:
    drained = "never" if told.drained is None else f"{told.drained:.0f} s" if told.drained else "–"
    return (
        f"| {name} | {told.usual_p50:.2f} / {told.usual_p99:.1f} s | {told.worst_p99:.1f} s | {told.last_p99:.1f} s "
        f"| {told.most_lag:,.0f} | {drained} | {told.busiest:.2f} |"
    )


if __name__ == "__main__":
    main()
