"""Tagged posts for a person: entities in colour, their type and confidence, what became of the image."""

from rich.console import Console
from rich.text import Text

from consumers.messages import DeadLetter, EntityEvent
from worker.image_status import ImageStatus
from worker.publish import Outcome

COLOURS = {"PER": "bright_green", "LOC": "bright_cyan", "ORG": "bright_yellow", "MISC": "bright_magenta"}
OTHER_COLOUR = "bright_white"

# Control characters of a post could drive the reader's terminal, and bidirectional marks its order.
_HARMFUL_CODES = (*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_HARMFUL = dict.fromkeys(_HARMFUL_CODES, "\N{REPLACEMENT CHARACTER}") | dict.fromkeys(b"\t\n\r", " ")


def harmless(text: str) -> str:
    """`text` with everything replaced that a terminal would obey, each character by one."""
    return text.translate(_HARMFUL).encode("utf-8", "replace").decode("utf-8")


def show(outcome: Outcome, console: Console) -> None:
    """Print one tagged post, or one dead letter, on one line."""
    console.print(_event(outcome) if isinstance(outcome, EntityEvent) else _dead_letter(outcome), soft_wrap=True)


def _event(event: EntityEvent) -> Text:
    line = Text()
    source = event.text or ""
    place = 0
    for entity in event.entities:
        line.append(harmless(source[place : entity.start]))
        colour = COLOURS.get(entity.type, OTHER_COLOUR)
        line.append(harmless(entity.text), style=f"bold {colour}")
        line.append(f" {entity.type} {entity.confidence:.0%}", style=f"dim {colour}")
        place = entity.end
    line.append(harmless(source[place:]))
    status = event.image.status
    line.append(f"  [image: {status}]", style="dim" if status == ImageStatus.USED else "dim italic")
    return line


def _dead_letter(letter: DeadLetter) -> Text:
    position = letter.position
    where = f"{position.topic}[{position.partition}]@{position.offset}"
    return Text(f"✗ {where} {letter.reason}: {harmless(letter.detail)}", style="red")
