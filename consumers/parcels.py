"""Messages on their way back from the dead-letters topic: as they came, and with their history."""

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
    same key, whichever way its producer chose partitions.
    """

    letter: Position
    letter_key: bytes | None
    partition: Partition | None
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]

    @property
    def has_history(self) -> bool:
        """Whether it tells of its failures."""
        return any(name == HISTORY_HEADER for name, _ in self.headers)

    def without_history(self) -> "Parcel":
        """The same, and smaller."""
        return replace(self, headers=foreign_headers(self.headers))


class CannotPack(Exception):
    """Raised when a letter holds nothing that could be put back. Says why, to be told beside its position."""


def pack(letter: Letter, reader: KafkaReader) -> Parcel:
    """The message of `letter`, from the letter or from where it stood. Raises `CannotPack`."""
    message = _original(letter, reader) if letter.is_without_bytes else None
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
    )


def _original(letter: Letter, reader: KafkaReader) -> Message:
    if letter.origin is None:
        raise CannotPack(f"{LEFT_OUT}, and it doesn't say where the message stood")
    gone = f"{LEFT_OUT}, and {letter.origin}, where the message stood, holds it no more"
    try:
        partitions = reader.partitions(letter.origin.partition.topic, "kafka.posts_topic")
    except SourceUnavailable as error:
        raise CannotPack(gone) from error
    found = reader.messages([letter.origin]) if letter.origin.partition in partitions else []
    if not found:
        raise CannotPack(gone)
    return found[0]


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
