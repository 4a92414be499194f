"""What may happen to a fleet, and the line of a table that tells how it fared."""

from typing import NamedTuple

import numpy as np

from tests.simulation.fleet import Events
from tests.simulation.trace import Trace

AT = 300.0
WORKED_OFF_SECONDS = 2.0
"""The lag is worked off when it is less than the posts of so many seconds."""
SCENARIOS = {
    "steady": Events(),
    "burst": Events(burst_at=AT),
    "zone": Events(zone_lost_at=AT),
    "cold": Events(cache_lost_at=AT),
}
TITLES = {
    "steady": "nothing happens",
    "burst": "three times the posts, minutes 5 to 10",
    "zone": "one of three zones is lost at minute 5",
    "cold": "the cache is empty at minute 5",
}


class Outcome(NamedTuple):
    """Latencies in seconds; `drained` is from the event on, None where the lag was not worked off."""

    usual_p50: float
    usual_p99: float
    worst_p99: float
    last_p99: float
    usual_lag: float
    most_lag: float
    drained: float | None
    busiest: float
    hit_ratio: tuple[float, float, float]
    """Before the event, the least after it, at the end."""
    most_late: float


def outcome(trace: Trace, rate: float) -> Outcome:
    """What the trace tells; the usual is from 100 s on to the event, the last are the last 100 s."""
    end = float(trace.seconds[-1]) + 10

    def usual(values: np.ndarray) -> float:
        return float(np.median(trace.between(values, 100, AT)))

    def after(values: np.ndarray) -> np.ndarray:
        return trace.between(values, AT, end)

    return Outcome(
        usual_p50=usual(trace.p50),
        usual_p99=usual(trace.p99),
        worst_p99=float(np.nanmax(after(trace.p99))),
        last_p99=float(np.median(trace.between(trace.p99, end - 100, end))),
        usual_lag=usual(trace.lag),
        most_lag=float(after(trace.lag).max()),
        # What is under way counts as lag, too; a busier fleet has more of it, and isn't behind.
        drained=trace.drained_after(AT, WORKED_OFF_SECONDS * rate),
        busiest=float(after(trace.busy).max()),
        hit_ratio=(usual(trace.hit_ratio), float(after(trace.hit_ratio).min()), float(trace.hit_ratio[-1])),
        most_late=float(after(trace.late).max()),
    )
