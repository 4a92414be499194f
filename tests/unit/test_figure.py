"""The figure of a tagged post: captions that are hostile to layout, pictures of any shape."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from model.captions import Piece, harmless, paint_of, pieces_of
from model.error_posts import Mention
from model.figure import MARGIN, MAX_LINES, WIDTH, draw_figure
from model.fonts import Fonts
from model.layout import Placed, lay_out

EVEN = (1 / 49,) * 49
PICTURE = Image.new("RGB", (64, 48), (120, 130, 140))
HOSTILE = (
    "",
    " \n\t ",
    "x" * 50_000,
    "word " * 5_000,
    "\x00\x1b[31m\u202e\u2066\ud83d",
    "a" + "\u0301" * 3_000,
    "👩🏽\u200d🚀🏳️\u200d🌈" * 200,
    "你好世界" * 300,
    "مرحبا بالعالم " * 100,
    "ก" + "\u0e49" * 500,
)


def laid_out(text: str, spans: Sequence[Mention] = (), width: float = 200, max_lines: int = 99) -> list[list[Placed]]:
    """Lines of `text` where every character is 10 pixels wide."""
    lines, _ = lay_out(
        pieces_of(text, spans), lambda atom: 10.0 * len(atom.text), width=width, space=10, max_lines=max_lines
    )
    return lines


def words(lines: list[list[Placed]]) -> list[list[str]]:
    """The words of each line, from left to right."""
    return [[placed.atom.text for placed in line] for line in lines]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_caption_does_not_break_the_figure(text: str) -> None:
    """Whatever the caption, the figure has its width, a bounded height and a margin without ink."""
    figure = draw_figure(PICTURE, EVEN, text, [])
    assert figure.width == WIDTH
    assert figure.height <= 640 + MAX_LINES * 40 + 200
    pixels = np.asarray(figure)
    assert (pixels[:, : MARGIN - 6] == 255).all()
    assert (pixels[:, -(MARGIN - 6) :] == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (2, 3000), (640, 480)])
def test_a_picture_of_any_shape_is_drawn(size: tuple[int, int]) -> None:
    """Strips and single pixels get a figure of the usual width."""
    assert draw_figure(Image.new("RGB", size), EVEN, "hello", []).width == WIDTH


def test_names_are_painted_in_the_colour_of_their_type() -> None:
    """A PER name puts its ground on the figure, and no other type's."""
    figure = draw_figure(PICTURE, EVEN, "Kevin Love in Cleveland", [Mention(type="PER", start=0, end=10)])
    seen = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in figure.getcolors(1 << 24) or []}
    assert paint_of("PER").ground in seen
    assert paint_of("LOC").ground not in seen


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(20, 300))
def test_no_line_is_wider_than_the_figure(text: str, width: int) -> None:
    """Every placed word lies within the line, without overlap, and none is lost."""
    lines = laid_out(text, width=width, max_lines=10_000)
    for line in lines:
        right = 0.0
        for placed in line:
            assert placed.left >= right - 1e-6
            right = placed.left + placed.width
            # A base and its marks can't be parted, however narrow the line.
            assert right <= width + 1e-6 or len(placed.atom.text) > 1
    shown = "".join(placed.atom.text for line in lines for placed in line)
    assert sorted(shown) == sorted("".join(harmless(text).split()))


def test_what_is_glued_stays_together() -> None:
    """A # goes to the next line with the name that it stands before, and so does a name's label."""
    text = "aaaa bbbbb #Paris!"
    lines = laid_out(text, [Mention(type="LOC", start=12, end=17)], width=150)
    assert words(lines) == [["aaaa", "bbbbb"], ["#", "Paris", "LOC", "!"]]


def test_what_is_glued_and_too_long_is_broken() -> None:
    """A word longer than a line is broken after a short one too, and stays within the width."""
    for length in range(1, 40):
        for line in laid_out("w " + "x" * length, [Mention(type="PER", start=2, end=2 + length)], width=100):
            assert line[-1].left + line[-1].width <= 100


def test_right_to_left_is_set_from_the_right() -> None:
    """An Arabic caption ends at the right edge, its first word last; a Latin word in it keeps its place."""
    lines = laid_out("مرحبا Paris مدينة", width=300)
    assert words(lines) == [["مدينة", "Paris", "مرحبا"]]
    assert lines[0][-1].left + lines[0][-1].width == 300


def test_a_long_caption_is_cut_short_and_says_so() -> None:
    """No more lines than asked for, and the caller learns that there was more."""
    lines, is_whole = lay_out(
        [Piece(text="word " * 100)], lambda atom: 10.0 * len(atom.text), width=100, space=10, max_lines=3
    )
    assert len(lines) == 3
    assert not is_whole


def test_no_boxes_for_what_no_font_has() -> None:
    """A symbol without a glyph is named, and a dot stands in for a letter without one."""
    drawn = "".join(run.text for run in Fonts(20).runs("🎉\U0001f3fd \U00012000"))
    assert "\U00012000" not in drawn
    assert ":party popper:" in drawn or "🎉" in drawn
