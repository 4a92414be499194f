"""`nametag tail`: entity events as they come, for a person or as JSON. No torch in here."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from consumers import wire
from consumers.deletes import Tombstone
from consumers.event_places import Start
from consumers.event_records import EventOrTombstone
from consumers.events import Entity, EntityEvent
from consumers.source import Message
from model.captions import harmless
from worker.downstream import events_of, kafka_of
from worker.show import ERROR_COLOUR, image_name, tagged_line


def tail(options: argparse.Namespace) -> None:
    """Print events until the end, Ctrl-C, or nobody reads on."""
    follow = not options.no_follow
    start: Start = "latest" if follow and not options.from_beginning else "earliest"
    if options.since is not None:
        start = options.since
    kafka = kafka_of(options, tells_skipped=True)
    with events_of(kafka, start=start, follow=follow) as events, _until_nobody_reads():
        console = Console(highlight=False)
        for event in events:
            if options.types and not _has(event, options.types):
                continue
            if options.json:
                print(_json(event, events.message), flush=True)
            else:
                console.print(line_of(event), soft_wrap=True)


def line_of(event: EventOrTombstone) -> Text:
    """One line for a terminal: when the post was tagged, its id, and its text with names in colour."""
    if isinstance(event, Tombstone):
        when = event.deleted_at
        return Text(f"{_moment(when)}  {harmless(event.id)}  ✗ taken back", style=ERROR_COLOUR)
    line = Text(f"{_moment(event.tagged_at)}  ", style="dim").append(harmless(event.id)).append("  ")
    report = event.image
    name = image_name(report.url)
    if event.text is not None and _are_apart(event.text, event.entities):
        return Text().append(line).append(tagged_line(event.text, event.entities, report.status, image_name=name))
    # Without its text, or with places that aren't in it: the names alone.
    words = " ".join(entity.text for entity in event.entities)
    return Text().append(line).append(tagged_line(words, _placed(event.entities), report.status, image_name=name))


def _placed(entities: tuple[Entity, ...]) -> Iterator[Entity]:
    """The same entities where they stand in their words joined by a space."""
    place = 0
    for entity in entities:
        end = place + len(entity.text)
        yield entity.model_copy(update={"start": place, "end": end})
        place = end + 1


def _are_apart(text: str, entities: tuple[Entity, ...]) -> bool:
    places = [place for entity in entities for place in (entity.start, entity.end)]
    return places == sorted(places) and (not places or places[-1] <= len(text))


def _has(event: EventOrTombstone, types: frozenset[str]) -> bool:
    return isinstance(event, EntityEvent) and any(entity.type.upper() in types for entity in event.entities)


def _json(event: EventOrTombstone, message: Message | None) -> str:
    # As it stands on the topic, fields that we don't know included; in ASCII, harmless to a terminal.
    value = message.value if message is not None else None
    return json.dumps(wire.loads(value or event.to_json()))


def _moment(moment: datetime | None) -> str:
    if moment is None:
        return f"{'':19}"
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    except OverflowError:
        return f"{'unknown':19}"


@contextmanager
def _until_nobody_reads() -> Iterator[None]:
    """End quietly where standard output is closed, as by `head`."""
    try:
        yield
    except BrokenPipeError:
        # Else Python would try once more at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
