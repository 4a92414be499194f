"""Everything that can go wrong at the edges.

ConsumersError
├── BadMessage              dead-letter: the message can't be read as a post
├── SourceUnavailable       stop: nothing to read from, after what was tried
├── NoSuchLetter            stop: no dead letter stands there
├── RetryStopped            stop: the rest was not put back; running the same again goes on
└── ReplayStopped           stop: the rest of the posts was not put on the topic
"""

from enum import StrEnum


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
    """Raised when a message can't be read as a post. It becomes a dead letter with this reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class SourceUnavailable(ConsumersError):
    """Raised when the source can't be read at all. The worker stops and says what to do."""


class NoSuchLetter(ConsumersError):
    """Raised when a position of the dead-letters topic holds no dead letter."""


class RetryStopped(ConsumersError):
    """Raised when dead letters are not put back, or not all. Says how far it came, and what to do."""


class ReplayStopped(ConsumersError):
    """Raised when a replay can't go on. Says how far it came, and what to do."""
