"""From the bytes of a picture to the pixels that the tower looks at, in processes that may die.

Nothing here imports torch: a decoding process starts in a tenth of a second, and is small.
"""

import asyncio
import hashlib
import logging
import multiprocessing
import resource
import signal
import sys
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from consumers.image_status import ImageStatus
from model.errors import PictureError, PictureTooLarge, PictureUnsupported
from model.pixels import MAX_PIXELS, read_pixels
from worker.errors import ImageError

log = logging.getLogger("nametag.decode")

_START_SECONDS = 60.0
_START_PAUSES = (0.1, 1.0, 5.0)
"""Before a process that didn't start is tried again; after the last the pictures that wait are told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large a picture may be, and what its decoding may take.

    `memory_bytes` is what a process may allocate for a picture, beyond what it has at its start; the
    costliest picture of `max_pixels`, a see-through WebP, takes 800 MB. `seconds` is the time of the
    decoding alone: neither the wait for a process nor a process' start counts.
    """

    max_pixels: int = MAX_PIXELS
    memory_bytes: int = 1 << 30
    seconds: float = 10.0
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("max_pixels", "memory_bytes", "seconds", "processes"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class Pixels:
    """RGB pixels (3, 224, 224) in uint8, and their SHA-256."""

    values: np.ndarray
    digest: str


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
    and of none that waits. A process is free only once it has answered, so that its start is nobody's
    fault either.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._free: asyncio.Queue[ProcessPoolExecutor | None] = asyncio.Queue()
        """None stands for a process that can't be started."""
        self._turn = asyncio.Lock()
        self._pools: set[ProcessPoolExecutor] = set()
        self._starts: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        for _ in range(self._limits.processes):
            self._start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        starts = list(self._starts)
        for start in starts:
            start.cancel()
        await asyncio.gather(*starts, return_exceptions=True)
        while self._pools:
            _end(self._pools.pop())

    async def decode(self, data: bytes) -> Pixels:
        """`decode`, elsewhere. Raises `ImageError` as it does, also where the process dies.

        `too_slow` where no process can be started: that is not the picture's fault.
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

    async def _decode_once(self, data: bytes) -> Pixels | tuple[ImageStatus, str]:
        while True:
            # The lock keeps the order of those who wait; of a queue's whoever comes just then may overtake all.
            async with self._turn:
                pool = await self._free.get()
            if pool is None:
                self._start()
                raise ImageError(ImageStatus.TOO_SLOW, "no process to decode in could be started")
            try:
                work = pool.submit(_decode_or_status, data, self._limits)
                break
            except BrokenExecutor:
                self._replace(pool)  # it died while it had nothing to do
        future = asyncio.wrap_future(work)
        try:
            await asyncio.wait([future], timeout=self._limits.seconds)
            # The work itself is asked: a loop that was held up hears of the deadline and of the end at once.
            if not work.done():
                raise ImageError(ImageStatus.BAD_IMAGE, f"not decoded within {self._limits.seconds:g} s")
            result = await future
        except (BrokenExecutor, ImageError, asyncio.CancelledError):
            # Whoever is cancelled leaves a process at work: the next picture shouldn't wait for it.
            self._replace(pool)
            raise
        self._free.put_nowait(pool)
        return result

    def _replace(self, pool: ProcessPoolExecutor) -> None:
        if pool in self._pools:  # else the decoder is closed
            self._pools.remove(pool)
            _end(pool)
            self._start()

    def _start(self) -> None:
        start = asyncio.create_task(self._start_one())
        self._starts.add(start)
        start.add_done_callback(self._starts.discard)

    async def _start_one(self) -> None:
        for pause in _START_PAUSES:
            pool = _new_pool(self._limits)
            self._pools.add(pool)
            try:
                async with asyncio.timeout(_START_SECONDS):
                    await asyncio.get_running_loop().run_in_executor(pool, _answer)
            except (BrokenExecutor, TimeoutError, OSError) as error:
                log.warning("decoder_start_failed", extra={"error": type(error).__name__, "retry_seconds": pause})
                self._pools.discard(pool)
                _end(pool)
                await asyncio.sleep(pause)
            else:
                self._free.put_nowait(pool)
                return
        self._free.put_nowait(None)


def _decode_or_status(data: bytes, limits: DecodeLimits) -> Pixels | tuple[ImageStatus, str]:
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
    # A picture that kills its process would leave a core as large as its memory, each time.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the limit isn't kept, or can't be set
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _end(pool: ProcessPoolExecutor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
