"""Pictures that mean harm, or that harm came to: made anew from a seed, none of them kept as a file."""

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.pictures.bombs import PNG_START, bombs
from tests.pictures.cases import Hostile, Wanted, case
from tests.pictures.hand_made import (
    PALETTE,
    RGB,
    GifFrame,
    chunk,
    encoded,
    frame_control,
    gif,
    png,
    segment,
    webp_animation,
)

PHOTOS = Path(__file__).parents[2] / "worker" / "examples" / "images"


def hostile_pictures(seed: int) -> list[Hostile]:
    """Nearly two thousand, the sound ones included, in an order that mixes the kinds."""
    random = Random(seed)
    stills, films = _stills(), _films()
    cases = [
        *(case("sound", name, data, Wanted.SAME, data) for name, data in {**stills, **films}.items()),
        *bombs(stills),
        *_cuts(stills, films, random),
        *_lies(stills),
        *_wrong_types(),
        *_polyglots(stills),
        *_fuzzed(stills, random),
    ]
    random.shuffle(cases)
    return cases


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
            yield case("cut", f"{name} at {place} of {len(whole)}", whole[:place], wanted, whole)


def _lies(stills: dict[str, bytes]) -> Iterator[Hostile]:
    """Sizes that aren't so, lengths that aren't so, and bodies that aren't what their magic says."""
    for name, whole in stills.items():
        for grown in (17, 100, 500):
            yield case("lie", f"{name} {grown} rows more", _grown(whole, grown), _wanted_of_grown(name), whole)
        lengths = [place for place in sorted(_edges(whole)) if 0 < place < len(whole) - 4]
        for place in lengths[:: max(1, len(lengths) // 6)]:
            width = 2 if name.startswith(("JPEG", "progressive", "CMYK")) else 4
            at = place + 2 if width == 2 else place
            for value in (0, 1, (1 << 8 * width) - 1):
                data = whole[:at] + value.to_bytes(width, "big") + whole[at + width :]
                wanted = Wanted.SAME_OR_REFUSED if name.startswith("PNG") else Wanted.ANY
                yield case("lie", f"{name} says {value} at {at}", data, wanted, whole)
    magics = (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\0\0\0WEBPVP8 ", b"\0\0\0\x1cftypavif")
    for magic in magics:
        for name, whole in list(stills.items())[2:]:
            yield case("lie", f"{magic!r} before {name}", magic + whole[len(magic) :], Wanted.SAME_OR_REFUSED, whole)
            yield case("lie", f"{magic!r} and then {name}", magic + whole, Wanted.REFUSED)


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
    """But libavif stretches a picture to the declared size."""
    return Wanted.ANY if name.startswith("AVIF") else Wanted.REFUSED


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
        yield case("wrong type", name, data, Wanted.REFUSED)


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
            yield case("polyglot", f"{name} and {other}", whole + more, Wanted.SAME_OR_REFUSED, whole)
            yield case("polyglot", f"{other} and {name}", more + whole, Wanted.SAME_OR_REFUSED, whole)
    for name, whole in stills.items():
        if whole.startswith(b"\xff\xd8"):
            yield case("polyglot", f"{name} with HTML", whole[:2] + segment(0xFE, page) + whole[2:], Wanted.SAME, whole)
        elif whole.startswith(b"\x89PNG"):
            inside = whole[:PNG_START] + chunk(b"tEXt", b"k\0" + page) + whole[PNG_START:]
            yield case("polyglot", f"{name} with HTML", inside, Wanted.SAME, whole)


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
                yield case("fuzzed", f"{name} {number}", bytes(data), wanted, whole)
