"""How a message failed before: the history that travels with it, from dead letter to retry to dead letter."""

from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints, TypeAdapter, ValidationError

from consumers import wire
from consumers.wire import PositionReport, WireModel

HISTORY_HEADER = "nametag-history"

MAX_FAILURES = 20
MAX_HISTORY_BYTES = 16 * 1024
MAX_DETAIL_CHARACTERS = 300

Header = tuple[str, bytes]
"""A Kafka header: its name and its value."""


def cut(text: str, max_characters: int) -> str:
    """`text`, or its beginning with an ellipsis where it has more than `max_characters`."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _writable(value: object) -> object:
    # Half an emoji can't be checked for its length, nor written as UTF-8.
    if not isinstance(value, str):
        return value
    return cut(value.encode("utf-8", "backslashreplace").decode("utf-8"), MAX_DETAIL_CHARACTERS)


class Failure(WireModel):
    """One failure of a message: why, where it stood then, and when."""

    # No `Reason`: a later version of the worker may have written one that this one doesn't know.
    reason: Annotated[str, StringConstraints(max_length=64)] = Field(description="As the `reason` of a dead letter.")
    detail: Annotated[str, StringConstraints(max_length=MAX_DETAIL_CHARACTERS), BeforeValidator(_writable)] = Field(
        description="What was wrong, in a sentence; cut where it is long."
    )
    position: PositionReport
    failed_at: AwareDatetime
    num_tries: int | None = Field(None, ge=2, description="How often the worker tried, where more than once.")


_FAILURES = TypeAdapter(tuple[Failure, ...])


def bounded(failures: Sequence[Failure]) -> tuple[Failure, ...]:
    """The last of `failures`: at most `MAX_FAILURES`, and `MAX_HISTORY_BYTES` of JSON."""
    kept = tuple(failures[-MAX_FAILURES:])
    while len(history_json(kept)) > MAX_HISTORY_BYTES:
        kept = kept[1:]
    return kept


def history_json(failures: Sequence[Failure]) -> bytes:
    """The value of the header `nametag-history`: a JSON array, oldest first."""
    return wire.dumps([failure.model_dump(exclude_none=True) for failure in failures])


def read_history(headers: Iterable[Header]) -> tuple[Failure, ...]:
    """The failures that a message's headers tell of, oldest first.

    Anybody may have written the header: one that is malformed, or larger than we write it, tells of none.
    """
    told = [value for name, value in headers if name == HISTORY_HEADER]
    if not told or len(told[-1]) > MAX_HISTORY_BYTES:
        return ()
    try:
        failures = wire.loads(told[-1])
        # Before they are validated, so that a long list costs no more than a short one.
        return bounded(_FAILURES.validate_python(failures[-MAX_FAILURES:])) if isinstance(failures, list) else ()
    except (ValidationError, ValueError, OverflowError):
        return ()
