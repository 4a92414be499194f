"""The members of archives in the order of time, read where they stand: nothing is unpacked to disk.

First all inputs are looked through: folders, and tars and zips on disk, also in each other, tell what they hold.
What can only be read from front to back (a compressed tar, standard input, a tar in a zip) is one entry of the
plan, at the date in its name, and its members come in the order in which they stand.

A member's name is never a path: nothing is opened by it, and links and devices are left alone.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from consumers.archive_names import CONTAINERS, Trail, date_of, leftover, minute_of, trail_of
from consumers.archive_places import (
    ZIP_MAGICS,
    Found,
    Slice,
    Zipped,
    ZipReader,
    guarded,
    in_tar,
    in_tar_stream,
    in_zip,
    is_tar,
)
from consumers.archive_streams import HEAD_BYTES, MemberBroken, Stream
from consumers.errors import SourceUnavailable

MAX_DEPTH = 4
"""Archives in archives beyond this are none of posts."""

MAX_WARNINGS = 100
"""So many warnings are kept in words; all are counted."""

STANDARD_INPUT = "-"

TOO_DEEP = f"lies in {MAX_DEPTH} archives, one in the other; nothing further in is read"
NO_ARCHIVE = "is damaged: it is named like an archive, and is none"
MISNAMED = "is an archive that isn't named like one; give it a name such as NAME.tar.gz"
"""What is in it can't be known before it is read, and a replay that is resumed passes over it by its name."""

_UNDATED = datetime.max


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A file of an input: its name there (empty for the input itself), and where it is.

    `place` is None in what is read from front to back.
    """

    archive: str
    name: str = ""
    trail: Trail = ()
    place: Slice | Zipped | None = None

    def __str__(self) -> str:
        return f"{self.archive}: {self.name}" if self.name else self.archive

    @property
    def minute(self) -> datetime | None:
        """The minute that it stands for, in its archive's own time."""
        return minute_of(self.trail)

    @property
    def file(self) -> Path | None:
        """The file on disk that it is, or lies in."""
        place = self.place.zip if isinstance(self.place, Zipped) else self.place
        return place.path if place else None

    @property
    def num_bytes(self) -> int:
        """What it takes where it stands; 0 where that isn't known."""
        return self.place.num_bytes if self.place else 0

    @property
    def is_named_archive(self) -> bool:
        """Whether its name is an archive's."""
        name = (self.name or self.archive).lower()
        return name.removesuffix(".gz").removesuffix(".bz2").endswith(CONTAINERS)

    @property
    def is_read_alone(self) -> bool:
        """Whether it can be read without the others, as far as its name tells: it is no archive, and can be sought."""
        return self.place is not None and not self.is_named_archive

    def may_hold(self, archive: str, name: str) -> bool:
        """Whether it is the member of that name, or an archive that may hold it or a rival of a later member."""
        is_around = self.archive == archive and f"{name}/".startswith(f"{self.name}/" if self.name else "")
        return self.is_named_archive or self.place is None or is_around

    def inner(self, found: Found) -> "Member":
        """What was found in this one, an archive."""
        name = f"{self.name}/{found.name}" if self.name else found.name
        return Member(archive=self.archive, name=name, trail=(*self.trail, *trail_of(found.name)), place=found.place)


@dataclass(slots=True)
class MemberBooks:
    """What became of the members: how many were read, how many left alone by reason, and what broke."""

    num_read: int = 0
    left_alone: Counter[str] = field(default_factory=Counter)
    num_warnings: int = 0
    warnings: list[str] = field(default_factory=list)

    def warn(self, member: Member, why: object) -> None:
        """Note that something is wrong with `member`; the others go on."""
        self.num_warnings += 1
        if len(self.warnings) < MAX_WARNINGS:
            self.warnings.append(f"{member} {why}")

    def add(self, other: "MemberBooks") -> None:
        """Take in what `other` has."""
        self.num_read += other.num_read
        self.left_alone += other.left_alone
        self.num_warnings += other.num_warnings
        self.warnings += other.warnings[: MAX_WARNINGS - len(self.warnings)]


