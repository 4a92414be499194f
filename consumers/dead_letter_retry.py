"""Dead letters put back where they came from, each once.

One transaction holds messages and, on the dead-letters topic, a mark for each: a record of the letter's key
without a value, whose header `nametag-retried` names the letter. So a letter is put back and known to be,
or neither:

1. take over: a new producer under the topic's transactional id ends what an earlier one left open, and
   fences it, so that from here on nobody else marks letters of this topic;
2. catch up: the marks up to the topic's end tell which of the letters were put back meanwhile;
3. transact: the others, a few hundred at a time.

A kill between two of these steps leaves whole transactions, and nothing to be cleaned up.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from kafka import KafkaProducer
from kafka.errors import InvalidProducerEpochError, KafkaError, MessageSizeTooLargeError, ProducerFencedError

from consumers.dead_letter_topic import DeadLetterTopic, Survey
from consumers.deadline import within
from consumers.errors import RetryStopped
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_reader import START_SECONDS, KafkaReader
from consumers.letters import RETRIED_HEADER, Entry
from consumers.parcels import CannotPack, Parcel, pack
from consumers.source import Partition, Position

MAX_LETTERS = 500
"""A transaction's letters; few enough that one ends long before its time is up."""
MAX_BYTES = 8 * 1024 * 1024
"""The bytes of a transaction's letters, but for a single one that is larger."""

TRANSACTION_SECONDS = 30.0
"""For how long a retry that was killed may hold up the readers of its topics."""


@dataclass(slots=True, kw_only=True)
class RetryReport:
    """What became of the letters: how many went back, which were put back before, which can't be, and why.

    `incomplete` are those that went back without some of their headers, and how many.
    """

    num_put_back: int = 0
    retried_before: list[Position] = field(default_factory=list)
    refused: list[tuple[Position, str]] = field(default_factory=list)
    incomplete: list[tuple[Position, int]] = field(default_factory=list)


