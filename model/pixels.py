"""From the bytes of a picture to the pixels that a tower looks at: the same in training and at work.

Nothing here imports torch: the worker's decoding processes are to be small, and to start at once.
"""

import io
import warnings
from itertools import pairwise

import numpy as np
from PIL import (
    # Named here, so that Pillow doesn't import all its plug-ins when one of them is asked for.
    AvifImagePlugin,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    WebPImagePlugin,  # noqa: F401
)

from model.errors import PictureError, PictureTooLarge
from model.first_frame import FORMATS, NO_CODE, FirstFrame, first_frame

SIDE = 224
MAX_PIXELS = 50_000_000

_STRIP = 1 << 20
"""Pixels that are converted at once, so that no second and third picture of the whole size is needed."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A picture is worth one core: more are had by decoding several at a time.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def read_pixels(data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """The first frame, RGB (3, 224, 224) in uint8: on white, turned as EXIF says, resized without a crop.

    Raises `PictureError`; of its kinds `PictureTooLarge` and `PictureUnsupported` where that is the reason.
    """
    frame = first_frame(data, formats)
    if frame.canvas is not None:
        _check_size(frame.canvas, max_pixels)
    try:
        with warnings.catch_warnings():
            # Pillow's remarks about a header are the host's to write; our own limits are here.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(frame.data), formats=(frame.format,)) as image:
                return _pixels(image, frame, max_pixels)
    except Image.DecompressionBombError as error:
        raise PictureTooLarge("too many pixels") from error
    except MemoryError as error:
        raise PictureTooLarge("more memory than there is") from error
    except PictureError:
        raise
    except Exception as error:
        # Pillow's plug-ins raise nearly anything on damaged data: OSError, SyntaxError, struct.error, …
        raise PictureError(f"damaged: {type(error).__name__}") from error


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise PictureTooLarge(f"{width}×{height} is over {max_pixels} pixels")


def _pixels(image: ImageFile.ImageFile, frame: FirstFrame, max_pixels: int) -> np.ndarray:
    _check_size(image.size, max_pixels)
    # Draft decodes a large JPEG at a half, a quarter or an eighth, never below what is asked for.
    image.draft("RGB", (2 * SIDE, 2 * SIDE))
    if frame.scan_ends:
        _load_scans(image, frame)
    image.load()
    rgb = _on_canvas(_to_rgb(image), frame)
    small = rgb.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    turn = _TURNS.get(_orientation(image, frame))
    if turn is not None:
        small = small.transpose(turn)
    return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))


def _load_scans(image: ImageFile.ImageFile, frame: FirstFrame) -> None:
    """Loads a JPEG of several scans, each of which has to be whole: libjpeg itself fills up what one lacks.

    At the end of each scan the decoder is given ones, and no marker yet. Where the scan is whole it skips them as it
    looks for the marker; else it takes them for data and waits for more, of which it leaves some unread. What it has
    read ahead may come out even by chance, but not also with a byte more.
    """
    image.load_prepare()
    name, extents, _, arguments = image.tile[0]
    decoder = Image._getdecoder(image.mode, name, arguments, image.decoderconfig)
    decoder.setimage(image.im, extents)
    for start, end in pairwise((0, *frame.scan_ends)):
        rest = frame.data[start:end] + NO_CODE * 8
        for more in (b"", NO_CODE):
            rest += more
            num_read, error = decoder.decode(rest)
            if num_read < 0:
                raise PictureError(f"the JPEG breaks off: {error}")
            rest = rest[num_read:]
            if rest:
                raise PictureError("a scan of the JPEG is short")
    num_read, error = decoder.decode(frame.data[frame.scan_ends[-1] :])
    if num_read >= 0 or error < 0:
        raise PictureError(f"the JPEG can't be decoded: {error}")
    decoder.cleanup()
    image.tile = []


def _on_canvas(frame_rgb: Image.Image, frame: FirstFrame) -> Image.Image:
    if frame.canvas is None or frame.canvas == frame_rgb.size:
        return frame_rgb
    canvas = Image.new("RGB", frame.canvas, "white")
    canvas.paste(frame_rgb, frame.corner)
    return canvas


def _orientation(image: Image.Image, frame: FirstFrame) -> int:
    """1 to 8 as EXIF counts; 1 also where it can't be read, since the pixels are sound all the same."""
    try:
        if frame.format in ("AVIF", "TIFF"):  # which say it in the picture's own header
            exif = image.getexif()
        else:
            exif = Image.Exif()
            exif.load(frame.exif)
        return int(exif.get(_ORIENTATION, 1))
    except Exception:
        # As above: there is no end to what a damaged structure raises.
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    width, height = image.size
    rgb = Image.new("RGB", image.size)
    step = max(1, _STRIP // width)
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height)))
        rgb.paste(_strip_to_rgb(strip), (0, top))
    return rgb


def _strip_to_rgb(strip: Image.Image) -> Image.Image:
    if strip.mode.startswith("I") or strip.mode == "F":
        # 16 bits of grey: the upper eight are the picture; Pillow's own conversion clips them white.
        shades = np.asarray(strip).clip(0, 0xFFFF).astype(np.uint16)
        grey = (shades >> 8).astype(np.uint8)
        grey[shades == strip.info.get("transparency", -1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if strip.has_transparency_data:
        coloured = strip.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, "white")
        return Image.alpha_composite(ground, coloured).convert("RGB")
    return strip.convert("RGB")
