"""Lines of compressed members: whole ones, broken ones, and those made to fill the memory."""

import bz2
import gzip
import io
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from consumers import archive_streams
from consumers.archive_lines import lines
from consumers.archive_streams import MemberBroken, Stream, Window

LIMIT = 1000
PACK: dict[str, Callable[[bytes], bytes]] = {"bz2": bz2.compress, "gzip": gzip.compress, "plain": bytes}


def stream_of(data: bytes) -> Stream:
    return Stream(io.BytesIO(data).read).unpacked()


def read(data: bytes, limit: int = LIMIT) -> tuple[list[bytes], str]:
    """The lines, and why there are no more."""
    found: list[bytes] = []
    try:
        found.extend(lines(stream_of(data), limit))
    except MemberBroken as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_reads_both_line_ends_and_blank_lines(pack: Callable[[bytes], bytes]) -> None:
    """LF, CRLF and a last line without either; blank lines are lines."""
    assert read(pack(b'{"a":1}\r\n\r\n{"b":2}\n{"c":3}')) == ([b'{"a":1}', b"", b'{"b":2}', b'{"c":3}'], "")
    assert read(pack(b"")) == ([], "")


@pytest.mark.parametrize("name", ["bz2", "gzip"])
@pytest.mark.parametrize("padding", [0, 3, 700_000])
def test_reads_streams_that_follow_each_other(name: str, padding: int) -> None:
    """A line may go on in the next stream; zeros between and behind are padding."""
    pack = PACK[name]
    data = pack(b"one\ntw") + b"\0" * padding + pack(b"") + pack(b"o\nthree\n") + b"\0" * padding
    assert read(data) == ([b"one", b"two", b"three"], "")


@pytest.mark.parametrize("name", ["bz2", "gzip"])
def test_a_truncated_member_gives_what_it_holds(name: str) -> None:
    """Wherever it is cut: a prefix of its lines, the last perhaps unfinished, and why there are no more."""
    random.seed(7)
    whole = [random.randbytes(30).hex().encode() for _ in range(60_000)]
    data = PACK[name](b"\n".join(whole) + b"\n")
    for length in (3, 10, 1000, len(data) // 2, len(data) - 100, len(data) - 1):
        found, why = read(data[:length])
        assert "is cut short" in why, length
        if found:
            assert found[:-1] == whole[: len(found) - 1]
            assert whole[len(found) - 1].startswith(found[-1])
    assert len(read(data[: len(data) // 2])[0]) > 10_000


@pytest.mark.parametrize("name", ["bz2", "gzip"])
def test_a_damaged_member_gives_what_stands_before(name: str) -> None:
    """Bytes turned over, and bytes behind the end that are no stream."""
    first = PACK[name](b"one\n")
    damaged = bytearray(PACK[name](b"two\n" * 1000))
    damaged[20] ^= 0xFF
    found, why = read(first + bytes(damaged))
    assert found[0] == b"one"
    assert "is damaged" in why
    assert read(first + b"rubbish") == ([b"one"], f"goes on behind its {name} with bytes that are none")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(("length", "kept"), [(999, 999), (1000, 1000), (1001, 1001), (1002, 1001), (3_000_000, 1001)])
def test_bounds_long_lines(end: bytes, length: int, kept: int) -> None:
    """A line over the limit keeps one byte more than the limit, and the next line is whole."""
    data = b"first\n" + b"x" * length + end + (b"next\n" if end else b"")
    assert read(data) == ([b"first", b"x" * kept] + ([b"next"] if end else []), "")


@pytest.mark.parametrize("name", ["bz2", "gzip"])
def test_a_bomb_takes_neither_memory_nor_time(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a line without an end a little is held, and it is given up once it swells as no archive does."""
    monkeypatch.setattr(archive_streams, "FREE_BYTES", 1024 * 1024)
    monkeypatch.setattr(archive_streams, "MAX_SWELLING", 100)
    data = PACK[name](b"\0" * 100_000_000)
    tracemalloc.start()
    try:
        found, why = read(data)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [b"\0" * (LIMIT + 1)]
    assert why.startswith("swells to over 100 times")
    assert most < 12_000_000


def test_a_stream_can_be_looked_at_ahead() -> None:
    """What was looked at is read once more, and in order."""
    stream = Stream(io.BytesIO(b"0123456789").read)
    assert stream.peek(4) == b"0123"
    assert stream.peek(2) == b"01"
    assert [stream.read(3), stream.read(3), stream.read(9), stream.read(9)] == [b"012", b"3", b"456789", b""]


def test_a_window_ends_where_it_is_told(tmp_path: Path) -> None:
    """It reads nothing beside its part of the file."""
    path = tmp_path / "file"
    path.write_bytes(b"before[inside]after")
    with Window(path, 7, 6) as window:
        assert window.read() == b"inside"
        window.seek(-4, io.SEEK_END)
        assert window.read(3) == b"sid"
        window.seek(100)
        assert window.read(3) == b""
    with Window(path, 15, 100) as window:
        assert window.read(50) == b"fter"
        with pytest.raises(MemberBroken, match="is cut short"):
            window.read(50)
