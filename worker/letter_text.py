"""Dead letters for a person's eyes: a line each, or all of one. Harmless to a terminal, whatever they hold."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.cells import cell_len, set_cell_size

from consumers.letters import Entry, Letter
from consumers.source import Position
from model.captions import harmless

MAX_SHOWN_CHARACTERS = 4000
MAX_SHOWN_BYTES = 1024
BYTES_PER_LINE = 16

COLUMNS = ("LETTER", "WHEN (UTC)", "REASON", "POST AT", "KEY OR ID", "WHAT WAS WRONG")
MOST_CELLS = (24, 19, 16, 30, 24)
"""The widest that the columns before the sentence become."""


def table(entries: Sequence[Entry], retried: Mapping[Position, Position], width: int | None) -> Iterable[str]:
    """A heading and a line for each of `entries`, cut to `width` cells where there is one."""
    rows = [COLUMNS, *(_row(entry, entry.position in retried) for entry in entries)]
    widths = [min(most, max(cell_len(row[column]) for row in rows)) for column, most in enumerate(MOST_CELLS)]
    for row in rows:
        fixed = "  ".join(_fit(cell, cells) for cell, cells in zip(row, widths, strict=False))
        line = f"{fixed}  {row[-1]}"
        yield line if width is None or cell_len(line) <= width else _cut(line, width)


def counts(entries: Sequence[Entry]) -> str:
    """How many letters, and how many of each reason."""
    reasons = Counter(entry.reason for entry in entries)
    told = ", ".join(f"{num} {harmless(reason)}" for reason, num in reasons.most_common())
    return f"{letters(len(entries))} ({told})" if told else letters(0)


def letters(num: int) -> str:
    """`num` letters, in words that agree."""
    return f"{num} letter" if num == 1 else f"{num} letters"


def listed(entry: Entry, retried: Mapping[Position, Position]) -> dict[str, Any]:
    """What `nametag dlq ls --json` tells of a letter."""
    return {
        "letter": str(entry.position),
        "failed_at": entry.failed_at.isoformat(),
        "reason": entry.reason,
        "detail": entry.detail,
        "position": None if entry.origin is None else str(entry.origin),
        "key_or_id": entry.name,
        "num_bytes": entry.num_bytes,
        "num_failures": entry.num_failures,
        "bytes_left_out": entry.is_without_bytes,
        "is_retried": entry.position in retried,
    }


def whole(letter: Letter, mark: Position | None) -> Iterable[str]:
    """All that `letter` tells, line by line; its bytes as text, or else as a hex dump, up to a limit."""
    fields = {
        "letter": str(letter.position),
        "reason": letter.reason,
        "detail": letter.detail,
        "failed at": _moment(letter.failed_at),
        "tries": str(letter.num_tries),
        "post at": _origin(letter.origin),
        "retried": "no" if mark is None else f"yes, marked at {mark}",
        "key": "none" if letter.key is None else _short(letter.key),
    }
    yield from (f"{name:<11}{harmless(value)}" for name, value in fields.items())
    yield ""
    yield "history" if letter.history else "history    none"
    for failure in letter.history:
        tries = f", {failure.num_tries} tries" if failure.num_tries else ""
        position = failure.position
        where = f"{position.topic}[{position.partition}]@{position.offset}"
        yield harmless(f"  {_moment(failure.failed_at)}  {failure.reason}  {where}{tries}  {failure.detail}")
    yield ""
    left_out = f" ({letter.num_headers_left_out} more were left out)" if letter.num_headers_left_out else ""
    yield ("headers" if letter.headers else "headers    none") + left_out
    yield from (f"  {harmless(name)}: {_short(value)}" for name, value in letter.headers)
    yield ""
    yield from _value(letter)


def _value(letter: Letter) -> Iterable[str]:
    if letter.is_without_bytes:
        yield f"value      left out, being too large for this topic; the original stood at {_origin(letter.origin)}"
    elif letter.value is None:
        yield "value      none"
    else:
        yield from _bytes(letter.value)


def _bytes(value: bytes) -> Iterable[str]:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        yield f"value      {len(value)} bytes, which are no UTF-8:"
        for start in range(0, min(len(value), MAX_SHOWN_BYTES), BYTES_PER_LINE):
            line = value[start : start + BYTES_PER_LINE]
            shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in line)
            yield f"  {start:06x}  {line.hex(' '):<{3 * BYTES_PER_LINE}} {shown}"
        num_more = len(value) - MAX_SHOWN_BYTES
    else:
        yield f"value      {len(value)} bytes of UTF-8:"
        yield from (f"  {harmless(line)}" for line in text[:MAX_SHOWN_CHARACTERS].split("\n"))
        num_more = len(text[MAX_SHOWN_CHARACTERS:].encode())
    if num_more > 0:
        yield f"  … and {num_more} bytes more; --raw writes them all"


def _row(entry: Entry, is_retried: bool) -> tuple[str, ...]:
    position = entry.position
    notes = ["retried"] if is_retried else []
    if entry.num_failures > 1:
        notes.append(f"failed {entry.num_failures} times")
    sentence = f"[{', '.join(notes)}] {entry.detail}" if notes else entry.detail
    cells = (
        f"{position.partition.number}@{position.offset}",
        f"{entry.failed_at:%Y-%m-%d %H:%M:%S}",
        entry.reason,
        _origin(entry.origin),
        entry.name,
        sentence,
    )
    return tuple(map(harmless, cells))


def _origin(origin: Position | None) -> str:
    return "unknown" if origin is None else str(origin)


def _moment(moment: datetime) -> str:
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return "unknown"


def _short(value: bytes) -> str:
    """`value` as text where it is UTF-8, else in hexadecimal, cut where it is long."""
    try:
        text = harmless(value.decode("utf-8"))
    except UnicodeDecodeError:
        text = f"0x{value.hex()}"
    return text if len(text) <= MAX_SHOWN_BYTES else f"{text[:MAX_SHOWN_BYTES]}… ({len(value)} bytes)"


def _fit(text: str, cells: int) -> str:
    return set_cell_size(text if cell_len(text) <= cells else _cut(text, cells), cells)


def _cut(text: str, cells: int) -> str:
    return set_cell_size(text, max(0, cells - 1)).rstrip() + "…"
