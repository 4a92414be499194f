"""Captions for people's eyes: cut at their names, and harmless to whatever shows them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

# Control characters of a post could drive the reader's terminal, and bidirectional marks its order.
_HARMFUL_CODES = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HARMFUL = dict.fromkeys(_HARMFUL_CODES, "\N{REPLACEMENT CHARACTER}") | dict.fromkeys(b"\t\n\r", " ")


class NamedSpan(Protocol):
    """A name of one type at text[start:end], in code points."""

    @property
    def type(self) -> str:
        """PER, LOC, ORG, MISC, or another label of the checkpoint."""

    @property
    def start(self) -> int:
        """The first code point."""

    @property
    def end(self) -> int:
        """One past the last code point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stretch of a caption, harmless; `type` is empty outside of names."""

    text: str
    type: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paint:
    """Colours of a type's names, as `#rrggbb`: on a light ground, and on a dark one."""

    ground: str
    ink: str
    dark_ground: str
    dark_ink: str


# Each ink has a contrast of at least 7:1 on its own ground.
PAINTS = {
    "PER": Paint(ground="#d3f3d9", ink="#0b4a1e", dark_ground="#123d1f", dark_ink="#b6f2c3"),
    "LOC": Paint(ground="#cdeefa", ink="#063f57", dark_ground="#0b3648", dark_ink="#b0e6fb"),
    "ORG": Paint(ground="#fdeab8", ink="#553a00", dark_ground="#463305", dark_ink="#fbe2a0"),
    "MISC": Paint(ground="#f6dcf7", ink="#5c1060", dark_ground="#451a48", dark_ink="#f5c6f7"),
}
OTHER_PAINT = Paint(ground="#e3e5ea", ink="#2b303b", dark_ground="#343945", dark_ink="#e3e6ee")


def paint_of(type_: str) -> Paint:
    """The colours of a type; the paper's four have one each, all others share one."""
    return PAINTS.get(type_, OTHER_PAINT)


def harmless(text: str) -> str:
    """`text` with everything replaced that a terminal or a page would obey, each character by one."""
    return text.translate(_HARMFUL).encode("utf-8", "replace").decode("utf-8")


def pieces_of(text: str, spans: Iterable[NamedSpan]) -> Iterator[Piece]:
    """The whole of `text` in order, cut at `spans`, which are in order and don't overlap."""
    place = 0
    for span in spans:
        if span.start > place:
            yield Piece(text=harmless(text[place : span.start]))
        yield Piece(text=harmless(text[span.start : span.end]), type=span.type)
        place = span.end
    if place < len(text):
        yield Piece(text=harmless(text[place:]))
