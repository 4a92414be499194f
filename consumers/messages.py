"""The three messages of nametag, as pydantic models: post in, entity event and dead letter out.

The JSON Schemas in `consumers/schemas/` are generated from these models
(`python -m consumers.messages`); a test keeps them equal.
"""

import base64
import json
import random
from bisect import bisect_left
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from consumers import tweets, wire
from consumers.errors import BadMessage, Reason
from consumers.image_status import ImageStatus
from consumers.source import Message, Position
from consumers.tweets import ShownText

SCHEMA_VERSION: Literal[1] = 1

SCHEMA_FOLDER = Path(__file__).parent / "schemas"

REGIONS_PER_SIDE = 7

_Side = Field(min_length=REGIONS_PER_SIDE, max_length=REGIONS_PER_SIDE)
AttentionRow = Annotated[tuple[float, ...], _Side]
AttentionGrid = Annotated[tuple[AttentionRow, ...], _Side]

ImageUrl = Annotated[str, StringConstraints(min_length=1)]

PostId = Annotated[str, StringConstraints(min_length=1, max_length=256)]

# JSON's readers don't agree on larger ones: orjson makes them fractions.
WHOLE_NUMBERS = range(-(2**63), 2**64)
WholeNumber = Annotated[int, Field(ge=WHOLE_NUMBERS.start, lt=WHOLE_NUMBERS.stop)]

ImageChoice = Literal["first", "random"]


class WireModel(BaseModel):
    """A message on the wire: frozen; fields that we don't know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Post(WireModel):
    """A social-media post, as it comes in on the posts topic.

    A tweet object of Twitter's API v1.1 is taken as it is, too: Twitter's data dictionary describes it, and
    `consumers/tweets.py` says which of its fields are read.
    """

    id: PostId = Field(
        description="Names the post; the key of its event. A whole number of 64 bits is taken as its digits."
    )
    text: str = Field(description="The caption. May be empty or only white space, but not absent.")
    image_url: ImageUrl | None = Field(None, description="The post's picture; none if empty.")
    image_urls: tuple[ImageUrl, ...] = Field(
        (), description="Its pictures, where there are several; empty ones don't count."
    )
    created_at: AwareDatetime | None = Field(
        None,
        description="RFC 3339, or Unix time in seconds (from 2·10¹⁰ on, in milliseconds). Without an offset: UTC. "
        "One that can't be read is left out of the event.",
    )
    source: str | None = Field(None, description="Where the post was made, such as `twitter`.")
    lang: str | None = Field(None, description="BCP 47 language tag.")

    @field_validator("id", mode="before", json_schema_input_type=PostId | WholeNumber)
    @classmethod
    def _digits(cls, value: object) -> object:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return str(value) if is_whole and value in WHOLE_NUMBERS else value

    @field_validator("id")
    @classmethod
    def _encodable(cls, value: str) -> str:
        # The id becomes a Kafka key, so it has to be Unicode in full: no half of a surrogate pair.
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("holds half of a surrogate pair")
        return value

    @field_validator("image_url", mode="before", json_schema_input_type=str | None)
    @classmethod
    def _none_if_blank(cls, value: object) -> object:
        return None if _is_blank(value) else value

    @field_validator("image_urls", mode="before", json_schema_input_type=list[str | None] | None)
    @classmethod
    def _without_blanks(cls, value: object) -> object:
        if value is None:
            return ()
        return [url for url in value if not _is_blank(url)] if isinstance(value, list | tuple) else value

    @field_validator("created_at", mode="wrap", json_schema_input_type=str | float | None)
    @classmethod
    def _none_if_unreadable(cls, value: object, read: ValidatorFunctionWrapHandler) -> object:
        if isinstance(value, str) and not value.isdigit():
            with suppress(ValueError):
                moment = datetime.fromisoformat(value)
                value = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        try:
            return read(value)
        except ValueError:
            # A post without its date is still a post.
            return None

    @cached_property
    def shown(self) -> ShownText:
        """The text as its readers see it, which is what the tagger reads."""
        return ShownText(self.text)

    def choose_image(self, choice: ImageChoice) -> str | None:
        """The URL of the picture to look at; `random` is seeded by the id, so a replay chooses the same."""
        urls = self.image_urls or ((self.image_url,) if self.image_url else ())
        if not urls:
            return None
        return urls[0] if choice == "first" else random.Random(self.id).choice(urls)


class Tweet(Post):
    """A post that came as a v1.1 tweet: its text keeps the escapes of Twitter's API, its readers don't see them."""

    @cached_property
    def shown(self) -> ShownText:
        """The text with its escapes turned back."""
        return ShownText.of_tweet(self.text)


class Entity(WireModel):
    """A named entity, and where it stands in the text."""

    type: str = Field(description="PER, LOC, ORG or MISC, or another label of the checkpoint.")
    text: str = Field(description="The words of the mention: text[start:end], so a tweet's may read `AT&amp;T`.")
    confidence: float = Field(ge=0, le=1, description="Probability of exactly this span and type.")
    start: int = Field(ge=0, description="First code point of the mention in the text as it was delivered.")
    end: int = Field(ge=0, description="One past its last code point.")
    start_utf16: int = Field(ge=0, description="`start` in UTF-16 units, as JavaScript and Java count.")
    end_utf16: int = Field(ge=0, description="`end` in UTF-16 units.")


class Scissors:
    """Cuts the entities out of one text, in time that grows with the text and not with its square."""

    def __init__(self, text: str) -> None:
        self._text = text
        # Places of the characters that are two UTF-16 units; the number before a place is what it is off by.
        self._wide = [] if text.isascii() else [place for place, character in enumerate(text) if character > "\uffff"]

    def cut(self, *, type: str, start: int, end: int, confidence: float) -> Entity:
        """The entity at text[start:end], with its UTF-16 offsets."""
        return Entity(
            type=type,
            text=self._text[start:end],
            confidence=confidence,
            start=start,
            end=end,
            start_utf16=start + bisect_left(self._wide, start),
            end_utf16=end + bisect_left(self._wide, end),
        )


class ImageReport(WireModel):
    """What became of the post's picture."""

    status: ImageStatus = Field(description="`used`, `none`, or why the caption was tagged without the picture.")
    url: str | None = Field(None, description="The picture that was chosen.")
    digest: str | None = Field(None, description="SHA-256 of the pixels looked at, in hexadecimal.")
    attention: AttentionGrid | None = Field(
        None,
        description="Where the tagger looked: 7 rows of 7 weights, top left first; they add up to 1.",
    )


