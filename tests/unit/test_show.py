"""What a person sees of a tagged post."""

import io
from datetime import UTC, datetime

from rich.console import Console

from consumers.errors import Reason
from consumers.messages import CheckpointName, DeadLetter, EntityEvent, ImageReport, PositionReport, Scissors
from consumers.source import Message, Partition, Position
from worker.show import show

POSITION = Position(Partition("posts", 0), 3)


def shown(outcome: EntityEvent | DeadLetter) -> str:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    show(outcome, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_person_sees_entities_type_confidence_and_image() -> None:
    """The caption stays whole, each entity is followed by type and confidence, the image by its fate."""
    text = "Kevin Love in Cleveland 😁"
    event = EntityEvent(
        id="1",
        tagged_at=datetime.now(UTC),
        text=text,
        entities=(
            Scissors(text).cut(type="PER", start=0, end=10, confidence=0.9),
            Scissors(text).cut(type="LOC", start=14, end=23, confidence=0.456),
        ),
        image=ImageReport(status="not_found"),
        checkpoint=CheckpointName(id="c", variant="v"),
        position=PositionReport.of(POSITION),
    )
    assert shown(event) == "Kevin Love PER 90% in Cleveland LOC 46% 😁  [image: not_found]\n"


def test_a_post_does_not_drive_the_terminal() -> None:
    """Escape sequences, bidirectional marks, lone surrogates and markup of a post are shown, not obeyed."""
    text = "\x1b[31mred\x07 \u202eback\ud83d [bold]x[/bold]\nnext"
    event = EntityEvent(
        id="1",
        tagged_at=datetime.now(UTC),
        text=text,
        image=ImageReport(status="none"),
        checkpoint=CheckpointName(id="c", variant="v"),
        position=PositionReport.of(POSITION),
    )
    line = shown(event)
    assert not set(line) & set("\x1b\x07\u202e\ud83d")
    assert "[bold]x[/bold] next" in line


def test_a_dead_letter_names_its_place_and_reason() -> None:
    """The line says where the message stands and what is wrong with it."""
    letter = DeadLetter.of(Message(position=POSITION, value=b"{"), Reason.NOT_JSON, "no JSON at all")
    assert shown(letter) == "✗ posts[0]@3 not_json: no JSON at all\n"
