"""Politeness per host: turns, the time that a host asks for, and a breaker that leaves a failing one alone.

One bad host must not hold up the posts of others: who waits for a host's turn holds none of the turns that all
share, a host that fails over and over is refused at once, and no post waits for the request that finds out
whether it is well again.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from consumers.image_status import ImageStatus
from worker.domains import Shares, registered_domain
from worker.errors import ImageError, NothingLearnt
from worker.limits import LONGEST_SECONDS, check_number
from worker.retry import RetryPolicy

log = logging.getLogger("nametag.hosts")

T = TypeVar("T")

_ANSWERS = frozenset({ImageStatus.NOT_FOUND, ImageStatus.GONE, ImageStatus.FORBIDDEN, ImageStatus.TOO_LARGE})
"""Failures that only a host which is well can give."""
_MOST = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """How many requests at a time, and how a host that fails is left alone.

    `per_host` is to be well below `overall`, or one slow host can hold all turns; `per_domain` is for all hosts of
    a registered domain, whose owner can have as many as he likes. Unset, it is four hosts' turns, but no more than
    half of all. A breaker opens after `failures_to_open` failures in a row, for `open_seconds` shortened by up to a
    half at random, and twice as long each time that it fails to close, up to `longest_open_seconds`. A host is
    waited for as long as it asks, up to `longest_wait_seconds`. Of hosts in trouble the latest `max_hosts` are
    remembered.
    """

    per_host: int = 8
    per_domain: int | None = None
    overall: int = 64
    failures_to_open: int = 5
    open_seconds: float = 5.0
    longest_open_seconds: float = 60.0
    longest_wait_seconds: float = 300.0
    max_probes: int = 8
    max_hosts: int = 4096

    def __post_init__(self) -> None:
        for limit in fields(self):
            if (value := getattr(self, limit.name)) is not None:
                check_number(limit.name, value, most=LONGEST_SECONDS if "seconds" in limit.name else _MOST)
        if self.per_host > self.overall:
            raise ValueError(f"per_host must be at most overall, which is {self.overall}, not {self.per_host}")
        if self.per_domain is not None and not self.per_host <= self.per_domain <= self.overall:
            raise ValueError(
                f"per_domain must be from per_host to overall, which are {self.per_host} and {self.overall}, "
                f"not {self.per_domain}"
            )

    @property
    def turns_per_domain(self) -> int:
        """The limit for a registered domain, told or not."""
        if self.per_domain is not None:
            return self.per_domain
        return max(self.per_host, min(4 * self.per_host, self.overall // 2))


class HostFailure(ImageError):
    """Raised when the host itself is to blame. `wait_seconds` where it asked for time."""

    def __init__(
        self, status: ImageStatus, detail: str, *, retriable: bool = False, wait_seconds: float | None = None
    ) -> None:
        super().__init__(status, detail, retriable=retriable)
        self.wait_seconds = wait_seconds


class HostLeftAlone(NothingLearnt):
    """Raised in place of a request. It says nothing of the URL, and costs nothing to find again."""

    def __init__(self, detail: str) -> None:
        super().__init__(ImageStatus.HOST_DOWN, detail)


@dataclass(slots=True, kw_only=True)
class _Host:
    turns: asyncio.Semaphore
    num_users: int = 0
    num_failures: int = 0
    num_openings: int = 0
    open_until: float = 0.0
    wait_until: float = 0.0
    is_probed: bool = False

    @property
    def is_open(self) -> bool:
        return self.num_openings > 0

    def is_well(self, now: float) -> bool:
        return not self.num_failures and not self.is_open and self.wait_until <= now


class Hosts:
    """The turns and the health of hosts, by `host:port`.

    `patience_seconds` is how long a request must have lasted for its being cancelled to be the host's fault:
    one that got its turn just before the post's deadline says nothing of the host.
    """

    def __init__(
        self,
        limits: HostLimits,
        *,
        patience_seconds: float = 2.0,
        probe_seconds: float = 5.0,
        on_event: Callable[[str], None] = lambda _event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._patience_seconds = patience_seconds
        self._probe_seconds = probe_seconds
        self._on_event = on_event
        self._clock = clock
        self._domains = Shares(limits.turns_per_domain)
        self._overall = asyncio.Semaphore(limits.overall)
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._probes: set[asyncio.Task[None]] = set()
        self._opening = RetryPolicy(first_seconds=limits.open_seconds, longest_seconds=limits.longest_open_seconds)

    def __len__(self) -> int:
        """How many hosts are remembered."""
        return len(self._hosts)

    async def visit(
        self, host: str, request: Callable[[], Awaitable[T]], prepare: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """What `request` gives, in a turn of `host`. `prepare` goes before it, holds no turn, and isn't judged.

        Raises what it raises, and at once `HostLeftAlone` where the host asked us to wait or its breaker is open.
        Where the breaker is due to be tried, `request` goes on as the probe, for nobody.
        """
        self._check(host, request)
        if prepare is not None:
            await prepare()
        async with self._turn(host) as state:
            self._check(host, request)  # it may have failed while we waited
            return await self._judged(host, state, request)

    async def close(self) -> None:
        """Break off the probes."""
        probes = list(self._probes)
        for probe in probes:
            probe.cancel()
        await asyncio.gather(*probes, return_exceptions=True)

    def _check(self, host: str, request: Callable[[], Awaitable[object]]) -> None:
        state = self._hosts.get(host)
        if state is None:
            return
        self._hosts.move_to_end(host)
        now = self._clock()
        if now < state.wait_until:
            self._on_event("refused_by_wait")
            until = datetime.fromtimestamp(time.time() + state.wait_until - now, UTC)
            raise HostLeftAlone(f"the host asked us to wait until {until:%H:%M:%S} UTC")
        if state.is_open:
            if now >= state.open_until and not state.is_probed and len(self._probes) < self._limits.max_probes:
                state.is_probed = True
                probe = asyncio.create_task(self._probe(host, state, request))
                self._probes.add(probe)
                probe.add_done_callback(self._probes.discard)
            self._on_event("refused_by_breaker")
            raise HostLeftAlone("the host failed over and over, and is left alone for a while")

    @asynccontextmanager
    async def _turn(self, host: str) -> AsyncIterator[_Host]:
        state = self._hosts.get(host)
        if state is None:
            state = self._hosts[host] = _Host(turns=asyncio.Semaphore(self._limits.per_host))
        self._hosts.move_to_end(host)
        state.num_users += 1
        self._make_room()
        try:
            # The host's own turn first, then its domain's: who waits for these must not hold one of everybody's.
            async with state.turns, self._domain_turn(registered_domain(host.rpartition(":")[0])), self._overall:
                yield state
        finally:
            state.num_users -= 1
            if not state.num_users and state.is_well(self._clock()):
                self._hosts.pop(host, None)

    @asynccontextmanager
    async def _domain_turn(self, domain: str) -> AsyncIterator[None]:
        await self._domains.acquire(domain)
        try:
            yield
        finally:
            self._domains.release(domain)

    def _make_room(self) -> None:
        """Forget the hosts that were longest not asked, but none that is being asked.

        One that asked us to wait comes last: whoever has many names that fail can't have us break its word.
        """
        while len(self._hosts) > self._limits.max_hosts:
            now = self._clock()
            idle = ((host, state) for host, state in self._hosts.items() if not state.num_users and not state.is_probed)
            oldest = None
            for host, state in idle:
                oldest = oldest or host
                if state.wait_until <= now:
                    oldest = host
                    break
            if oldest is None:
                return
            del self._hosts[oldest]

    async def _judged(self, host: str, state: _Host, request: Callable[[], Awaitable[T]]) -> T:
        start = self._clock()
        try:
            result = await request()
        except HostFailure as error:
            self._failed(host, state, error)
            raise
        except ImageError as error:
            if error.status in _ANSWERS:
                self._succeeded(host, state)
            raise
        except asyncio.CancelledError:
            if self._clock() - start >= self._patience_seconds:
                self._failed(host, state)
            raise
        self._succeeded(host, state)
        return result

    async def _probe(self, host: str, state: _Host, request: Callable[[], Awaitable[object]]) -> None:
        """Make `request` outside of all turns, for no post; then close the breaker, or open it for longer."""
        is_well = False
        try:
            async with asyncio.timeout(self._probe_seconds):
                await request()
            is_well = True
        except TimeoutError:
            pass
        except HostFailure as error:
            self._wait(host, state, error.wait_seconds)
        except ImageError as error:
            is_well = error.status in _ANSWERS
        finally:
            state.is_probed = False
            if is_well:
                self._succeeded(host, state)
            elif state.is_open:  # a request from before the opening may have closed it
                self._open(state)

    def _succeeded(self, host: str, state: _Host) -> None:
        state.num_failures = 0
        if state.is_open:
            state.num_openings = 0
            self._on_event("breaker_closed")
            log.info("host_breaker_closed", extra={"host": host})
        if not state.num_users and state.is_well(self._clock()):
            self._hosts.pop(host, None)

    def _failed(self, host: str, state: _Host, error: HostFailure | None = None) -> None:
        if error is not None and error.wait_seconds:
            self._wait(host, state, error.wait_seconds)  # it is at work, and says itself when to come back
            return
        state.num_failures += 1
        if state.num_failures < self._limits.failures_to_open or state.is_open:
            return
        seconds = self._open(state)
        self._on_event("breaker_opened")
        extra = {"host": host, "failures": state.num_failures, "seconds": round(seconds, 1)}
        log.warning("host_breaker_opened", extra=extra)

    def _open(self, state: _Host) -> float:
        state.num_openings += 1
        seconds = self._opening.pause(state.num_openings)
        state.open_until = self._clock() + seconds
        return seconds

    def _wait(self, host: str, state: _Host, seconds: float | None) -> None:
        if not seconds:
            return
        until = self._clock() + min(seconds, self._limits.longest_wait_seconds)
        if until > state.wait_until:
            state.wait_until = until
            self._on_event("asked_to_wait")


def seconds_asked(retry_after: str | None, now: float) -> float | None:
    """What a Retry-After header asks for, in seconds from `now` (a Unix time); None where it says nothing."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
