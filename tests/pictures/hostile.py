"""Pictures that mean harm, or that harm came to: made anew from a seed, none of them kept as a file."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.pictures.hand_made import (
    PALETTE,
    RGB,
    GifFrame,
    chunk,
    encoded,
    frame_control,
    gif,
    gif_codes,
    png,
    segment,
    webp,
    webp_animation,
    webp_chunk,
)

PHOTOS = Path(__file__).parents[2] / "worker" / "examples" / "images"
PNG_START, PNG_END = 33, -12
"""Where a PNG's chunks begin behind its header, and where its end stands."""


class Wanted(Enum):
    """What may become of a picture."""

    SAME = "the pixels of the picture that it was made of"
    REFUSED = "a status"
    SAME_OR_REFUSED = "either of these"
    ANY = "a status, or pixels: its format has no way of telling"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A file, and what may become of it; `made_of` is the sound file that it was made of."""

    kind: str
    name: str
    data: bytes
    wanted: Wanted
    made_of: bytes = b""


def hostile_pictures(seed: int) -> list[Hostile]:
    """Nearly two thousand, the sound ones included, in an order that mixes the kinds."""
    random = Random(seed)
    stills, films = _stills(), _films()
    cases = [
        *(_case("sound", name, data, Wanted.SAME, data) for name, data in {**stills, **films}.items()),
        *_bombs(stills),
        *_cuts(stills, films, random),
        *_lies(stills),
        *_wrong_types(),
        *_polyglots(stills),
        *_fuzzed(stills, random),
    ]
    random.shuffle(cases)
    return cases


def _case(kind: str, name: str, data: bytes, wanted: Wanted, made_of: bytes = b"") -> Hostile:
    return Hostile(kind=kind, name=name, data=data, wanted=wanted, made_of=made_of)


def _stills() -> dict[str, bytes]:
    """Photos in every format that the worker takes."""
    paths = [path for path in sorted(PHOTOS.glob("*.jpg")) if path.name != "cut_short.jpg"]
    files = {f"JPEG {path.stem}": path.read_bytes() for path in paths[-3:]}
    for path in paths[:2]:
        photo = Image.open(path).convert("RGB").resize((96, 96))
        shades = np.asarray(photo)
        indices = (shades[..., 0] // 2).astype(np.uint8)
        palette = np.repeat(np.arange(0, 256, 2, dtype=np.uint8)[:, None], 3, axis=1)
        files |= {
            f"progressive JPEG {path.stem}": encoded(photo, "JPEG", progressive=True),
            f"CMYK JPEG {path.stem}": encoded(photo.convert("CMYK"), "JPEG"),
            f"PNG {path.stem}": png(shades, colour=RGB),
            f"PNG with palette {path.stem}": png(indices, chunk(b"PLTE", palette.tobytes()), colour=PALETTE),
            f"GIF {path.stem}": gif((96, 96), palette, GifFrame(indices=indices)),
            f"WebP {path.stem}": encoded(photo, "WEBP"),
            f"lossless WebP {path.stem}": encoded(photo.convert("RGBA"), "WEBP", lossless=True),
            f"AVIF {path.stem}": encoded(photo, "AVIF", speed=10),
        }
    return files


def _films() -> dict[str, bytes]:
    """Three frames in each format that can move."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3)).astype(np.uint8)
    palette = noise.reshape(-1, 3)[:128]
    start = (chunk(b"acTL", struct.pack(">II", 3, 0)), frame_control(0, 40, 40))
    more = b"".join(
        frame_control(2 * number - 1, 40, 40)
        + chunk(b"fdAT", struct.pack(">I", 2 * number) + zlib.compress(bytes(121 * 40)))
        for number in (1, 2)
    )
    images = [Image.fromarray(frame) for frame in noise]
    return {
        "moving GIF": gif((40, 40), palette, *(GifFrame(indices=frame[..., 0] % 128) for frame in noise)),
        "moving PNG": png(noise[0], *start, colour=RGB, behind=more),
        "moving WebP": webp_animation((40, 40), *(((0, 0), frame) for frame in noise), has_alpha=False),
        "moving AVIF": encoded(images[0], "AVIF", save_all=True, append_images=images[1:], speed=10),
    }


