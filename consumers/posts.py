"""A post, as it comes in on the posts topic, and how it is read."""

import random
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AwareDatetime,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from consumers import tweets, wire
from consumers.deletes import MAX_ID_CHARACTERS, Delete, Notice, delete_of, id_of, moment_of
from consumers.errors import BadMessage, Reason
from consumers.source import Message
from consumers.tweets import ShownText
from consumers.wire import WireModel

ImageUrl = Annotated[str, StringConstraints(min_length=1)]

PostId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_CHARACTERS)]

# JSON's readers don't agree on larger ones: orjson makes them fractions.
WHOLE_NUMBERS = range(-(2**63), 2**64)
WholeNumber = Annotated[int, Field(ge=WHOLE_NUMBERS.start, lt=WHOLE_NUMBERS.stop)]

ImageChoice = Literal["first", "random"]


class PostImage(NamedTuple):
    """One picture of a post: where it is, and its id, where the post came as a tweet."""

    url: str
    media_id: str | None = None


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
            moment = read(value)
            # Whoever reads the event wants it in UTC, where the first and the last hours have no year.
            moment.astimezone(UTC)
        except (ValueError, OverflowError, AttributeError):
            # A post without its date is still a post.
            return None
        return moment

    @cached_property
    def shown(self) -> ShownText:
        """The text as its readers see it, which is what the tagger reads."""
        return ShownText(self.text)

    def choose_image(self, choice: ImageChoice) -> PostImage | None:
        """The picture to look at; `random` is seeded by the id, so a replay chooses the same."""
        urls = self.image_urls or ((self.image_url,) if self.image_url else ())
        if not urls:
            return None
        place = 0 if choice == "first" else random.Random(self.id).choice(range(len(urls)))
        return PostImage(urls[place], self.media_id(place))

    def media_id(self, place: int) -> str | None:
        """The id of the picture at `place`, where there is one."""
        return None


class Tweet(Post):
    """A post that came as a v1.1 tweet: its text is as Twitter's API has it, and its readers see another."""

    shown_range: tuple[int, int] | None = None
    media_ids: tuple[str, ...] = ()
    """One for each of `image_urls`; empty for none."""

    def media_id(self, place: int) -> str | None:
        """Twitter's id of the picture at `place`."""
        return self.media_ids[place] or None if place < len(self.media_ids) else None

    @cached_property
    def shown(self) -> ShownText:
        """The part that Twitter shows, with its escapes turned back."""
        return ShownText.of_tweet(self.text, self.shown_range)


def read_message(message: Message, *, max_bytes: int) -> Post | Delete | Notice:
    """What `message` is: a post of our schema, a v1.1 tweet, a delete, or another notice of Twitter's stream.

    A message without a value takes back the post that its key names, as is the custom on Kafka; it may come again.
    Raises `BadMessage` with the reason.
    """
    if message.value is None:
        return _delete_by_key(message)
    body = read_object(message.value, max_bytes=max_bytes)
    if kind := tweets.control_kind(body):
        if delete := delete_of(body):
            return delete
        if kind == "delete":
            raise BadMessage(Reason.NOT_A_POST, "it is a delete that names no post")
        return Notice(kind)
    try:
        return post_of(body)
    except BadMessage as error:
        error.post_id = id_of(body)
        raise


def ids_of_bad(message: Message, error: BadMessage) -> tuple[str, ...]:
    """The ids of the post that a message may have been which can't be read: its own, and its key."""
    key = (message.key or b"").decode("utf-8", "replace")
    return tuple(dict.fromkeys(filter(None, (error.post_id, key))))


def _delete_by_key(message: Message) -> Delete:
    with suppress(UnicodeDecodeError):
        if 0 < len(post_id := (message.key or b"").decode()) <= MAX_ID_CHARACTERS:
            return Delete(post_id, moment_of(message.timestamp_ms), is_final=False)
    raise BadMessage(Reason.EMPTY, "the message has no value, and no key that names a post to delete")


def read_object(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """The JSON object in `data`. Raises `BadMessage` with the reason."""
    if len(data) > max_bytes:
        raise BadMessage(Reason.TOO_LARGE, f"the message exceeds the limit of {max_bytes} bytes (max_post_bytes)")
    try:
        body = wire.loads(data)
    except ValueError as error:
        # The parser's own words may quote the input, which must not reach a log: only the place does.
        where = f" at character {error.pos}" if hasattr(error, "pos") else ""
        raise BadMessage(Reason.NOT_JSON, f"the message is no JSON in UTF-8{where}") from error
    if not isinstance(body, dict):
        raise BadMessage(Reason.NOT_A_POST, "the message is JSON, but no JSON object")
    return body


def post_of(body: dict[str, Any]) -> Post:
    """The post that a JSON object is. Raises `BadMessage` with the reason."""
    is_tweet = tweets.is_tweet(body)
    try:
        fields = tweets.post_fields(body) if is_tweet else body
    except (TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        # A tweet's fields may be of any type; one that nobody thought of must not stop the partition.
        raise BadMessage(Reason.NOT_A_POST, "it looks like a tweet, but its fields are not a tweet's") from error
    if fields.get("text") is None:
        raise BadMessage(Reason.NO_TEXT, "the post has no text; send an empty one for a picture alone")
    try:
        return (Tweet if is_tweet else Post).model_validate(fields)
    except ValidationError as error:
        raise BadMessage(Reason.NOT_A_POST, _explain(error)) from error


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
