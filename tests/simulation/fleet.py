"""A fleet of workers on one topic, in steps of a quarter of a second; all randomness hangs on one seed.

What is modelled, and after which file:

    partitions    posts come by chance (Poisson), and leave each partition in order (worker/ledger.py)
    room          a worker takes no more posts than `room_posts` under way (worker/room.py)
    pictures      known ones are at hand; others wait for a turn at their host, are fetched and decoded; a post goes
                  without after `wait_seconds` (worker/images.py, worker/hosts.py, worker/decode.py)
    device        work-conserving batches: small while there is little to do, full under load (worker/batches.py)
    publication   every `flush_seconds`, a partition's posts up to the first that isn't finished (worker/publisher.py)
    a lost zone   what was under way is lost with the workers, and read again once the session is over
"""

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from tests.simulation.costs import Costs
from tests.simulation.popularity import PictureCache, Popularity
from tests.simulation.trace import Trace, Watch

STEP = 0.25
SLOTS = 256
"""Steps that anything may be under way: a minute, well above what the room lets wait."""

LONGEST_FETCH = 12
"""Steps after which a picture is on the device, whatever it took: what takes longer is one in thousands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetching:
    """How long hosts take, lognormal, and the turns of a worker there (`images.per_host`, for one large host)."""

    median_seconds: float = 0.15
    sigma: float = 0.8
    turns: int = 8
    decode_processes: int = 2
    wait_seconds: float = 6.0

    @property
    def mean_seconds(self) -> float:
        """Of a fetch."""
        return self.median_seconds * math.exp(self.sigma**2 / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Workers for `rate` posts a second, spread over `zones`; the defaults are the worker's own."""

    rate: float
    workers: int
    partitions: int
    costs: Costs
    zones: int = 3
    room_posts: int = 1024
    max_posts: int = 32
    max_images: int = 16
    flush_seconds: float = 0.25
    session_seconds: float = 45.0
    rebalance_seconds: float = 1.0
    popularity: Popularity = field(default_factory=Popularity)
    fetching: Fetching = field(default_factory=Fetching)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What happens: `burst_factor` times the load for a while, a zone lost for good, a cache that is emptied."""

    burst_at: float = math.inf
    burst_seconds: float = 300.0
    burst_factor: float = 3.0
    zone_lost_at: float = math.inf
    cache_lost_at: float = math.inf

    def load(self, now: float) -> float:
        """Times the usual load."""
        return self.burst_factor if self.burst_at <= now < self.burst_at + self.burst_seconds else 1.0


def simulate(fleet: Fleet, events: Events, *, seconds: float, seed: int) -> Trace:
    """Run the fleet from its steady state on."""
    return _Run(fleet, events, round(seconds / STEP), seed).run()


class _Run:
    """P partitions, W workers. Counts of posts are whole numbers, those of work in seconds."""

    def __init__(self, fleet: Fleet, events: Events, num_steps: int, seed: int) -> None:
        self._fleet, self._events, self._num_steps = fleet, events, num_steps
        self._rng = np.random.default_rng(seed)
        self._cache = PictureCache(fleet.popularity, fleet.rate)
        partitions, workers = fleet.partitions, fleet.workers
        self._all = np.arange(partitions)
        self._owner = self._all % workers
        self._is_owned = np.ones(partitions, dtype=bool)
        self._num_alive = workers
        self._arrived, self._taken, self._done = (np.zeros(partitions, dtype=np.int64) for _ in range(3))
        self._history = np.zeros((num_steps + 1, partitions), dtype=np.int32)  # arrived by the end of each step
        self._head = np.zeros(partitions, dtype=np.int64)  # the step in which the oldest post came that isn't taken
        self._frontier = np.zeros(partitions)  # when all taken so far are finished
        self._release = np.zeros((SLOTS, partitions), dtype=np.int64)
        self._due = np.zeros((SLOTS, workers, 2))  # posts that wait for pictures, and the pictures for the tower
        self._fetch_until, self._device_until = np.zeros(workers), np.zeros(workers)
        self._paused_until = 0.0
        # Fetches come in pieces; a step that took a minute's posts at once would give all of them one latency.
        self._intake = 4 * STEP / fleet.costs.post_seconds(0.0)
        self._quantiles, self._spread = _fetch_times(fleet.fetching)
        self._watch = Watch(num_steps, STEP)

    def run(self) -> Trace:
        for step in range(self._num_steps):
            now = step * STEP
            self._happen(now)
            self._arrive(step, now)
            take = self._take(step, now)
            out = self._release[step % SLOTS]
            self._done += out
            out[:] = 0
            self._work(step, now, take)
            self._watch.note_lag(step, int((self._arrived - self._done).sum()), self._cache.hit_ratio)
        return self._watch.trace(
            arrived=int(self._arrived.sum()),
            done=int(self._done.sum()),
            waiting=int((self._arrived - self._taken).sum()),
            under_way=int(self._release.sum()),
        )

    def _happen(self, now: float) -> None:
        events, fleet = self._events, self._fleet
        if now == _on_step(events.cache_lost_at):
            self._cache.clear()
        if now == _on_step(events.zone_lost_at):
            self._lose(self._owner % fleet.zones == 0)
        if now == _on_step(events.zone_lost_at + fleet.session_seconds):
            self._give_away()
            self._paused_until = now + fleet.rebalance_seconds

    def _arrive(self, step: int, now: float) -> None:
        fleet = self._fleet
        mean = fleet.rate * self._events.load(now) * STEP / fleet.partitions
        self._arrived += self._rng.poisson(mean, fleet.partitions)
        self._history[step] = self._arrived

    def _take(self, step: int, now: float) -> np.ndarray:
        """Posts (P) that are taken in this step; how long they waited is noted with what follows."""
        if now < self._paused_until:
            return np.zeros_like(self._taken)
        waiting = np.where(self._is_owned, self._arrived - self._taken, 0)
        under_way = self._by_worker(self._taken - self._done)
        room = np.clip(self._fleet.room_posts - under_way, 0.0, self._intake)
        share = np.minimum(1.0, room / np.maximum(1.0, self._by_worker(waiting)))
        # By chance up or down, or a partition of few posts would never have its turn.
        return np.minimum(waiting, (waiting * share[self._owner] + self._rng.random(waiting.shape)).astype(np.int64))

    def _work(self, step: int, now: float, take: np.ndarray) -> None:
        fleet, fetching = self._fleet, self._fleet.fetching
        shown = self._rng.binomial(take, fleet.popularity.picture_share)
        missing = self._rng.binomial(shown, 1 - self._cache.hit_ratio)
        line, on_time = self._fetch(now, self._by_worker(missing))
        delay = self._device(step, now, self._by_worker(take - missing), self._by_worker(missing), line, on_time)
        # The slowest of k pictures is distributed as one picture to the power of k.
        some = np.flatnonzero(missing)
        slowest = np.interp(self._rng.random(len(some)) ** (1 / missing[some]), *self._quantiles)
        waits = np.zeros(take.shape)
        waits[some] = np.minimum(fetching.wait_seconds, line[self._owner[some]] + slowest)
        finished = now + waits + delay[self._owner]
        self._frontier = np.where(take > 0, np.maximum(self._frontier, finished), self._frontier)
        flush = self._rng.random(take.shape) * fleet.flush_seconds + fleet.costs.publish
        held = np.maximum(0.0, self._frontier - now) + flush
        slots = np.minimum(SLOTS - 1, np.maximum(1, np.ceil((self._frontier - now) / STEP))).astype(np.int64)
        self._release[(step + slots) % SLOTS, self._all] += take
        self._watch.note_latency(step, slots, take, self._waited(step, take) + held)
        self._taken += take
        self._cache.show(float(shown.sum()) * float(np.mean(on_time)), STEP)
        self._watch.note_pictures(step, float(missing.sum()), float(self._by_worker(missing) @ (1 - on_time)))

    def _fetch(self, now: float, missing: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How long a picture waits for its turn (W), and the share (W) of those that come on time."""
        fetching, costs = self._fleet.fetching, self._fleet.costs
        per_second = min(fetching.turns / fetching.mean_seconds, fetching.decode_processes / costs.decode)
        line = np.maximum(0.0, self._fetch_until - now)
        # What nobody waits for any more ends at twice the time.
        self._fetch_until = np.minimum(
            np.maximum(self._fetch_until, now) + missing / per_second, now + 2 * fetching.wait_seconds
        )
        values, times = self._quantiles
        return line, np.interp(fetching.wait_seconds - line, times, values, left=0.0)

    def _device(
        self,
        step: int,
        now: float,
        ready: np.ndarray,
        missing: np.ndarray,
        line: np.ndarray,
        on_time: np.ndarray,
    ) -> np.ndarray:
        """Seconds (W) from being ready to being tagged; posts are `ready`, or come with their pictures."""
        fleet, costs = self._fleet, self._fleet.costs
        first = step + np.minimum(line / STEP, fleet.fetching.wait_seconds / STEP).astype(np.int64)
        slots = (first[:, None] + np.arange(len(self._spread))) % SLOTS
        coming = (missing * on_time)[:, None] * self._spread
        workers = np.arange(fleet.workers)[:, None]
        self._due[slots, workers, 0] += coming
        self._due[slots, workers, 1] += coming
        self._due[(step + round(fleet.fetching.wait_seconds / STEP)) % SLOTS, :, 0] += missing * (1 - on_time)
        due = self._due[step % SLOTS]
        posts, pictures = ready + due[:, 0], due[:, 1].copy()
        due[:] = 0.0
        new = pictures / np.maximum(1.0, posts)
        each = np.maximum(costs.loop, costs.post + new * costs.tower)
        backlog = np.maximum(0.0, self._device_until - now)
        size = self._batch_size(posts / STEP, each, new, backlog)
        work = posts * (each + costs.batch / size)
        self._device_until = np.maximum(self._device_until, now) + work
        self._watch.note_work(step, float(np.minimum(work + backlog, STEP).sum()) / (STEP * self._num_alive))
        # Half of the batch that is under way, and its own.
        return backlog + np.maximum(0.0, work - STEP) / 2 + 1.5 * (size * each + costs.batch)

    def _batch_size(self, rate: np.ndarray, each: np.ndarray, new: np.ndarray, backlog: np.ndarray) -> np.ndarray:
        """Posts (W) that gather while the batch before is on the device."""
        fleet = self._fleet
        most = np.minimum(fleet.max_posts, fleet.max_images / np.maximum(new, 1e-9))
        idle = 1 - rate * each
        size = np.where(idle > 1e-3, rate * fleet.costs.batch / np.maximum(idle, 1e-3), most)
        return np.maximum(1.0, np.where(backlog > STEP, most, np.minimum(size, most)))

    def _waited(self, step: int, take: np.ndarray) -> np.ndarray:
        """Seconds (P) that the middle one of the posts taken stood on the topic."""
        middle = self._taken + (take + 1) // 2
        while (behind := self._history[self._head, self._all] < np.where(take > 0, middle, 0)).any():
            self._head += behind
        return (step - self._head) * STEP

    def _by_worker(self, counts: np.ndarray) -> np.ndarray:
        """Sums over each worker's partitions (W)."""
        return np.bincount(self._owner, np.where(self._is_owned, counts, 0), minlength=self._fleet.workers)

    def _lose(self, is_lost: np.ndarray) -> None:
        """The workers of these partitions are gone, with all that they had under way."""
        self._num_alive -= len(np.unique(self._owner[is_lost]))
        self._is_owned &= ~is_lost
        self._release[:, is_lost] = 0
        self._taken[is_lost] = self._done[is_lost]
        self._frontier[is_lost] = 0.0
        for partition in np.flatnonzero(is_lost):
            seen = self._history[: int(self._head[partition]) + 1, partition]
            self._head[partition] = min(np.searchsorted(seen, self._done[partition] + 1), len(seen) - 1)

    def _give_away(self) -> None:
        """Partitions without a worker go to those that have the fewest."""
        alive = np.unique(self._owner[self._is_owned])
        numbers = np.bincount(self._owner[self._is_owned], minlength=self._fleet.workers)
        for partition in np.flatnonzero(~self._is_owned):
            owner = alive[np.argmin(numbers[alive])]
            self._owner[partition] = owner
            numbers[owner] += 1
        self._is_owned[:] = True


def _on_step(seconds: float) -> float:
    return seconds if math.isinf(seconds) else round(seconds / STEP) * STEP


def _fetch_times(fetching: Fetching) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """The quantiles of a fetch's seconds, as a table; and the share of fetches by the step in which they end."""
    shares = np.linspace(0.0, 1.0, 2001)
    inner = np.clip(shares, 1e-5, 1 - 1e-5)
    normal = NormalDist(math.log(fetching.median_seconds), fetching.sigma)
    times = np.exp([normal.inv_cdf(float(share)) for share in inner])
    ends = np.arange(1, LONGEST_FETCH) * STEP
    below = [normal.cdf(math.log(end)) for end in ends]
    return (shares, times), np.diff([0.0, *below, 1.0])
