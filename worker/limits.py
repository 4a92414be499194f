"""Numbers that a limit can be."""

LONGEST_SECONDS = 86_400.0
"""Longer than any limit makes sense, and short enough for every clock and timer."""


def check_number(name: str, value: float, *, most: float, least: float | None = None) -> None:
    """Raises `ValueError` unless `value` is above 0, or at least `least`, and at most `most`. NaN is neither."""
    is_enough = value > 0 if least is None else value >= least
    if not (is_enough and value <= most):
        bound = "above 0" if least is None else f"at least {least:g}"
        raise ValueError(f"{name} must be {bound} and at most {most:.15g}, not {value}")
