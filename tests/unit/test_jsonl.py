"""`JsonlSource` on small files and on standard input."""

import asyncio
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from consumers.errors import SourceUnavailable
from consumers.jsonl import JsonlSource
from consumers.source import Message, Offsets, Partition


async def never(_partitions: frozenset[Partition]) -> Offsets:
    raise AssertionError("a file's partition is never revoked")


def read_all(source: JsonlSource) -> list[Message]:
    async def run() -> list[Message]:
        await source.start(never)
        messages: list[Message] = []
        while received := await source.receive():
            messages += received
        await source.close()
        return messages

    return asyncio.run(asyncio.wait_for(run(), 10))


def found(messages: list[Message]) -> list[tuple[int, bytes | None]]:
    return [(m.position.offset, m.value) for m in messages]


def test_reads_both_line_ends_and_counts_blank_lines(tmp_path: Path) -> None:
    """LF, CRLF and a last line without either are lines; blank ones keep their numbers."""
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b'{"a":1}\n\r\n  \n{"b":2}\r\n{"c":3}')
    assert found(read_all(JsonlSource(path))) == [(0, b'{"a":1}'), (3, b'{"b":2}'), (4, b'{"c":3}')]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize(("length", "kept"), [(9, 9), (10, 10), (11, 11), (12, 11), (5000, 11)])
def test_bounds_long_lines(tmp_path: Path, end: bytes, length: int, kept: int) -> None:
    """A line over the limit keeps one byte more than the limit, and the next line is whole."""
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"x" * length + end + (b"next\n" if end else b""))
    expected = [(0, b"x" * kept)] + ([(1, b"next")] if end else [])
    assert found(read_all(JsonlSource(path, max_line_bytes=10))) == expected


def test_reads_many_lines_in_order(tmp_path: Path) -> None:
    """A file far beyond what is held at once comes whole and in order."""
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"".join(b"%d\n" % i for i in range(5000)))
    assert found(read_all(JsonlSource(path))) == [(i, b"%d" % i) for i in range(5000)]


def test_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is standard input, a topic of that name."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo\n")))
    messages = read_all(JsonlSource("-"))
    assert [str(m.position) for m in messages] == ["stdin[0]@0", "stdin[0]@1"]


def test_an_empty_file_ends_at_once(tmp_path: Path) -> None:
    """No lines are no error."""
    (tmp_path / "empty").touch()
    assert read_all(JsonlSource(tmp_path / "empty")) == []


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """The message names the file and what to do."""
    with pytest.raises(SourceUnavailable, match=r"gone\.jsonl can't be read .*name another file"):
        read_all(JsonlSource(tmp_path / "gone.jsonl"))


def test_stop_intake_ends_a_waiting_receive(tmp_path: Path) -> None:
    """Nothing is handed out after it, whatever is left in the file."""
    path = tmp_path / "posts.jsonl"
    path.write_bytes(b"line\n" * 10_000)

    async def run() -> None:
        source = JsonlSource(path)
        await source.start(never)
        assert await source.receive()
        await source.stop_intake()
        assert not await source.receive()
        await source.close()

    asyncio.run(asyncio.wait_for(run(), 10))
