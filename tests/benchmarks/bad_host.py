"""Whether a bad host slows the fetches from a good one: p50 and p99 with and without it, turn about.

    PYTHONPATH=. python tests/benchmarks/bad_host.py [--seconds 20] [--rate 50] [--turns 2] [--mode never …]

Both hosts are in a process of their own. The good one answers after 20 ms, and is asked at a steady rate; in
every other turn a tenth as many fetches again go to the bad one. Each turn has a fetcher of its own, whose
breakers are closed at first.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import socket
import statistics
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection

from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher

GOOD, BAD = "127.0.0.1", "127.0.0.2"
GOOD_SECONDS = 0.02
BAD_SHARE = 0.1
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
PICTURE = b"x" * 20_000


async def _good(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(GOOD_SECONDS)
    writer.write(HEAD % len(PICTURE) + PICTURE)


async def _never(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _drip(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % len(PICTURE))
    for _ in range(60):
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(1)


async def _reset(writer: asyncio.StreamWriter) -> None:
    # No lingering: the connection is reset, not closed.
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def _lie(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD % len(PICTURE) + PICTURE[:1000])
    await writer.drain()
    writer.close()


async def _redirect(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /again\r\n\r\n")


MODES: dict[str, Callable[[asyncio.StreamWriter], Awaitable[None]]] = {
    "never answers": _never,
    "drips": _drip,
    "resets": _reset,
    "lies about length": _lie,
    "redirects for ever": _redirect,
}


async def _listen(address: str, speak: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while not writer.is_closing():
                await reader.readuntil(b"\r\n\r\n")
                await speak(writer)
                await writer.drain()
        writer.close()

    return await asyncio.start_server(answer, address, 0, backlog=1024)


def _serve(pipe: Connection) -> None:
    async def run() -> None:
        good = await _listen(GOOD, _good)
        bad = [await _listen(BAD, speak) for speak in MODES.values()]
        pipe.send([server.sockets[0].getsockname()[1] for server in (good, *bad)])
        await asyncio.Event().wait()

    asyncio.run(run())


async def turn(good: str, bad: str | None, *, rate: float, seconds: float) -> tuple[list[float], Counter[str]]:
    """The good host's times in seconds, and what became of the other's fetches."""
    times: list[float] = []
    outcomes: Counter[str] = Counter()

    async def fetch(fetcher: ImageFetcher, origin: str, number: int) -> None:
        start = time.perf_counter()
        try:
            await fetcher.fetch(f"{origin}/{number}.jpg")
            status = "used"
        except ImageError as error:
            status = str(error.status)
        if origin == good:
            times.append(time.perf_counter() - start)
            assert status == "used", status
        else:
            outcomes[status] += 1

    origins = frozenset({good} if bad is None else {good, bad})
    async with ImageFetcher(FetchLimits(allow_origins=origins)) as fetcher, asyncio.TaskGroup() as fetches:
        start = time.perf_counter()
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, start + number / rate - time.perf_counter()))
            fetches.create_task(fetch(fetcher, good, number))
            if bad is not None and number % round(1 / BAD_SHARE) == 0:
                fetches.create_task(fetch(fetcher, bad, number))
    return times, outcomes


def percentile(times: list[float], percent: int) -> float:
    """In milliseconds."""
    return 1000 * statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def main() -> None:
    """Run the modes one after another, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="the length of a turn")
    parser.add_argument("--rate", type=float, default=50.0, help="fetches from the good host a second")
    parser.add_argument("--turns", type=int, default=2, help="turns with and without, each")
    parser.add_argument("--mode", choices=MODES, nargs="*", default=list(MODES), help="what the bad host does")
    told = parser.parse_args()
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    server = context.Process(target=_serve, args=(there,), daemon=True)
    server.start()
    good_port, *bad_ports = here.recv()
    good, ports = f"http://{GOOD}:{good_port}", dict(zip(MODES, bad_ports, strict=True))
    asyncio.run(turn(good, None, rate=told.rate, seconds=1))  # imports, first connections
    print("bad host            p50 without  with   p99 without  with   ratio of p99  the bad host's fetches")
    for mode in told.mode:
        times: dict[bool, list[float]] = {False: [], True: []}
        outcomes: Counter[str] = Counter()
        for number in range(2 * told.turns):
            is_there = (number + number // 2) % 2 == 1  # without, with, with, without: a drift counts for both
            bad = f"http://{BAD}:{ports[mode]}" if is_there else None
            some, seen = asyncio.run(turn(good, bad, rate=told.rate, seconds=told.seconds))
            times[is_there] += some
            outcomes += seen
        (p50, p99), (p50_with, p99_with) = ([percentile(times[there], n) for n in (50, 99)] for there in (False, True))
        row = f"{mode:<20}{p50:>8.1f} ms{p50_with:>6.1f}{p99:>11.1f} ms{p99_with:>6.1f}{p99_with / p99:>12.2f}"
        print(f"{row}      {dict(outcomes)}", flush=True)
    server.terminate()


if __name__ == "__main__":
    main()
