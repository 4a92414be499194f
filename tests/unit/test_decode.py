"""Decoding: right pixels for every kind of picture, a clear status for every kind of damage."""

import asyncio
import io
import multiprocessing
import os

import numpy as np
import pytest
from PIL import Image, features

from worker.decode import DecodeLimits, Decoder, Pixels, decode
from worker.errors import ImageError
from worker.image_status import ImageStatus

LIMITS = DecodeLimits()


def picture(mode: str = "RGB", size: tuple[int, int] = (224, 224)) -> Image.Image:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, (200, 30, 30))
    image.paste((30, 30, 200), (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def mean(values: np.ndarray, part: slice) -> tuple[int, ...]:
    """The mean colour of some columns, away from the edges."""
    return tuple(int(value) for value in values[:, 10:-10, part].mean(axis=(1, 2)).round())


LEFT, RIGHT = slice(10, 90), slice(-90, -10)
FORMATS = ["JPEG", "PNG", "WEBP", *(["AVIF"] if features.check("avif") else [])]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(224, 224), (1200, 800), (50, 300)])
def test_each_format_gives_its_colours(format: str, size: tuple[int, int]) -> None:
    """RGB, 3 × 224 × 224, the whole picture: nothing is cropped."""
    pixels = decode(encoded(picture(size=size), format), LIMITS)
    assert pixels.values.shape == (3, 224, 224)
    assert pixels.values.dtype == np.uint8
    assert np.allclose(mean(pixels.values, LEFT), (200, 30, 30), atol=8)
    assert np.allclose(mean(pixels.values, RIGHT), (30, 30, 200), atol=8)


def test_the_same_pixels_have_the_same_digest() -> None:
    """The digest is of what is looked at, not of the file."""
    a, b = (decode(encoded(picture(), "PNG", compress_level=level), LIMITS) for level in (1, 9))
    assert a.digest == b.digest != decode(encoded(picture(size=(100, 224)), "PNG"), LIMITS).digest


def test_16_bit_grey_keeps_its_shade() -> None:
    """The upper eight bits are the picture: no clipping to white."""
    grey = Image.fromarray(np.full((50, 50), 128 * 257, np.uint16))
    assert mean(decode(encoded(grey, "PNG"), LIMITS).values, LEFT) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_is_grey(mode: str) -> None:
    """Grey and black-and-white pictures have three equal channels."""
    values = decode(encoded(picture(mode), "PNG"), LIMITS).values
    assert np.array_equal(values[0], values[1]) and np.array_equal(values[1], values[2])


def test_cmyk_is_converted() -> None:
    """A CMYK JPEG is about what it was in RGB."""
    values = decode(encoded(picture("CMYK"), "JPEG", quality=95), LIMITS).values
    assert np.allclose(mean(values, LEFT), (200, 30, 30), atol=12)


