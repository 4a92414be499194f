"""How reliable confidences are: calibration error, and its plot as an SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from model.whole_file import whole_file

NUM_BINS = 10
_SIDE = 300
_LEFT, _TOP, _GAP = 56, 44, 74
_COUNTS_HEIGHT = 54
_INK, _CORRECT, _BEYOND, _SHORT, _PALE = "#333333", "#5b8fd0", "#eab676", "#27508c", "#dddddd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """The predicted spans whose confidence is in (low, high]; the first bin has its lower edge too."""

    low: float
    high: float
    num_spans: int
    mean_confidence: float
    share_correct: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Confidences of predicted spans against how often the spans were right.

    `ece` is the expected calibration error (Guo et al., 2017): over 10 bins of equal width, the mean of
    |share that is correct - mean confidence|, each bin weighed by its number of spans. A span is correct
    where type, start and end are the gold's.
    """

    num_spans: int
    num_correct: int
    ece: float
    bins: tuple[Bin, ...]


def reliability(confidences: Sequence[float], correct: Sequence[bool]) -> Reliability:
    """The reliability of `confidences` in [0, 1], one a predicted span; no span, no error."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    for confidence, right in zip(confidences, correct, strict=True):
        # The upper edge belongs to a bin, so that 1.0 needs no bin of its own.
        number = next(n for n in range(NUM_BINS) if confidence <= (n + 1) / NUM_BINS)
        members[number].append((confidence, right))
    bins = tuple(
        Bin(
            low=number / NUM_BINS,
            high=(number + 1) / NUM_BINS,
            num_spans=len(inside),
            mean_confidence=sum(confidence for confidence, _ in inside) / len(inside) if inside else 0.0,
            share_correct=sum(right for _, right in inside) / len(inside) if inside else 0.0,
        )
        for number, inside in enumerate(members)
    )
    gaps = sum(one.num_spans * abs(one.share_correct - one.mean_confidence) for one in bins)
    return Reliability(
        num_spans=len(confidences),
        num_correct=sum(correct),
        ece=gaps / len(confidences) if confidences else 0.0,
        bins=bins,
    )


def write_reliability_plot(path: Path, before: Reliability, after: Reliability) -> None:
    """Write `reliability_svg` into a file, and make its folder. Raises `OutputError`."""
    with whole_file(path) as file:
        file.write(reliability_svg(before, after).encode())


def reliability_svg(before: Reliability, after: Reliability) -> str:
    """Two panels, before and after: share correct by confidence, the gap to it, and the spans a bin holds."""
    width = 2 * (_LEFT + _SIDE) + _GAP // 2
    height = _TOP + _SIDE + _GAP + _COUNTS_HEIGHT + 20
    told = (
        "Bars: share of the spans that are right; orange: claimed beyond that; dark: not claimed. Below: spans a bin."
    )
    panels = [
        _panel(before, "before", _LEFT),
        _panel(after, "after", 2 * _LEFT + _SIDE),
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="12" fill="{_INK}" role="img">',
            "<title>Reliability of the confidences, before and after calibration</title>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *panels,
            _text(_LEFT, height - 12, told, "start"),
            "</svg>\n",
        ]
    )


def _panel(told: Reliability, title: str, left: int) -> str:
    bottom, step = _TOP + _SIDE, _SIDE / NUM_BINS
    most = max((one.num_spans for one in told.bins), default=0) or 1
    parts = [_text(left, _TOP - 14, f"{title}: ECE {told.ece:.3f}, {told.num_spans} spans", "start", bold=True)]
    for one in told.bins:
        x = left + one.low * _SIDE
        if one.num_spans:
            correct, confident = one.share_correct * _SIDE, one.mean_confidence * _SIDE
            parts += [
                _rect(x + 1, bottom - correct, step - 2, correct, _CORRECT),
                _rect(
                    x + 1,
                    bottom - max(correct, confident),
                    step - 2,
                    abs(correct - confident),
                    _BEYOND if confident > correct else _SHORT,
                ),
            ]
        tall = one.num_spans / most * _COUNTS_HEIGHT
        parts.append(_rect(x + 1, bottom + _GAP + _COUNTS_HEIGHT - 16 - tall, step - 2, tall, _PALE))
        if one.num_spans:
            parts.append(_text(x + step / 2, bottom + _GAP + _COUNTS_HEIGHT - 20 - tall, str(one.num_spans), "middle"))
    for tenth in range(0, NUM_BINS + 1, 2):
        at = tenth / NUM_BINS
        parts.append(_text(left + at * _SIDE, bottom + 16, f"{at:.1f}", "middle"))
        parts.append(_text(left - 6, bottom - at * _SIDE + 4, f"{at:.1f}", "end"))
    parts += [
        f'<path d="M{left} {_TOP}V{bottom}H{left + _SIDE}" fill="none" stroke="{_INK}"/>',
        f'<path d="M{left} {bottom}L{left + _SIDE} {_TOP}" stroke="{_INK}" stroke-dasharray="4 4"/>',
        _text(left + _SIDE / 2, bottom + 34, "confidence", "middle"),
    ]
    return "\n".join(parts)


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(x: float, y: float, text: str, anchor: str, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'
