"""Messages on their way back from the dead-letters topic: as they came, and with their history."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from consumers.dead_letters import foreign_headers
from consumers.errors import SourceUnavailable
from consumers.history import HISTORY_HEADER, Failure, Header, bounded, history_json, read_history
from consumers.kafka_reader import KafkaReader
from consumers.letters import Letter
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport

LEFT_OUT = "its bytes were left out, being too large for the topic of dead letters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """A message on its way back, and the letter that it came in.

    `partition` is where it stood, if it goes back to its own topic: so it comes to its neighbours of the
    same key, whichever way its producer chose partitions. `num_headers_missing` of the message's headers
    are beyond a letter's limits, and it itself stands nowhere any more.
    """

    letter: Position
    letter_key: bytes | None
    partition: Partition | None
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    num_headers_missing: int = 0

    @property
    def num_bytes(self) -> int:
        """What it takes in memory and on the wire, but for the little around it."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers

    @property
    def has_history(self) -> bool:
        """Whether it tells of its failures."""
        return any(name == HISTORY_HEADER for name, _ in self.headers)

    def without_history(self) -> "Parcel":
        """The same, and smaller."""
        return replace(self, headers=foreign_headers(self.headers))


class CannotPack(Exception):
    """Raised when a letter holds nothing that could be put back. Says why, to be told beside its position."""


def pack(letter: Letter, reader: KafkaReader, sources: Collection[str]) -> Parcel:
    """The message of `letter`, from the letter or, where that has not all of it, from where it stood.

    Only a topic of `sources` is read for it: where a message stood is what the letter says, and anybody may
    have written the letter. Raises `CannotPack`.
    """
    message = _original(letter, reader, sources)
    if message is None and letter.is_without_bytes:
        raise CannotPack(f"{LEFT_OUT}, and {_why_gone(letter, sources)}")
    key, value = (message.key, message.value) if message else (letter.key, letter.value)
    if key is None and value is None:
        raise CannotPack("the message had neither key nor value, and there is nothing to put back")
    headers = foreign_headers(message.headers) if message else letter.headers
    failures = letter.history or _failures(letter, message)
    history = ((HISTORY_HEADER, history_json(failures)),) if failures else ()
    return Parcel(
        letter=letter.position,
        letter_key=letter.key,
        partition=letter.origin.partition if letter.origin else None,
        key=key,
        value=value,
        headers=(*headers, *history),
        num_headers_missing=0 if message else letter.num_headers_left_out,
    )


def _original(letter: Letter, reader: KafkaReader, sources: Collection[str]) -> Message | None:
    """The message where it stood, if the letter lacks some of it and it can be had."""
    is_whole = not letter.is_without_bytes and not letter.num_headers_left_out
    if is_whole or letter.origin is None or letter.origin.partition.topic not in sources:
        return None
    try:
        partitions = reader.partitions(letter.origin.partition.topic, "kafka.posts_topic")
    except SourceUnavailable:
        return None
    found = reader.messages([letter.origin]) if letter.origin.partition in partitions else []
    # A topic that was made anew has others at these offsets.
    return next((each for each in found if letter.is_without_bytes or _is_same(each, letter)), None)


def _is_same(message: Message, letter: Letter) -> bool:
    # A letter of nothing at all is given an empty value, and reads as none.
    return message.key == letter.key and (message.value or None) == (letter.value or None)


def _why_gone(letter: Letter, sources: Collection[str]) -> str:
    if letter.origin is None:
        return "it doesn't say where the message stood"
    topic = letter.origin.partition.topic
    if topic not in sources:
        return f"it says that the message stood on {topic}, which is neither kafka.posts_topic nor named by --to"
    return f"{letter.origin}, where the message stood, holds it no more"


def _failures(letter: Letter, message: Message | None) -> tuple[Failure, ...]:
    """For a letter without a history: its own failure, after those that the message tells of."""
    if letter.origin is None:
        return ()
    failure = Failure(
        reason=letter.reason,
        detail=letter.detail,
        position=PositionReport.of(letter.origin),
        failed_at=letter.failed_at,
        num_tries=letter.num_tries if letter.num_tries > 1 else None,
    )
    return bounded((*(read_history(message.headers) if message else ()), failure))
