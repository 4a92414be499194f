"""A file that breaks off anywhere is found out, and what stands behind the first frame isn't read."""

import io
import time
import zlib
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from model.errors import PictureError, PictureUnsupported
from model.first_frame import declared_pixels, first_frame
from model.pixels import read_pixels
from tests.pictures.hand_made import (
    GREY,
    PALETTE,
    RGB,
    GifFrame,
    blocks,
    chunk,
    encoded,
    frame_control,
    gif,
    gif_codes,
    png,
    segment,
    webp_animation,
)

NOISE = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
INDICES = (NOISE[..., 0] % 128).astype(np.uint8)
PALETTE_128 = np.random.default_rng(1).integers(0, 256, (128, 3)).astype(np.uint8)
FRAME = GifFrame(indices=INDICES)
IMAGE = Image.fromarray(NOISE)
OTHERS = [Image.fromarray(NOISE[::-1].copy()), Image.fromarray(NOISE[:, ::-1].copy())]

STILLS = {
    "JPEG": encoded(IMAGE, "JPEG", quality=90),
    "grey JPEG": encoded(IMAGE.convert("L"), "JPEG", quality=90),
    "CMYK JPEG": encoded(IMAGE.convert("CMYK"), "JPEG", quality=90),
    "progressive JPEG": encoded(IMAGE, "JPEG", quality=90, progressive=True),
    "JPEG with restarts": encoded(IMAGE, "JPEG", quality=90, restart_marker_blocks=1),
    "PNG": png(NOISE, colour=RGB),
    "interlaced PNG": png(NOISE, colour=RGB, interlaced=True),
    "PNG of 16 bits": png(NOISE[..., 0].astype(np.uint16) * 257, colour=GREY, depth=16),
    "PNG with a palette": png(INDICES, chunk(b"PLTE", PALETTE_128.tobytes()), chunk(b"tRNS", b"\x20"), colour=PALETTE),
    "GIF": gif((24, 24), PALETTE_128, FRAME),
    "WebP": encoded(IMAGE, "WEBP", quality=90),
    "lossless WebP": encoded(IMAGE, "WEBP", lossless=True),
    "WebP with alpha and EXIF": encoded(IMAGE.convert("RGBA"), "WEBP", quality=90, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
    "AVIF": encoded(IMAGE, "AVIF", speed=10),
}
ACTL = chunk(b"acTL", b"\0\0\0\x02\0\0\0\0")
FILM = (frame_control(1, 24, 24), chunk(b"fdAT", b"\0\0\0\x02" + zlib.compress(bytes(73 * 24))))
ANIMATIONS = {
    "GIF": gif((24, 24), PALETTE_128, FRAME, GifFrame(indices=INDICES[::-1], corner=(3, 3)), FRAME),
    "APNG": png(NOISE, ACTL, frame_control(0, 24, 24), colour=RGB, behind=b"".join(FILM)),
    "WebP": webp_animation((24, 24), ((0, 0), NOISE), ((2, 2), NOISE[:8, :8]), has_alpha=False),
    "AVIF": encoded(IMAGE, "AVIF", speed=10, save_all=True, append_images=OTHERS),
}


def read(data: bytes) -> np.ndarray | None:
    """The pixels (3, 224, 224), None where the file is refused as damaged."""
    try:
        return read_pixels(data)
    except PictureError:
        return None


def seen(data: bytes) -> bytes | None:
    """The pixels' bytes, which can stand in a set."""
    values = read(data)
    return None if values is None else values.tobytes()


@pytest.mark.parametrize("kind", STILLS)
def test_a_still_that_lacks_any_of_its_end_is_refused(kind: str) -> None:
    """Cut at each byte, which is every boundary there is."""
    whole = STILLS[kind]
    assert seen(whole) is not None
    assert [number for number in range(len(whole)) if seen(whole[:number]) is not None] == []


@pytest.mark.parametrize("kind", ANIMATIONS)
def test_an_animation_that_breaks_off_is_refused_or_shows_its_first_frame(kind: str) -> None:
    """GIF and PNG can't tell what follows a frame that is whole; the others say at once how long they are."""
    whole = ANIMATIONS[kind]
    wanted = seen(whole)
    outcomes = [seen(whole[:number]) for number in range(len(whole))]
    assert wanted is not None
    assert set(outcomes) == ({None, wanted} if kind in ("GIF", "APNG") else {None})
    first = next((number for number, outcome in enumerate(outcomes) if outcome), len(whole))
    assert first > len(whole) / 4
    assert None not in outcomes[first:]


@pytest.mark.parametrize("kind", ["JPEG", "grey JPEG", "CMYK JPEG", "JPEG with restarts"])
def test_a_scan_that_is_short_is_refused_though_the_end_marker_is_there(kind: str) -> None:
    """libjpeg would fill it up with grey. Two blocks of 8 × 8 may be lacking at the end, and no more."""
    whole = STILLS[kind]
    scan = whole.index(b"\xff\xda") + 14
    cuts = [read(whole[:end].rstrip(b"\xff") + b"\xff\xd9") for end in range(scan, len(whole) - 2)]
    taken = [values for values in cuts if values is not None]
    assert cuts[: len(cuts) * 3 // 5] == [None] * (len(cuts) * 3 // 5)
    differs = np.any([(values != read(whole)).any(axis=0) for values in taken], axis=0)
    rows, columns = np.nonzero(differs)
    assert rows.min() * 24 // 224 >= 14 and columns.min() * 24 // 224 >= 6


PHOTO = Image.fromarray(NOISE).resize((200, 140), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("quality", [1, 30, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (16, 16), (17, 33), (200, 140)])
def test_a_sound_progressive_jpeg_is_taken(quality: int, subsampling: str, size: tuple[int, int]) -> None:
    """As encoders write them: of any size, in colour and grey, with restarts and without."""
    image = PHOTO.resize(size)
    options = {"quality": quality, "progressive": True, "subsampling": subsampling}
    for mode in ("RGB", "L", "CMYK"):
        for more in ({}, {"optimize": True}, {"restart_marker_blocks": 2}, {"restart_marker_rows": 1}):
            assert seen(encoded(image.convert(mode), "JPEG", **options, **more)) is not None


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_that_lacks_a_scan_is_refused(mode: str) -> None:
    """Though it has its end marker: a decoder would show it coarse, or without its colours."""
    whole = encoded(PHOTO.convert(mode), "JPEG", quality=85, progressive=True)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    assert len(starts) > 4
    for start, end in pairwise([*starts, len(whole) - 2]):
        # The tables of the next scan stand behind this one's data.
        table = whole.find(b"\xff\xc4", start, end)
        assert seen(whole[:start] + whole[end if table < 0 else table :]) is None
        assert seen(whole[:start] + b"\xff\xd9") is None


@pytest.mark.parametrize("quality", [30, 85, 100])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_jpeg_whose_last_scan_is_short_is_refused(mode: str, quality: int) -> None:
    """Though all its scans have begun, and it has its end marker. A few blocks may be lacking at the end."""
    whole = encoded(PHOTO.convert(mode), "JPEG", quality=quality, progressive=True)
    scan = whole.rindex(b"\xff\xda") + 12
    for end in range(scan, len(whole) - 16, max(1, (len(whole) - scan) // 40)):
        assert seen(whole[:end].rstrip(b"\xff") + b"\xff\xd9") is None


def test_a_progressive_jpeg_that_lacks_the_midst_of_a_scan_is_refused() -> None:
    """The scans behind it are whole."""
    whole = encoded(PHOTO, "JPEG", quality=85, progressive=True)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    for start in starts:
        end = whole.index(b"\xff\xc4", start) if start != starts[-1] and b"\xff\xc4" in whole[start:] else len(whole)
        third = (end - start) // 3
        if third > 30:
            assert seen(whole[: start + third] + whole[start + 2 * third :]) is None


def test_a_progressive_jpeg_shows_what_its_decoder_makes_of_it() -> None:
    """Taking it scan by scan changes no pixel, at a part of the size neither."""
    for size in ((200, 140), (1000, 700), (3000, 2100)):
        data = encoded(PHOTO.resize(size), "JPEG", quality=85, progressive=True)
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (448, 448))
            small = image.resize((224, 224), Image.Resampling.BILINEAR)
        assert np.array_equal(read_pixels(data), np.asarray(small).transpose(2, 0, 1))


@pytest.mark.parametrize("kind", ["GIF", "PNG", "interlaced PNG", "PNG of 16 bits"])
def test_data_that_is_short_is_refused_though_the_structure_is_whole(kind: str) -> None:
    """Codes, or rows, that end early behind lengths and checksums that are right."""
    if kind == "GIF":
        whole = gif((24, 24), PALETTE_128, FRAME)
        start = whole.rindex(gif_codes(INDICES.tobytes()))
        codes = [gif_codes(INDICES.tobytes()[:number]) for number in range(0, 24 * 24, 23)]
        short = [whole[:start] + part + b";" for part in (*codes, blocks(b""), blocks(b"\x80"))]
    else:
        whole = STILLS[kind]
        start = whole.index(b"IDAT") - 4
        pixels = zlib.decompress(whole[start + 8 : -16])
        short = [
            whole[:start] + chunk(b"IDAT", zlib.compress(pixels[:number])) + whole[-12:]
            for number in {*range(0, len(pixels), 29), *range(0, len(pixels), len(pixels) // 24)}
        ]
    assert {seen(data) for data in short} == {None}


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE", b"tRNS", b"IDAT"])
def test_a_wrong_checksum_is_refused(kind: bytes) -> None:
    """Of each chunk that makes pixels."""
    whole = bytearray(STILLS["PNG with a palette"])
    at = whole.index(kind)
    length = int.from_bytes(whole[at - 4 : at], "big")
    whole[at + 4 + length] ^= 1
    assert seen(bytes(whole)) is None


def test_a_frame_that_is_not_all_of_an_apng_is_refused() -> None:
    """The format wants the first to be."""
    for place in ((12, 24), (24, 24, 1)):
        data = png(NOISE, ACTL, frame_control(0, *place), colour=RGB)
        assert seen(data) is None


@pytest.mark.parametrize("kind", STILLS)
def test_what_stands_behind_a_picture_is_not_read(kind: str) -> None:
    """An archive, a film or a page appended to a picture leaves it as it was."""
    whole = STILLS[kind]
    wanted = {None} if kind == "AVIF" else {seen(whole)}  # an AVIF is boxes to its end
    for behind in (b"PK\3\4" + b"x" * 50, b"\0\0\0\x40ftypmp42", b"<script>alert(1)</script>", whole):
        assert {seen(whole + behind)} <= wanted | {seen(whole)}


def test_a_jpeg_of_too_many_scans_is_refused() -> None:
    """Each would cost a pass over all of the picture; those that encoders write are about ten."""
    whole = STILLS["progressive JPEG"]
    last = whole.rindex(b"\xff\xda")
    scan, start = whole[last:-2], time.monotonic()
    assert seen(whole[:-2] + scan * 30 + b"\xff\xd9") is not None
    with pytest.raises(PictureError, match="scans"):
        read_pixels(whole[:-2] + scan * 10_000 + b"\xff\xd9")
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("kind", ["GIF", "APNG", "WebP"])
def test_a_hundred_thousand_frames_cost_no_more_than_the_first(kind: str) -> None:
    """What is handed to the decoder is as long as for one; WebP alone is walked to its end, for the EXIF there."""
    if kind == "GIF":
        one = gif((24, 24), PALETTE_128, FRAME)
        many = one[:-1] + one[one.index(b"\x21\xf9") : -1] * 100_000 + b";"
    elif kind == "APNG":
        start = (chunk(b"acTL", (100_000).to_bytes(4, "big") + bytes(4)), frame_control(0, 24, 24))
        one = png(NOISE, *start, colour=RGB)
        many = png(NOISE, *start, colour=RGB, behind=b"".join(FILM) * 100_000)
    else:
        one = webp_animation((24, 24), ((0, 0), NOISE), has_alpha=False)
        body = one[8:] + one[one.index(b"ANMF") :] * 100_000
        many = b"RIFF" + len(body).to_bytes(4, "little") + body
    start_time = time.monotonic()
    frame = first_frame(many)
    assert time.monotonic() - start_time < 2
    assert frame == first_frame(one)
    assert len(frame.data) < 10_000


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (encoded(IMAGE, "BMP"), "BMP"),
        (encoded(IMAGE, "TIFF"), "TIFF"),
        (encoded(IMAGE, "ICO"), "ICO"),
        (encoded(IMAGE, "PDF"), "PDF"),
        (encoded(IMAGE, "JPEG2000"), "JPEG2000"),
        (b"\n <?xml version='1.0'?>\n<!-- x --><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIF or film"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(50), "HEIF or film"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(50), "HEIF or film"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    ],
)
def test_another_format_is_named(data: bytes, format: str) -> None:
    """By what stands at its start, as far as people post it."""
    with pytest.raises(PictureUnsupported, match=format):
        read_pixels(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BM is how this text begins, and no bitmap",
        b"<?xml version='1.0'?><rss><channel><title>404</title></channel></rss>",
        b"<!DOCTYPE html><html><body>not here</body></html>",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\xff\xd8\xff",
        b"\xff\xd8" + segment(0xE0, b"JFIF\0") * 3 + b"\xff\xd9",
        b"GIF89a",
        b"GIF89a" + bytes(7) + b";",
        b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b""),
    ],
)
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    """Text, other files, and pictures without anything in them."""
    assert seen(data) is None


@pytest.mark.parametrize("kind", STILLS)
def test_what_a_picture_declares_is_told_from_its_head(kind: str) -> None:
    """Whoever plans the work needs to know before it is decoded."""
    with Image.open(io.BytesIO(STILLS[kind])) as image:
        assert declared_pixels(STILLS[kind]) == image.width * image.height
    assert declared_pixels(STILLS[kind][:8]) == 0
