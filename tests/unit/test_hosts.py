"""Politeness: who waits for whom, what a host asks for, and when one that fails is left alone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from consumers.image_status import ImageStatus
from worker.domains import Shares, registered_domain
from worker.errors import ImageError
from worker.hosts import HostFailure, HostLimits, Hosts, seconds_asked

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


class Bench:
    """Hosts with a clock of the test's, and what they told."""

    def __init__(self, **limits: Any) -> None:
        self.now = 100.0
        self.events: list[str] = []
        self.num_requests = 0
        self.hosts = Hosts(HostLimits(**limits), probe_seconds=0.2, on_event=self.events.append, clock=lambda: self.now)

    async def visit(self, act: Callable[[], Awaitable[bytes]], host: str = "a:80") -> bytes | str:
        """What a visit gives: bytes, or the error's words."""

        async def request() -> bytes:
            self.num_requests += 1
            return await act()

        try:
            return await self.hosts.visit(host, request)
        except ImageError as error:
            assert error.status is ImageStatus.HOST_DOWN or "is down" not in str(error)
            return str(error)

    async def settle(self) -> None:
        """Let a probe end that nothing holds up."""
        for _ in range(10):
            await asyncio.sleep(0)


async def well() -> bytes:
    return b"x"


async def down() -> bytes:
    raise HostFailure(ImageStatus.HOST_DOWN, "is down", retriable=True)


async def missing() -> bytes:
    raise ImageError(ImageStatus.NOT_FOUND, "is missing")


async def here() -> bytes:
    raise ImageError(ImageStatus.HOST_DOWN, "no connection can be made here")


def asking(seconds: float) -> Callable[[], Awaitable[bytes]]:
    async def act() -> bytes:
        raise HostFailure(ImageStatus.HOST_DOWN, "asks to wait", wait_seconds=seconds)

    return act


LEFT_ALONE = "the host failed over and over, and is left alone for a while"


def test_a_host_that_fails_over_and_over_is_refused_without_a_request(caplog: pytest.LogCaptureFixture) -> None:
    """The breaker opens after so many failures in a row, says so once, and names the host alone."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=3)
        assert [await bench.visit(down) for _ in range(5)] == ["is down"] * 3 + [LEFT_ALONE] * 2
        assert await bench.visit(well, "b:80") == b"x"
        return bench

    with caplog.at_level(logging.INFO, "nametag.hosts"):
        bench = asyncio.run(scenario())
    assert bench.num_requests == 4
    assert bench.events == ["breaker_opened", "refused_by_breaker", "refused_by_breaker"]
    (line,) = caplog.records
    assert (line.message, line.host, line.failures) == ("host_breaker_opened", "a:80", 3)  # type: ignore[attr-defined]


@pytest.mark.parametrize("between", [well, missing])
def test_an_answer_between_failures_starts_the_count_anew(between: Callable[[], Awaitable[bytes]]) -> None:
    """A host that says 404 is at work."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=2)
        for _ in range(5):
            await bench.visit(down)
            await bench.visit(between)
        return bench

    assert asyncio.run(scenario()).events == []


def test_missing_pictures_and_our_own_trouble_are_not_the_hosts_fault() -> None:
    """Neither 404s nor a machine without file descriptors open a breaker."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=2)
        for _ in range(5):
            await bench.visit(missing)
            await bench.visit(here)
        return bench

    bench = asyncio.run(scenario())
    assert bench.events == []
    assert bench.num_requests == 10


def test_a_probe_costs_no_post_its_time_and_closes_the_breaker(caplog: pytest.LogCaptureFixture) -> None:
    """The fetch that becomes the probe is refused at once; the request goes on, alone, and its success counts."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=1, open_seconds=10)
        answer = asyncio.Event()

        async def slow() -> bytes:
            await answer.wait()
            return b"x"

        await bench.visit(down)
        bench.now += 4.9  # shortened by a half at most
        assert await bench.visit(well) == LEFT_ALONE
        assert bench.num_requests == 1
        bench.now += 5.2
        async with asyncio.timeout(0.1):
            assert await bench.visit(slow) == LEFT_ALONE
            assert await bench.visit(slow) == LEFT_ALONE
        await bench.settle()
        assert bench.num_requests == 2
        answer.set()
        await bench.settle()
        assert await bench.visit(well) == b"x"
        return bench

    with caplog.at_level(logging.INFO, "nametag.hosts"):
        bench = asyncio.run(scenario())
    assert bench.events == ["breaker_opened", *["refused_by_breaker"] * 3, "breaker_closed"]
    assert [line.message for line in caplog.records] == ["host_breaker_opened", "host_breaker_closed"]
    assert len(bench.hosts) == 0


