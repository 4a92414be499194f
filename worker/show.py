"""Tagged posts for a person: entities in colour, their type and confidence, what became of the image."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from consumers.messages import DeadLetter, Entity, EntityEvent
from model.captions import harmless, pieces_of
from worker.image_status import ImageStatus
from worker.publish import Outcome

COLOURS = {"PER": "bright_green", "LOC": "bright_cyan", "ORG": "bright_yellow", "MISC": "bright_magenta"}
OTHER_COLOUR = "bright_white"


def show(outcome: Outcome, console: Console) -> None:
    """Print one tagged post, or one dead letter, on one line."""
    console.print(_line(outcome), soft_wrap=True)


def _line(outcome: Outcome) -> Text:
    if isinstance(outcome, EntityEvent):
        return tagged_line(outcome.text or "", outcome.entities, outcome.image.status)
    return _dead_letter(outcome)


def tagged_line(text: str, entities: Iterable[Entity], image_status: str) -> Text:
    """A caption with its entities in colour, each followed by type and confidence, and the image's fate."""
    line = Text()
    found = tuple(entities)
    confidences = iter([entity.confidence for entity in found])
    for piece in pieces_of(text, found):
        if not piece.type:
            line.append(piece.text)
            continue
        colour = COLOURS.get(piece.type, OTHER_COLOUR)
        line.append(piece.text, style=f"bold {colour}")
        line.append(f" {piece.type} {next(confidences):.0%}", style=f"dim {colour}")
    line.append(f"  [image: {image_status}]", style="dim" if image_status == ImageStatus.USED else "dim italic")
    return line


def _dead_letter(letter: DeadLetter) -> Text:
    position = letter.position
    where = f"{position.topic}[{position.partition}]@{position.offset}"
    return Text(f"✗ {where} {letter.reason}: {harmless(letter.detail)}", style="red")