class Archives:
    """The members of `paths`: files, folders, `-` for standard input.

    Of members of the same minute the largest is read, and of equal ones the first.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self._paths = [str(path) for path in paths]
        self._zips = ZipReader()
        self._minutes: set[datetime] = set()
        self.books = MemberBooks()

    def plan(self) -> list[Member]:
        """What is to be read, in the order of time. Raises `SourceUnavailable` where an input isn't there."""
        dated: dict[datetime, Member] = {}
        others: list[Member] = []
        for member in self._all():
            minute = member.minute
            if minute is None:
                others.append(member)
                continue
            rival = dated.get(minute)
            if rival is not None:
                self.books.left_alone["duplicate"] += 1
            if rival is None or rival.num_bytes < member.num_bytes:
                dated[minute] = member
        self._minutes = set(dated)
        entries = [*dated.items(), *((date_of(member.trail) or _UNDATED, member) for member in others)]
        entries.sort(key=lambda entry: entry[0])
        return [member for _, member in entries]

    def members(self, entry: Member) -> Iterator[tuple[Member, Stream]]:
        """The files of lines in an entry of the plan, decompressed: itself, or what it holds.

        Each is to be read before the next is asked for. What can't be opened is a warning.
        """
        try:
            stream = self._open(entry)
        except MemberBroken as error:
            self.books.warn(entry, error)
        except OSError as error:
            self.books.warn(entry, f"can't be read ({error.strerror})")
        else:
            yield from self._expand(entry, stream, 0)

    def close(self) -> None:
        """Let go of what is open."""
        self._zips.close()

    def _all(self) -> Iterator[Member]:
        seen: set[Path] = set()
        for name in self._paths:
            if name == STANDARD_INPUT:
                if sys.stdin is None:  # closed by whoever started us
                    raise SourceUnavailable("standard input is closed; name archives or folders of them")
                yield Member(archive=name)
                continue
            for path in self._files(Path(name)):
                real = path.resolve()
                if real in seen:
                    self.books.left_alone["duplicate"] += 1
                    continue
                seen.add(real)
                trail = path.absolute().parts[1:]
                try:
                    member = Member(archive=str(path), trail=trail, place=Slice.of_file(path))
                except OSError as error:
                    self.books.warn(Member(archive=str(path)), f"can't be read ({error.strerror})")
                else:
                    yield from self._look_through(member, 0)

    def _files(self, path: Path) -> Iterator[Path]:
        """The file `path`, or those in the folder; what a folder's links lead to is none of its files."""
        try:
            is_there = path.exists()
        except OSError as error:
            raise SourceUnavailable(f"{path} can't be looked for ({error.strerror}); name another") from error
        if not is_there:
            raise SourceUnavailable(f"{path} isn't there; name archives, folders of them, or - for standard input")
        if not path.is_dir():
            yield path
            return
        for folder, folders, names in os.walk(path, onerror=self._warn_of_folder):
            folders.sort()
            for name in sorted(names):
                inner = Path(folder, name)
                if why := "no_file" if inner.is_symlink() or not inner.is_file() else leftover(name):
                    self.books.left_alone[why] += 1
                else:
                    yield inner

    def _warn_of_folder(self, error: OSError) -> None:
        self.books.warn(Member(archive=str(error.filename)), f"can't be read ({error.strerror})")

    def _look_through(self, member: Member, depth: int) -> Iterator[Member]:
        """`member`, or those in it where it is an archive that needn't be read for it."""
        if not isinstance(member.place, Slice):
            yield member
            return
        try:
            head = member.place.head()
            look = in_zip if head.startswith(ZIP_MAGICS) else in_tar if is_tar(head) else None
            if look is None:
                yield member
                return
            if depth == MAX_DEPTH:
                self.books.warn(member, TOO_DEEP)
                return
            for found in look(member.place):
                if self._is_wanted(found):
                    yield from self._look_through(member.inner(found), depth + 1)
        except MemberBroken as error:
            self.books.warn(member, error)
        except OSError as error:
            self.books.warn(member, f"can't be read ({error.strerror})")

    def _open(self, member: Member) -> Stream:
        if isinstance(member.place, Zipped):
            return self._zips.open(member.place)
        if member.place is None:
            return Stream(sys.stdin.buffer.read)
        return Stream(guarded("file", member.place.window().read))

    def _expand(self, member: Member, packed: Stream, depth: int) -> Iterator[tuple[Member, Stream]]:
        stream = packed.unpacked()
        head = stream.peek(HEAD_BYTES)
        if head.startswith(ZIP_MAGICS):
            self.books.warn(
                member, "is a zip, which can't be read from front to back; give its path, or unpack what it is in"
            )
        elif is_tar(head) and depth == 0 and member.is_read_alone:
            self.books.warn(member, MISNAMED)
        elif is_tar(head):
            yield from self._expand_tar(member, stream, depth)
        elif member.is_named_archive:
            self.books.warn(member, NO_ARCHIVE)
        else:
            self.books.num_read += 1
            yield member, stream

    def _expand_tar(self, member: Member, stream: Stream, depth: int) -> Iterator[tuple[Member, Stream]]:
        if depth == MAX_DEPTH:
            self.books.warn(member, TOO_DEEP)
            return
        try:
            for found, inner in in_tar_stream(stream):
                if self._is_wanted(found) and self._is_new(new := member.inner(found)):
                    yield from self._expand(new, inner, depth + 1)
        except MemberBroken as error:
            self.books.warn(member, error)

    def _is_wanted(self, found: Found) -> bool:
        trail = trail_of(found.name)
        why = found.left_alone or (leftover(trail[-1]) if trail else "other")
        if why:
            self.books.left_alone[why] += 1
        return not why

    def _is_new(self, member: Member) -> bool:
        minute = member.minute
        if minute in self._minutes:
            self.books.left_alone["duplicate"] += 1
            return False
        if minute is not None:
            self._minutes.add(minute)
        return True