@pytest.mark.parametrize("act", [down, here], ids=["the host's fault", "our own"])
def test_a_failed_probe_opens_for_longer_up_to_a_cap(act: Callable[[], Awaitable[bytes]]) -> None:
    """Twice as long each time, shortened by a half at most, and never beyond the longest."""

    async def scenario() -> list[float]:
        bench = Bench(failures_to_open=1, open_seconds=4, longest_open_seconds=20)
        await bench.visit(down)
        spans = []
        for _ in range(5):
            start, asked = bench.now, bench.num_requests
            while bench.num_requests == asked:
                bench.now += 0.1
                assert await bench.visit(act) == LEFT_ALONE
                await bench.settle()
            spans.append(bench.now - start)
        return spans

    for span, longest in zip(asyncio.run(scenario()), (4, 8, 16, 20, 20), strict=True):
        assert longest / 2 - 0.2 <= span <= longest + 0.2


def test_a_probe_that_hangs_ends_in_time() -> None:
    """It counts as failed, and another one follows when the breaker is due again."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=1)
        await bench.visit(down)
        for act in (lambda: asyncio.sleep(30, b"x"), well):
            bench.now += 1000
            await bench.visit(act)
            await asyncio.sleep(0.3)
        return bench

    assert asyncio.run(scenario()).events[-1] == "breaker_closed"


def test_an_answer_to_an_earlier_request_closes_the_breaker_for_good() -> None:
    """One from before the opening; a probe that fails after it doesn't open the breaker unsaid."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=1)
        early, late = asyncio.Event(), asyncio.Event()

        async def answer() -> bytes:
            await early.wait()
            return b"x"

        async def fail() -> bytes:
            await late.wait()
            return await down()

        answered = asyncio.create_task(bench.visit(answer))
        await bench.settle()
        await bench.visit(down)
        bench.now += 1000
        await bench.visit(fail)  # becomes the probe
        early.set()
        assert await answered == b"x"
        late.set()
        await bench.settle()
        assert await bench.visit(well) == b"x"
        return bench

    assert asyncio.run(scenario()).events == ["breaker_opened", "refused_by_breaker", "breaker_closed"]


def test_probes_are_few_and_end_with_the_fetcher() -> None:
    """Many hosts that come due together don't make as many requests, and closing breaks them off."""

    async def scenario() -> None:
        bench = Bench(failures_to_open=1, max_probes=3)
        names = [f"{number}:80" for number in range(10)]
        for name in names:
            await bench.visit(down, name)
        bench.now += 100
        for name in names:
            await bench.visit(lambda: asyncio.sleep(30, b"x"), name)
        await bench.settle()
        assert bench.num_requests == 13
        async with asyncio.timeout(0.1):
            await bench.hosts.close()

    asyncio.run(scenario())


