"""What a dead letter tells, and what it keeps of the message."""

import json

import jsonschema

from consumers.dead_letters import DeadLetter
from consumers.errors import Reason
from consumers.messages import SCHEMA_FOLDER
from consumers.source import Message, Partition, Position

POSITION = Position(Partition("posts", 3), 17)


def test_a_letter_keeps_its_schema() -> None:
    """A dead letter validates against the schema that the project ships."""
    letter = DeadLetter.of(Message(position=POSITION, value=b"\xff", key=b"k"), Reason.NOT_JSON, "no JSON")
    _validate(letter)
    assert (letter.key, letter.value) == (b"k", b"\xff")
    assert dict(letter.headers)["nametag-offset"] == b"17"


def _validate(letter: DeadLetter) -> None:
    schema = json.loads((SCHEMA_FOLDER / "dead_letter.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(json.loads(letter.to_json()))
