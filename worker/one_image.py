"""The picture of one caption: a file of the user's, or a URL by way of the worker's guarded fetcher."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from consumers.image_status import ImageStatus
from worker.decode import DecodeLimits, Decoder
from worker.decode_line import Pixels
from worker.errors import ImageError
from worker.fetch import ImageFetcher
from worker.image_directory import read_image_file
from worker.image_settings import fetch_limits
from worker.settings import Settings

_ORIGINS = "set NAMETAG_IMAGES__ALLOW_ORIGINS to fetch from your own network"
_ADVICE = {
    ImageStatus.BLOCKED_ADDRESS: _ORIGINS,
    ImageStatus.UNSUPPORTED: "convert it to JPEG, PNG, WebP, GIF or AVIF",
    ImageStatus.TOO_LARGE: "make it smaller",
    ImageStatus.TOO_SLOW: "try again, or download it and name the file",
    ImageStatus.HOST_DOWN: "try again, or download it and name the file",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OneImage:
    """A picture as it came, and the pixels that the tower looks at."""

    data: bytes
    pixels: Pixels
    is_remote: bool


async def read_image(name: str, settings: Settings) -> OneImage:
    """The picture at a path or an http(s) URL, decoded as any worker does it: in a process of its own.

    Raises `ImageError` with what is wrong with it, and what to do.
    """
    is_remote = name.lower().startswith(("http://", "https://"))
    try:
        if is_remote:
            data = await _fetch(name, settings)
        else:
            data = await asyncio.to_thread(read_image_file, Path(name), settings.images.max_image_bytes)
        async with Decoder(DecodeLimits()) as decoder:
            pixels = await decoder.decode(data)
    except ImageError as error:
        advice = _ADVICE.get(error.status, "name another with --image")
        shown = "the image" if is_remote else name
        raise ImageError(error.status, f"{shown} can't be used ({error.status}: {error}); {advice}") from error
    return OneImage(data=data, pixels=pixels, is_remote=is_remote)


async def _fetch(url: str, settings: Settings) -> bytes:
    async with ImageFetcher(fetch_limits(settings.images)) as fetcher:
        return await fetcher.fetch(url)
