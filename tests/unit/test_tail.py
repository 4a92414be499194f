"""What `nametag tail` prints: a line for each, whatever it holds."""

from datetime import UTC, datetime
from io import StringIO

import pytest
from rich.console import Console

from consumers.deletes import Tombstone
from consumers.events import Entity, EntityEvent, Scissors
from tests.integration.event_tools import event
from worker.tail import line_of


def test_a_line_says_when_which_and_what() -> None:
    """The moment in UTC, the post's id, its text with types and confidences, and what became of the picture."""
    assert line_of(event(7)).plain == (
        "2026-11-25 12:00:00  7  \N{SMILING FACE WITH SUNGLASSES} Phoenix LOC 50% 7  [image: none]"
    )


def test_a_tombstone_is_told() -> None:
    """With the moment, where that was told."""
    gone_at = datetime(2026, 11, 25, 13, tzinfo=UTC)
    assert line_of(Tombstone(id="7", deleted_at=gone_at)).plain == "2026-11-25 13:00:00  7  ✗ taken back"
    assert line_of(Tombstone(id="7")).plain == f"{'':19}  7  ✗ taken back"


def test_names_are_told_without_their_text() -> None:
    """As with include_text = false, and where places aren't in the text or overlap."""
    entity = Scissors("in Phoenix").cut(type="LOC", start=3, end=10, confidence=0.5)
    outside = Entity(**(entity.model_dump() | {"start": 90, "end": 97}))
    for odd in (event(7, text=None), event(7, entities=(outside,)), event(7, entities=(entity, entity))):
        assert "Phoenix LOC 50%" in line_of(odd).plain


@pytest.mark.parametrize("text", ["\x1b[2Jevil", "a\nb", "\x9bevil", "\u202eevil", "\ud83d"])
def test_a_terminal_is_not_driven(text: str) -> None:
    """Neither by the text nor by the id, and a line is one."""
    line = line_of(event(7, id=text, text=text, entities=()))
    out = StringIO()
    Console(file=out, color_system=None).print(line, soft_wrap=True)
    assert out.getvalue().count("\n") == 1
    assert out.getvalue().rstrip("\n").isprintable()
    out.getvalue().encode()


def test_an_event_is_read_as_it_was_written() -> None:
    """There and back again."""
    assert EntityEvent.from_json(event(7).to_json()) == event(7)
