"""Everything that can go wrong at the edges.

ConsumersError
├── BadMessage              dead-letter: the message can't be read as a post
├── SourceUnavailable       stop: nothing to read from, after what was tried
├── NoSuchLetter            stop: no dead letter stands there
├── BadEvent                raise or skip: a record of the entities topic is no event
├── NewerSchema             stop: an event of a newer nametag; nothing of it was handed out
├── RetryStopped            stop: the rest was not put back; running the same again goes on
└── ReplayStopped           stop: the rest of the posts was not put on the topic
"""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a message became a dead letter."""

    EMPTY = "empty"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_A_POST = "not_a_post"
    NO_TEXT = "no_text"
    TAGGING_FAILED = "tagging_failed"


class ConsumersError(Exception):
    """The root of all errors of this package."""


class BadMessage(ConsumersError):
    """Raised when a message can't be read as a post. It becomes a dead letter with this reason.

    `post_id` is that of the post which it may be, as far as that could be read.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.post_id: str | None = None


class SourceUnavailable(ConsumersError):
    """Raised when the source can't be read at all. The worker stops and says what to do."""


class NoSuchLetter(ConsumersError):
    """Raised when a position of the dead-letters topic holds no dead letter."""


class BadEvent(ConsumersError):
    """Raised when a record is no event. The reader stands before it, or skips it with `on_bad="skip"`."""

    def __init__(self, detail: str, where: str = "this") -> None:
        super().__init__(
            f'{where} is no event of nametag: {detail}; find out who wrote it, or read on with on_bad="skip"'
        )
        self.detail = detail
        self.where = where

    def at(self, where: str) -> Self:
        """The same, of the record at the position `where`."""
        return type(self)(self.detail, where)


class NewerSchema(ConsumersError):
    """Raised when an event was written by a newer nametag. The reader stands before it, and never skips it."""

    def __init__(self, found: str, known: int, where: str = "this") -> None:
        super().__init__(
            f"{where} has {found}, and this nametag knows up to {known}; upgrade nametag here and start again: "
            "the event was not handed out, nor its offset committed"
        )
        self.found = found
        self.known = known
        self.where = where

    def at(self, where: str) -> Self:
        """The same, of the record at the position `where`."""
        return type(self)(self.found, self.known, where)


class RetryStopped(ConsumersError):
    """Raised when dead letters are not put back, or not all. Says how far it came, and what to do."""


class ReplayStopped(ConsumersError):
    """Raised when a replay can't go on. Says how far it came, and what to do."""
