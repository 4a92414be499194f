"""Decoding in processes: whatever a picture does to one, it is that picture's affair alone."""

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from consumers.image_status import ImageStatus
from tests.pictures.hand_made import encoded
from worker import decode as decoding
from worker.decode import DecodeLimits, Decoder, decode
from worker.decode_line import DecoderUnavailable
from worker.errors import ImageError

LIMITS = DecodeLimits(processes=1)
SMALL = encoded(Image.new("RGB", (224, 224), (200, 30, 30)), "PNG")


def test_a_dying_decoder_does_not_take_the_worker_along() -> None:
    """A process that was killed is replaced, and costs no picture that it didn't die of."""

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest
            with pytest.raises(ImageError):
                await decoder.decode(SMALL[:100])

    asyncio.run(scenario())


class Killer(bytes):
    """Bytes that end the process which unpickles them: stands for a fault in a codec's C code."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_picture_that_kills_is_bad_and_the_next_is_not() -> None:
    """Whoever kills its process twice is refused; those that wait behind it get their pixels."""

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            killer = asyncio.create_task(decoder.decode(Killer()))
            await asyncio.sleep(0)
            waiting = [asyncio.create_task(decoder.decode(SMALL)) for _ in range(3)]
            with pytest.raises(ImageError) as caught:
                await killer
            assert caught.value.status is ImageStatus.BAD_IMAGE
            assert len({(await task).digest for task in waiting}) == 1

    asyncio.run(scenario())


async def begun() -> None:
    """Returns when a place that was free has taken what was asked just before."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_a_picture_that_takes_too_long_costs_its_deadline_only() -> None:
    """A large one ends at the deadline; a small one behind it is decoded, since its own time starts later."""
    large = encoded(Image.new("RGB", (7000, 7000)), "PNG")

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=10, processes=1)) as decoder:
            await decoder.decode(SMALL)  # the process is up
            decoder._limits = DecodeLimits(seconds=0.02, processes=1)
            slow = asyncio.create_task(decoder.decode(large))
            await begun()
            decoder._limits = LIMITS
            behind = asyncio.create_task(decoder.decode(SMALL))
            with pytest.raises(ImageError) as caught:
                await slow
            assert caught.value.status is ImageStatus.BAD_IMAGE
            assert (await behind).digest == decode(SMALL, LIMITS).digest

    asyncio.run(scenario())


def test_whoever_waits_longest_is_next() -> None:
    """One who comes back at once with another picture doesn't overtake."""
    order: list[str] = []

    async def come(decoder: Decoder, name: str, times: int) -> None:
        for _ in range(times):
            await decoder.decode(SMALL)
            order.append(name)

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            await all_up(decoder)
            await asyncio.gather(come(decoder, "again and again", 20), come(decoder, "once", 1))

    asyncio.run(scenario())
    assert order.index("once") <= 1


def test_the_limits_are_of_what_makes_sense() -> None:
    """A limit of nothing would refuse everything."""
    for name in ("max_pixels", "memory_bytes", "seconds", "processes", "max_waiting_bytes"):
        with pytest.raises(ValueError, match=name):
            DecodeLimits(**{name: 0})


def test_a_picture_that_needs_more_memory_than_there_is_ends_alone() -> None:
    """It is refused, not the machine's memory used up; the same process goes on with the next."""
    large = encoded(Image.new("RGB", (6000, 6000)), "PNG", compress_level=1)

    async def scenario() -> None:
        async with Decoder(DecodeLimits(memory_bytes=64 << 20, processes=1)) as decoder:
            await decoder.decode(SMALL)
            processes = set(multiprocessing.active_children())
            with pytest.raises(ImageError) as caught:
                await decoder.decode(large)
            assert caught.value.status is ImageStatus.TOO_LARGE
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest
            assert set(multiprocessing.active_children()) == processes

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF"])
def test_the_largest_picture_fits_into_the_memory_that_is_allowed(format: str) -> None:
    """Of the most pixels, with alpha or progressive: the costliest of its format."""
    size = (8165, 6123)
    image = Image.new("CMYK" if format == "JPEG" else "RGBA", size, (200, 30, 30, 128))
    options = {
        "PNG": {"compress_level": 1},
        "JPEG": {"progressive": True},
        "WEBP": {"method": 0},
        "AVIF": {"speed": 10},
    }
    data = encoded(image, format, **options[format])

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=120, processes=1)) as decoder:
            assert (await decoder.decode(data)).values.shape == (3, 224, 224)

    asyncio.run(scenario())


async def all_up(decoder: Decoder) -> None:
    """Returns when each place has its process, and no process is left over from before."""
    while decoder._num_up < decoder._limits.processes:  # noqa: ASYNC110 - the decoder has no use for an event
        await asyncio.sleep(0.01)


def _slow_prepare(memory_bytes: int) -> None:
    time.sleep(1.5)


