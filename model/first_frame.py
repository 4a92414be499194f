"""Of a picture's file what its first frame is made of, told by content and never by a name.

Decoders forgive much: they fill up what was cut off, and read every profile, text and frame on the way.
So each format is walked here first, part by part. A file that breaks off is found out, and a decoder
gets to see the first frame's parts alone: a broken profile costs no picture, a bomb in a text chunk isn't
unpacked, and an animation of a hundred thousand frames costs no more than its first.
"""

import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from model.errors import PictureError, PictureUnsupported

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")

_MAX_SCANS = 50
"""Of a JPEG; cameras write one and encoders about ten. A scan of nothing costs a byte and a pass over the picture."""

NO_CODE = b"\xff\x00"
"""Eight ones in the data of a JPEG's scan; no code is made of ones alone."""

_MAX_HEAD_PARTS = 100
"""Of a JPEG before its size: tables, and a profile or film cut into parts."""

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
"""The next marker of a JPEG: not a stuffed byte, a restart or a fill byte."""

_GIF_BLOCK = re.compile(rb"[!,;]")

_MAGICS = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (_PNG_MAGIC,),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "PSD": (b"8BPS",),
    "ICO": (b"\0\0\1\0", b"\0\0\2\0"),
    "PDF": (b"%PDF",),
    "JPEG2000": (b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51"),
    "JXL": (b"\xff\x0a", b"\0\0\0\x0cJXL"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstFrame:
    """A file with nothing in it but the first frame of a picture."""

    format: str
    data: bytes
    exif: bytes = b""
    """The TIFF structure that may say how the picture is turned."""
    canvas: tuple[int, int] | None = None
    """Width and height of the screen that the frame is laid on; None where the frame is all of it."""
    corner: tuple[int, int] = (0, 0)
    """Where on the canvas the frame's upper left corner lies."""
    scan_ends: tuple[int, ...] = ()
    """Where in `data` the scans of a JPEG of several end."""


def first_frame(data: bytes, formats: tuple[str, ...] = FORMATS) -> FirstFrame:
    """The first frame in `data`. Raises `PictureUnsupported`, and `PictureError` where the file is damaged."""
    format = _tell_format(data)
    if format is None:
        raise PictureError("no picture in a known format")
    if format not in formats:
        raise PictureUnsupported(f"{format} isn't among {', '.join(formats)}")
    try:
        return _WALKS[format](data) if format in _WALKS else FirstFrame(format=format, data=data)
    except (IndexError, struct.error) as error:
        raise PictureError(f"the {format} breaks off") from error


def declared_pixels(data: bytes) -> int:
    """How many pixels the head of a file claims; 0 where it can't be told. A guess, for whoever plans the work."""
    format = _tell_format(data)
    try:
        if format == "PNG":
            width, height = struct.unpack_from(">II", data, 16)
        elif format == "GIF":
            width, height = struct.unpack_from("<HH", data, 6)
        elif format == "JPEG":
            height, width = struct.unpack_from(">HH", data, _jpeg_frame_at(data) + 5)
        elif format == "WEBP" and data[12:16] == b"VP8X":
            width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        elif format == "WEBP" and data[12:16] == b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif format == "WEBP":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        elif format == "AVIF":
            width, height = struct.unpack_from(">II", data, data.index(b"ispe", 0, 4096) + 8)
        else:
            return 0
    except (ValueError, struct.error):
        return 0
    return int(width * height)


def _jpeg_frame_at(data: bytes) -> int:
    """Where the frame header of a JPEG stands. Raises `ValueError` where there is none."""
    at = 2
    for _ in range(_MAX_HEAD_PARTS):
        marker, length = struct.unpack_from(">HH", data, at)
        if 0xFFC0 <= marker <= 0xFFCF and marker not in (0xFFC4, 0xFFC8, 0xFFCC):
            return at
        at += 2 + length
    raise ValueError("no frame header")


def _tell_format(data: bytes) -> str | None:
    for format, magics in _MAGICS.items():
        if data.startswith(magics):
            return format
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM") and data[6:10] == b"\0\0\0\0":
        return "BMP"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4], "big"), 512)]
        is_avif = any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4))
        return "AVIF" if is_avif else "HEIF or film"
    return "SVG" if b"<svg" in data[:1024].lower() else None


