"""Lag and latency over time, as a small SVG without a plotting library."""

import math
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from tests.simulation.trace import Trace

WIDTH, HEIGHT = 720, 420
_LEFT, _RIGHT = 70, 700
_LAG, _LATENCY = (60, 205), (250, 385)
_COLOURS = {"lag": "#1f5fa8", "p99": "#b3401f", "p50": "#2d7d46"}
_STYLE = "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}line{stroke:#ddd}"


def chart(title: str, trace: Trace) -> str:
    """Two panels above each other: the lag in posts, and the latency in seconds on a logarithmic scale."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f'<title>{escape(title)}</title><style>{_STYLE}</style><rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text class="t" x="{_LEFT}" y="24">{escape(title)}</text>',
        *_panel(trace, _LAG, "posts that wait", {"lag": trace.lag}, _linear(float(trace.lag.max()))),
        *_panel(trace, _LATENCY, "seconds from post to event", {"p99": trace.p99, "p50": trace.p50}, _decades(trace)),
        *_minutes(trace),
        "</svg>\n",
    ]
    return "\n".join(parts)


Scale = tuple[Callable[[float], float], Sequence[float]]
"""From a value to its height, 0 to 1; and the values that are written beside the axis."""


def _linear(most: float) -> Scale:
    unit = 10 ** math.floor(math.log10(max(most, 1.0)))
    top = next(factor * unit for factor in (1, 2, 4, 6, 8, 10) if factor * unit >= most)
    return (lambda value: value / top), (0, top / 2, top)


def _decades(trace: Trace) -> Scale:
    highest = math.ceil(math.log10(max(1.0, float(np.nanmax(trace.p99)))))
    return (
        lambda value: (math.log10(max(value, 0.1)) + 1) / (highest + 1),
        [10.0**exponent for exponent in range(-1, highest + 1)],
    )


def _panel(trace: Trace, place: tuple[int, int], name: str, lines: dict[str, np.ndarray], scale: Scale) -> list[str]:
    top, bottom = place
    height_of, marks = scale

    def y(value: float) -> float:
        return bottom - (bottom - top) * min(1.0, height_of(value))

    parts = [f'<text x="{_LEFT}" y="{top - 8}">{name}</text>']
    for mark in marks:
        parts.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{_short(mark)}</text>')
    for number, (label, values) in enumerate(lines.items()):
        points = " ".join(
            f"{_x(trace, second):.0f},{y(value):.1f}"
            for second, value in zip(trace.seconds, values, strict=True)
            if not math.isnan(value)
        )
        colour = _COLOURS[label]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts.append(
            f'<text x="{_RIGHT - 50 * number}" y="{top - 8}" text-anchor="end" style="fill:{colour}">{label}</text>'
        )
    return parts


def _minutes(trace: Trace) -> list[str]:
    total = int(trace.seconds[-1] // 60) + 1
    marks = range(0, total + 1, 5)
    y = _LATENCY[1] + 20
    return [
        f'<text x="{_x(trace, 60 * minute):.0f}" y="{y}" text-anchor="middle">{minute} min</text>' for minute in marks
    ]


def _x(trace: Trace, second: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * second / (float(trace.seconds[-1]) + 10)


def _short(value: float) -> str:
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g} {name}"
    return f"{value:g}"