def test_a_host_that_asks_us_to_wait_is_left_alone_for_so_long() -> None:
    """No request until then, and one straight after; it isn't counted as a failure."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=1)
        assert await bench.visit(asking(30)) == "asks to wait"
        bench.now += 29
        assert str(await bench.visit(well)).startswith("the host asked us to wait until ")
        bench.now += 1.1
        assert await bench.visit(well) == b"x"
        return bench

    bench = asyncio.run(scenario())
    assert bench.num_requests == 2
    assert bench.events == ["asked_to_wait", "refused_by_wait"]


def test_nobody_makes_us_wait_for_ever() -> None:
    """What a host asks for is capped."""

    async def scenario() -> None:
        bench = Bench(longest_wait_seconds=60)
        await bench.visit(asking(1e300))
        bench.now += 61
        assert await bench.visit(well) == b"x"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (None, None), ("120", 120.0), ("0", 0.0), (" 7 ", 7.0), ("1" * 5000, float("inf")), ("-1", None), ("1.5", None),
        ("soon", None), ("", None), ("١٢", None), ("Tue, 14 Nov 2023 22:15:20 GMT", 120.0),
        ("Tuesday, 14-Nov-23 22:15:20 GMT", 120.0), ("Tue, 14 Nov 2023 23:15:20 +0100", 120.0),
        ("Tue, 14 Nov 2023 22:15:20 -0000", 120.0), ("Tue, 14 Nov 2000 22:15:20 GMT", 0.0),
        ("Tue, 14 Nov 99999 22:15:20 GMT", None), ("Tue, 99 Nov 2023 22:15:20 GMT", None), ("\x00", None),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(told: str | None, seconds: float | None) -> None:
    """Both forms are read; anything else says nothing."""
    assert seconds_asked(told, NOW) == seconds


def test_who_waits_for_a_bad_host_holds_no_turn_of_others() -> None:
    """Far more requests to one host than there are turns in all leave the others' turns free."""

    async def scenario() -> None:
        bench = Bench(per_host=2, overall=4)
        waiting = [asyncio.create_task(bench.visit(lambda: asyncio.sleep(30, b"x"), "bad:80")) for _ in range(20)]
        await bench.settle()
        assert bench.num_requests == 2
        async with asyncio.timeout(0.5):
            assert await asyncio.gather(*(bench.visit(well, "good:80") for _ in range(50))) == [b"x"] * 50
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(bench.hosts) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("limits", "most"), [({}, 32), ({"overall": 40}, 20), ({"per_host": 2}, 8), ({"per_domain": 9}, 9)]
)
def test_names_of_one_domain_share_its_turns(limits: dict[str, int], most: int) -> None:
    """However many names its owner has, and whatever their ports, the others' turns stay free."""

    async def scenario() -> None:
        bench = Bench(**limits)
        names = [f"{letter}{number}.evil.example:{number % 2}" for number in range(50) for letter in "aB"]
        waiting = [asyncio.create_task(bench.visit(lambda: asyncio.sleep(30, b"x"), name)) for name in names]
        await bench.settle()
        assert bench.num_requests == most
        async with asyncio.timeout(0.5):
            assert await bench.visit(well, "good.example.com:80") == b"x"
            assert await bench.visit(well, "1.1.1.1:80") == b"x"
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(bench.hosts) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("a.b.Example", "b.example"), ("b.example.", "b.example"), ("x", "x"), ("a.b.co.uk", "co.uk"),
        ("1.2.3.4", "1.2.3.4"), ("2a00::1", "2a00::1"), ("", ""),
    ],
)  # fmt: skip
def test_a_registered_domain_is_two_labels_or_an_address(host: str, domain: str) -> None:
    """An address is nobody else's."""
    assert registered_domain(host) == domain


