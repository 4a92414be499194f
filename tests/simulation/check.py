"""One worker, simulated and real: the loads that `tests/benchmarks/capacity.py` put on it, and what came of them."""

import json
from pathlib import Path

from tests.simulation.costs import MEASURED, Costs
from tests.simulation.fleet import Events, Fleet, simulate
from tests.simulation.popularity import Popularity

KNOWN = Popularity(picture_share=0.0)
"""The pictures of these loads are known: what they cost is in the whole that was measured."""


def check_worker(costs: Costs, *, seed: int, path: Path = MEASURED) -> str:
    """A table. The simulated worker has the real one's speed when it had all posts at once, and nothing else of it."""
    figures = json.loads(path.read_text())["figures"]
    said = 1 / costs.post_seconds(0.0)
    stretch = said / figures["known_posts_per_second"]
    lines = [
        f"known pictures, all posts at once: {figures['known_posts_per_second']:.0f} posts/s by the clock on "
        f"{figures['known_cores']:.2f} cores; processor time says {said:.0f} (ratio {stretch:.2f})",
        "| load | | posts/s, second half | latency: median, real mean | left at the end | cores it had |",
        "|---|---|---|---|---|---|",
    ]
    for load in ("below", "above"):
        rate, seconds = figures[f"{load}_rate"], figures[f"{load}_seconds"]
        fleet = Fleet(rate=rate, workers=1, partitions=4, costs=costs.stretched(stretch), zones=1, popularity=KNOWN)
        half, trace = (simulate(fleet, Events(), seconds=until, seed=seed) for until in (seconds / 2, seconds))
        done, latency = (trace.done - half.done) / (seconds / 2), float(trace.p50[-1])
        told = f"{load}, {rate:.0f} posts/s for {seconds:.0f} s"
        lines.append(f"| {told} | simulated | {done:.0f} | {latency:.2f} s | {trace.left} | |")
        lines.append(
            f"| | real | {figures[f'{load}_posts_per_second']:.0f} | {figures[f'{load}_latency_mean_seconds']:.2f} s "
            f"| {figures[f'{load}_left']:.0f} | {figures[f'{load}_cores']:.2f} |"
        )
    return "\n".join(lines)
