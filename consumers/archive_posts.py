"""From the lines of archives to posts, with books that balance:

    lines = posts + deletes + control + filtered + skipped

Each line is exactly one of these: a post that is wanted, the notice of a delete, another notice of the stream (by
kind, a blank keep-alive is one), a post that isn't wanted (by why), or what can't be read as a post (by reason).
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from consumers import wire
from consumers.archive_choice import Chooser, PostChoice
from consumers.archive_lines import lines
from consumers.archive_members import Archives, Member
from consumers.archive_streams import MemberBroken, Stream
from consumers.deletes import Delete, delete_of
from consumers.errors import BadMessage, Reason, SourceUnavailable
from consumers.posts import Post, read_object
from consumers.tweets import control_kind


class Place(NamedTuple):
    """Where a post stands: the input as it was given, the member in it, and the line there, from 0."""

    archive: str
    member: str
    line: int


class Head(Protocol):
    """What is told of a post, or of the delete of one."""

    @property
    def id(self) -> str:
        """The post's id."""

    @property
    def created_at(self) -> datetime | None:
        """When the post was made, where that is known."""


class ArchivePost(NamedTuple):
    """A post or the delete of one, the bytes that it came as, and its line in its member, from 0.

    Of a folded retweet the bytes are the original's, written anew.
    """

    post: Head
    value: bytes
    member: Member
    line: int

    @property
    def place(self) -> Place:
        """Where it stands, for a replay to go on after it."""
        return Place(self.member.archive, self.member.name, self.line)


@dataclass(slots=True)
class Books:
    """What became of the lines; `first` and `last` are the earliest and the latest `created_at` among the posts.

    `num_obeyed` are the deletes that are handed on, also those that a status is withheld everywhere.
    """

    num_lines: int = 0
    num_posts: int = 0
    num_deletes: int = 0
    num_obeyed: int = 0
    control: Counter[str] = field(default_factory=Counter)
    filtered: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    num_with_photo: int = 0
    num_post_bytes: int = 0
    first: datetime | None = None
    last: datetime | None = None

    @property
    def num_accounted(self) -> int:
        """The right side of the equation; the left one is `num_lines`."""
        others = self.control.total() + self.filtered.total() + self.skipped.total()
        return self.num_posts + self.num_deletes + others

    def add(self, other: "Books") -> None:
        """Take in what `other` has."""
        for name in ("num_lines", "num_posts", "num_deletes", "num_obeyed", "num_with_photo", "num_post_bytes"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("control", "filtered", "skipped"):
            getattr(self, name).update(getattr(other, name))
        self.first = min(filter(None, (self.first, other.first)), default=None)
        self.last = max(filter(None, (self.last, other.last)), default=None)


class ArchivePosts:
    """The posts of archives that are wanted, and deletes, in the order of time.

    A line beyond `max_post_bytes` is skipped.
    With `after` only those behind that place; the books begin there too.
    """

    def __init__(
        self, archives: Archives, choice: PostChoice, *, max_post_bytes: int, after: Place | None = None
    ) -> None:
        self._archives = archives
        self._chooser = Chooser(choice)
        # What stands before `after` tells which originals came already.
        self._is_all_read = choice.retweets == "fold"
        self._max_post_bytes = max_post_bytes
        self._after = after
        self.books = Books()

    @property
    def is_seeking(self) -> bool:
        """Whether the place to go on after is still to come."""
        return self._after is not None

    def of(self, entry: Member) -> Iterator[ArchivePost]:
        """The posts of an entry of the archives' plan."""
        if self._after and not self._is_all_read and not entry.may_hold(self._after.archive, self._after.member):
            return
        for member, stream in self._archives.members(entry):
            yield from self._of_member(member, stream)

    def _of_member(self, member: Member, stream: Stream) -> Iterator[ArchivePost]:
        last_done = self._last_done(member)
        if last_done == sys.maxsize and not self._is_all_read:
            return
        try:
            for number, line in enumerate(lines(stream, self._max_post_bytes)):
                if number <= last_done:
                    self._pass_over(line)
                    continue
                self.books.num_lines += 1
                try:
                    read = self._read(line, self.books)
                except BadMessage as error:
                    self.books.skipped[error.reason] += 1
                    continue
                if read is not None:
                    post, value = read
                    if isinstance(post, Delete):
                        self.books.num_obeyed += 1
                    else:
                        self._enter(post, value)
                    yield ArchivePost(post, value, member, number)
        except MemberBroken as error:
            self._archives.books.warn(member, error)

    def check_found(self) -> None:
        """Raise `SourceUnavailable` where the place to go on after was in none of the entries."""
        if self._after:
            raise SourceUnavailable(
                f"line {self._after.line + 1} of {self._after.member or self._after.archive}, where the replay was "
                "stopped, is in none of the inputs any more; name the same inputs, or begin anew without --resume"
            )

    def _last_done(self, member: Member) -> int:
        """The last line of `member` that is done: -1 for none, `sys.maxsize` for all."""
        if self._after is None:
            return -1
        if (member.archive, member.name) != self._after[:2]:
            return sys.maxsize
        last_done, self._after = self._after.line, None
        return last_done

    def _pass_over(self, line: bytes) -> None:
        if self._is_all_read:
            with suppress(BadMessage):
                self._read(line, Books())

    def _read(self, line: bytes, books: Books) -> tuple[Post | Delete, bytes] | None:
        """The post or delete in a line and its bytes; None where it is none, or isn't wanted. Raises `BadMessage`."""
        if not line.strip():
            books.control["keep_alive"] += 1
            return None
        body = read_object(line, max_bytes=self._max_post_bytes)
        if kind := control_kind(body):
            _note(kind, books)
            delete = delete_of(body)
            return (delete, line) if delete and self._chooser.obeys(delete) else None
        post, original = self._chooser.read(body)
        if why := self._chooser.why_not(post, body):
            books.filtered[why] += 1
            return None
        if original is None:
            return post, line
        try:
            return post, wire.dumps(original)
        except ValueError as error:
            raise BadMessage(Reason.NOT_A_POST, f"the original of the retweet is {error}") from error

    def _enter(self, post: Post, value: bytes) -> None:
        books = self.books
        books.num_posts += 1
        books.num_post_bytes += len(value)
        books.num_with_photo += bool(post.image_urls or post.image_url)
        if moment := post.created_at:
            books.first = min(books.first or moment, moment)
            books.last = max(books.last or moment, moment)


def _note(kind: str, books: Books) -> None:
    if kind == "delete":
        books.num_deletes += 1
    else:
        books.control[kind] += 1
