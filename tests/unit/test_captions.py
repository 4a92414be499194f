"""Captions for people's eyes: whole, harmless, and in colours that can be read."""

import pytest

from model.captions import OTHER_PAINT, PAINTS, Paint, harmless, paint_of, pieces_of
from model.error_posts import Mention


def luminance(colour: str) -> float:
    """The relative luminance of `#rrggbb`, as WCAG 2 defines it."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("paint", [*PAINTS.values(), OTHER_PAINT])
def test_names_can_be_read(paint: Paint) -> None:
    """Each ink has a contrast of 7 to 1 on its ground, on light pages and on dark ones."""
    assert contrast(paint.ground, paint.ink) >= 7
    assert contrast(paint.dark_ground, paint.dark_ink) >= 7


def test_an_unknown_type_has_a_colour() -> None:
    """Fine-grained types need no code here either."""
    assert paint_of("WEAPON") is OTHER_PAINT


def test_pieces_hold_the_whole_caption() -> None:
    """Names at the start, at the end and side by side are cut out, and nothing is lost."""
    text = "Kevin Love!Cleveland"
    spans = [
        Mention(type="PER", start=0, end=5),
        Mention(type="PER", start=6, end=10),
        Mention(type="LOC", start=11, end=20),
    ]
    pieces = [(piece.text, piece.type) for piece in pieces_of(text, spans)]
    assert pieces == [("Kevin", "PER"), (" ", ""), ("Love", "PER"), ("!", ""), ("Cleveland", "LOC")]
    assert list(pieces_of("", [])) == []


def test_harmless_keeps_every_place() -> None:
    """Each character is replaced by one, so that offsets stay."""
    text = "a\x00\u202e\ud83d😁\u2066\n"
    assert len(harmless(text)) == len(text)
    assert harmless(text)[0] == "a"
    assert harmless(text)[4] == "😁"
