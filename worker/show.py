"""Tagged posts for a person: entities in colour, their type and confidence, what became of the image."""

from collections.abc import Iterable
from urllib.parse import urlsplit

from rich.console import Console
from rich.text import Text

from consumers.dead_letters import DeadLetter
from consumers.deletes import Tombstone
from consumers.events import Entity
from consumers.image_status import ImageStatus
from model.captions import harmless, pieces_of
from worker.publish import Outcome

# Numbers of the 256-colour palette, which no terminal's theme changes. Each has a contrast of at least
# 4.5 on the dark #292929 of rich's pictures, and of 2.7 to 3 on white, which is what that leaves.
COLOURS = {"PER": "color(34)", "LOC": "color(37)", "ORG": "color(172)", "MISC": "color(171)"}
OTHER_COLOUR = "color(246)"
ERROR_COLOUR = "color(203)"

MAX_IMAGE_NAME = 40


def show(outcome: Outcome, console: Console) -> None:
    """Print one tagged post, one tombstone or one dead letter, on one line."""
    console.print(_line(outcome), soft_wrap=True)


def _line(outcome: Outcome) -> Text:
    if isinstance(outcome, DeadLetter):
        return _dead_letter(outcome)
    if isinstance(outcome, Tombstone):
        return Text(f"✗ post {harmless(outcome.id)} was deleted", style=OTHER_COLOUR)
    report = outcome.image
    text = outcome.text or ""
    if not text.strip():
        # Nothing of it could be seen otherwise.
        text = f"(post {harmless(outcome.id)}: no words)"
    return tagged_line(text, outcome.entities, report.status, image_name=image_name(report.url))


def tagged_line(text: str, entities: Iterable[Entity], image_status: str, *, image_name: str = "") -> Text:
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
        line.append(f" {harmless(piece.type)} {next(confidences):.0%}", style=colour)
    return line.append(f"  [image: {_fate(image_status, image_name)}]", style="italic")


def image_name(url: str | None) -> str:
    """The last part of a picture's URL, short and harmless: which picture it was, without the way to it."""
    if url is None:
        return ""
    try:
        name = harmless(urlsplit(url).path.rpartition("/")[2])
    except ValueError:
        return ""
    return name if len(name) <= MAX_IMAGE_NAME else f"{name[: MAX_IMAGE_NAME - 1]}…"


def _fate(status: str, name: str) -> str:
    if not name:
        return status
    return name if status == ImageStatus.USED else f"{status} ({name})"


def _dead_letter(letter: DeadLetter) -> Text:
    position = letter.position
    where = f"{position.topic}[{position.partition}]@{position.offset}"
    return Text(f"✗ {where} {letter.reason}: {harmless(letter.detail)}", style=ERROR_COLOUR)
