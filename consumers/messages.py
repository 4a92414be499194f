"""The messages of nametag and their JSON Schemas: post in; entity event, tombstone and dead letter out.

The schemas in `consumers/schemas/`, and the AsyncAPI document of the topics, are generated from the models
(`python -m consumers.messages`); a test keeps them equal. `consumers/schemas/README.md` says how they may change.
"""

import json
from pathlib import Path
from typing import Any, Literal

from consumers.asyncapi import asyncapi_document
from consumers.dead_letters import DeadLetter
from consumers.deletes import Tombstone
from consumers.events import EntityEvent
from consumers.posts import Post
from consumers.wire import WireModel

SCHEMA_FOLDER = Path(__file__).parent / "schemas"


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema (2020-12) of each message, by file name."""
    models: dict[str, tuple[type[WireModel], Literal["validation", "serialization"]]] = {
        "post.schema.json": (Post, "validation"),
        "entity_event.schema.json": (EntityEvent, "serialization"),
        "tombstone.schema.json": (Tombstone, "serialization"),
        "dead_letter.schema.json": (DeadLetter, "serialization"),
    }
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {name: dialect | model.model_json_schema(mode=mode) for name, (model, mode) in models.items()}


def documents() -> dict[str, dict[str, Any]]:
    """All that is generated: the JSON Schemas and the AsyncAPI document, by file name."""
    return {**json_schemas(), "asyncapi.json": asyncapi_document()}


def write_schemas(folder: Path = SCHEMA_FOLDER) -> None:
    """Write the documents into `folder`, as they are checked in."""
    folder.mkdir(exist_ok=True)
    for name, schema in documents().items():
        (folder / name).write_text(json.dumps(schema, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_schemas()