def test_a_process_that_starts_slowly_is_no_pictures_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deadline is the decoding's: neither the first process nor the one that replaces it counts."""
    monkeypatch.setattr(decoding, "_prepare", _slow_prepare)

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=1, processes=1)) as decoder:
            wanted = decode(SMALL, LIMITS).digest
            assert (await decoder.decode(SMALL)).digest == wanted
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            assert (await decoder.decode(SMALL)).digest == wanted

    asyncio.run(scenario())


def test_processes_start_before_they_are_needed() -> None:
    """Also the one in the place of another that died: whoever comes later finds it up."""

    async def scenario() -> None:
        async with Decoder(DecodeLimits(processes=2)) as decoder:
            await all_up(decoder)
            with pytest.raises(ImageError):
                await decoder.decode(Killer())
            await all_up(decoder)
            before = set(multiprocessing.active_children())
            await decoder.decode(SMALL)
            assert set(multiprocessing.active_children()) == before

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_loop_that_was_held_up_blames_no_picture() -> None:
    """It hears of the deadline and of the result at once: the result was in time."""

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=10, processes=1)) as decoder:
            await decoder.decode(SMALL)
            decoder._limits = DecodeLimits(seconds=1, processes=1)
            pending = asyncio.create_task(decoder.decode(SMALL))
            await begun()
            time.sleep(1.5)  # noqa: ASYNC251 - this is what holds the loop up
            assert (await pending).digest == decode(SMALL, LIMITS).digest

    asyncio.run(scenario())


def _die(memory_bytes: int) -> None:
    os._exit(1)


def test_where_no_process_starts_no_picture_is_called_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that wait are told that it takes too long, which is believed for seconds only, and it is tried anew."""
    monkeypatch.setattr(decoding, "_prepare", _die)
    monkeypatch.setattr(decoding, "_START_PAUSES", (0.01,))

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            for _ in range(2):
                with pytest.raises(DecoderUnavailable) as caught:
                    await decoder.decode(SMALL)
                assert caught.value.status is ImageStatus.TOO_SLOW
            monkeypatch.undo()
            with contextlib.suppress(ImageError):
                await decoder.decode(SMALL)  # it may have been started before
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest

    asyncio.run(scenario())


@pytest.mark.parametrize("trouble", [OSError(24, "Too many open files"), RuntimeError("can't start new thread")])
@pytest.mark.parametrize("at", ["its making", "its first picture"])
def test_a_shortage_that_passes_leaves_no_place_empty(
    monkeypatch: pytest.MonkeyPatch, trouble: Exception, at: str
) -> None:
    """Of descriptors or threads, in the moment when a process is replaced: it's told, and the next is tried anew."""

    def refused(*_: object) -> None:
        raise trouble

    async def scenario() -> None:
        async with Decoder(DecodeLimits(processes=2)) as decoder:
            await all_up(decoder)
            monkeypatch.setattr(decoding, "_START_PAUSES", (0.01, 0.01))
            if at == "its making":
                monkeypatch.setattr(decoding, "_new_pool", refused)
            else:
                monkeypatch.setattr(decoding.ProcessPoolExecutor, "_start_executor_manager_thread", refused)
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            for _ in range(3):
                with pytest.raises(DecoderUnavailable):
                    await decoder.decode(SMALL)
            monkeypatch.undo()
            with contextlib.suppress(DecoderUnavailable):
                await decoder.decode(SMALL)  # a start may have failed just before
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest
            await all_up(decoder)

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_whoever_is_cancelled_costs_no_process() -> None:
    """What is at work is worked off, and what waits leaves the line."""
    large = encoded(Image.new("RGB", (3000, 3000)), "PNG")

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            await decoder.decode(SMALL)
            processes = set(multiprocessing.active_children())
            for _ in range(5):
                tasks = [asyncio.create_task(decoder.decode(large)) for _ in range(3)]
                await asyncio.sleep(0.02)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                assert not len(decoder._line)
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest
            assert set(multiprocessing.active_children()) == processes

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_a_deadline_holds_for_what_nobody_waits_for() -> None:
    """A picture that hangs its process doesn't hold it for good because its post has gone on."""

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=0.2, processes=1)) as decoder:
            await all_up(decoder)
            task = asyncio.create_task(decoder.decode(Sleeper()))
            await asyncio.sleep(0.05)
            task.cancel()
            assert (await decoder.decode(SMALL)).digest == decode(SMALL, LIMITS).digest

    asyncio.run(asyncio.wait_for(scenario(), 30))


