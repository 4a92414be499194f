"""From the lines of archives to posts, with books that balance:

    lines = posts + deletes + control + filtered + skipped

Each line is exactly one of these: a post that is wanted, the notice of a delete, another notice of the stream (by
kind, a blank keep-alive is one), a post that isn't wanted (by why), or what can't be read as a post (by reason).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from consumers import wire
from consumers.archive_choice import Chooser, PostChoice
from consumers.archive_lines import lines
from consumers.archive_members import Archives, Member
from consumers.archive_streams import MemberBroken, Stream
from consumers.errors import BadMessage
from consumers.posts import Post, read_object
from consumers.tweets import control_kind


class ArchivePost(NamedTuple):
    """A post, the bytes that it came as, and its line in its member, from 0.

    Of a folded retweet the bytes are the original's, written anew.
    """

    post: Post
    value: bytes
    member: Member
    line: int


@dataclass(slots=True)
class Books:
    """What became of the lines; `first` and `last` are the earliest and the latest `created_at` among the posts."""

    num_lines: int = 0
    num_posts: int = 0
    num_deletes: int = 0
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


class ArchivePosts:
    """The posts of archives that are wanted, in the order of time; a line beyond `max_post_bytes` is skipped."""

    def __init__(self, archives: Archives, choice: PostChoice, *, max_post_bytes: int) -> None:
        self._archives = archives
        self._chooser = Chooser(choice)
        self._max_post_bytes = max_post_bytes
        self.books = Books()

    def of(self, entry: Member) -> Iterator[ArchivePost]:
        """The posts of an entry of the archives' plan."""
        for member, stream in self._archives.members(entry):
            yield from self._of_member(member, stream)

    def _of_member(self, member: Member, stream: Stream) -> Iterator[ArchivePost]:
        try:
            for number, line in enumerate(lines(stream, self._max_post_bytes)):
                self.books.num_lines += 1
                try:
                    read = self._read(line)
                except BadMessage as error:
                    self.books.skipped[error.reason] += 1
                    continue
                if read is not None:
                    post, value = read
                    self._enter(post, value)
                    yield ArchivePost(post, value, member, number)
        except MemberBroken as error:
            self._archives.books.warn(member, error)

    def _read(self, line: bytes) -> tuple[Post, bytes] | None:
        """The post in a line and its bytes; None where it is none, or isn't wanted. Raises `BadMessage`."""
        if not line.strip():
            self.books.control["keep_alive"] += 1
            return None
        body = read_object(line, max_bytes=self._max_post_bytes)
        if kind := control_kind(body):
            self._note(kind)
            return None
        post, original = self._chooser.read(body)
        if why := self._chooser.why_not(post, body):
            self.books.filtered[why] += 1
            return None
        return post, line if original is None else wire.dumps(original)

    def _note(self, kind: str) -> None:
        if kind == "delete":
            self.books.num_deletes += 1
        else:
            self.books.control[kind] += 1

    def _enter(self, post: Post, value: bytes) -> None:
        books = self.books
        books.num_posts += 1
        books.num_post_bytes += len(value)
        books.num_with_photo += bool(post.image_urls or post.image_url)
        if moment := post.created_at:
            books.first = min(books.first or moment, moment)
            books.last = max(books.last or moment, moment)
