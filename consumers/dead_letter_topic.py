"""The dead-letters topic, read from one end to the other: which letters stand there, and which were put back."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from consumers.errors import NoSuchLetter
from consumers.kafka_reader import KafkaReader
from consumers.letters import Entry, Letter, read_letter, read_mark
from consumers.source import Message, Offsets, Partition, Position

CLOCK_MARGIN = timedelta(hours=1)
"""By how much the clocks of a worker and of a broker may differ where a moment is looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which letters are meant; what is None chooses all."""

    positions: frozenset[Position] | None = None
    reason: str | None = None
    since: datetime | None = None

    def has(self, letter: Letter) -> bool:
        """Whether `letter` is meant."""
        return (
            (self.positions is None or letter.position in self.positions)
            and (self.reason is None or letter.reason == self.reason)
            and (self.since is None or letter.failed_at >= self.since)
        )


@dataclass(slots=True, kw_only=True)
class Survey:
    """What was found of a choice: its letters, and the marks of letters that were put back.

    `retried` has the mark's position for each letter's, `num_foreign` counts what is no letter and no mark,
    `read_to` is the next offset to read of each partition.
    """

    entries: list[Entry] = field(default_factory=list)
    retried: dict[Position, Position] = field(default_factory=dict)
    num_foreign: int = 0
    read_to: Offsets = field(default_factory=dict)

    def in_order(self) -> list[Entry]:
        """The letters, oldest first."""
        return sorted(self.entries, key=lambda entry: (entry.failed_at, entry.position))


class DeadLetterTopic:
    """The letters of one topic. Every method raises `SourceUnavailable` where the brokers can't be had."""

    def __init__(self, reader: KafkaReader, name: str) -> None:
        self.name = name
        self._reader = reader
        self._partitions = reader.partitions(name, "kafka.dead_letters_topic")

    def survey(self, choice: Choice) -> Survey:
        """What there is of `choice`, read to where the topic ended at the start.

        Raises `NoSuchLetter` where a position is none of the topic's.
        """
        survey = Survey()
        starts = self._starts(choice)
        for message in self._reader.read(starts, self._reader.ends(starts)):
            _note(message, survey, choice)
        survey.read_to = self._reader.positions()
        return survey

    def catch_up(self, survey: Survey) -> None:
        """Note what was put back since `survey`, in its partitions, up to where they end now.

        Waits for the transactions that are open there, since behind them there may be a mark.
        """
        for message in self._reader.read(survey.read_to, self._reader.final_ends(survey.read_to)):
            _note(message, survey, Choice(positions=frozenset()))
        survey.read_to = self._reader.positions()

    def letters(self, positions: Iterable[Position]) -> list[Letter]:
        """The letters at `positions`, in the order of their partitions, as far as they are still there."""
        return [letter for message in self._reader.messages(positions) if (letter := read_letter(message)) is not None]

    def letter(self, position: Position) -> Letter:
        """The letter at `position`. Raises `NoSuchLetter`, which says what is there instead."""
        self._check(position)
        for message in self._reader.messages([position]):
            if (letter := read_letter(message)) is not None:
                return letter
            if (marked := read_mark(message)) is not None:
                raise NoSuchLetter(f"{position} is no letter: it marks {marked} as put back")
            raise NoSuchLetter(f"{position} holds a message, but no dead letter of nametag")
        raise NoSuchLetter(f"{position} holds no letter: {self._why_nothing(position)}")

    def _starts(self, choice: Choice) -> Offsets:
        if choice.positions is None:
            if choice.since is None:
                return self._reader.begins(self._partitions)
            moment = (choice.since - CLOCK_MARGIN).timestamp()
            return self._reader.at_moment(self._partitions, max(0, round(moment * 1000)))
        firsts: dict[Partition, int] = {}
        for position in sorted(choice.positions, reverse=True):
            self._check(position)
            firsts[position.partition] = position.offset
        begins, ends = self._reader.begins(firsts), self._reader.ends(firsts)
        return {each: min(max(offset, begins[each]), ends[each]) for each, offset in firsts.items()}

    def _check(self, position: Position) -> None:
        topic, number = position.partition
        if topic != self.name:
            raise NoSuchLetter(f"{position} holds no letter: the topic of dead letters is {self.name}")
        if position.partition not in self._partitions:
            raise NoSuchLetter(f"{position} holds no letter: {topic} has no partition {number}")

    def _why_nothing(self, position: Position) -> str:
        partition = position.partition
        begin, end = self._reader.begins([partition])[partition], self._reader.ends([partition])[partition]
        if position.offset < begin:
            return f"{partition} begins at {begin}, and what was before it is deleted"
        if position.offset >= end:
            return f"{partition} ends before {end}"
        return "the end of a transaction stands there, or what was there is deleted or was never committed"


def _note(message: Message, survey: Survey, choice: Choice) -> None:
    if (marked := read_mark(message)) is not None:
        survey.retried[marked] = message.position
    elif (letter := read_letter(message)) is None:
        survey.num_foreign += 1
    elif choice.has(letter):
        survey.entries.append(Entry.of(letter))