def _jpeg(data: bytes) -> FirstFrame:
    """Without the profiles, thumbnails and second pictures, up to the end marker, which has to be there."""
    kept, exif, last, at = [data[:2]], b"", 0, 2
    frame, frame_body, scans = 0, b"", list[bytes]()
    ends: dict[int, int] = {}
    """By scan: how many parts are kept at its end."""
    while True:
        found = _MARKER.search(data, at)
        if found is None:
            raise PictureError("the JPEG ends before its end marker")
        if last == 0xDA:
            kept.append(data[at : found.start()])
            ends[len(scans)] = len(kept)
        marker, at = data[found.start() + 1], found.end()
        if marker == 0xD9:
            break
        if marker in (0x01, 0xD8):
            continue
        (length,) = struct.unpack_from(">H", data, at)
        body, last, at = data[at + 2 : at + length], marker, at + length
        if length < 2 or at > len(data):
            raise PictureError("the JPEG ends within a segment")
        if marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body[6:]
        elif marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[found.start() : at])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame, frame_body = marker, body
        elif marker == 0xDA:
            scans.append(body)
            if len(scans) > _MAX_SCANS:
                raise PictureError(f"the JPEG has more than {_MAX_SCANS} scans")
    if not _are_complete(scans, frame_body, is_progressive=frame in (0xC2, 0xCA)):
        raise PictureError("the JPEG lacks scans")
    is_one_scan = frame in (0xC0, 0xC1) and len(scans) == 1 and last == 0xDA
    # libjpeg greys out what a scan lacks before the end marker, but waits for it where there is none. Its
    # look-ahead wants eight bytes more than it uses: ones, which no code is made of, stand for two blocks at most.
    kept.append(NO_CODE * 8 if is_one_scan else b"\xff\xd9")
    lengths = list(accumulate(map(len, kept)))
    scan_ends = () if is_one_scan else tuple(lengths[num_kept - 1] for num_kept in ends.values())
    return FirstFrame(format="JPEG", data=b"".join(kept), exif=exif, scan_ends=scan_ends)


def _are_complete(scans: list[bytes], frame: bytes, *, is_progressive: bool) -> bool:
    """Whether the scans bring each coefficient of each component down to its last bit (T.81, G.1.1.1).

    A decoder is content with any of them, and shows the rest coarse or grey.
    """
    components = {frame[6 + 3 * number] for number in range(frame[5])}
    shifts: dict[tuple[int, int], int] = {}
    """By component and coefficient: how many of its lower bits are still to come."""
    for scan in scans:
        first, last, bits = (scan[-3], scan[-2], scan[-1]) if is_progressive else (0, 63, 0)
        high, low = bits >> 4, bits & 15
        for component in scan[1 : 1 + 2 * scan[0] : 2]:
            for number in range(first, min(last, 63) + 1):
                if high in (0, shifts.get((component, number))):
                    shifts[component, number] = low
    return all(shifts.get((component, number)) == 0 for component in components for number in range(64))


