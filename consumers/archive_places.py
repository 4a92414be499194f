"""What tars and zips on disk hold, and where: they are looked through without being read.

`tarfile` takes a damaged header for the end of a tar, loops on negative sizes and reads headers of any length
into memory; `_Header` refuses all three. Of a zip's members only those that are stored or deflated are read,
for `zipfile` holds what it makes of other kinds in full.
"""

import json
import stat
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, Self, cast

from consumers.archive_streams import (
    CHUNK_BYTES,
    FREE_BYTES,
    HEAD_BYTES,
    MAX_SWELLING,
    MemberBroken,
    Read,
    Stream,
    Window,
)

MAX_HEADER_BYTES = 1024 * 1024
"""The most that a tar's headers of a member (its long name, say) may take, one by one and together."""

MAX_MEMBERS = 500_000
"""The most that is read of one archive; a month has 44,640 minutes."""

MAX_NAME_BYTES = 400
"""A name that is longer in JSON is told by its end and a digest, so that a place can always be written down."""

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_EndOfTar: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # typeshed doesn't know it
_NothingLeft: type[Exception] = tarfile.EmptyHeaderError  # type: ignore[attr-defined]  # nor this

# What the libraries raise on bytes that nobody wrote on purpose, or somebody did.
_UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    ValueError,
    OverflowError,
    RecursionError,
    NotImplementedError,
)


@dataclass(frozen=True, slots=True)
class Slice:
    """Where bytes stand as they are: in a file, or in a tar in it."""

    path: Path
    offset: int
    num_bytes: int

    @classmethod
    def of_file(cls, path: Path) -> Self:
        """All of a file."""
        return cls(path, 0, path.stat().st_size)

    def head(self) -> bytes:
        """Its first bytes, which tell its kind."""
        with self.window() as window:
            return Stream(window.read).peek(HEAD_BYTES)

    def window(self) -> Window:
        """It as a file of its own."""
        return Window(self.path, self.offset, self.num_bytes)


@dataclass(frozen=True, slots=True)
class Zipped:
    """Where a member of the zip at `zip` stands."""

    zip: Slice
    info: zipfile.ZipInfo

    @property
    def num_bytes(self) -> int:
        """What it takes in the zip."""
        return self.info.compress_size


@dataclass(frozen=True, slots=True)
class Found:
    """A file in an archive: its name, and where it is; or why it is left alone."""

    name: str
    place: Slice | Zipped | None = None
    left_alone: str | None = None


def is_tar(head: bytes) -> bool:
    """Whether bytes that begin so are a tar."""
    # Zeros alone are an empty tar, or the start of a file of which nothing more arrived: its lines tell.
    if len(head) < tarfile.BLOCKSIZE or not head.strip(b"\0"):
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except _UNREADABLE:
        return False
    return True


def in_tar(where: Slice) -> Iterator[Found]:
    """The files in a tar. Raises `MemberBroken` after those that stand before the break."""
    names = _Names()
    with BufferedReader(where.window()) as file, _broken("tar"), _opened(_Headers(file), "r:") as (tar, headers):
        while info := _next(tar, headers):
            if info.isdir():
                continue
            place = Slice(where.path, where.offset + info.offset_data, info.size)
            yield Found(names.enter(info.name), place, None if _is_plain(info) else "no_file")


def in_tar_stream(stream: Stream) -> Iterator[tuple[Found, Stream]]:
    """The files in a tar that is read from front to back, each to be read before the next is asked for.

    Raises `MemberBroken` after those that stand before the break.
    """
    source, names = _Ending(stream), _Names()
    with _broken("tar"), _opened(_Headers(source), "r|") as (tar, headers):
        try:
            while info := _next(tar, headers):
                headers.num_left = None
                if not info.isdir():
                    place, why = _Front(tar, info.size), None if _is_plain(info) else "no_file"
                    yield Found(names.enter(info.name), left_alone=why), Stream(place.read)
                _pass_over_rest(tar)
        except (tarfile.TarError, MemberBroken):
            if source.broken:
                raise source.broken from None
            raise


def in_zip(where: Slice) -> Iterator[Found]:
    """The files in a zip, by its table. Raises `MemberBroken` where that can't be read."""
    names = _Names()
    with BufferedReader(where.window()) as file, _broken("zip"), zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield Found(names.enter(info.filename), Zipped(where, info), _why_not(info))


def guarded(kind: str, read: Read) -> Read:
    """`read`, whose library's errors are told as `MemberBroken`."""

    def guarded_read(num_bytes: int) -> bytes:
        with _broken(kind):
            return read(num_bytes)

    return guarded_read