class Sleeper(bytes):
    """Bytes that take a minute to unpickle."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return time.sleep, (60,)


def test_nothing_is_left_behind_by_a_close(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits or is at work is told; no process is started any more, and asyncio has nothing to complain of."""

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=1, processes=2)) as decoder:
            await all_up(decoder)
            before = set(multiprocessing.active_children())
            slow = asyncio.create_task(decoder.decode(Sleeper()))
            with pytest.raises(ImageError):
                await slow
            cancelled = asyncio.create_task(decoder.decode(Killer()))
            await asyncio.sleep(0)
            cancelled.cancel()
            tasks = [asyncio.create_task(decoder.decode(Sleeper())) for _ in range(5)]
            await asyncio.sleep(0.1)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} == {DecoderUnavailable}
        with pytest.raises(DecoderUnavailable):
            await decoder.decode(SMALL)
        await asyncio.sleep(0.3)
        assert not before & set(multiprocessing.active_children())
        assert not multiprocessing.active_children()

    asyncio.run(asyncio.wait_for(scenario(), 30))
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_no_more_waits_than_is_allowed() -> None:
    """Counted in bytes: what doesn't fit is refused at once, what leaves the line or is decoded makes room."""
    max_bytes = 3 * len(SMALL) + 10

    async def scenario() -> None:
        async with Decoder(DecodeLimits(processes=1, max_waiting_bytes=max_bytes)) as decoder:
            tasks = [asyncio.create_task(decoder.decode(SMALL)) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(DecoderUnavailable, match="wait"):
                await asyncio.wait_for(decoder.decode(SMALL), 0.05)
            tasks.pop().cancel()
            await asyncio.sleep(0)
            tasks.append(asyncio.create_task(decoder.decode(SMALL)))
            assert len(await asyncio.gather(*tasks)) == 3
            assert decoder._line._num_bytes == 0
            await decoder.decode(SMALL + bytes(max_bytes))  # nothing else waits

    asyncio.run(asyncio.wait_for(scenario(), 60))


KILLED = """
import asyncio, multiprocessing, os
from worker.decode import DecodeLimits, Decoder
async def scenario():
    async with Decoder(DecodeLimits(processes=1)) as decoder:
        while not decoder._num_up:
            await asyncio.sleep(0.01)
        print(multiprocessing.active_children()[0].pid, flush=True)
        os.kill(os.getpid(), 9)
if __name__ == "__main__":
    asyncio.run(scenario())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process hears of its parent's death on Linux only")
def test_a_killed_worker_leaves_no_process(tmp_path: Path) -> None:
    """Which would wait for pictures for good, and hold its memory."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    told = tmp_path / "told"
    with told.open("wb") as out:  # a pipe would be held open by what is left
        done = subprocess.run([sys.executable, script], stdout=out, env={**os.environ, "PYTHONPATH": "."}, check=False)
    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(told.read_text())}/stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "the decoding process is still there"
        time.sleep(0.05)


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3, 1.0])
def test_a_closed_decoder_leaves_no_thread(seconds: float) -> None:
    """However far its start was: a thread that still gives back semaphores makes multiprocessing warn at the exit."""

    async def scenario() -> None:
        async with Decoder(LIMITS):
            await asyncio.sleep(seconds)

    before = set(threading.enumerate())
    asyncio.run(scenario())
    assert set(threading.enumerate()) <= before


def test_small_pictures_go_first_and_large_ones_go_too() -> None:
    """A few of fifty megapixels don't hold up the many, and three small ones pass a large one at most."""
    large = encoded(Image.new("L", (3000, 3000)), "PNG")
    order: list[str] = []

    async def come(decoder: Decoder, name: str, data: bytes) -> None:
        await decoder.decode(data)
        order.append(name)

    async def scenario() -> None:
        async with Decoder(DecodeLimits(processes=1)) as decoder:
            await asyncio.gather(
                *[come(decoder, "large", large) for _ in range(4)], *[come(decoder, "small", SMALL) for _ in range(9)]
            )

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert order == [*(["small"] * 3 + ["large"]) * 3, "large"]


def test_two_decode_at_once_where_there_are_cores() -> None:
    """One picture of two seconds doesn't stop all others."""
    assert DecodeLimits().processes == min(2, os.cpu_count() or 1)


def test_more_than_can_be_decoded_leaves_most_of_what_can() -> None:
    """In the order of coming each would be begun just before its post gives it up, and hardly one be used."""
    slow = encoded(Image.effect_noise((1500, 1500), 60).convert("RGB"), "PNG", compress_level=1)
    used: list[float] = []

    async def come(decoder: Decoder, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await decoder.decode(slow)
                used.append(seconds)

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            await decoder.decode(slow)
            start = time.monotonic()
            for _ in range(5):
                await decoder.decode(slow)
            took = (time.monotonic() - start) / 5
            tasks = []
            for _ in range(60):
                tasks.append(asyncio.create_task(come(decoder, max(1.0, 10 * took))))
                await asyncio.sleep(took / 3)
            await asyncio.gather(*tasks)

    asyncio.run(asyncio.wait_for(scenario(), 120))
    assert len(used) > 60 / 3 * 0.5
