"""Lines of any length from a stream of bytes, of which none is held beyond a limit."""

from collections.abc import Iterator

from consumers.archive_streams import CHUNK_BYTES, MemberBroken, Stream


def lines(stream: Stream, max_bytes: int) -> Iterator[bytes]:
    """The lines of `stream` without their ends (LF or CRLF), blank ones too.

    A line beyond `max_bytes` comes as its first `max_bytes + 1` bytes, so that whoever checks its size
    refuses it. Raises `MemberBroken` after the lines that could be read, an unfinished one included.
    """
    rest = b""
    while True:
        try:
            chunk = stream.read(CHUNK_BYTES)
        except MemberBroken:
            if rest:
                yield _line(rest, max_bytes)
            raise
        if not chunk:
            break
        found = chunk.split(b"\n")
        found[0] = rest + found[0]
        # What is already too long need not be kept in full; one byte more leaves room for CR.
        rest = found.pop()[: max_bytes + 2]
        for line in found:
            yield _line(line, max_bytes)
    if rest:
        yield _line(rest, max_bytes)


def _line(line: bytes, max_bytes: int) -> bytes:
    return line.removesuffix(b"\r")[: max_bytes + 1]