class _Names:
    """The names of one archive's members, each another: where a replay stopped is told by them."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()
        self._num_again: Counter[bytes] = Counter()

    def enter(self, name: str) -> str:
        """`name`, short enough, and with a number where there was such a member before. Raises `MemberBroken`."""
        if len(self._seen) + self._num_again.total() >= MAX_MEMBERS:
            raise MemberBroken(f"has more than {MAX_MEMBERS:,} members, as no archive of posts does")
        digest = sha256(name.encode("utf-8", "surrogatepass")).digest()[:12]
        if len(json.dumps(name)) > MAX_NAME_BYTES:
            name = f"…{digest.hex()}…/{name[-30:]}"
        if digest not in self._seen:
            self._seen.add(digest)
            return name
        self._num_again[digest] += 1
        return f"#{self._num_again[digest] + 1}/{name}"


class _Headers:
    """A file of which `tarfile` may read so much for a member's headers; None: as much as it likes."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.num_left: int | None = None

    def read(self, num_bytes: int) -> bytes:
        data: bytes = self._file.read(num_bytes)
        if self.num_left is not None:
            self.num_left -= len(data)
            if self.num_left < 0:
                raise MemberBroken(f"is damaged: its tar has a header of more than {MAX_HEADER_BYTES} bytes")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        return int(self._file.tell())


@contextmanager
def _opened(headers: _Headers, mode: Literal["r:", "r|"]) -> Iterator[tuple[tarfile.TarFile, _Headers]]:
    headers.num_left = MAX_HEADER_BYTES
    # Tars may follow each other, and a hole in one is no end of it: `_Header` tells what isn't whole.
    with tarfile.open(fileobj=cast(Any, headers), mode=mode, tarinfo=_Header, ignore_zeros=True) as tar:
        yield tar, headers


def _next(tar: tarfile.TarFile, headers: _Headers) -> tarfile.TarInfo | None:
    headers.num_left = MAX_HEADER_BYTES
    info = tar.next()
    # It would remember every member, and every header that is meant for all.
    cast(Any, tar).members.clear()
    cast(Any, tar).pax_headers.clear()
    return info


def _pass_over_rest(tar: tarfile.TarFile) -> None:
    """Read what is left of a member: to go behind it, `tarfile` would read nothing 2⁶⁰ times where a size is a lie."""
    file = cast(Any, tar.fileobj)
    while (num_left := tar.offset - file.tell()) > 0:
        if not file.read(min(num_left, CHUNK_BYTES)):
            raise MemberBroken("is cut short: it ends amid a member")


class _Ending:
    """A stream that ends where it is broken: `tarfile` drops what it has read when another error comes."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.broken: MemberBroken | None = None

    def read(self, num_bytes: int) -> bytes:
        try:
            return self._stream.read(num_bytes)
        except MemberBroken as error:
            self.broken = error
            return b""


class _Front:
    """The file at which a tar read from front to back stands; `tarfile`'s reader drops what comes before a break."""

    def __init__(self, tar: tarfile.TarFile, num_bytes: int) -> None:
        self._file: Any = tar.fileobj
        self._num_left = num_bytes

    def read(self, num_bytes: int) -> bytes:
        data: bytes = self._file.read(min(num_bytes, self._num_left))
        if self._num_left and not data:
            raise MemberBroken("is cut short: its tar ends before it")
        self._num_left -= len(data)
        return data


class ZipReader:
    """Opens members of zips; the last zip stays open, for the next member is likely in it too."""

    def __init__(self) -> None:
        self._where: Slice | None = None
        self._archive: zipfile.ZipFile | None = None

    def open(self, place: Zipped) -> Stream:
        """The member's bytes. Raises `MemberBroken`."""
        with _broken("zip"):
            if self._archive is None or self._where != place.zip:
                self.close()
                self._archive, self._where = zipfile.ZipFile(BufferedReader(place.zip.window())), place.zip
            return Stream(guarded("zip", cast(zipfile.ZipExtFile, self._archive.open(place.info)).read1))

    def close(self) -> None:
        """Let go of the zip."""
        if self._archive is not None:
            file = self._archive.fp
            self._archive.close()
            if file is not None:
                file.close()
            self._archive = None


class _Header(tarfile.TarInfo):
    """A member's header that a tar's damage doesn't get past."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        if 0 < len(buf) < tarfile.BLOCKSIZE and not bytes(buf).strip(b"\0"):
            buf = b""  # zeros behind the end, fewer than a block
        header = super().frombuf(buf, encoding, errors)
        if header.type in _LONG_HEADERS and header.size > MAX_HEADER_BYTES:
            raise MemberBroken(f"is damaged: its tar has a header of more than {MAX_HEADER_BYTES} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        holder = cast(Any, tarfile_)
        try:
            header = super().fromtarfile(tarfile_)
        except _EndOfTar:
            holder.nametag_has_ended = True
            raise
        except tarfile.HeaderError as error:
            if isinstance(error, _NothingLeft) and getattr(holder, "nametag_has_ended", False):
                raise
            raise MemberBroken("is damaged or cut short: its tar breaks off in front of its end") from error
        holder.nametag_has_ended = False
        if header.size < 0:
            raise MemberBroken("is damaged: its tar has a member of negative size")
        return header


@contextmanager
def _broken(kind: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MemberBroken(f"can't be read ({error.strerror or error})") from error
    except _UNREADABLE as error:
        raise MemberBroken(f"is damaged: its {kind} can't be read further") from error


def _is_plain(info: tarfile.TarInfo) -> bool:
    return info.isreg() and not info.issparse()


def _why_not(info: zipfile.ZipInfo) -> str | None:
    if info.flag_bits & 1:
        return "encrypted"
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        return "no_file"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "compression"
    if info.file_size > FREE_BYTES + MAX_SWELLING * info.compress_size:
        return "bomb"
    return None
