"""Small files that say, or unpack to, far more than the limits allow."""

import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.pictures.cases import Hostile, Wanted, case
from tests.pictures.hand_made import GifFrame, chunk, encoded, gif, gif_codes, segment, webp, webp_animation, webp_chunk

PNG_START, PNG_END = 33, -12
"""Where a PNG's chunks begin behind its header, and where its end stands."""


def bombs(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Small files that say, or unpack to, far more than the limits allow."""
    for size in ((65_500, 65_500), (65_000, 1000), (1000, 65_000), (3000, 3000)):
        jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", size[1], size[0])
        yield case("bomb", f"JPEG {size}", bytes(jpeg), Wanted.REFUSED)
        gif_bomb = gif(size, np.zeros((128, 3)), GifFrame(indices=np.zeros((2, 2), np.uint8)))
        yield case("bomb", f"GIF screen {size}", gif_bomb, Wanted.REFUSED)
        frame = struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x07" + gif_codes(bytes(5000))
        yield case(
            "bomb", f"GIF frame {size}", gif((1, 1), np.zeros((128, 3)))[:-1] + b"," + frame + b";", Wanted.REFUSED
        )
        canvas = struct.pack("<I", 2) + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
        film = webp_animation((2, 2), ((0, 0), np.zeros((2, 2, 3), np.uint8)), has_alpha=False)
        yield case("bomb", f"WebP canvas {size}", film[:20] + canvas + film[30:], Wanted.REFUSED)
        avif = bytearray(stills["AVIF demo_00000"])
        at = avif.index(b"ispe") + 8
        avif[at : at + 8] = struct.pack(">II", *size)
        yield case("bomb", f"AVIF canvas {size}", bytes(avif), Wanted.REFUSED)
    for side in (2**31 - 1, 100_000, 20_000, 2001):
        rows = zlib.compress(bytes(min((side + 1) * side, 50_000_000)), 9)
        for colour, depth in ((0, 1), (2, 8), (6, 16)):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
            data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
            yield case("bomb", f"PNG {side} of {depth} bits {colour}", data, Wanted.REFUSED)
    for side in (16_383, 4000):
        lossless = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(20)
        yield case("bomb", f"lossless WebP {side}", webp(webp_chunk(b"VP8L", lossless)), Wanted.REFUSED)
        lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", side, side) + bytes(20)
        yield case("bomb", f"WebP {side}", webp(webp_chunk(b"VP8 ", lossy)), Wanted.REFUSED)
    plain = Image.new("RGB", (3000, 3000), (200, 30, 30))
    for format in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        options = {"speed": 10} if format == "AVIF" else {}
        yield case("bomb", f"{format} of nine million pixels", encoded(plain, format, **options), Wanted.REFUSED)
    hidden = bytearray(encoded(plain, "AVIF", speed=10))
    at = hidden.index(b"ispe") + 8
    hidden[at : at + 8] = struct.pack(">II", 10, 10)
    yield case("bomb", "AVIF that calls itself small", bytes(hidden), Wanted.ANY)
    yield from _header_bombs(stills)


def _header_bombs(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Much to read before, between and behind the pixels of a sound picture."""
    unpacked = zlib.compress(bytes(200_000_000), 9)
    whole = stills["PNG demo_00000"]
    for name, part in {
        "zTXt": chunk(b"zTXt", b"k\0\0" + unpacked),
        "iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + unpacked),
        "iCCP": chunk(b"iCCP", b"k\0\0" + unpacked),
        "zTXt a hundred times": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 100,
        "empty chunks": chunk(b"teSt", b"") * 100_000,
        "EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 500_000),
    }.items():
        yield case("bomb", f"PNG {name}", whole[:PNG_START] + part + whole[PNG_START:], Wanted.SAME, whole)
        yield case("bomb", f"PNG {name} behind", whole[:PNG_END] + part + whole[PNG_END:], Wanted.SAME, whole)
    start = whole.index(b"IDAT") - 4
    more = zlib.compress(zlib.decompress(whole[start + 8 : PNG_END - 4]) + bytes(200_000_000), 9)
    data = whole[:start] + chunk(b"IDAT", more) + whole[PNG_END:]
    yield case("bomb", "PNG with rows beyond its height", data, Wanted.SAME_OR_REFUSED, whole)
    whole = next(data for name, data in stills.items() if name.startswith("progressive"))
    last = whole.rindex(b"\xff\xda")
    for times in (20, 2_000, 100_000):
        data = whole[:-2] + whole[last:-2] * times + b"\xff\xd9"
        yield case("bomb", f"JPEG of {times} scans more", data, Wanted.ANY if times == 20 else Wanted.REFUSED)
    whole = next(data for name, data in stills.items() if name.startswith("JPEG"))
    for name, part in {
        "comments": segment(0xFE, b"") * 200_000,
        "fill bytes": b"\xff" * 2_000_000,
        "tables": segment(0xDB, bytes([0]) + b"\x01" * 64) * 10_000,
        "EXIF": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 30_000) * 50,
        "profiles": segment(0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(60_000)) * 50,
    }.items():
        yield case("bomb", f"JPEG {name}", whole[:2] + part + whole[2:], Wanted.SAME, whole)
    black = np.zeros((8, 8), np.uint8)
    one = gif((8, 8), np.zeros((128, 3)), GifFrame(indices=black))
    palette_end = 13 + 3 * 128
    for name, data in {
        "frames": one[:-1] + one[palette_end:-1] * 50_000 + b";",
        "comments": one[:palette_end] + b"\x21\xfe\x01a\0" * 200_000 + one[palette_end:],
        "one comment": one[:palette_end] + b"\x21\xfe" + b"\x01a" * 500_000 + b"\0" + one[palette_end:],
        "nothing": one[:palette_end] + bytes(2_000_000) + one[palette_end:],
    }.items():
        yield case("bomb", f"GIF {name}", data, Wanted.SAME, one)
    film = webp_animation((8, 8), ((0, 0), np.zeros((8, 8, 3), np.uint8)), has_alpha=False)
    body = film[8:] + film[film.index(b"ANMF") :] * 50_000
    yield case("bomb", "WebP frames", b"RIFF" + struct.pack("<I", len(body)) + body, Wanted.SAME, film)
