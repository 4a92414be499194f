"""The pictures that wait to be decoded, and which of them is next."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from consumers.image_status import ImageStatus
from model.first_frame import declared_pixels
from worker.errors import NothingLearnt

_SMALL_PIXELS = 4_000_000
_SMALL_BYTES = 1 << 20
_TURNS = 4
_LONG_WAIT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Pixels:
    """RGB pixels (3, 224, 224) in uint8, and their SHA-256."""

    values: np.ndarray
    digest: str


Result = Pixels | tuple[ImageStatus, str]


class DecoderUnavailable(NothingLearnt):
    """Raised when there is nothing to decode with just now. It says nothing of the picture."""

    def __init__(self, detail: str) -> None:
        super().__init__(ImageStatus.TOO_SLOW, detail)


@dataclass(slots=True, eq=False)
class Job:
    """A picture on its way, and who waits for its `answer`."""

    data: bytes
    answer: asyncio.Future[Result]
    is_small: bool = field(init=False)
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.is_small = len(self.data) <= _SMALL_BYTES and declared_pixels(self.data) <= _SMALL_PIXELS

    def succeed(self, result: Result) -> None:
        """Answer, if it isn't answered yet."""
        if not self.answer.done():  # else nobody waits any more
            self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        """Answer with an error, if it isn't answered yet."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Line:
    """The pictures that wait for a process, up to so many bytes of them.

    While small and large ones wait, of `_TURNS` one is a large one's: a few large ones, of two seconds each, don't
    hold up the many, and are decoded all the same. Who waits longest is next until that is too long: then more come
    than can be decoded, the oldest are about to be cancelled, and the newest alone can still be decoded in time.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._small: deque[Job] = deque()
        self._large: deque[Job] = deque()
        self._num_passed = 0
        """Small ones that went since a large one could have gone."""
        self._come = asyncio.Event()

    def __len__(self) -> int:
        return len(self._small) + len(self._large)

    def join(self, job: Job) -> None:
        """Raises `DecoderUnavailable` where too much waits already."""
        if len(self) and self._num_bytes + len(job.data) > self._max_bytes:
            raise DecoderUnavailable(f"{self._num_bytes} bytes of pictures wait already")
        self._of_size(job).append(job)
        self._joined(job)

    def put_back(self, job: Job) -> None:
        """To its front, whatever waits: it had its turn."""
        self._of_size(job).appendleft(job)
        self._joined(job)

    def _of_size(self, job: Job) -> deque[Job]:
        return self._small if job.is_small else self._large

    def _joined(self, job: Job) -> None:
        self._num_bytes += len(job.data)
        self._come.set()

    def leave(self, job: Job) -> None:
        """Wait no more."""
        jobs = self._of_size(job)
        if job in jobs:  # else it's at work
            jobs.remove(job)
            self._num_bytes -= len(job.data)

    async def wait(self) -> None:
        """Until somebody waits."""
        while not len(self):
            self._come.clear()
            await self._come.wait()

    async def take(self) -> Job:
        """The next, as soon as there is one."""
        await self.wait()
        return self._next()

    def _next(self) -> Job:
        is_small = bool(self._small) and (not self._large or self._num_passed < _TURNS - 1)
        self._num_passed = self._num_passed + 1 if is_small and self._large else 0
        jobs = self._small if is_small else self._large
        is_late = time.monotonic() - jobs[0].since > _LONG_WAIT_SECONDS
        job = jobs.pop() if is_late else jobs.popleft()
        self._num_bytes -= len(job.data)
        return job

    def refuse(self, reason: str) -> None:
        """Have all that wait fail with `DecoderUnavailable`."""
        while len(self):
            self._next().fail(DecoderUnavailable(reason))
