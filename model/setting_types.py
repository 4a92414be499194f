"""Whether the values of a dataclass, read from a file of a user's, are of the types that its fields say."""

import math
import types
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_LARGEST = 2**63
_SHOWN = 60
_NAMES: dict[object, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    type(None): "left out",
}


def wrong_type(settings: "DataclassInstance") -> str | None:
    """A sentence on the first field whose value isn't of its type, None where all are.

    A whole number will do for a number; NaN is none. A text holds no NUL, as no path may.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        if not _fits(value, hints[field.name]):
            shown = repr(value)
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
            return f"{field.name} must be {_told(hints[field.name])}, not {shown}"
    return None


def _fits(value: object, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, get_args(hint)[0]) for one in value)
    if hint is float:
        return (isinstance(value, float) and not math.isnan(value)) or _fits(value, int)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _LARGEST
    if hint is str:
        return isinstance(value, str) and "\0" not in value
    return isinstance(value, hint)


def _told(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_told(one) for one in get_args(hint) if one is not type(None))
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {_told(get_args(hint)[0])}"
    return _NAMES.get(hint, "a table")
