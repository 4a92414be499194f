"""What a record of the entities topic is: an event, a tombstone, or something to refuse."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import ValidationError

from consumers.deletes import Tombstone
from consumers.errors import BadEvent, NewerSchema
from consumers.events import EntityEvent
from consumers.source import Message
from consumers.wire import SCHEMA_VERSION, PositionReport

EventOrTombstone = EntityEvent | Tombstone


def read_record(message: Message) -> EventOrTombstone:
    """The event, or the tombstone of a post that was taken back, for a record without a value.

    Raises `NewerSchema` or `BadEvent`, with the record's position.
    """
    try:
        headers = {name: value.decode("utf-8", "replace") for name, value in message.headers}
        _check_headers(headers)
        return _tombstone(message, headers) if message.value is None else EntityEvent.from_json(message.value)
    except (NewerSchema, BadEvent) as error:
        raise error.at(str(message.position)) from None


def _check_headers(headers: Mapping[str, str]) -> None:
    version = headers.get("nametag-schema-version", "")
    if version.isascii() and version.isdigit() and len(version) < 10 and int(version) > SCHEMA_VERSION:
        raise NewerSchema(f"schema version {version}", SCHEMA_VERSION)
    schema = headers.get("nametag-schema", "entity_event")
    if schema not in ("entity_event", "tombstone"):
        raise BadEvent(f"its header nametag-schema says {schema[:64]!r}")


def _tombstone(message: Message, headers: Mapping[str, str]) -> Tombstone:
    if not message.key:
        raise BadEvent("it has neither a value nor a key")
    try:
        return Tombstone(
            id=message.key.decode("utf-8"),
            deleted_at=_moment(headers.get("nametag-deleted-at", "")),
            position=_position(headers),
        )
    except UnicodeDecodeError:
        raise BadEvent("it has no value, and its key is no UTF-8") from None


def _moment(text: str) -> datetime | None:
    # That the post is gone counts, whatever stands beside it.
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def _position(headers: Mapping[str, str]) -> PositionReport | None:
    fields = {name: headers.get(f"nametag-{name}") for name in ("topic", "partition", "offset")}
    try:
        return PositionReport.model_validate(fields)
    except ValidationError:
        return None