def test_turns_that_nobody_holds_or_awaits_are_forgotten() -> None:
    """One who gives up waiting leaves nothing behind, and takes no turn with him."""

    async def scenario() -> None:
        shares = Shares(1)
        await shares.acquire("a")
        waiting = asyncio.create_task(shares.acquire("a"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        shares.release("a")
        assert len(shares) == 0
        async with asyncio.timeout(0.1):
            await shares.acquire("a")

    asyncio.run(scenario())


def test_turns_are_bounded_per_host_and_overall() -> None:
    """Never more at once than the limits say."""

    async def scenario() -> tuple[int, int]:
        bench = Bench(per_host=2, overall=5)
        running: dict[str, int] = {}
        most_here = most = 0

        async def visit(host: str) -> None:
            async def act() -> bytes:
                nonlocal most_here, most
                running[host] = running.get(host, 0) + 1
                most_here, most = max(most_here, running[host]), max(most, sum(running.values()))
                await asyncio.sleep(0.001)
                running[host] -= 1
                return b"x"

            await bench.visit(act, host)

        await asyncio.gather(*(visit(f"{number % 3}:80") for number in range(100)))
        return most_here, most

    assert asyncio.run(scenario()) == (2, 5)


def test_those_who_queue_at_a_host_are_let_go_when_its_breaker_opens() -> None:
    """They don't each find out for themselves."""

    async def scenario() -> Bench:
        bench = Bench(per_host=1, failures_to_open=2)

        async def fail_later() -> bytes:
            await asyncio.sleep(0.001)
            return await down()

        answers = await asyncio.gather(*(bench.visit(fail_later) for _ in range(10)))
        assert answers == ["is down"] * 2 + [LEFT_ALONE] * 8
        return bench

    assert asyncio.run(scenario()).num_requests == 2


@pytest.mark.parametrize(("lasted", "events"), [(0.5, []), (3.0, ["breaker_opened"])])
def test_a_request_that_is_cancelled_late_is_the_hosts_fault(lasted: float, events: list[str]) -> None:
    """A post's deadline ends a request that hung; one that had hardly begun says nothing of the host."""

    async def scenario() -> Bench:
        bench = Bench(failures_to_open=1)
        task = asyncio.create_task(bench.visit(lambda: asyncio.sleep(30, b"x")))
        await bench.settle()
        bench.now += lasted
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return bench

    assert asyncio.run(scenario()).events == events


def test_only_hosts_in_trouble_are_remembered_and_only_so_many() -> None:
    """Memory is bounded whatever names the posts hold; a host that is being asked isn't forgotten."""

    async def scenario() -> None:
        bench = Bench(failures_to_open=1, max_hosts=10)
        for number in range(100):
            await bench.visit(well, f"{number}:80")
        assert len(bench.hosts) == 0
        busy = asyncio.create_task(bench.visit(lambda: asyncio.sleep(30, b"x"), "busy:80"))
        await bench.settle()
        for number in range(100):
            await bench.visit(down, f"{number}:80")
            assert len(bench.hosts) <= 10
        assert await bench.visit(well, "99:80") == LEFT_ALONE
        assert await bench.visit(well, "0:80") == b"x"
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)
        assert len(bench.hosts) <= 9

    asyncio.run(scenario())


def test_a_host_that_asked_us_to_wait_is_remembered_before_those_that_fail() -> None:
    """Names that fail, however many, don't have us come back early; and memory stays bounded all the same."""

    async def scenario() -> None:
        bench = Bench(max_hosts=10)
        await bench.visit(asking(300), "polite:80")
        for number in range(100):
            await bench.visit(down, f"{number}:80")
            assert len(bench.hosts) <= 10
        assert str(await bench.visit(well, "polite:80")).startswith("the host asked us to wait until ")
        for number in range(100):
            await bench.visit(asking(300), f"{number}:80")
            assert len(bench.hosts) <= 10
        bench.now += 301
        for number in range(100):
            await bench.visit(down, f"{number}:80")
            assert len(bench.hosts) <= 10
        assert await bench.visit(well, "polite:80") == b"x"

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["per_host", "overall", "failures_to_open", "open_seconds", "max_hosts"])
def test_limits_are_above_zero(name: str) -> None:
    """A limit of nothing would hold up everything."""
    with pytest.raises(ValueError, match=name):
        HostLimits(**{name: 0})


@pytest.mark.parametrize(
    "limits",
    [
        {"per_host": 65}, {"per_host": 10**30}, {"overall": 7}, {"per_domain": 65}, {"per_domain": 7},
        {"open_seconds": float("inf")}, {"longest_wait_seconds": float("nan")}, {"longest_open_seconds": 1e308},
    ],
)  # fmt: skip
def test_limits_that_cannot_hold_are_refused(limits: dict[str, Any]) -> None:
    """One host's turns are among all, and a time is one that a clock can have."""
    (name,) = limits
    with pytest.raises(ValueError, match=f"^{'per_host' if name == 'overall' else name} must be "):
        HostLimits(**limits)