def test_transparency_is_on_white() -> None:
    """A see-through part is white, in RGBA, in grey with alpha, and in a palette."""
    image = picture("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    half = picture("RGBA")
    half.putalpha(Image.new("L", image.size, 128))
    assert mean(decode(encoded(image, "PNG"), LIMITS).values, LEFT) == (255, 255, 255)
    assert mean(decode(encoded(image.convert("LA"), "PNG"), LIMITS).values, LEFT) == (255, 255, 255)
    assert np.allclose(mean(decode(encoded(half, "PNG"), LIMITS).values, LEFT), (227, 142, 142), atol=2)
    palette = Image.new("P", (50, 50), 1)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    assert mean(decode(encoded(palette, "PNG", transparency=1), LIMITS).values, LEFT) == (255, 255, 255)


def test_an_exif_turn_is_obeyed() -> None:
    """A picture marked as lying on its side stands up: red ends on top."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    values = decode(encoded(picture(), "JPEG", exif=exif), LIMITS).values
    assert values[0, 10:90].mean() > 150 > values[0, -90:-10].mean()


def test_the_first_frame_of_an_animation() -> None:
    """Of a GIF that moves the first frame is looked at."""
    other = Image.new("RGB", (224, 224), "white")
    data = encoded(picture(), "GIF", save_all=True, append_images=[other, other])
    assert np.allclose(mean(decode(data, LIMITS).values, LEFT), (200, 30, 30), atol=10)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_picture_is_bad(format: str, share: float) -> None:
    """Half a picture isn't used, wherever it ends."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8))
    data = encoded(noise, format)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)], LIMITS)
    assert caught.value.status is ImageStatus.BAD_IMAGE


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", ImageStatus.BAD_IMAGE),
        (b"<html><body>404</body></html>", ImageStatus.BAD_IMAGE),
        (b"\x00" * 5000, ImageStatus.BAD_IMAGE),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", ImageStatus.UNSUPPORTED),
        (encoded(picture(), "BMP"), ImageStatus.UNSUPPORTED),
        (encoded(picture(), "TIFF"), ImageStatus.UNSUPPORTED),
    ],
)
def test_what_is_no_picture_of_ours(data: bytes, status: ImageStatus) -> None:
    """Another format is unsupported, anything else is bad; the name of the file says nothing."""
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.status is status


def test_a_bomb_is_too_large_before_it_is_decoded() -> None:
    """Pixels are bounded by what the header says, whatever the file's size."""
    data = encoded(Image.new("1", (20_000, 20_000)), "PNG")
    assert len(data) < 100_000
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    assert caught.value.status is ImageStatus.TOO_LARGE


def test_a_dying_decoder_does_not_take_the_worker_along() -> None:
    """A process that was killed is replaced, and costs no picture that it didn't die of."""

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            good = encoded(picture(), "PNG")
            assert (await decoder.decode(good)).digest == decode(good, LIMITS).digest
            for process in multiprocessing.active_children():
                process.kill()
                process.join()
            assert (await decoder.decode(good)).digest == decode(good, LIMITS).digest
            with pytest.raises(ImageError):
                await decoder.decode(good[:100])

    asyncio.run(scenario())


def test_a_picture_that_kills_is_bad_and_the_next_is_not() -> None:
    """Whoever kills its process twice is refused; those that wait behind it get their pixels."""

    async def scenario() -> None:
        async with Decoder(LIMITS) as decoder:
            good = encoded(picture(), "PNG")
            await decoder.decode(good)
            patch = pytest.MonkeyPatch()
            patch.setattr("worker.decode._decode_or_status", die_of_it)
            killer = asyncio.create_task(decoder.decode(b"kill"))
            waiting = [asyncio.create_task(decoder.decode(good)) for _ in range(3)]
            with pytest.raises(ImageError) as caught:
                await killer
            patch.undo()
            assert caught.value.status is ImageStatus.BAD_IMAGE
            assert len({(await task).digest for task in waiting}) == 1

    asyncio.run(scenario())


def die_of_it(data: bytes, limits: DecodeLimits) -> Pixels:
    """Stands for a fault in a codec's C code."""
    if data == b"kill":
        os._exit(1)
    return decode(data, limits)


def test_a_picture_that_takes_too_long_costs_its_deadline_only() -> None:
    """A large one ends at the deadline; a small one behind it is decoded, since its own time starts later."""
    large = encoded(Image.new("RGB", (7000, 7000)), "PNG")
    small = encoded(picture(), "PNG")

    async def scenario() -> None:
        async with Decoder(DecodeLimits(seconds=10)) as decoder:
            await decoder.decode(small)  # the process is up
            decoder._limits = DecodeLimits(seconds=0.02)
            slow = asyncio.create_task(decoder.decode(large))
            await asyncio.sleep(0)  # it has begun
            decoder._limits = LIMITS
            behind = asyncio.create_task(decoder.decode(small))
            with pytest.raises(ImageError) as caught:
                await slow
            assert caught.value.status is ImageStatus.BAD_IMAGE
            assert (await behind).digest == decode(small, LIMITS).digest

    asyncio.run(scenario())