class Retry:
    """Puts letters of one topic back on `target`. A second one, started anywhere, ends the first.

    What a letter lacks of its message is read from `sources` alone.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        reader: KafkaReader,
        topic: DeadLetterTopic,
        target: str,
        *,
        sources: Collection[str],
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._topic = topic
        self._target = target
        self._sources = sources
        self._producer: Any = None
        self._again = False
        self._survey = Survey()
        self._partitions: frozenset[Partition] = frozenset()
        self.report = RetryReport()

    def __enter__(self) -> Self:
        """Nothing yet: only `put_back` takes over, so that to look and to hesitate disturbs nobody."""
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Disconnect; a transaction that is still open is given up by the brokers."""
        self._disconnect()

    def put_back(self, survey: Survey, entries: Sequence[Entry], *, again: bool = False) -> RetryReport:
        """Put back those of `entries` that were not yet; with `again`, all of them.

        `survey` is where they were found; it is brought up to date. Raises `RetryStopped` where another retry
        took over, or the brokers failed: whole transactions are kept, and the same call goes on after them.
        """
        self._survey, self._again = survey, again
        self._partitions = self._reader.partitions(self._target, "kafka.posts_topic, or name another with --to")
        self._take_over()
        for letters in _groups(entry for entry in entries if self._is_open(entry.position)):
            # Once more: a letter without its bytes may stand for a large message.
            for parcels in _groups(self._parcels(letters)):
                self._send(parcels)
        return self.report

    def _is_open(self, letter: Position) -> bool:
        """Whether it is to be put back, as far as is known; where it was already, that is reported."""
        if self._again or letter not in self._survey.retried:
            return True
        self.report.retried_before.append(letter)
        return False

    def _parcels(self, entries: Sequence[Entry]) -> Iterator[Parcel]:
        letters = self._topic.letters(entry.position for entry in entries)
        for gone in sorted({entry.position for entry in entries} - {letter.position for letter in letters}):
            self.report.refused.append((gone, "it was deleted meanwhile"))
        for letter in letters:
            try:
                yield pack(letter, self._reader, self._sources)
            except CannotPack as error:
                self.report.refused.append((letter.position, str(error)))

    def _send(self, parcels: Sequence[Parcel]) -> None:
        if not parcels or self._transact(parcels):
            return
        # One of them is too large for the topic, and the client gave up those beside it: halve until it is found.
        parcels = [parcel for parcel in parcels if self._is_open(parcel.letter)]
        if len(parcels) > 1:
            middle = len(parcels) // 2
            self._send(parcels[:middle])
            self._send(parcels[middle:])
        elif parcels and parcels[0].has_history:
            # A message as large as its topic allows goes back as it was, or not at all.
            self._send([parcels[0].without_history()])
        elif parcels:
            self.report.refused.append((parcels[0].letter, f"{self._target} takes no message of its size"))

    def _transact(self, parcels: Sequence[Parcel]) -> bool:
        """One transaction; false where it was given up, since one of `parcels` is too large for the topic."""
        num = len(parcels)
        sent: list[Any] = []
        try:
            self._producer.begin_transaction()
            for parcel in parcels:
                sent += self._post(parcel)
            deadline = time.monotonic() + TRANSACTION_SECONDS
            for each in sent:
                each.get(timeout=max(0.0, deadline - time.monotonic()))
        except KafkaError as error:
            # What is refused for its size fails what was sent beside it, too.
            errors = [_root(error), *(each.exception for each in sent if each.failed())]
            if any(isinstance(each, MessageSizeTooLargeError) for each in errors):
                # The client takes no more from this producer.
                self._take_over()
                return False
            raise self._stopped(error, "what was under way was given up") from error
        try:
            within(TRANSACTION_SECONDS, self._producer.commit_transaction)
        except (KafkaError, TimeoutError) as error:
            raise self._stopped(error, f"nobody knows of {num} more") from error
        self.report.num_put_back += num
        incomplete = [each for each in parcels if each.num_headers_missing]
        self.report.incomplete += [(each.letter, each.num_headers_missing) for each in incomplete]
        return True

    def _post(self, parcel: Parcel) -> Iterator[Any]:
        send, home = self._producer.send, parcel.partition
        partition = home.number if home in self._partitions else None
        yield send(self._target, parcel.value, parcel.key, list(parcel.headers), partition)
        mark = [(RETRIED_HEADER, str(parcel.letter).encode("ascii"))]
        # The client sends no record without both key and value.
        nothing = b"" if parcel.letter_key is None else None
        yield send(self._topic.name, nothing, parcel.letter_key, mark, parcel.letter.partition.number)

    def _take_over(self) -> None:
        self._disconnect()
        try:
            self._producer = KafkaProducer(
                **self._connection.client_options(),
                # Of the topic and not of the group: two groups may share a topic of dead letters.
                transactional_id=f"nametag-retry-{self._topic.name}",
                transaction_timeout_ms=round(TRANSACTION_SECONDS * 1000),
                bootstrap_timeout_ms=round(START_SECONDS * 1000),
                max_block_ms=round(START_SECONDS * 1000),
                allow_auto_create_topics=False,
                acks="all",
                # The topic's own limit decides.
                max_request_size=2**30,
            )
            self._producer.init_transactions()
        except KafkaError as error:
            raise self._stopped(error, "no transaction was begun") from error
        self._topic.catch_up(self._survey)

    def _disconnect(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            within(2.0, lambda: producer.close(timeout=1.0))
        except (KafkaError, TimeoutError):
            # It would hold up the end of the process, at what it can't send any more.
            producer._sender.force_close()
            producer._closed = True

    def _stopped(self, error: BaseException, rest: str) -> RetryStopped:
        so_far = f"{self.report.num_put_back} put back, {rest}"
        error = _root(error)
        if isinstance(error, ProducerFencedError | InvalidProducerEpochError):
            return RetryStopped(f"another retry of {self._topic.name} has taken over ({so_far}); it goes on by itself")
        return RetryStopped(
            f"putting back failed at {self._connection} ({error!r}; {so_far}); "
            "run the same command again: nothing is put back twice"
        )


def _root(error: BaseException) -> BaseException:
    """What is behind `error`: the client wraps an earlier failure of the producer as an argument."""
    return next((each for each in error.args if isinstance(each, KafkaError)), error)


class _Sized(Protocol):
    @property
    def num_bytes(self) -> int: ...


S = TypeVar("S", bound=_Sized)


def _groups(items: Iterable[S]) -> Iterator[list[S]]:
    """`items` in groups that fit a transaction."""
    group: list[S] = []
    num_bytes = 0
    for item in items:
        if group and (len(group) == MAX_LETTERS or num_bytes + item.num_bytes > MAX_BYTES):
            yield group
            group, num_bytes = [], 0
        group.append(item)
        num_bytes += item.num_bytes
    if group:
        yield group
