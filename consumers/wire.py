"""JSON on the wire: orjson, and the standard library for the lone surrogates that orjson refuses."""

import json
from datetime import datetime
from typing import Any

import orjson


def loads(data: bytes) -> Any:
    """Parse JSON. Raises a ValueError on anything that is not strict JSON in UTF-8."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # Half an emoji ("\ud83d") is no Unicode, yet real posts hold it; the standard library reads it.
        if b"\\u" not in data:
            raise
        try:
            return json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        except RecursionError as error:
            raise ValueError("nested too deeply") from error


def dumps(value: Any) -> bytes:
    """Write `value` as one line of JSON; lone surrogates are escaped, so that the bytes are UTF-8."""
    try:
        return orjson.dumps(value)
    except (TypeError, UnicodeEncodeError):
        return json.dumps(value, default=_write, separators=(",", ":")).encode("ascii")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _write(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} can't be written as JSON")