def _png(data: bytes) -> FirstFrame:
    """The chunks that make pixels: header, palette, transparency and one chunk of data, their checksums checked."""
    chunks: dict[bytes, bytes] = {}
    pixels: list[memoryview] = []
    view, at = memoryview(data), len(_PNG_MAGIC)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        body, at = view[at + 8 : at + 8 + length], at + 12 + length
        if at > len(data):
            raise PictureError("the PNG ends within a chunk")
        if kind == b"IEND" or (kind in (b"fcTL", b"fdAT") and pixels):
            break
        if kind not in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"fcTL"):
            continue
        if zlib.crc32(body, zlib.crc32(kind)) != struct.unpack_from(">I", data, at - 4)[0]:
            if kind == b"eXIf":
                continue
            raise PictureError("a checksum of the PNG is wrong")
        if kind == b"IDAT":
            pixels.append(body)
        else:
            chunks.setdefault(kind, bytes(body))
    header = chunks[b"IHDR"] if len(chunks.get(b"IHDR", b"")) == 13 else b""
    if not header or not pixels:
        raise PictureError("the PNG lacks its header or its pixels")
    if b"fcTL" in chunks and chunks[b"fcTL"][4:20] != header[:8] + bytes(8):
        raise PictureError("the first frame of the PNG isn't all of it")
    if b"tRNS" in chunks:
        chunks[b"tRNS"] = _clear_shade(chunks[b"tRNS"], depth=header[8], colour=header[9])
    kept = [_chunk(kind, chunks[kind]) for kind in (b"IHDR", b"PLTE", b"tRNS") if kind in chunks]
    # Pillow takes a stream that ends after any row for whole, but not one that lacks a byte of its checksum: the
    # chunks have their own. The other three it wants, as it stops where the input does.
    kept += [_chunk(b"IDAT", b"".join(pixels)[:-1]), _chunk(b"IEND", b"")]
    return FirstFrame(format="PNG", data=_PNG_MAGIC + b"".join(kept), exif=chunks.get(b"eXIf", b""))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _clear_shade(body: bytes, depth: int, colour: int) -> bytes:
    """The see-through shade in the eight bits that Pillow compares it in; 16 bits of grey it leaves as they are."""
    if colour not in (0, 2) or depth == 1 or (colour, depth) == (0, 16):
        return body
    samples = struct.unpack(f">{len(body) // 2}H", body[: len(body) // 2 * 2])
    most = (1 << depth) - 1
    eight = [sample >> 8 if depth == 16 else (sample & most) * 255 // most for sample in samples]
    return struct.pack(f">{len(eight)}H", *eight)


def _gif(data: bytes) -> FirstFrame:
    """Palette, transparency and codes of the first frame, on a screen of its own size."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + _palette_size(flags)
    palette, control = data[13:at], b""
    while True:
        found = _GIF_BLOCK.search(data, at)
        if found is None or found[0] == b";":
            raise PictureError("the GIF has no frame")
        at = found.start()
        if found[0] == b",":
            break
        if data[at + 1] == 0xF9 and data[at + 2] >= 4:
            # How the frame is disposed of, and when, is of no matter to the first.
            control = b"\x21\xf9\x04" + bytes([data[at + 3] & 1, 0, 0, data[at + 6], 0])
        at = _after_blocks(data, at + 2)
    left, top, frame_width, frame_height, frame_flags = struct.unpack_from("<HHHHB", data, at + 1)
    codes = at + 10 + _palette_size(frame_flags)
    end = after = _after_blocks(data, codes + 1)
    while data[after] == 0x21:
        after = _after_blocks(data, after + 2)
    size = struct.pack("<HH", frame_width, frame_height)
    kept = [b"GIF89a", size, data[10:13], palette, control, b",\0\0\0\0", size, data[at + 9 : end], b";"]
    canvas = (max(width, left + frame_width), max(height, top + frame_height))
    return FirstFrame(format="GIF", data=b"".join(kept), canvas=canvas, corner=(left, top))


def _palette_size(flags: int) -> int:
    return 6 << (flags & 7) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> int:
    while size := data[at]:
        at += size + 1
    return at + 1


def _webp(data: bytes) -> FirstFrame:
    """The file as it is; of an animation the first frame, as a picture of its own."""
    (size,) = struct.unpack_from("<I", data, 4)
    end = size + 8
    if end > len(data):
        raise PictureError("the WebP ends before its length")
    exif, frame, at = b"", b"", 12
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > end:
            raise PictureError("the WebP ends within a chunk")
        if kind == b"EXIF":
            exif = data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
        elif kind == b"ANMF":
            frame = frame or data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    canvas = _webp_size(data)
    if data[12:16] != b"VP8X" or not data[20] & 2:
        return FirstFrame(format="WEBP", data=data[:end], exif=exif, canvas=canvas)
    left, top = 2 * _three_bytes(frame, 0), 2 * _three_bytes(frame, 3)
    has_alpha = frame[16:20] in (b"ALPH", b"VP8L")
    header = b"WEBPVP8X" + struct.pack("<IBxxx", 10, 0x10 * has_alpha) + frame[6:12]
    still = header + frame[16:]
    return FirstFrame(
        format="WEBP",
        data=b"RIFF" + struct.pack("<I", len(still)) + still,
        exif=exif,
        canvas=canvas,
        corner=(left, top),
    )


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height, which a decoder would allocate before anyone could ask it."""
    kind = data[12:16]
    if kind == b"VP8X":
        return _three_bytes(data, 24) + 1, _three_bytes(data, 27) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise PictureError("the WebP doesn't begin with a picture")


def _three_bytes(data: bytes, at: int) -> int:
    low, high = struct.unpack_from("<HB", data, at)
    return int(low) | int(high) << 16


def _avif(data: bytes) -> FirstFrame:
    """The file as it is, once every box of it is there."""
    at = 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        if size == 0:
            break
        if size < 8 or at + size > len(data):
            raise PictureError(f"the AVIF ends within its box {kind!r}")
        at += size
    return FirstFrame(format="AVIF", data=data)


_WALKS: dict[str, Callable[[bytes], FirstFrame]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "AVIF": _avif,
}
