"""What tars and zips on disk hold, and where: they are looked through without being read.

`tarfile` takes a damaged header for the end of a tar, loops on negative sizes and reads headers of any length
into memory; `_Header` refuses all three. Of a zip's members only those that are stored or deflated are read,
for `zipfile` holds what it makes of other kinds in full.
"""

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Self, cast

from consumers.archive_streams import FREE_BYTES, HEAD_BYTES, MAX_SWELLING, MemberBroken, Read, Stream, Window

MAX_HEADER_BYTES = 1024 * 1024
"""The most that a tar's headers of a member (its long name, say) may take."""

ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")

_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_EndOfTar: type[Exception] = tarfile.EOFHeaderError  # type: ignore[attr-defined]  # typeshed doesn't know it

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
    if len(head) < tarfile.BLOCKSIZE:
        return False
    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
    except _EndOfTar:
        return True
    except _UNREADABLE:
        return False
    return True


def in_tar(where: Slice) -> Iterator[Found]:
    """The files in a tar. Raises `MemberBroken` after those that stand before the break."""
    with (
        BufferedReader(where.window()) as file,
        _broken("tar"),
        tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar,
    ):
        while info := tar.next():
            if info.isdir():
                continue
            place = Slice(where.path, where.offset + info.offset_data, info.size)
            yield Found(info.name, place, None if _is_plain(info) else "no_file")


def in_tar_stream(stream: Stream) -> Iterator[tuple[Found, Stream]]:
    """The files in a tar that is read from front to back, each to be read before the next is asked for.

    Raises `MemberBroken` after those that stand before the break.
    """
    source = _Ending(stream)
    with _broken("tar"), tarfile.open(fileobj=cast(Any, source), mode="r|", tarinfo=_Header) as tar:
        try:
            while info := tar.next():
                # It would remember every member.
                cast(Any, tar).members.clear()
                if not info.isdir():
                    place = _Front(tar, info.size)
                    yield Found(info.name, left_alone=None if _is_plain(info) else "no_file"), Stream(place.read)
        except (tarfile.TarError, MemberBroken):
            if source.broken:
                raise source.broken from None
            raise


def in_zip(where: Slice) -> Iterator[Found]:
    """The files in a zip, by its table. Raises `MemberBroken` where that can't be read."""
    with BufferedReader(where.window()) as file, _broken("zip"), zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield Found(info.filename, Zipped(where, info), _why_not(info))


def guarded(kind: str, read: Read) -> Read:
    """`read`, whose library's errors are told as `MemberBroken`."""

    def guarded_read(num_bytes: int) -> bytes:
        with _broken(kind):
            return read(num_bytes)

    return guarded_read


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
        header = super().frombuf(buf, encoding, errors)
        if header.type in _LONG_HEADERS and header.size > MAX_HEADER_BYTES:
            raise MemberBroken(f"is damaged: its tar has a header of more than {MAX_HEADER_BYTES} bytes")
        return header

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            header = super().fromtarfile(tarfile_)
        except _EndOfTar:
            raise
        except tarfile.HeaderError as error:
            raise MemberBroken("is damaged or cut short: its tar breaks off in front of its end") from error
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