class CheckpointName(WireModel):
    """The checkpoint that tagged the post."""

    id: str
    variant: str


class PositionReport(WireModel):
    """Where a message stood on its topic."""

    topic: str
    partition: int = Field(ge=0)
    offset: int = Field(ge=0)

    @classmethod
    def of(cls, position: Position) -> Self:
        """The same position, as it is written in messages."""
        partition = position.partition
        return cls(topic=partition.topic, partition=partition.number, offset=position.offset)


def _require_defaults(schema: dict[str, Any]) -> None:
    # They have defaults, but only None is left out of what is written.
    written = [name for name, field in schema["properties"].items() if field.get("default") is not None]
    schema["required"] = [*written, *schema["required"]]


class EntityEvent(WireModel):
    """A tagged post, as it goes out on the entities topic under the post's id as its key."""

    model_config = ConfigDict(json_schema_extra=_require_defaults)

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    source: str | None = None
    lang: str | None = None
    created_at: AwareDatetime | None = None
    tagged_at: AwareDatetime
    text: str | None = Field(None, description="The post's text as it was delivered; absent with include_text = false.")
    entities: tuple[Entity, ...] = ()
    image: ImageReport
    checkpoint: CheckpointName
    position: PositionReport = Field(description="Where the post stood on its topic.")

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/entity_event.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))


