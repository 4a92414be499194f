"""How fast posts are tagged, and what is behind: read from the worker's counters, and only while somebody asks."""

import time
from collections import deque
from collections.abc import Callable

from prometheus_client import Counter, Gauge

from worker.metrics import Metrics

STEP_SECONDS = 1.0
WINDOW_SECONDS = 5.0

Figures = dict[str, float | None]


class Rates:
    """Figures for the page, made anew at most once a second; `lag` gives the posts behind, where that is known."""

    def __init__(
        self, metrics: Metrics, lag: Callable[[], float | None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._metrics = metrics
        self._lag = lag
        self._clock = clock
        self._past: deque[tuple[float, float]] = deque()
        self._figures: Figures = {}

    def now(self) -> Figures:
        """Posts tagged a second, in flight, behind, dead letters and deletes; None for what isn't known."""
        now = self._clock()
        if self._past and now - self._past[-1][0] < STEP_SECONDS:
            return self._figures
        posts = by_outcome(self._metrics.posts)
        # A look that is long past says nothing of just now.
        while self._past and now - self._past[0][0] > WINDOW_SECONDS:
            self._past.popleft()
        self._past.append((now, posts.get("event", 0.0)))
        self._figures = {
            "tagged": self._rate(),
            "in_flight": total(self._metrics.in_flight),
            "lag": self._lag(),
            "dead_letters": posts.get("dead_letter", 0.0),
            "deleted": posts.get("tombstone", 0.0),
        }
        return self._figures

    def _rate(self) -> float | None:
        (first, before), (last, after) = self._past[0], self._past[-1]
        return round((after - before) / (last - first), 1) if last > first else None


def by_outcome(counter: Counter) -> dict[str, float]:
    """The counts of each outcome."""
    samples = [sample for metric in counter.collect() for sample in metric.samples]
    return {sample.labels["outcome"]: sample.value for sample in samples if sample.name.endswith("_total")}


def total(gauge: Gauge) -> float:
    """The sum over all labels."""
    return sum(sample.value for metric in gauge.collect() for sample in metric.samples)
