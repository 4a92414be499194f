"""One figure of a tagged post: the attention over its picture, and the tagged caption under it (Figure 5)."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from model.captions import NamedSpan, Piece, paint_of, pieces_of
from model.fonts import Fonts
from model.heatmap import colours, overlay, scale_of
from model.layout import Atom, Placed, lay_out

WIDTH = 760
MARGIN = 24
MAX_LINES = 12
MAX_CHARACTERS = 4_000

_PICTURE_BOX = (WIDTH - 2 * MARGIN, 640)
_TEXT_SIZE = 24
_SMALL_SIZE = 14
_LINE = 40
_PADDING = 5
_GROUND = "#ffffff"
_INK = "#1b1f27"
_FAINT = "#565d6b"
_SCALE_SIZE = (180, 10)


def draw_figure(picture: Image.Image, attention: Sequence[float], text: str, spans: Iterable[NamedSpan]) -> Image.Image:
    """The figure, 760 px wide and as high as the caption needs; a caption of over 12 lines is cut short, visibly."""
    fonts, small = Fonts(_TEXT_SIZE), Fonts(_SMALL_SIZE)

    def measure(atom: Atom) -> float:
        return small.width(atom.text) + 2 * _PADDING if atom.is_label else fonts.width(atom.text)

    lines, is_whole = lay_out(
        _first_pieces(text, spans),
        measure,
        width=WIDTH - 2 * MARGIN,
        space=fonts.main.getlength(" "),
        max_lines=MAX_LINES,
    )
    is_whole = is_whole and len(text) <= MAX_CHARACTERS
    shown = overlay(_fitted(picture), attention)
    top = MARGIN + shown.height + 16
    below = top + 24
    note = 0 if is_whole else _LINE
    figure = Image.new("RGB", (WIDTH, below + len(lines) * _LINE + note + MARGIN), _GROUND)
    figure.paste(shown, ((WIDTH - shown.width) // 2, MARGIN))
    canvas = ImageDraw.Draw(figure)
    _draw_scale(figure, canvas, top, attention, small)
    for number, line in enumerate(lines):
        _draw_line(canvas, below + number * _LINE, line, fonts, small)
    if not is_whole:
        _draw_text(canvas, (MARGIN, below + len(lines) * _LINE + 28), "… the caption goes on", small, _FAINT)
    return figure


def _first_pieces(text: str, spans: Iterable[NamedSpan]) -> Iterable[Piece]:
    return pieces_of(text[:MAX_CHARACTERS], [span for span in spans if span.end <= MAX_CHARACTERS])


def _fitted(picture: Image.Image) -> Image.Image:
    scale = min(_PICTURE_BOX[0] / picture.width, _PICTURE_BOX[1] / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _draw_scale(
    figure: Image.Image, canvas: ImageDraw.ImageDraw, top: int, attention: Sequence[float], small: Fonts
) -> None:
    width, height = _SCALE_SIZE
    baseline = top + height
    low, high = scale_of(attention)
    left = MARGIN + _draw_text(canvas, (MARGIN, baseline), f"attention of a region  {low:.1%}  ", small, _FAINT)
    ramp = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    figure.paste(Image.fromarray(colours(ramp)), (round(left), top))
    told = f"  {high:.1%}  (an even share: {1 / len(attention):.1%})"
    _draw_text(canvas, (left + width, baseline), told, small, _FAINT)


def _draw_line(canvas: ImageDraw.ImageDraw, top: int, line: Sequence[Placed], fonts: Fonts, small: Fonts) -> None:
    grounds: dict[int, list[Placed]] = {}
    for placed in line:
        if placed.atom.name:
            grounds.setdefault(placed.atom.name, []).append(placed)
    for inside in grounds.values():
        left = MARGIN + min(placed.left for placed in inside) - 3
        right = MARGIN + max(placed.left + placed.width for placed in inside)
        box = (left, top + 3, right, top + _LINE - 4)
        canvas.rounded_rectangle(box, radius=6, fill=paint_of(inside[0].atom.type).ground)
    for placed in line:
        atom = placed.atom
        ink = paint_of(atom.type).ink if atom.name else _INK
        left = MARGIN + placed.left + (_PADDING if atom.is_label else 0)
        _draw_text(canvas, (left, top + 28), atom.text, small if atom.is_label else fonts, ink)


def _draw_text(canvas: ImageDraw.ImageDraw, at: tuple[float, float], text: str, fonts: Fonts, ink: str) -> float:
    """Draw on the baseline at `at`; gives back the width."""
    left, baseline = at
    for run in fonts.runs(text):
        canvas.text((left, baseline), run.text, font=run.font, fill=ink, anchor="ls")
        left += run.font.getlength(run.text)
    return left - at[0]
