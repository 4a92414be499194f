"""Moments as a person types them, for the commands' options."""

import argparse
import re
from datetime import UTC, datetime, timedelta

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

HELP = "2h (s, m, h, d, w), or an ISO time, in UTC unless it says otherwise"


def read_moment(text: str) -> datetime:
    """How long ago, or an ISO time, which is in UTC unless it says otherwise; in UTC."""
    try:
        if match := re.fullmatch("([0-9]{1,9})([smhdw])", text):
            return datetime.now(UTC) - timedelta(seconds=int(match[1]) * SECONDS[match[2]])
        return _iso(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is neither like 2h nor an ISO time like 2026-11-25T12:00") from None


def read_iso_moment(text: str) -> datetime:
    """An ISO time alone, where the same words have to mean the same tomorrow; in UTC."""
    try:
        return _iso(text)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text} is no ISO time like 2021-01-01T17:29") from None


def _iso(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