class DeadLetter(WireModel):
    """A message that could not be tagged.

    On Kafka the original bytes are the value and the other fields are headers, so that the
    letter can be put back as it was; a JSONL file has this record.
    """

    model_config = ConfigDict(json_schema_extra=_require_defaults)

    schema_version: Literal[1] = SCHEMA_VERSION
    reason: Reason
    detail: str = Field(description="What was wrong, in a sentence.")
    position: PositionReport
    key_base64: str | None = None
    value_base64: str | None = Field(None, description="The original bytes.")
    failed_at: AwareDatetime

    @classmethod
    def of(cls, message: Message, reason: Reason, detail: str) -> Self:
        """The dead letter for `message`, failed now."""
        return cls(
            reason=reason,
            detail=detail,
            position=PositionReport.of(message.position),
            key_base64=_base64(message.key),
            value_base64=_base64(message.value),
            failed_at=datetime.now(UTC),
        )

    @property
    def key(self) -> bytes | None:
        """The key of the message as it came."""
        return None if self.key_base64 is None else base64.b64decode(self.key_base64)

    @property
    def value(self) -> bytes | None:
        """The value of the message as it came."""
        return None if self.value_base64 is None else base64.b64decode(self.value_base64)

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The Kafka headers: reason, detail and position, each as text in UTF-8."""
        position = self.position
        fields = {
            "nametag-schema": "dead_letter",
            "nametag-schema-version": str(self.schema_version),
            "nametag-reason": self.reason,
            "nametag-detail": self.detail,
            "nametag-topic": position.topic,
            "nametag-partition": str(position.partition),
            "nametag-offset": str(position.offset),
            "nametag-failed-at": self.failed_at.isoformat(),
        }
        return tuple((name, text.encode("utf-8", "backslashreplace")) for name, text in fields.items())

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/dead_letter.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))


EVENT_HEADERS = (
    ("nametag-schema", b"entity_event"),
    ("nametag-schema-version", str(SCHEMA_VERSION).encode()),
)


def read_post(message: Message, *, max_bytes: int) -> Post:
    """The post in `message`: JSON of our schema, or a v1.1 tweet. Raises `BadMessage` with the reason."""
    if message.value is None:
        raise BadMessage(Reason.EMPTY, "the message has no value")
    if len(message.value) > max_bytes:
        raise BadMessage(Reason.TOO_LARGE, f"the message exceeds the limit of {max_bytes} bytes (max_post_bytes)")
    body = _read_object(message.value)
    if kind := tweets.control_kind(body):
        raise BadMessage(Reason.NOT_A_POST, f"it is a stream's {kind} notice, not a post")
    is_tweet = tweets.is_tweet(body)
    try:
        fields = tweets.post_fields(body) if is_tweet else body
    except (TypeError, ValueError, OverflowError, AttributeError) as error:
        # A tweet's fields may be of any type; one that nobody thought of must not stop the partition.
        raise BadMessage(Reason.NOT_A_POST, "it looks like a tweet, but its fields are not a tweet's") from error
    if fields.get("text") is None:
        raise BadMessage(Reason.NO_TEXT, "the post has no text; send an empty one for a picture alone")
    try:
        return (Tweet if is_tweet else Post).model_validate(fields)
    except ValidationError as error:
        raise BadMessage(Reason.NOT_A_POST, _explain(error)) from error


def _read_object(data: bytes) -> dict[str, Any]:
    try:
        body = wire.loads(data)
    except ValueError as error:
        # The parser's own words may quote the input, which must not reach a log: only the place does.
        where = f" at character {error.pos}" if hasattr(error, "pos") else ""
        raise BadMessage(Reason.NOT_JSON, f"the message is no JSON in UTF-8{where}") from error
    if not isinstance(body, dict):
        raise BadMessage(Reason.NOT_A_POST, "the message is JSON, but no JSON object")
    return body


# What is wanted of each field of a post, as far as a post can be refused for it.
_WANTED = {
    "id": "must be a string of 1 to 256 characters without half of a surrogate pair, or a whole number of 64 bits",
    "text": "must be a string",
    "image_url": "must be a string",
    "image_urls": "must be a list of strings",
    "source": "must be a string",
    "lang": "must be a string",
}


def _explain(error: ValidationError) -> str:
    """What is wrong in our own words: the validator's would speak of Python's types, and may quote the post."""
    problems = {str(problem["loc"][0]): problem["type"] for problem in error.errors(include_url=False)}
    return "; ".join(
        f"the post has no {field}" if kind == "missing" else f"the post's {field} {_WANTED[field]}"
        for field, kind in problems.items()
    )


def _is_blank(url: object) -> bool:
    return url is None or (isinstance(url, str) and not url.strip())


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each message, by file name."""
    models: dict[str, tuple[type[WireModel], Literal["validation", "serialization"]]] = {
        "post.schema.json": (Post, "validation"),
        "entity_event.schema.json": (EntityEvent, "serialization"),
        "dead_letter.schema.json": (DeadLetter, "serialization"),
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: dialect | model.model_json_schema(mode=mode) for name, (model, mode) in models.items()}


def write_schemas(folder: Path = SCHEMA_FOLDER) -> None:
    """Write the schemas into `folder`, as they are checked in."""
    folder.mkdir(exist_ok=True)
    for name, schema in json_schemas().items():
        (folder / name).write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_schemas()
