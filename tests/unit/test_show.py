"""What a person sees of a tagged post."""

import io
from datetime import UTC, datetime

import pytest
from rich.color import Color
from rich.console import Console

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.events import CheckpointName, EntityEvent, ImageReport, Scissors
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport
from worker.show import COLOURS, ERROR_COLOUR, OTHER_COLOUR, show

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


def event_of(text: str, image: ImageReport) -> EntityEvent:
    return EntityEvent(
        id="blank",
        tagged_at=datetime.now(UTC),
        text=text,
        image=image,
        checkpoint=CheckpointName(id="c", variant="v"),
        position=PositionReport.of(POSITION),
    )


@pytest.mark.parametrize(
    ("status", "url", "told"),
    [
        ("used", "http://host/way/stage.jpg?key=secret", "[image: stage.jpg]"),
        ("not_found", "http://host/stage.jpg", "[image: not_found (stage.jpg)]"),
        ("used", "http://host/", "[image: used]"),
        ("host_down", "http://[broken/stage.jpg", "[image: host_down]"),
        ("used", "http://host/\x1b[2J" + "x" * 500, "[image: �[2J" + "x" * 35 + "…]"),
        ("none", None, "[image: none]"),
    ],
)
def test_a_person_sees_which_picture_it_was(status: str, url: str | None, told: str) -> None:
    """The last part of the URL stands for the picture, short and harmless."""
    assert shown(event_of("hello", ImageReport(status=status, url=url))) == f"hello  {told}\n"


def test_a_blank_post_is_named() -> None:
    """Of a post without words the id is shown, so that its line isn't empty."""
    assert shown(event_of(" \n ", ImageReport(status="none"))) == "(post blank: no words)  [image: none]\n"


def test_colours_are_read_on_dark_and_on_light() -> None:
    """Contrasts: 4.5 or more on the ground of rich's pictures, and what that leaves on white."""
    for colour in (*COLOURS.values(), OTHER_COLOUR, ERROR_COLOUR):
        ink = luminance(Color.parse(colour).get_truecolor())
        assert (ink + 0.05) / (luminance((0x29, 0x29, 0x29)) + 0.05) >= 4.5
        assert 1.05 / (ink + 0.05) >= 2.7


def luminance(colour: tuple[int, int, int]) -> float:
    """The relative luminance of WCAG 2.2."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (x / 255 for x in colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
