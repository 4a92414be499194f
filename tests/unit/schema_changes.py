"""What a change of a JSON Schema breaks, by the rules in `consumers/schemas/README.md`.

A message that nametag writes must go on to fit what its readers were told; one that it reads may only be allowed more.
Either way no field goes away. Keywords that this doesn't know are a mistake, so that none is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]

SAYS_NOTHING = {"title", "description", "default", "$schema", "$defs", "examples"}
KNOWN = {"$ref", "anyOf", "type", "const", "enum", "format", "pattern", "contentMediaType"}
KNOWN |= {"properties", "required", "items"}
LEAST = {"minimum", "exclusiveMinimum", "minLength", "minItems"}
MOST = {"maximum", "exclusiveMaximum", "maxLength", "maxItems"}
SAME = ("const", "format", "pattern", "contentMediaType")


@dataclass(frozen=True, slots=True)
class Side:
    """A schema, and the document that its references are looked up in."""

    schema: Json
    document: Json

    def at(self, schema: Json) -> "Side":
        return Side(schema, self.document)

    @property
    def forms(self) -> "list[Side]":
        """The alternatives, references followed."""
        schema = self.schema
        if "$ref" in schema:
            target: Any = self.document
            for key in schema["$ref"].removeprefix("#/").split("/"):
                target = target[key]
            return self.at(target).forms
        return [form for each in schema["anyOf"] for form in self.at(each).forms] if "anyOf" in schema else [self]

    @property
    def is_object(self) -> bool:
        return self.schema.get("type") == "object"


def breaks(old: Json, new: Json, direction: Literal["written", "read"], documents: tuple[Json, Json]) -> list[str]:
    """What is broken by going from `old` to `new`, a line each; `documents` are where their references lead."""
    before, after = Side(old, documents[0]), Side(new, documents[1])
    narrow, wide = (after, before) if direction == "written" else (before, after)
    return [*_gone(before, after, ""), *_unfit(narrow, wide, "", is_open=direction == "written")]


def _gone(before: Side, after: Side, place: str) -> Iterator[str]:
    """Fields that are there no more, wherever both have an object."""
    for old in before.forms:
        for new in after.forms:
            if old.is_object and new.is_object:
                was, now = old.schema.get("properties", {}), new.schema.get("properties", {})
                for name, field in was.items():
                    if name not in now:
                        yield f"{place}/{name} was removed or renamed"
                    else:
                        yield from _gone(old.at(field), new.at(now[name]), f"{place}/{name}")
            elif "items" in old.schema and "items" in new.schema:
                yield from _gone(old.at(old.schema["items"]), new.at(new.schema["items"]), f"{place}[]")


def _unfit(narrow: Side, wide: Side, place: str, *, is_open: bool) -> Iterator[str]:
    """Why values of `narrow` are none of `wide`: each of its alternatives has to fit one there."""
    for form in narrow.forms:
        found = [list(_misfits(form, other, place, is_open=is_open)) for other in wide.forms]
        if all(found):
            yield from min(found, key=len)


def _misfits(narrow: Side, wide: Side, place: str, *, is_open: bool) -> Iterator[str]:
    one, other = narrow.schema, wide.schema
    for schema in (one, other):
        if unknown := set(schema) - SAYS_NOTHING - KNOWN - LEAST - MOST:
            raise ValueError(f"{place}: schema_changes.py doesn't know {', '.join(sorted(unknown))}")
    if "type" in other and one.get("type") not in (other["type"], "integer" if other["type"] == "number" else None):
        yield f"{place} is of type {one.get('type')} on one side and {other['type']} on the other"
        return
    yield from (f"{place}: {word} differs" for word in SAME if word in other and one.get(word) != other[word])
    yield from (f"{place}: {word} differs" for word in LEAST & set(other) if one.get(word, -1e99) < other[word])
    yield from (f"{place}: {word} differs" for word in MOST & set(other) if one.get(word, 1e99) > other[word])
    if "enum" in other:
        # Readers have been told to expect members that they don't know.
        lost = set(one.get("enum", ())) - set(other["enum"])
        if "enum" not in one or (lost and not is_open):
            yield f"{place}: {', '.join(sorted(lost)) or 'any value'} is no member on one side"
    yield from (
        f"{place}/{name} is required on one side alone"
        for name in other.get("required", ())
        if name not in one.get("required", ())
    )
    fields, others = one.get("properties", {}), other.get("properties", {})
    for name in [name for name in fields if name in others]:
        yield from _unfit(narrow.at(fields[name]), wide.at(others[name]), f"{place}/{name}", is_open=is_open)
    if "items" in other:
        yield from _unfit(narrow.at(one.get("items", {})), wide.at(other["items"]), f"{place}[]", is_open=is_open)
