"""A post that was taken back: how its delete comes in, and the tombstone that goes out for it."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, ConfigDict, Field

from consumers import wire
from consumers.wire import SCHEMA_VERSION, PositionReport, TracedModel, require_defaults

MAX_ID_CHARACTERS = 256

EVERYWHERE = frozenset({"XX", "XY"})
"""In place of a country: withheld in all of them, or for a copyright."""


class Delete(NamedTuple):
    """That the post `id` is no more; `deleted_at` is when it was taken back, where that was told.

    `is_final`: no post has this id again, so one that comes after its delete is late, and no new one.
    """

    id: str
    deleted_at: datetime | None = None
    is_final: bool = True

    @property
    def created_at(self) -> None:
        """None: when the post was made isn't told."""
        return None


class Notice(NamedTuple):
    """A notice of a stream that is about no single post, such as `limit` or `scrub_geo`."""

    kind: str


class Tombstone(TracedModel):
    """That a post is no more: what was learnt of it has to go.

    On Kafka it is a record without a value under the post's id, as compaction wants it, and its fields are headers; a
    JSONL file has this record.
    """

    model_config = ConfigDict(json_schema_extra=require_defaults)

    schema_version: Literal[1] = SCHEMA_VERSION
    id: str
    deleted: Annotated[Literal[True], Field(description="What tells a tombstone from an event.")] = True
    deleted_at: AwareDatetime | None = Field(None, description="When the post was taken back, where that was told.")
    position: PositionReport | None = Field(None, description="Where the delete stood on its topic.")

    @property
    def headers(self) -> tuple[tuple[str, bytes], ...]:
        """The Kafka headers, each as text in UTF-8."""
        fields: dict[str, object] = {}
        if self.deleted_at:
            fields["deleted-at"] = self.deleted_at.isoformat()
        if self.position:
            fields |= {name: getattr(self.position, name) for name in ("topic", "partition", "offset")}
        own = ((f"nametag-{name}", str(value).encode()) for name, value in fields.items())
        return (*TOMBSTONE_HEADERS, *own, *self._trace)

    def to_json(self) -> bytes:
        """One line of JSON, as in `schemas/tombstone.schema.json`."""
        return wire.dumps(self.model_dump(exclude_none=True))


TOMBSTONE_HEADERS = (
    ("nametag-schema", b"tombstone"),
    ("nametag-schema-version", str(SCHEMA_VERSION).encode()),
)


def delete_of(body: dict[str, Any]) -> Delete | None:
    """The delete that a notice of Twitter's stream is; None for any other, and for one that names no post.

    A post that is withheld everywhere is to be treated as deleted; one that some countries may not see isn't.
    """
    if isinstance(delete := body.get("delete"), dict):
        # Older notices have the post directly in `delete`.
        status = delete.get("status", delete)
        return _delete(status, delete.get("timestamp_ms")) if isinstance(status, dict) else None
    if isinstance(withheld := body.get("status_withheld"), dict):
        countries = withheld.get("withheld_in_countries")
        if isinstance(countries, list) and EVERYWHERE & {each for each in countries if isinstance(each, str)}:
            return _delete(withheld, withheld.get("timestamp_ms"))
    return None


def id_of(body: dict[str, Any]) -> str | None:
    """The id in a tweet, a post or a notice of one; None where that can be no post's."""
    post_id = body.get("id_str") or body.get("id")
    if isinstance(post_id, int) and not isinstance(post_id, bool):
        post_id = str(post_id)
    if not isinstance(post_id, str) or not 0 < len(post_id) <= MAX_ID_CHARACTERS:
        return None
    # Half of a surrogate pair is in no key on Kafka.
    return None if any("\ud800" <= character <= "\udfff" for character in post_id) else post_id


def moment_of(timestamp_ms: object) -> datetime | None:
    """The moment of a Unix time; None for what is none."""
    try:
        return datetime.fromtimestamp(int(timestamp_ms) / 1000, UTC)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _delete(status: dict[str, Any], timestamp_ms: object) -> Delete | None:
    post_id = id_of(status)
    return None if post_id is None else Delete(post_id, moment_of(timestamp_ms))
