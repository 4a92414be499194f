"""Pictures put together byte by byte, so that what they show is known without asking a decoder."""

import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""The colour types of PNG."""

ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column and their steps in each pass over an interlaced PNG."""


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    """A file of `image`, as Pillow writes it."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    samples: np.ndarray, *chunks: bytes, colour: int, depth: int = 8, behind: bytes = b"", interlaced: bool = False
) -> bytes:
    """A PNG of samples (H, W) or (H, W, C); `chunks` stand before the pixels and `behind` after them."""
    height, width = samples.shape[:2]
    passes = [samples[top::down, left::right] for top, left, down, right in ADAM7] if interlaced else [samples]
    raw = b"".join(_rows(part, depth) for part in passes if part.size)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    parts = [b"\x89PNG\r\n\x1a\n", header, *chunks, chunk(b"IDAT", zlib.compress(raw)), behind, chunk(b"IEND", b"")]
    return b"".join(parts)


def _rows(samples: np.ndarray, depth: int) -> bytes:
    rows = samples.reshape(len(samples), -1)
    if depth == 16:
        packed = np.ascontiguousarray(rows, dtype=">u2").view(np.uint8)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = (rows[..., None] >> np.arange(depth - 1, -1, -1) & 1).reshape(len(rows), -1)
        packed = np.packbits(bits.astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def frame_control(number: int, width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    """The chunk before an APNG's frame."""
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, left, top, 1, 10, 0, 0))


@dataclass(frozen=True, kw_only=True)
class GifFrame:
    """Indices (H, W) below 128 at a corner of the screen."""

    indices: np.ndarray
    corner: tuple[int, int] = (0, 0)
    disposal: int = 0
    clear: int | None = None
    palette: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.uint8))


def gif(screen: tuple[int, int], palette: np.ndarray, *frames: GifFrame) -> bytes:
    """A GIF with a palette (128, 3)."""
    parts = [b"GIF89a", struct.pack("<HHBBB", *screen, 0xF6, 0, 0), palette.astype(np.uint8).tobytes()]
    for frame in frames:
        height, width = frame.indices.shape
        flags = frame.disposal << 2 | (frame.clear is not None)
        parts.append(b"\x21\xf9\x04" + struct.pack("<BHBB", flags, 10, frame.clear or 0, 0))
        parts.append(b"," + struct.pack("<HHHHB", *frame.corner, width, height, 0x86 if len(frame.palette) else 0))
        parts += [frame.palette.astype(np.uint8).tobytes(), b"\x07", gif_codes(frame.indices.tobytes())]
    return b"".join(parts) + b";"


def gif_codes(indices: bytes) -> bytes:
    """LZW that packs nothing: a clear code every hundred keeps all codes at eight bits."""
    codes = b"".join(b"\x80" + indices[at : at + 100] for at in range(0, len(indices), 100)) + b"\x81"
    return blocks(codes)


def blocks(data: bytes) -> bytes:
    """The sub-blocks of a GIF, and the empty one that ends them."""
    cut = [data[at : at + 255] for at in range(0, len(data), 255)]
    return b"".join(bytes([len(part)]) + part for part in cut) + b"\0"


def webp(*chunks: bytes) -> bytes:
    """A WebP of `webp_chunk`s."""
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a WebP, padded to an even length."""
    return kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)


def webp_animation(canvas: tuple[int, int], *frames: tuple[tuple[int, int], np.ndarray], has_alpha: bool) -> bytes:
    """Frames (H, W, C) at even corners of a canvas, lossless."""
    header = struct.pack("<Bxxx", 2 | 0x10 * has_alpha) + _three(canvas[0] - 1) + _three(canvas[1] - 1)
    chunks = [webp_chunk(b"VP8X", header), webp_chunk(b"ANIM", b"\xff\0\0\xff\0\0")]
    for (left, top), samples in frames:
        height, width = samples.shape[:2]
        still = encoded(Image.fromarray(samples), "WEBP", lossless=True, exact=True)
        place = b"".join(_three(value) for value in (left // 2, top // 2, width - 1, height - 1, 100))
        chunks.append(webp_chunk(b"ANMF", place + b"\0" + still[12:]))
    return webp(*chunks)


def _three(value: int) -> bytes:
    return value.to_bytes(3, "little")


def segment(marker: int, body: bytes) -> bytes:
    """One segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body
