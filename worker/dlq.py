"""Dead letters listed, shown and put back, as the options of `worker/cli_dlq.py` ask. No torch in here."""

import argparse
import json
import logging
import os
import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from consumers.dead_letter_retry import Retry, RetryReport
from consumers.dead_letter_topic import Choice, DeadLetterTopic
from consumers.errors import NoSuchLetter
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_reader import KafkaReader
from consumers.letters import Entry, read_position
from consumers.source import Position
from model.captions import harmless
from worker.errors import SettingsError
from worker.kafka_settings import connection_of
from worker.letter_text import counts, letters, listed, table, whole
from worker.logs import configure_logs
from worker.settings import KafkaTable
from worker.settings_loading import load_settings

MAX_TOLD = 20
"""Letters that can't be put back are told one by one, up to this number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """The topic of dead letters, and what it is reached by."""

    kafka: KafkaTable
    connection: KafkaConnection
    reader: KafkaReader
    topic: DeadLetterTopic

    def position(self, text: str) -> Position:
        """The position that `text` names, on this topic for short."""
        return read_position(text, self.topic.name)


def ls(options: argparse.Namespace) -> None:
    """Print the letters, oldest first, and how many there are."""
    with _opened(options) as opened:
        survey = opened.topic.survey(Choice(reason=options.reason, since=options.since))
    entries = survey.in_order()
    shown = entries[-options.limit :] if options.limit else entries
    if options.json:
        for entry in shown:
            # In ASCII, so that it is exact and yet harmless to a terminal.
            print(json.dumps(listed(entry, survey.retried)))
    elif shown:
        _print_table(shown, survey.retried)
    num_retried = sum(entry.position in survey.retried for entry in entries)
    told = f"{opened.topic.name}: {counts(entries)}, {num_retried} of them retried already"
    if len(shown) < len(entries):
        told += f"; the newest {len(shown)} are shown"
    if survey.num_foreign:
        told += f"; messages that are no dead letters: {survey.num_foreign}"
    print(told, file=sys.stderr if options.json else sys.stdout)


def show(options: argparse.Namespace) -> None:
    """Print all of one letter, or write its bytes. Raises `NoSuchLetter` where there is nothing."""
    with _opened(options) as opened:
        position = opened.position(options.position)
        letter = opened.topic.letter(position)
        if not options.raw:
            survey = opened.topic.survey(Choice(positions=frozenset([position])))
    if not options.raw:
        for line in whole(letter, survey.retried.get(position)):
            print(line)
    elif letter.value is None or letter.is_without_bytes:
        why = "they were left out, being too large" if letter.is_without_bytes else "the message had none"
        raise NoSuchLetter(f"{position} holds no bytes: {why}")
    else:
        sys.stdout.buffer.write(letter.value)
        sys.stdout.buffer.flush()


def retry(options: argparse.Namespace) -> int:
    """Put letters back, each once; gives back the exit status.

    Raises `NoSuchLetter` where a position holds none, and `RetryStopped` where not all was done.
    """
    with _opened(options) as opened:
        survey = opened.topic.survey(_choice(options, opened))
        found = survey.in_order()
        open_ones = [each for each in found if options.again or each.position not in survey.retried]
        posts_topic = opened.kafka.posts_topic
        target = options.to or posts_topic
        strays = {} if options.to else _strays(open_ones, posts_topic)
        entries = [each for each in open_ones if each.position not in strays][: options.limit]
        if options.dry_run:
            if entries:
                _print_table(entries, survey.retried)
            _tell_refused(strays.items())
            print(f"{counts(entries)} would be put back on {target}; nothing was changed")
            return 0
        if not (options.yes or _is_meant(entries, target)):
            print("nothing was put back")
            return 1
        sources = {posts_topic, target}
        with Retry(opened.connection, opened.reader, opened.topic, target, sources=sources) as act:
            report = act.put_back(survey, entries, again=options.again) if entries else act.report
    report.refused += strays.items()
    num_named_before = len(found) - len(open_ones) if options.positions else 0
    return _tell(report, num_named_before, target)


@contextmanager
def _opened(options: argparse.Namespace) -> Iterator[_Opened]:
    kafka = load_settings(options.config).kafka
    configure_logs("text", logging.WARNING)
    # What the client has to say about trouble is said in one sentence.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    try:
        connection = connection_of(kafka)
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: {error}") from error
    with KafkaReader(connection) as reader:
        topic = DeadLetterTopic(reader, kafka.dead_letters_topic)
        yield _Opened(kafka=kafka, connection=connection, reader=reader, topic=topic)


def _choice(options: argparse.Namespace, opened: _Opened) -> Choice:
    if not options.positions:
        return Choice(reason=options.reason, since=options.since)
    positions = frozenset(map(opened.position, options.positions))
    for position in sorted(positions):
        # Only to be told, where there is none, what is there instead.
        opened.topic.letter(position)
    return Choice(positions=positions)


def _strays(entries: Sequence[Entry], posts_topic: str) -> dict[Position, str]:
    """Those of `entries` that came from another topic than the posts', and the sentence to be told."""
    return {
        entry.position: f"it came from {entry.origin.partition.topic}, and kafka.posts_topic is {posts_topic}; "
        "name the topic to put it on with --to"
        for entry in entries
        if entry.origin and entry.origin.partition.topic != posts_topic
    }


def _is_meant(entries: Sequence[Entry], target: str) -> bool:
    if len(entries) < 2 or not sys.stdin.isatty():
        return True
    print(f"{counts(entries)} will be put back on {target}")
    try:
        return input("put them back? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _tell(report: RetryReport, num_named_before: int, target: str) -> int:
    for letter, num_missing in report.incomplete[:MAX_TOLD]:
        print(f"{letter} went back without {num_missing} of its headers: a letter holds only the first 64 and 16 KiB, "
              "and where the message stood it stands no more", file=sys.stderr)  # fmt: skip
    if len(report.incomplete) > MAX_TOLD:
        print(f"and {len(report.incomplete) - MAX_TOLD} more went back without some headers", file=sys.stderr)
    _tell_refused(report.refused)
    told = f"{letters(report.num_put_back)} put back on {target}"
    if num_before := num_named_before + len(report.retried_before):
        told += f"; {letters(num_before)} had been already (--again puts back once more)"
    print(told)
    return 1 if report.refused else 0


def _tell_refused(refused: Collection[tuple[Position, str]]) -> None:
    for letter, why in islice(refused, MAX_TOLD):
        print(f"{letter} can't be put back: {harmless(why)}", file=sys.stderr)
    if len(refused) > MAX_TOLD:
        print(f"and {len(refused) - MAX_TOLD} more can't be put back", file=sys.stderr)


def _print_table(entries: Sequence[Entry], retried: dict[Position, Position]) -> None:
    # A terminal's width in cells; a file or a pipe has none.
    is_cut = sys.stdout.isatty() or "COLUMNS" in os.environ
    for line in table(entries, retried, shutil.get_terminal_size().columns if is_cut else None):
        print(line)
