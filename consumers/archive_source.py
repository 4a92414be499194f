"""The posts of archives as a source for the pipeline."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence

from consumers.archive_posts import ArchivePost, Place
from consumers.errors import SourceUnavailable
from consumers.feed import CHUNK_MESSAGES, Feed
from consumers.source import Message, Offsets, Partition, Position, RevokeListener

PARTITION = Partition("replay", 0)


class ArchiveSource:
    """`posts` as the only partition of a topic `replay`; the offset counts them from 0.

    Where they come slowly, `one_by_one` hands on each at once. With `keeps_places` it is known where they stand,
    until `place_before` was asked for what is behind them.
    """

    def __init__(self, posts: Iterator[ArchivePost], *, one_by_one: bool = False, keeps_places: bool = False) -> None:
        self._posts = posts
        self._keeps_places = keeps_places
        self._feed = Feed("archive-reader", chunk_messages=1 if one_by_one else CHUNK_MESSAGES)
        self._places: deque[tuple[int, Place]] = deque()
        self.is_at_end = False

    def place_before(self, offset: int) -> Place:
        """Where the post before `offset` stands; asked for in rising order."""
        while self._places[0][0] < offset - 1:
            self._places.popleft()
        return self._places[0][1]

    async def start(self, on_revoke: RevokeListener) -> None:
        """Begin to read. Nothing is ever revoked."""
        self._feed.start(self._messages())

    @property
    def unready(self) -> None:
        """None: the archives were looked through already."""
        return None

    @property
    def backlog(self) -> Mapping[Partition, int]:
        """Empty: archives tell only at their end how many posts they hold."""
        return {}

    @property
    def membership(self) -> None:
        """None: archives have no group."""

    async def rewind(self, forget: Callable[[], None]) -> None:
        """Raises `SourceUnavailable`: a file's sink never asks for it."""
        raise SourceUnavailable("archives can't be read again from the middle; start the replay again")

    async def receive(self) -> Sequence[Message]:
        """The next posts; empty at the end and after `stop_intake`."""
        return await self._feed.receive()

    async def commit(self, offsets: Offsets) -> None:
        """Nothing: a replay is read from its beginning each time."""

    async def stop_intake(self) -> None:
        """Read no more."""
        self._feed.stop()

    async def close(self) -> None:
        """Let the reading thread end."""
        self._feed.stop()

    def _messages(self) -> Generator[Message, None, None]:
        for offset, post in enumerate(self._posts):
            if self._keeps_places:
                self._places.append((offset, post.place))
            yield Message(position=Position(PARTITION, offset), value=post.value, key=post.post.id.encode())
        self.is_at_end = True
