"""Dead letters as a terminal shows them: aligned, cut, and harmless."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from consumers.history import Failure
from consumers.letters import Entry, Letter
from consumers.source import Partition, Position
from consumers.wire import PositionReport
from worker.letter_text import MAX_SHOWN_BYTES, MAX_SHOWN_CHARACTERS, counts, table, whole

PLACE = Position(Partition("dead-letters", 1), 17)
LETTER = Letter(
    position=PLACE,
    reason="not_json",
    detail="the message is no JSON",
    failed_at=datetime(2026, 11, 25, 12, tzinfo=UTC),
    origin=Position(Partition("posts", 3), 5),
    key=b"k",
    value=b"{",
    headers=(),
    num_headers_left_out=0,
    num_tries=1,
    history=(),
    is_without_bytes=False,
)


@given(st.text(max_size=400), st.text(max_size=80), st.binary(max_size=80), st.integers(20, 200))
def test_a_line_fits_and_drives_no_terminal(detail: str, reason: str, key: bytes, width: int) -> None:
    """Whatever a letter holds, wide characters and control codes among it, its line is one line of the width."""
    entry = Entry.of(replace(LETTER, detail=detail, reason=reason, key=key))
    lines = list(table([entry, Entry.of(LETTER)], {}, width))
    assert len(lines) == 3
    for line in lines:
        assert cell_len(line) <= width
        assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
        line.encode("utf-8")


def test_a_pipe_gets_the_whole_sentence() -> None:
    """Without a width nothing of the sentence is cut."""
    _, line = table([Entry.of(replace(LETTER, detail="x" * 250))], {}, None)
    assert line.endswith("  " + "x" * 250)


def test_what_was_retried_and_what_keeps_failing_shows() -> None:
    """Before the sentence, where it isn't cut."""
    position = PositionReport(topic="posts", partition=3, offset=5)
    failure = Failure(reason="r", detail="d", position=position, failed_at=LETTER.failed_at)
    for history, retried, note in (
        ((), {}, ""),
        ((failure,), {PLACE: PLACE}, "[retried] "),
        ((failure,) * 3, {}, "[failed 3 times] "),
        ((failure,) * 2, {PLACE: PLACE}, "[retried, failed 2 times] "),
    ):
        _, line = table([Entry.of(replace(LETTER, history=history))], retried, None)
        assert line.endswith(f"  k          {note}the message is no JSON")


def test_letters_are_counted() -> None:
    """The most frequent reason comes first."""
    entries = [Entry.of(replace(LETTER, reason=reason)) for reason in ("a", "b", "b")]
    assert counts(entries) == "3 letters (2 b, 1 a)"
    assert counts(entries[:1]) == "1 letter (1 a)"
    assert counts([]) == "0 letters"


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace")),
    st.text(max_size=20),
    st.binary(max_size=20),
)
def test_a_letter_shown_in_full_drives_no_terminal(value: bytes, name: str, header: bytes) -> None:
    """Value, header names and values, key and sentence."""
    letter = replace(LETTER, value=value, headers=((name, header),), key=header, detail=name)
    for line in whole(letter, None):
        assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in line)
        line.encode("utf-8")


@pytest.mark.parametrize(
    ("value", "num_more"),
    [
        (b"\xff" * (MAX_SHOWN_BYTES + 5), 5),
        ("é".encode() * (MAX_SHOWN_CHARACTERS + 5), 10),
        (b"\xff" * MAX_SHOWN_BYTES, 0),
        (b"a" * MAX_SHOWN_CHARACTERS, 0),
    ],
)
def test_a_large_value_is_cut_and_says_so(value: bytes, num_more: int) -> None:
    """Its beginning is shown, and how many bytes are not."""
    lines = list(whole(replace(LETTER, value=value), None))
    assert (f"… and {num_more} bytes more" in lines[-1]) is (num_more > 0)
    assert sum(map(len, lines)) < 12_000


def test_an_odd_history_is_shown() -> None:
    """Moments at the ends of time, from any zone."""
    ends = [datetime.min.replace(tzinfo=timezone(timedelta(hours=5))), datetime.max.replace(tzinfo=UTC)]
    position = PositionReport(topic="posts\x1b", partition=0, offset=1)
    history = tuple(Failure(reason="r", detail="d", position=position, failed_at=end, num_tries=3) for end in ends)
    lines = list(whole(replace(LETTER, history=history), PLACE))
    assert [line for line in lines if "3 tries" in line] == [
        "  unknown  r  posts\N{REPLACEMENT CHARACTER}[0]@1, 3 tries  d",
        "  9999-12-31 23:59:59 UTC  r  posts\N{REPLACEMENT CHARACTER}[0]@1, 3 tries  d",
    ]
    assert any("marked at dead-letters[1]@17" in line for line in lines)
