"""From the bytes of a picture to the pixels that the tower looks at, in processes that may die.

Nothing here imports torch: a decoding process starts in a tenth of a second, and is small.
"""

import asyncio
import ctypes
import hashlib
import logging
import multiprocessing
import os
import resource
import signal
import sys
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from consumers.image_status import ImageStatus
from model.errors import PictureError, PictureTooLarge, PictureUnsupported
from model.pixels import MAX_PIXELS, read_pixels
from worker.decode_line import DecoderUnavailable, Job, Line, Pixels, Result
from worker.errors import ImageError

log = logging.getLogger("nametag.decode")

_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60.0
_END_SECONDS = 1.0
_START_PAUSES = (0.1, 1.0, 5.0)
"""Before a process that didn't start is tried again; before the last the pictures that wait are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large a picture may be, and what its decoding may take.

    `memory_bytes` is what a process may allocate for a picture, beyond what it has at its start; the
    costliest picture of `max_pixels`, a see-through WebP, takes 800 MB. `seconds` is the time of the
    decoding alone: neither the wait for a process nor a process' start counts. `max_waiting_bytes` is how
    much may wait for a process: one more picture is refused.
    """

    max_pixels: int = MAX_PIXELS
    memory_bytes: int = 1 << 30
    seconds: float = 10.0
    processes: int = min(2, os.cpu_count() or 1)
    max_waiting_bytes: int = 128 << 20

    def __post_init__(self) -> None:
        for name in ("max_pixels", "memory_bytes", "seconds", "processes", "max_waiting_bytes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


def decode(data: bytes, limits: DecodeLimits) -> Pixels:
    """The first frame as RGB, turned as EXIF says, resized without a crop so that regions map back.

    Raises `ImageError`: `too_large`, `unsupported`, or `bad_image` for all that is damaged.
    """
    try:
        values = read_pixels(data, max_pixels=limits.max_pixels)
    except PictureTooLarge as error:
        raise ImageError(ImageStatus.TOO_LARGE, str(error)) from error
    except PictureUnsupported as error:
        raise ImageError(ImageStatus.UNSUPPORTED, str(error)) from error
    except PictureError as error:
        raise ImageError(ImageStatus.BAD_IMAGE, str(error)) from error
    return Pixels(values, hashlib.sha256(values.tobytes()).hexdigest())


class Decoder:
    """Decodes in processes of its own; one that dies or hangs is replaced, and its picture is bad.

    Each process takes one picture at a time, so that a death or a timeout is the fault of that picture
    and of none that waits. A process takes its first only once it has answered, so that its start is
    nobody's fault either. Whoever is cancelled while its picture is at work leaves that to its end: a
    process costs more to start than nearly any picture to decode.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._line = Line(limits.max_waiting_bytes)
        self._places: list[asyncio.Task[None]] = []
        self._num_up = 0
        self._is_closed = False

    async def __aenter__(self) -> Self:
        self._places = [asyncio.create_task(self._serve()) for _ in range(self._limits.processes)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_closed = True
        for place in self._places:
            place.cancel()
        await asyncio.gather(*self._places, return_exceptions=True)
        self._line.refuse("the decoder is closed")

    async def decode(self, data: bytes) -> Pixels:
        """`decode`, elsewhere. Raises `ImageError` as it does, also where the process dies.

        `DecoderUnavailable` where no process can be started or too much waits: that is not the picture's fault.
        """
        try:
            result = await self._decode_once(data)
        except BrokenExecutor:
            # It may have died of something else: a second death is the picture's fault.
            try:
                result = await self._decode_once(data)
            except BrokenExecutor as error:
                raise ImageError(ImageStatus.BAD_IMAGE, "the decoder died of it") from error
        if isinstance(result, Pixels):
            return result
        raise ImageError(*result)

    async def _decode_once(self, data: bytes) -> Result:
        if self._is_closed:
            raise DecoderUnavailable("the decoder is closed")
        job = Job(data, asyncio.get_running_loop().create_future())
        self._line.join(job)
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._line.leave(job)
            raise

    async def _serve(self) -> None:
        """The place of one process: it's started, works off the line, and is replaced, until the decoder is closed."""
        while True:
            try:
                await self._serve_once()
            except Exception:
                # A place that is lost would never be filled again, and with the last all pictures would hang.
                log.exception("decoder_place_failed", extra={"retry_seconds": _START_PAUSES[-1]})
                await asyncio.sleep(_START_PAUSES[-1])

    async def _serve_once(self) -> None:
        pool = await self._start()
        if pool is None:
            if self._num_up == 0:
                self._line.refuse("no process to decode in could be started")
            await asyncio.sleep(_START_PAUSES[-1])
            await self._line.wait()
            return
        self._num_up += 1
        try:
            while await self._work(pool, await self._line.take()):
                pass
        finally:
            self._num_up -= 1
            await _end(pool)

    async def _work(self, pool: ProcessPoolExecutor, job: Job) -> bool:
        """Decodes one picture. Returns whether the process is fit for another."""
        try:
            work = pool.submit(_decode_or_status, job.data, self._limits)
        except (RuntimeError, OSError):  # it died while it had nothing to do
            self._line.put_back(job)
            return False
        future = asyncio.wrap_future(work)
        future.add_done_callback(_hear)
        try:
            await asyncio.wait([future], timeout=self._limits.seconds)
            # The work itself is asked: a loop that was held up hears of the deadline and of the end at once.
            if not work.done():
                job.fail(ImageError(ImageStatus.BAD_IMAGE, f"not decoded within {self._limits.seconds:g} s"))
                return False
            job.succeed(await future)
        except BrokenExecutor as error:
            job.fail(error)
            return False
        except Exception as error:
            # What no picture should bring about, such as a lack of memory outside of the decoding.
            job.fail(ImageError(ImageStatus.BAD_IMAGE, f"the decoder failed: {type(error).__name__}"))
            return False
        finally:
            job.fail(DecoderUnavailable("the decoder is closed"))  # where nothing was answered above
        return True

    async def _start(self) -> ProcessPoolExecutor | None:
        """A process that has answered; None where none can be started."""
        for pause in _START_PAUSES:
            pool: ProcessPoolExecutor | None = None
            is_up = False
            try:
                pool = _new_pool(self._limits)
                async with asyncio.timeout(_START_SECONDS):
                    await asyncio.get_running_loop().run_in_executor(pool, _answer)
                is_up = True
                return pool
            except Exception as error:
                # Of too few descriptors, threads, processes or bytes there are many kinds, and all may pass.
                log.warning("decoder_start_failed", extra={"error": type(error).__name__, "retry_seconds": pause})
            finally:
                if pool is not None and not is_up:
                    await _end(pool)
            if pause != _START_PAUSES[-1]:
                await asyncio.sleep(pause)
        return None


def _hear(future: asyncio.Future[Result]) -> None:
    """Takes note of how a work ended that nobody may wait for, or asyncio complains that nobody did."""
    if not future.cancelled():
        future.exception()


def _decode_or_status(data: bytes, limits: DecodeLimits) -> Result:
    # The error itself doesn't cross the border: its constructor takes two arguments, pickle gives one.
    try:
        return decode(data, limits)
    except ImageError as error:
        return error.status, str(error)


def _answer() -> None:
    """What a process does to show that it is up."""


def _new_pool(limits: DecodeLimits) -> ProcessPoolExecutor:
    # spawn: the worker has threads, and a fork after threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_prepare, initargs=(limits.memory_bytes,))


def _prepare(memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    # A picture that kills its process would leave a core as large as its memory, each time.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the limit isn't kept, or can't be set
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _die_with_parent() -> None:
    """A worker that is killed can't end its processes, and they would wait for it for good."""
    parent = multiprocessing.parent_process()
    if parent is None or sys.platform != "linux":
        return
    # Of the thread that started the process, to be exact: the event loop's, which ends with the worker.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # it was gone before this took effect
        os._exit(1)


async def _end(pool: ProcessPoolExecutor) -> None:
    """Kill the process, and see off the thread that the pool has for it.

    Were that still giving back the pool's semaphores while the worker exits, multiprocessing's tracker would find them
    half given back, and warn under the worker's last line. Not for long, for it may hang on a pipe that nobody reads.
    """
    processes = list((getattr(pool, "_processes", None) or {}).values())
    thread = getattr(pool, "_executor_manager_thread", None)
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
    give_up_at = time.monotonic() + _END_SECONDS
    while thread is not None and thread.is_alive() and time.monotonic() < give_up_at:  # noqa: ASYNC110 (no event tells)
        await asyncio.sleep(0.01)
