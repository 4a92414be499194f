"""What is seen of a fleet over time: lag, latency, cache, work."""

from dataclasses import dataclass

import numpy as np

WINDOW_SECONDS = 10.0
_EDGES = np.geomspace(0.05, 20_000, 161)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """By windows of ten seconds; latencies are of the posts that were published in a window."""

    seconds: np.ndarray
    lag: np.ndarray
    p50: np.ndarray
    p99: np.ndarray
    hit_ratio: np.ndarray
    busy: np.ndarray
    new_pictures: np.ndarray
    late: np.ndarray
    arrived: int
    done: int
    waiting: int
    """Posts that no worker has taken, at the end."""
    under_way: int
    """Posts that one has taken, at the end."""

    @property
    def left(self) -> int:
        """Posts that aren't published at the end; counted where they are, and not as a difference."""
        return self.waiting + self.under_way

    def between(self, values: np.ndarray, start: float, end: float) -> np.ndarray:
        """Those of `values` from `start` to `end`."""
        chosen: np.ndarray = values[(self.seconds >= start) & (self.seconds < end)]
        return chosen

    def drained_after(self, event: float, usual: float) -> float | None:
        """Seconds from `event` until the lag is `usual` again for good; None where it never is."""
        above = np.flatnonzero((self.lag > usual) & (self.seconds >= event))
        if len(above) == 0:
            return 0.0
        last = above[-1]
        return None if last == len(self.lag) - 1 else float(self.seconds[last] + WINDOW_SECONDS - event)


class Watch:
    """Gathers a trace, step by step."""

    def __init__(self, num_steps: int, step: float) -> None:
        self._step = step
        self._num_windows = max(1, int(num_steps * step / WINDOW_SECONDS))
        self._histogram = np.zeros((self._num_windows, len(_EDGES) + 1))
        self._sums = np.zeros((6, self._num_windows))
        self._num_noted = np.zeros(self._num_windows)

    def note_lag(self, step: int, lag: int, hit_ratio: float) -> None:
        """Posts on the topic that aren't published."""
        if (window := self._window(step)) < self._num_windows:
            self._sums[:2, window] += lag, hit_ratio
            self._num_noted[window] += 1

    def note_work(self, step: int, busy: float) -> None:
        """The share of the time in which devices work."""
        if (window := self._window(step)) < self._num_windows:
            self._sums[2, window] += busy

    def note_pictures(self, step: int, missing: float, late: float) -> None:
        """Pictures that had to be fetched, and of those the ones that came late."""
        if (window := self._window(step)) < self._num_windows:
            self._sums[3:5, window] += missing, late

    def note_latency(self, step: int, slots: np.ndarray, posts: np.ndarray, seconds: np.ndarray) -> None:
        """`posts` come out `slots` steps later, `seconds` after they came."""
        windows = ((step + slots) * self._step / WINDOW_SECONDS).astype(np.int64)
        chosen = (posts > 0) & (windows < self._num_windows)
        places = windows[chosen] * self._histogram.shape[1] + np.searchsorted(_EDGES, seconds[chosen])
        np.add.at(self._histogram.reshape(-1), places, posts[chosen])

    def trace(self, *, arrived: int, done: int, waiting: int, under_way: int) -> Trace:
        """All of it."""
        means = self._sums / np.maximum(1, self._num_noted)
        return Trace(
            seconds=np.arange(self._num_windows) * WINDOW_SECONDS,
            lag=means[0],
            p50=self._quantile(0.5),
            p99=self._quantile(0.99),
            hit_ratio=means[1],
            busy=means[2],
            new_pictures=self._sums[3] / WINDOW_SECONDS,
            late=self._sums[4] / WINDOW_SECONDS,
            arrived=arrived,
            done=done,
            waiting=waiting,
            under_way=under_way,
        )

    def _window(self, step: int) -> int:
        return int(step * self._step / WINDOW_SECONDS)

    def _quantile(self, share: float) -> np.ndarray:
        """By window, the upper edge of the bin that holds it; nan where nothing came out."""
        totals = self._histogram.sum(axis=1)
        places = (np.cumsum(self._histogram, axis=1) < share * totals[:, None]).sum(axis=1)
        return np.where(totals > 0, _EDGES[np.minimum(places, len(_EDGES) - 1)], np.nan)
