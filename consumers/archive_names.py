"""What the names in an archive of tweets tell: the minute of a member, and what is no member at all.

The layouts changed with the years, so a name is read from its end, and what it lacks is taken from the
names of the folders and archives round it: `04/00/00.json.bz2` in `archiveteam-twitter-stream-2013-04.tar`
is the fourth of April 2013, 00:00.
"""

import re
from collections.abc import Sequence
from datetime import datetime

LINES = (".json", ".jsonl")
CONTAINERS = (".tar", ".tgz", ".tbz2", ".zip")
COMPRESSED = (".bz2", ".gz")

_WHOLE = re.compile(r"(20\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)?")
_TWO_DIGITS = re.compile(r"\d\d")
_YEAR = re.compile(r"20\d\d")
# twitter-stream-2020-07-01.zip, twitter_stream_2019_09_13.tar, twitter-stream-20220101.tar, …-2013-12-b.tar
_DATE = re.compile(r"(?<!\d)(20\d\d)[-_]?(0[1-9]|1[0-2])(?:[-_]?([0-2]\d|3[01]))?(?!\d)")
_RSYNC = re.compile(r"\..+\.[A-Za-z0-9]{6}")

Trail = tuple[str, ...]
"""A member's folders and archives from the outermost on, and its own name at last."""


def trail_of(name: str) -> Trail:
    """The parts of a path as an archive writes it; they are only ever compared with patterns, never opened."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def minute_of(trail: Trail) -> datetime | None:
    """The minute that a member stands for, in its archive's own time (not UTC); None where no layout fits."""
    if not trail:
        return None
    *folders, name = trail
    stem = name.partition(".")[0]
    if match := _WHOLE.fullmatch(stem):
        return _moment([int(digits or 0) for digits in match.groups()])
    numbers: list[int] = []
    for part in (stem, *reversed(folders)):
        if len(numbers) == 4 or not _TWO_DIGITS.fullmatch(part):
            break
        numbers.insert(0, int(part))
    if len(numbers) < 2:
        return None
    outer = folders[: len(folders) + 1 - len(numbers)]
    return _moment([*_missing(outer, len(numbers)), *numbers])


def date_of(trail: Trail) -> datetime | None:
    """The day, or the month's first, that an archive's name or that of one round it tells."""
    for part in reversed(trail):
        if match := _DATE.search(part):
            year, month, day = match.groups()
            return _moment([int(year), int(month), int(day or 1), 0, 0])
    return None


def leftover(name: str) -> str | None:
    """What kind of leftover a file of this name is (`rsync`, `nfs`, `other`), None for one to be read."""
    if name.startswith(".nfs"):
        return "nfs"
    if _RSYNC.fullmatch(name):
        return "rsync"
    plain = name.lower()
    for suffix in COMPRESSED:
        plain = plain.removesuffix(suffix)
    return None if plain.endswith(LINES + CONTAINERS) and not name.startswith(".") else "other"


def _missing(outer: Sequence[str], num_known: int) -> list[int]:
    """The year, and what else is missing in front of the last `num_known` of year, month, day, hour, minute."""
    if num_known == 4 and outer and _YEAR.fullmatch(outer[-1]):
        return [int(outer[-1])]
    date = date_of(tuple(outer))
    return [date.year, date.month, date.day][: 5 - num_known] if date else []


def _moment(numbers: Sequence[int]) -> datetime | None:
    try:
        year, month, day, hour, minute, second = (*numbers, 0)[:6]
        return datetime(year, month, day, hour, minute, second)
    except ValueError:
        return None
