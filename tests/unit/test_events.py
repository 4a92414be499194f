"""What goes out: entities in both units, and events that keep their schema."""

import json
import time
from datetime import UTC, datetime

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.events import CheckpointName, Entity, EntityEvent, ImageReport, Scissors
from consumers.image_status import ImageStatus
from consumers.messages import SCHEMA_FOLDER
from consumers.posts import Post, read_message
from consumers.source import Message, Partition, Position
from consumers.wire import PositionReport

POSITION = Position(Partition("posts", 3), 17)


def test_lone_surrogates_come_through() -> None:
    """Half an emoji in the text is kept as it came, in and out."""
    value = b'{"id": "1", "text": "caf\\ud83d in Paris"}'
    post = read_message(Message(position=POSITION, value=value), max_bytes=1000)
    assert isinstance(post, Post)
    assert post.text == "caf\ud83d in Paris"
    event = _event(post.text, Scissors(post.text).cut(type="LOC", start=8, end=13, confidence=0.5))
    out = json.loads(event.to_json())
    assert out["text"] == post.text
    assert out["entities"][0]["text"] == "Paris"


@given(st.text(max_size=40), st.data())
def test_an_entity_is_cut_in_both_units(text: str, data: st.DataObject) -> None:
    """Code points and UTF-16 units name the same words of any text."""
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    entity = Scissors(text).cut(type="PER", start=start, end=end, confidence=1.0)
    units = text.encode("utf-16-le", "surrogatepass")
    cut = units[2 * entity.start_utf16 : 2 * entity.end_utf16]
    assert cut.decode("utf-16-le", "surrogatepass") == entity.text == text[start:end]


def test_an_event_keeps_its_schema() -> None:
    """An event validates against the schema that the project ships."""
    event = _event("x", Scissors("x").cut(type="PER", start=0, end=1, confidence=0.5))
    _validate(json.loads(event.to_json()))


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ((), {"schema_version": None}),
        ((), {"entities": None}),
        (("image",), {"status": "lost"}),
        (("image",), {"attention": [[1.0] * 7] * 6}),
        (("image",), {"attention": [[1.0] * 6] * 7}),
    ],
)
def test_the_events_schema_is_as_narrow_as_the_events(part: tuple[str, ...], wrong: dict[str, object]) -> None:
    """Version and entities are always there, a status is of the closed list, the attention is 7×7."""
    body = json.loads(_event("x").to_json())
    place = body
    for key in part:
        place = place[key]
    for key, value in wrong.items():
        place.pop(key, None)
        if value is not None:
            place[key] = value
    with pytest.raises(jsonschema.ValidationError):
        _validate(body)


def test_an_event_with_attention_keeps_its_schema() -> None:
    """Seven rows of seven weights, and each status, are what the schema wants."""
    for status in ImageStatus:
        report = ImageReport(status=status, attention=((1 / 49,) * 7,) * 7)
        body = json.loads(_event("x").model_copy(update={"image": report}).to_json())
        assert body["image"]["status"] == status.value
        _validate(body)


def _event(text: str, *entities: Entity) -> EntityEvent:
    return EntityEvent(
        id="1",
        tagged_at=datetime.now(UTC),
        text=text,
        entities=entities,
        image=ImageReport(status="none"),
        checkpoint=CheckpointName(id="c", variant="attention_gate"),
        position=PositionReport.of(POSITION),
    )


def _validate(instance: object) -> None:
    schema = json.loads((SCHEMA_FOLDER / "entity_event.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(instance)


def test_many_entities_in_a_long_text_cost_no_square() -> None:
    """Twenty thousand entities of a text that isn't ASCII are cut in the time of a few."""
    text = "é " + "Paris is in Berlin 😀. " * 10_000
    start = time.process_time()
    scissors = Scissors(text)
    entities = [scissors.cut(type="LOC", start=n * 22 + 2, end=n * 22 + 7, confidence=1) for n in range(10_000)]
    assert time.process_time() - start < 2
    assert entities[-1].start_utf16 == entities[-1].start + 9_999
