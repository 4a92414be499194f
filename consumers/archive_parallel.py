"""Archives read by several processes, and handed on in the order of time all the same.

Members that can be read by themselves are dealt out by turns. Each process reads ahead of what is taken from it by
`MAX_BATCHES` batches at the most, so memory stays flat; what can only be read from front to back, the parent reads.
"""

import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from queue import Queue
from threading import Thread
from typing import Any, NamedTuple

from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives, Member, MemberBooks
from consumers.archive_posts import ArchivePost, ArchivePosts, Books
from consumers.errors import SourceUnavailable

BATCH_POSTS = 512
BATCH_BYTES = 1024 * 1024
MAX_BATCHES = 32

STOP_SECONDS = 2.0
STOPS = (signal.SIGINT, signal.SIGTERM)


class PostHead(NamedTuple):
    """What is known of a post, or of the delete of one, that another process has read."""

    id: str
    created_at: datetime | None


class Batch(NamedTuple):
    """Posts and deletes of one member, and what became of its lines up to there; their values are one after another."""

    heads: list[PostHead]
    lines: list[int]
    lengths: list[int]
    values: bytes
    books: Books
    members: MemberBooks | None = None
    """Of the last batch of a member."""
    """False where the member is an archive after all, which the parent has to read."""

    def posts(self, member: Member) -> list[ArchivePost]:
        """Its items, which stand in `member`."""
        found: list[ArchivePost] = []
        begin = 0
        for head, line, length in zip(self.heads, self.lines, self.lengths, strict=True):
            found.append(ArchivePost(head, self.values[begin : begin + length], member, line))
            begin += length
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelConfig:
    """How many processes read, which posts, and whether they are handed on or only counted."""

    num_workers: int
    choice: PostChoice
    max_post_bytes: int
    hands_on: bool = True


class ParallelPosts:
    """The posts of `plan`, whose entries are asked for in its order; `posts` reads what has to be read here.

    Needs a choice for which no member has to know of another: retweets can't be folded.
    """

    def __init__(self, archives: Archives, posts: ArchivePosts, plan: Sequence[Member], config: ParallelConfig) -> None:
        self._archives = archives
        self._posts = posts
        self._plan = plan
        self._config = config
        self._place = 0
        self._is_started = False
        self._workers: list[tuple[Any, Connection]] = []
        self._turns: dict[int, Connection] = {}

    def batches(self, entry: Member) -> Iterator[Sequence[ArchivePost]]:
        """The posts of the next entry of the plan, some at a time; with the last of them they are in the books."""
        place, self._place = self._place, self._place + 1
        if not self._is_started and not self._posts.is_seeking:
            self._is_started = True
            self._start(place)
        connection = self._turns.pop(place, None)
        if connection is None:
            yield from ([post] for post in self._posts.of(entry))
            return
        while True:
            batch = self._receive(connection)
            self._posts.books.add(batch.books)
            if batch.members:
                self._archives.books.add(batch.members)
            if batch.heads:
                yield batch.posts(entry)
            if batch.members:
                return

    def close(self) -> None:
        """End the processes."""
        for process, connection in self._workers:
            connection.close()
            process.kill()
        for process, _ in self._workers:
            process.join(STOP_SECONDS)
        self._workers.clear()

    def _start(self, first: int) -> None:
        alone = [place for place in range(first, len(self._plan)) if self._plan[place].is_read_alone]
        # It would let stops through again, if it were started with the first process.
        resource_tracker.ensure_running()
        num_workers = min(self._config.num_workers, len(alone))
        # Not by fork, which copies threads' locks as they are.
        context = get_context("spawn")
        for number in range(num_workers if num_workers > 1 else 0):
            ours, theirs = context.Pipe()
            places = alone[number::num_workers]
            entries = [self._plan[place] for place in places]
            process = context.Process(target=_work, args=(theirs, entries, self._config), daemon=True)
            # What stops a whole group of processes is for the parent, which ends this one: it is born deaf to it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
            process.start()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            self._workers.append((process, ours))
            self._turns |= dict.fromkeys(places, ours)

    def _receive(self, connection: Connection) -> Batch:
        try:
            return pickle.loads(connection.recv_bytes())  # type: ignore[no-any-return]  # from our own process
        except (EOFError, OSError) as error:
            raise SourceUnavailable(
                "a process that read archives has ended, maybe for want of memory; run the same command again, with "
                "--workers 1 if need be"
            ) from error


def _work(connection: Connection, entries: Sequence[Member], config: ParallelConfig) -> None:
    """Read `entries` one after the other, in a process of its own."""
    outbox: Queue[bytes | None] = Queue(MAX_BATCHES)
    sender = Thread(target=_send, args=(connection, outbox), daemon=True)
    sender.start()
    with closing(Archives([])) as archives:
        posts = ArchivePosts(archives, config.choice, max_post_bytes=config.max_post_bytes)
        for entry in entries:
            for batch in _batches(archives, posts, entry, hands_on=config.hands_on):
                outbox.put(pickle.dumps(batch, protocol=5))
    outbox.put(None)
    sender.join()


def _send(connection: Connection, outbox: "Queue[bytes | None]") -> None:
    while (data := outbox.get()) is not None:
        try:
            connection.send_bytes(data)
        except OSError:
            os._exit(1)  # nobody reads it any more


def _batches(archives: Archives, posts: ArchivePosts, entry: Member, *, hands_on: bool) -> Iterator[Batch]:
    archives.books, posts.books = MemberBooks(), Books()
    held: list[ArchivePost] = []
    num_bytes = 0
    for post in posts.of(entry):
        if not hands_on:
            continue
        held.append(post)
        num_bytes += len(post.value)
        if len(held) == BATCH_POSTS or num_bytes > BATCH_BYTES:
            yield _batch(held, posts.books)
            held, num_bytes, posts.books = [], 0, Books()
    yield _batch(held, posts.books, archives.books)


def _batch(held: list[ArchivePost], books: Books, members: MemberBooks | None = None) -> Batch:
    values = [each.value for each in held]
    heads = [PostHead(each.post.id, each.post.created_at) for each in held]
    return Batch(heads, [each.line for each in held], [*map(len, values)], b"".join(values), books, members)