def _bombs(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Small files that say, or unpack to, far more than the limits allow."""
    for size in ((65_500, 65_500), (65_000, 1000), (1000, 65_000), (3000, 3000)):
        jpeg = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
        at = jpeg.index(b"\xff\xc0") + 5
        jpeg[at : at + 4] = struct.pack(">HH", size[1], size[0])
        yield _case("bomb", f"JPEG {size}", bytes(jpeg), Wanted.REFUSED)
        gif_bomb = gif(size, np.zeros((128, 3)), GifFrame(indices=np.zeros((2, 2), np.uint8)))
        yield _case("bomb", f"GIF screen {size}", gif_bomb, Wanted.REFUSED)
        frame = struct.pack("<HHHHB", 0, 0, *size, 0) + b"\x07" + gif_codes(bytes(5000))
        yield _case(
            "bomb", f"GIF frame {size}", gif((1, 1), np.zeros((128, 3)))[:-1] + b"," + frame + b";", Wanted.REFUSED
        )
        canvas = struct.pack("<I", 2) + (size[0] - 1).to_bytes(3, "little") + (size[1] - 1).to_bytes(3, "little")
        film = webp_animation((2, 2), ((0, 0), np.zeros((2, 2, 3), np.uint8)), has_alpha=False)
        yield _case("bomb", f"WebP canvas {size}", film[:20] + canvas + film[30:], Wanted.REFUSED)
        avif = bytearray(stills["AVIF demo_00000"])
        at = avif.index(b"ispe") + 8
        avif[at : at + 8] = struct.pack(">II", *size)
        yield _case("bomb", f"AVIF canvas {size}", bytes(avif), Wanted.REFUSED)
    for side in (2**31 - 1, 100_000, 20_000, 2001):
        rows = zlib.compress(bytes(min((side + 1) * side, 50_000_000)), 9)
        for colour, depth in ((0, 1), (2, 8), (6, 16)):
            header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0))
            data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
            yield _case("bomb", f"PNG {side} of {depth} bits {colour}", data, Wanted.REFUSED)
    for side in (16_383, 4000):
        lossless = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(20)
        yield _case("bomb", f"lossless WebP {side}", webp(webp_chunk(b"VP8L", lossless)), Wanted.REFUSED)
        lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", side, side) + bytes(20)
        yield _case("bomb", f"WebP {side}", webp(webp_chunk(b"VP8 ", lossy)), Wanted.REFUSED)
    plain = Image.new("RGB", (3000, 3000), (200, 30, 30))
    for format in ("JPEG", "PNG", "GIF", "WEBP", "AVIF"):
        options = {"speed": 10} if format == "AVIF" else {}
        yield _case("bomb", f"{format} of nine million pixels", encoded(plain, format, **options), Wanted.REFUSED)
    hidden = bytearray(encoded(plain, "AVIF", speed=10))
    at = hidden.index(b"ispe") + 8
    hidden[at : at + 8] = struct.pack(">II", 10, 10)
    yield _case("bomb", "AVIF that calls itself small", bytes(hidden), Wanted.ANY)
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
        yield _case("bomb", f"PNG {name}", whole[:PNG_START] + part + whole[PNG_START:], Wanted.SAME, whole)
        yield _case("bomb", f"PNG {name} behind", whole[:PNG_END] + part + whole[PNG_END:], Wanted.SAME, whole)
    start = whole.index(b"IDAT") - 4
    more = zlib.compress(zlib.decompress(whole[start + 8 : PNG_END - 4]) + bytes(200_000_000), 9)
    data = whole[:start] + chunk(b"IDAT", more) + whole[PNG_END:]
    yield _case("bomb", "PNG with rows beyond its height", data, Wanted.SAME_OR_REFUSED, whole)
    whole = next(data for name, data in stills.items() if name.startswith("progressive"))
    last = whole.rindex(b"\xff\xda")
    for times in (20, 2_000, 100_000):
        data = whole[:-2] + whole[last:-2] * times + b"\xff\xd9"
        yield _case("bomb", f"JPEG of {times} scans more", data, Wanted.ANY if times == 20 else Wanted.REFUSED)
    whole = next(data for name, data in stills.items() if name.startswith("JPEG"))
    for name, part in {
        "comments": segment(0xFE, b"") * 200_000,
        "fill bytes": b"\xff" * 2_000_000,
        "tables": segment(0xDB, bytes([0]) + b"\x01" * 64) * 10_000,
        "EXIF": segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 30_000) * 50,
        "profiles": segment(0xE2, b"ICC_PROFILE\0\x01\xff" + bytes(60_000)) * 50,
    }.items():
        yield _case("bomb", f"JPEG {name}", whole[:2] + part + whole[2:], Wanted.SAME, whole)
    black = np.zeros((8, 8), np.uint8)
    one = gif((8, 8), np.zeros((128, 3)), GifFrame(indices=black))
    palette_end = 13 + 3 * 128
    for name, data in {
        "frames": one[:-1] + one[palette_end:-1] * 50_000 + b";",
        "comments": one[:palette_end] + b"\x21\xfe\x01a\0" * 200_000 + one[palette_end:],
        "one comment": one[:palette_end] + b"\x21\xfe" + b"\x01a" * 500_000 + b"\0" + one[palette_end:],
        "nothing": one[:palette_end] + bytes(2_000_000) + one[palette_end:],
    }.items():
        yield _case("bomb", f"GIF {name}", data, Wanted.SAME, one)
    film = webp_animation((8, 8), ((0, 0), np.zeros((8, 8, 3), np.uint8)), has_alpha=False)
    body = film[8:] + film[film.index(b"ANMF") :] * 50_000
    yield _case("bomb", "WebP frames", b"RIFF" + struct.pack("<I", len(body)) + body, Wanted.SAME, film)


def _edges(data: bytes) -> set[int]:
    """Where the parts of a file begin and end, by the shape of their heads."""
    if data.startswith(b"\xff\xd8"):
        return {found.start() for found in re.finditer(rb"\xff[\xc0-\xcf\xd8-\xfe]", data)}
    kinds = rb"IHDR|PLTE|tRNS|IDAT|IEND|acTL|fcTL|fdAT|VP8[ LX]|ANIM|ANMF|ALPH|ftyp|meta|moov|mdat|iloc|iprp|ipco|trak"
    edges = {found.start() + shift for found in re.finditer(kinds, data) for shift in (-4, 0, 4, 8)}
    return edges if edges else set(range(0, len(data), 256))


def _cuts(stills: dict[str, bytes], films: dict[str, bytes], random: Random) -> Iterator[Hostile]:
    """At each edge, at each of the last bytes, and anywhere."""
    for name, whole in {**stills, **films}.items():
        places = (
            _edges(whole) | set(range(len(whole) - 6, len(whole))) | {random.randrange(len(whole)) for _ in range(8)}
        )
        wanted = Wanted.SAME_OR_REFUSED if name in ("moving GIF", "moving PNG") else Wanted.REFUSED
        kept = sorted(place for place in places if 0 <= place < len(whole))
        for place in random.sample(kept, min(len(kept), 30)):
            yield _case("cut", f"{name} at {place} of {len(whole)}", whole[:place], wanted, whole)


def _lies(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Sizes that aren't so, lengths that aren't so, and bodies that aren't what their magic says."""
    for name, whole in stills.items():
        for grown in (17, 100, 500):
            yield _case("lie", f"{name} {grown} rows more", _grown(whole, grown), _wanted_of_grown(name), whole)
        lengths = [place for place in sorted(_edges(whole)) if 0 < place < len(whole) - 4]
        for place in lengths[:: max(1, len(lengths) // 6)]:
            width = 2 if name.startswith(("JPEG", "progressive", "CMYK")) else 4
            at = place + 2 if width == 2 else place
            for value in (0, 1, (1 << 8 * width) - 1):
                data = whole[:at] + value.to_bytes(width, "big") + whole[at + width :]
                wanted = Wanted.SAME_OR_REFUSED if name.startswith("PNG") else Wanted.ANY
                yield _case("lie", f"{name} says {value} at {at}", data, wanted, whole)
    magics = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif")
    for magic in magics:
        for name, whole in list(stills.items())[2:]:
            yield _case("lie", f"{magic!r} before {name}", magic + whole[len(magic) :], Wanted.SAME_OR_REFUSED, whole)
            yield _case("lie", f"{magic!r} and then {name}", magic + whole, Wanted.REFUSED)


def _grown(data: bytes, rows: int) -> bytes:
    """The file with a header that declares so many rows more."""
    new = bytearray(data)
    if data.startswith(b"\xff\xd8"):
        found = re.search(rb"\xff[\xc0-\xc2]", data)
        assert found
        at, form = found.start() + 5, ">H"
    elif data.startswith(b"\x89PNG"):
        at, form = 20, ">I"
    elif data.startswith(b"GIF"):
        at, form = data.index(b",", 13 + 3 * 128) + 7, "<H"
    elif data.startswith(b"RIFF"):
        at, form = (28, "<H") if data[12:16] == b"VP8 " else (23, "<H")
    else:
        at, form = data.index(b"ispe") + 12, ">I"
    (height,) = struct.unpack_from(form, data, at)
    struct.pack_into(form, new, at, (height + rows) & 0xFFFF)
    if data.startswith(b"\x89PNG"):
        new[29:33] = struct.pack(">I", zlib.crc32(new[12:29]))
    return bytes(new)


def _wanted_of_grown(name: str) -> Wanted:
    """A progressive JPEG is legal with any scan missing, and libavif stretches a picture to the declared size."""
    return Wanted.ANY if name.startswith(("progressive", "AVIF")) else Wanted.REFUSED


def _wrong_types() -> Iterator[Hostile]:
    """What people link to that isn't a picture of ours."""
    plain = Image.new("RGB", (32, 32), (200, 30, 30))
    files = {
        format: encoded(plain, format) for format in ("BMP", "TIFF", "ICO", "PDF", "PPM", "TGA", "PCX", "JPEG2000")
    }
    files |= {
        "empty": b"",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9999999' height='9999999'/>",
        "SVG of entities": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a '" + b"x" * 500 + b"'>]><svg>&a;</svg>",
        "HTML": b"<!DOCTYPE html><html><body><img src='x.jpg'></body></html>",
        "JSON": b'{"error": "not found"}',
        "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(500),
        "HEIC by another name": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(500),
        "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(500),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "zeros": bytes(10_000),
        "ones": b"\xff" * 10_000,
        "ZIP": _archive(),
        "ELF": b"\x7fELF\x02\x01\x01" + bytes(500),
        "gzip": b"\x1f\x8b\x08\0" + bytes(100),
        "text in UTF-16": "no picture".encode("utf-16"),
    }
    for name, data in files.items():
        yield _case("wrong type", name, data, Wanted.REFUSED)


def _archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


def _polyglots(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Sound pictures that are something else as well, from their end or from within."""
    page = b"<html><script>alert(1)</script></html>"
    for name, whole in stills.items():
        for other, more in {"ZIP": _archive(), "HTML": page, "PDF": b"%PDF-1.7\n%%EOF", "itself": whole}.items():
            yield _case("polyglot", f"{name} and {other}", whole + more, Wanted.SAME_OR_REFUSED, whole)
            yield _case("polyglot", f"{other} and {name}", more + whole, Wanted.SAME_OR_REFUSED, whole)
    for name, whole in stills.items():
        if whole.startswith(b"\xff\xd8"):
            yield _case(
                "polyglot", f"{name} with HTML", whole[:2] + segment(0xFE, page) + whole[2:], Wanted.SAME, whole
            )
        elif whole.startswith(b"\x89PNG"):
            inside = whole[:PNG_START] + chunk(b"tEXt", b"k\0" + page) + whole[PNG_START:]
            yield _case("polyglot", f"{name} with HTML", inside, Wanted.SAME, whole)


def _fuzzed(stills: dict[str, bytes], random: Random) -> Iterator[Hostile]:
    """Photos with bytes changed, taken out, put in, moved, and blanked."""
    others = list(stills.values())
    for name, whole in stills.items():
        # Each part of a PNG has a checksum; the others may be changed and still be whole.
        wanted = Wanted.SAME_OR_REFUSED if name.startswith("PNG") else Wanted.ANY
        for number in range(20):
            data, place = bytearray(whole), random.randrange(12, len(whole))
            length, other = random.randrange(1, 200), random.choice(others)
            how = number % 5
            if how == 0:
                for _ in range(random.randrange(1, 9)):
                    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            elif how == 1:
                del data[place : place + length]
            elif how == 2:
                data[place:place] = random.randbytes(length)
            elif how == 3:
                data[place : place + length] = other[place : place + length]
            else:
                data[place : place + length] = bytes(len(data[place : place + length]))
            if data != whole:
                yield _case("fuzzed", f"{name} {number}", bytes(data), wanted, whole)
