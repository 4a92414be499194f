"""Fonts for captions in any script: the first one that has a character draws it.

Pillow ships one font, for Latin letters; those of the machine are added where they are found.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from PIL import ImageFont

from model.errors import DataError

# In order of preference; sans serif, and wide in what they cover.
_WANTED = (
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansThai-Regular.ttf",
    "NotoEmoji-Regular.ttf", "NotoSansSymbols2-Regular.ttf", "wqy-microhei.ttc", "Symbola.ttf",
    "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc", "seguisym.ttf", "seguiemj.ttf",
)  # fmt: skip
_NO_CHARACTER = "\U0010fffe"  # no font has it: what is drawn for it is the font's box
_STAND_IN = "·"
_BOX_CACHE = 4096

Font = ImageFont.FreeTypeFont


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Text that one font can draw."""

    text: str
    font: Font


class Fonts:
    """Fonts of one size in pixels."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._fonts = [font for name in _WANTED if (font := _system_font(name, size))]
        own = ImageFont.load_default(size)
        if isinstance(own, Font):
            self._fonts.append(own)
        if not self._fonts:
            raise DataError("captions can't be drawn: Pillow was built without FreeType; install Pillow's wheel")
        self.main = self._fonts[0]
        self._probes = [_unshaped(font) for font in self._fonts]
        self._font_of = lru_cache(_BOX_CACHE)(self._find)

    def runs(self, text: str) -> Iterator[Run]:
        """`text` in runs of one font; what no font has is named, or a dot stands in for it."""
        drawn, current = "", self.main
        for character in text:
            font = self._font_of(character)
            if font is None:
                character, font = _stand_in(character), self.main
            if font is not current and drawn and not unicodedata.combining(character):
                yield Run(text=drawn, font=current)
                drawn = ""
            if not drawn:
                current = font
            drawn += character
        if drawn:
            yield Run(text=drawn, font=current)

    def width(self, text: str) -> float:
        """The width of `text` in pixels."""
        return sum(run.font.getlength(run.text) for run in self.runs(text))

    def _find(self, character: str) -> Font | None:
        if character.isspace():
            return self.main
        fonts = zip(self._fonts, self._probes, strict=True)
        return next((font for font, probe in fonts if _has(probe, character)), None)


def _unshaped(font: Font) -> Font:
    """The same font without shaping, which would set a lone mark on a dotted circle."""
    return font.font_variant(layout_engine=ImageFont.Layout.BASIC)


def _has(font: Font, character: str) -> bool:
    glyph, box = font.getmask(character), font.getmask(_NO_CHARACTER)
    return glyph.size != box.size or bytes(glyph) != bytes(box)


def _stand_in(character: str) -> str:
    kind = unicodedata.category(character)
    if kind[0] == "M" or kind in ("Cf", "Sk"):  # a joiner, a variant or a skin tone: its base says enough
        return ""
    if kind == "So" and (name := unicodedata.name(character, "")):
        return f":{name.lower()}:"
    return _STAND_IN


@lru_cache(64)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # not on this machine, or only with bitmaps of another size
        return None
