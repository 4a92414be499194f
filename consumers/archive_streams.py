"""Compressed bytes read as they stand, with bounded memory: bz2 and gzip, of one or several streams, or plain."""

import bz2
import io
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CHUNK_BYTES = 1024 * 1024
"""The most that is held of a member's bytes, compressed or not; a line may come on top."""

MAX_SWELLING = 250
"""Bytes that a compressed byte may become, beyond the first `FREE_BYTES`; a minute of tweets has about 10."""
FREE_BYTES = 64 * 1024 * 1024

PIECE_BYTES = 16 * 1024
"""What is decompressed in one call, and so the most that damage takes along of what stands before it."""

HEAD_BYTES = 512
"""So many first bytes tell what a stream is: a tar's first header has that length."""

Read = Callable[[int], bytes]
"""The next bytes, at most so many; none at the end, as a raw file has it."""


class MemberBroken(Exception):
    """Raised where a stream can't be read further. Says why, to be told behind its name."""


class Stream:
    """Bytes in order, whose first can be looked at ahead."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._head = b""
        self._broken: MemberBroken | None = None

    def peek(self, num_bytes: int) -> bytes:
        """The first `num_bytes`, or all there are; they will be read once more, and so will what breaks them off."""
        try:
            while len(self._head) < num_bytes and (more := self._read(num_bytes - len(self._head))):
                self._head += more
        except MemberBroken as error:
            self._broken = error
        return self._head[:num_bytes]

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, at most so many; none at the end. Raises `MemberBroken`."""
        if self._head:
            first, self._head = self._head[:num_bytes], self._head[num_bytes:]
            return first
        if self._broken:
            raise self._broken
        return self._read(num_bytes)

    def unpacked(self) -> "Stream":
        """This stream decompressed, or itself where it isn't compressed."""
        head = self.peek(4)
        for name, (magic, make) in _FORMATS.items():
            if head.startswith(magic):
                return Stream(_Unpacker(self, name, magic, make).read)
        return self


class Window(io.RawIOBase):
    """A part of a file as a file of its own, for the members of tars."""

    def __init__(self, path: Path, offset: int, num_bytes: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._num_bytes, self._place = offset, num_bytes, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, which may lie behind the end."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._num_bytes}[whence]
        return self._place

    def tell(self) -> int:
        """The place where the next byte is read."""
        return self._place

    def read(self, num_bytes: int = -1, /) -> bytes:
        """The next bytes, at most so many; none at the end."""
        return super().read(num_bytes) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer`, as far as the window reaches. Raises `MemberBroken` where the file doesn't reach as far."""
        wanted = max(0, min(len(buffer), self._num_bytes - self._place))
        self._file.seek(self._start + self._place)
        num_read = self._file.readinto(memoryview(buffer)[:wanted]) or 0
        if wanted and not num_read:
            raise MemberBroken("is cut short: it goes on behind the end of its file")
        self._place += num_read
        return num_read

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class _Inflater(Protocol):
    """What one of the compressed streams in a member is decompressed with."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's inflater, holding what it didn't take, as bz2's does by itself."""

    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inflater.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflater.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inflater.decompress(self._inflater.unconsumed_tail + data, max_length)


_FORMATS: dict[str, tuple[bytes, Callable[[], _Inflater]]] = {
    "bz2": (b"BZh", bz2.BZ2Decompressor),
    "gzip": (b"\x1f\x8b", _Gzip),
}


class _Unpacker:
    """Decompresses streams that follow each other, as far as they are whole."""

    def __init__(self, packed: Stream, name: str, magic: bytes, make: Callable[[], _Inflater]) -> None:
        self._packed, self._name, self._magic, self._make = packed, name, magic, make
        self._inflater = make()
        self._num_in = self._num_out = 0
        self._broken: MemberBroken | None = None

    def read(self, num_bytes: int) -> bytes:
        """The next bytes, at most so many. Raises `MemberBroken` when those before are given out."""
        # In pieces: with a call that fails is lost what it had decompressed.
        pieces: list[bytes] = []
        num_left = num_bytes
        while num_left > 0 and self._broken is None:
            try:
                piece = self._read_piece(min(num_left, PIECE_BYTES))
            except MemberBroken as error:
                self._broken = error
                break
            if not piece:
                break
            pieces.append(piece)
            num_left -= len(piece)
        if not pieces and self._broken is not None:
            raise self._broken
        return b"".join(pieces)

    def _read_piece(self, num_bytes: int) -> bytes:
        fresh = b""
        while True:
            if self._inflater.eof and not (fresh := self._next_stream()):
                return b""
            try:
                data = self._inflater.decompress(fresh, num_bytes)
            except (OSError, zlib.error) as error:
                raise MemberBroken(f"is damaged: its {self._name} can't be decompressed further") from error
            if data:
                return self._counted(data)
            if not self._inflater.eof:
                fresh = self._packed.read(CHUNK_BYTES // 4)
                self._num_in += len(fresh)
                if not fresh:
                    raise MemberBroken(f"is cut short: its {self._name} goes on behind its end")

    def _counted(self, data: bytes) -> bytes:
        self._num_out += len(data)
        if self._num_out > FREE_BYTES + MAX_SWELLING * self._num_in:
            raise MemberBroken(f"swells to over {MAX_SWELLING} times its size, as no archive of posts does")
        return data

    def _next_stream(self) -> bytes:
        """The first bytes of the stream that follows; none at the end, which zeros may pad."""
        rest = self._inflater.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and (more := self._packed.read(CHUNK_BYTES // 4)):
            self._num_in += len(more)
            rest = (rest + more).lstrip(b"\0")
        if not rest:
            return b""
        if not rest.startswith(self._magic):
            raise MemberBroken(f"goes on behind its {self._name} with bytes that are none")
        self._inflater = self._make()
        return rest
