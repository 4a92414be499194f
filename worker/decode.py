"""From the bytes of a picture to the pixels that the tower looks at, in processes that may die.

Nothing here imports torch: a decoding process starts in a tenth of a second, and is small.
"""

import asyncio
import hashlib
import io
import multiprocessing
import warnings
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from consumers.image_status import ImageStatus
from worker.errors import ImageError

SIDE = 224
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large a picture may be, and how long its decoding may take."""

    max_pixels: int = 50_000_000
    seconds: float = 10.0
    processes: int = 1

    def __post_init__(self) -> None:
        for name in ("max_pixels", "seconds", "processes"):
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
        with warnings.catch_warnings():
            # Pillow's remarks about a header are the host's to write; our own limits are below.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                return _pixels(image, limits)
    except UnidentifiedImageError as error:
        raise ImageError(_unread(data), "no picture in a format on the list") from error
    except Image.DecompressionBombError as error:
        raise ImageError(ImageStatus.TOO_LARGE, "too many pixels") from error
    except ImageError:
        raise
    except Exception as error:
        # Pillow's plug-ins raise nearly anything on damaged data: OSError, SyntaxError, struct.error, …
        raise ImageError(ImageStatus.BAD_IMAGE, f"damaged: {type(error).__name__}") from error


def _pixels(image: Image.Image, limits: DecodeLimits) -> Pixels:
    width, height = image.size
    if width * height > limits.max_pixels:
        raise ImageError(ImageStatus.TOO_LARGE, f"{width}×{height} is over {limits.max_pixels} pixels")
    # Draft decodes a large JPEG at a half, a quarter or an eighth, never below what is asked for.
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    rgb = _to_rgb(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    values = np.ascontiguousarray(np.asarray(rgb, dtype=np.uint8).transpose(2, 0, 1))
    return Pixels(values, hashlib.sha256(values.tobytes()).hexdigest())


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        # 16 bits of grey: the upper eight are the picture; Pillow's own conversion clips them white.
        grey = np.asarray(image).clip(0, 0xFFFF).astype(np.uint16) >> 8
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(ground, coloured).convert("RGB")
    return image.convert("RGB")


def _unread(data: bytes) -> ImageStatus:
    """A picture of another kind is unsupported; anything else is no picture."""
    known = (b"BM", b"II*\0", b"MM\0*", b"<svg", b"<?xml", b"8BPS", b"\0\0\1\0", b"%PDF", b"\0\0\0\x0cjP")
    is_heic = data[4:8] == b"ftyp"
    return ImageStatus.UNSUPPORTED if data.startswith(known) or is_heic else ImageStatus.BAD_IMAGE


class Decoder:
    """Decodes in processes of its own; one that dies or hangs is replaced, and its picture is bad.

    Each process takes one picture at a time, so that a death or a timeout is the fault of that picture
    and of none that waits.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._free: asyncio.Queue[ProcessPoolExecutor] = asyncio.Queue()
        self._pools = {_new_pool() for _ in range(limits.processes)}
        for pool in self._pools:
            self._free.put_nowait(pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._pools:
            _end(self._pools.pop())

    async def decode(self, data: bytes) -> Pixels:
        """`decode`, elsewhere. Raises `ImageError` as it does, also where the process dies."""
        try:
            result = await self._decode_once(data)
        except BrokenExecutor:
            # It may have died before, of something else: a second death is the picture's fault.
            try:
                result = await self._decode_once(data)
            except BrokenExecutor as error:
                raise ImageError(ImageStatus.BAD_IMAGE, "the decoder died of it") from error
        if isinstance(result, Pixels):
            return result
        raise ImageError(*result)

    async def _decode_once(self, data: bytes) -> Pixels | tuple[ImageStatus, str]:
        pool = await self._free.get()
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(self._limits.seconds):
                return await loop.run_in_executor(pool, _decode_or_status, data, self._limits)
        except TimeoutError as error:
            pool = self._replace(pool)
            raise ImageError(ImageStatus.BAD_IMAGE, f"not decoded within {self._limits.seconds:g} s") from error
        except (BrokenExecutor, asyncio.CancelledError):
            # Whoever is cancelled leaves a process at work: the next picture shouldn't wait for it.
            pool = self._replace(pool)
            raise
        finally:
            self._free.put_nowait(pool)

    def _replace(self, pool: ProcessPoolExecutor) -> ProcessPoolExecutor:
        if pool not in self._pools:  # the decoder is closed
            return pool
        self._pools.remove(pool)
        _end(pool)
        fresh = _new_pool()
        self._pools.add(fresh)
        return fresh


def _decode_or_status(data: bytes, limits: DecodeLimits) -> Pixels | tuple[ImageStatus, str]:
    # The error itself doesn't cross the border: its constructor takes two arguments, pickle gives one.
    try:
        return decode(data, limits)
    except ImageError as error:
        return error.status, str(error)


def _new_pool() -> ProcessPoolExecutor:
    # spawn: the worker has threads, and a fork after threads may hang.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=context, initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end(pool: ProcessPoolExecutor) -> None:
    processes = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.kill()
