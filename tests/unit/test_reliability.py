"""Calibration error by its definition, and the plot that shows it."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.errors import OutputError
from model.reliability import reliability, reliability_svg, write_reliability_plot


def test_calibration_error_by_hand() -> None:
    """Three spans at 0.95, two of them right, and one right at 0.35: 3/4·|2/3 - 0.95| + 1/4·|1 - 0.35|."""
    told = reliability([0.95, 0.95, 0.95, 0.35], [True, True, False, True])
    assert told.ece == pytest.approx(0.75 * (0.95 - 2 / 3) + 0.25 * 0.65)
    assert (told.num_spans, told.num_correct) == (4, 3)
    assert [one.num_spans for one in told.bins] == [0, 0, 0, 1, 0, 0, 0, 0, 0, 3]


def test_no_span_is_no_error() -> None:
    """An empty prediction divides nothing by zero."""
    assert reliability([], []).ece == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans())))
def test_every_confidence_has_its_bin(told: list[tuple[float, bool]]) -> None:
    """Each span is in the one bin whose edges hold its confidence, 0 and 1 included."""
    measured = reliability([confidence for confidence, _ in told], [right for _, right in told])
    assert sum(one.num_spans for one in measured.bins) == len(told)
    assert 0 <= measured.ece <= 1
    for number, one in enumerate(measured.bins):
        inside = [c for c, _ in told if (one.low < c or number == 0) and c <= one.high]
        assert one.num_spans == len(inside)


def test_the_plot_is_an_svg_with_both_errors() -> None:
    """Well-formed XML that needs nothing from elsewhere, and says both calibration errors."""
    before, after = reliability([0.9, 0.2], [False, False]), reliability([], [])
    svg = reliability_svg(before, after)
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    words = " ".join("".join(node.itertext()) for node in root)
    assert "before: ECE 0.550, 2 spans" in words
    assert "after: ECE 0.000, 0 spans" in words
    assert "href" not in svg


def test_the_plot_makes_its_folder(tmp_path: Path) -> None:
    """A folder that is missing is made; what can't be one is told."""
    told = reliability([0.5], [True])
    write_reliability_plot(tmp_path / "new" / "plot.svg", told, told)
    assert (tmp_path / "new" / "plot.svg").read_text(encoding="utf-8") == reliability_svg(told, told)
    with pytest.raises(OutputError, match=r"plot\.svg can't be written"):
        write_reliability_plot(tmp_path / "new" / "plot.svg" / "plot.svg", told, told)
