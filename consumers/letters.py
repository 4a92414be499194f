"""Dead letters as they stand on their topic, and the marks of those that were put back.

Nothing in them is trusted: whoever may write to the topic may have written them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from consumers import wire
from consumers.dead_letters import MAX_DETAIL_CHARACTERS, foreign_headers
from consumers.errors import Reason
from consumers.history import Failure, Header, cut, read_history
from consumers.source import Message, Partition, Position

RETRIED_HEADER = "nametag-retried"
"""Marks a letter as put back: its value is the letter's position, `topic[partition]@offset`."""

MAX_REASON_CHARACTERS = 64
MAX_NAME_CHARACTERS = 64
MAX_LISTED_CHARACTERS = 300

_POSITION = re.compile(r"(?:([A-Za-z0-9._-]{1,249})\[([0-9]{1,9})\]|([0-9]{1,9}))@([0-9]{1,18})")


def read_position(text: str, topic: str) -> Position:
    """The position `topic[partition]@offset`, or `partition@offset` on `topic`. Raises a ValueError."""
    match = _POSITION.fullmatch(text)
    if match is None:
        raise ValueError("a position is topic[partition]@offset, or partition@offset for short")
    named, partition, short, offset = match.groups()
    return Position(Partition(named or topic, int(partition or short)), int(offset))


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter in full, with the message that failed.

    `origin` is where the message stood, where the letter says so. `is_without_bytes`: the message was too
    large for the dead-letters topic, and stands at `origin` alone.
    """

    position: Position
    reason: str
    detail: str
    failed_at: datetime
    origin: Position | None
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]
    num_headers_left_out: int
    num_tries: int
    history: tuple[Failure, ...]
    is_without_bytes: bool

    @property
    def num_bytes(self) -> int:
        """What the letter holds of its message: key, value and headers."""
        headers = sum(len(name) + len(value) for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A letter in a list: small, whatever the letter is.

    `name` is the message's key, or else the post's id; `num_bytes` counts key, value and headers.
    """

    position: Position
    reason: str
    detail: str
    failed_at: datetime
    origin: Position | None
    name: str
    num_bytes: int
    num_failures: int
    is_without_bytes: bool

    @classmethod
    def of(cls, letter: Letter) -> "Entry":
        """What a list tells of `letter`."""
        return cls(
            position=letter.position,
            reason=letter.reason,
            detail=cut(letter.detail, MAX_LISTED_CHARACTERS),
            failed_at=letter.failed_at,
            origin=letter.origin,
            name=cut(_name(letter), MAX_NAME_CHARACTERS),
            num_bytes=letter.num_bytes,
            num_failures=max(1, len(letter.history)),
            is_without_bytes=letter.is_without_bytes,
        )


def read_letter(message: Message) -> Letter | None:
    """The dead letter that a message of the dead-letters topic is; None where it is something else."""
    # Ours stand behind those that the failed message brought.
    own = {name: value.decode("utf-8", "replace") for name, value in message.headers}
    if "nametag-reason" not in own or RETRIED_HEADER in own:
        return None
    is_without_bytes = own.get("nametag-bytes-left-out") == "true"
    reason = own["nametag-reason"]
    # The client sends no record without both key and value, so the sink gives such a letter an empty value.
    had_no_value = message.key is None and not message.value and (is_without_bytes or reason == Reason.EMPTY)
    return Letter(
        position=message.position,
        reason=cut(reason, MAX_REASON_CHARACTERS),
        detail=cut(own.get("nametag-detail", ""), MAX_DETAIL_CHARACTERS),
        failed_at=_moment(own.get("nametag-failed-at", ""), message.timestamp_ms),
        origin=_origin(own),
        key=message.key,
        value=None if had_no_value else message.value,
        headers=foreign_headers(message.headers),
        num_headers_left_out=_number(own.get("nametag-headers-left-out")) or 0,
        num_tries=max(1, _number(own.get("nametag-num-tries")) or 1),
        history=read_history(message.headers),
        is_without_bytes=is_without_bytes,
    )


def read_mark(message: Message) -> Position | None:
    """The position of the letter that `message` marks as put back; None where it is no mark."""
    told = [value for name, value in message.headers if name == RETRIED_HEADER]
    if not told:
        return None
    try:
        marked = read_position(told[-1].decode("ascii"), message.position.partition.topic)
    except ValueError:
        return None
    is_ahead = marked.partition == message.position.partition and marked.offset < message.position.offset
    return marked if is_ahead else None


def _name(letter: Letter) -> str:
    if letter.key is not None:
        try:
            return letter.key.decode("utf-8")
        except UnicodeDecodeError:
            return "0x" + letter.key[:MAX_NAME_CHARACTERS].hex()
    try:
        body = wire.loads(letter.value or b"")
    except ValueError:
        return ""
    found = (body.get("id_str") or body.get("id")) if isinstance(body, dict) else None
    return str(found) if isinstance(found, str | int) and not isinstance(found, bool) else ""


def _origin(own: Mapping[str, str]) -> Position | None:
    partition, offset = _number(own.get("nametag-partition")), _number(own.get("nametag-offset"))
    topic = own.get("nametag-topic")
    if not topic or partition is None or offset is None:
        return None
    return Position(Partition(cut(topic, 255), partition), offset)


def _number(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch("[0-9]{1,18}", text) else None


def _moment(text: str, timestamp_ms: int | None) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    try:
        return datetime.fromtimestamp((timestamp_ms or 0) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)
