"""The AsyncAPI document, as AsyncAPI's own parser reads it."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from consumers.messages import SCHEMA_FOLDER
from tests.node import package, run_node

SCRIPT = Path(__file__).with_name("validate_asyncapi.cjs")
DOCUMENT = json.loads((SCHEMA_FOLDER / "asyncapi.json").read_text(encoding="utf-8"))


def validate(document: Any) -> tuple[int, str]:
    done = run_node(SCRIPT, str(package("@asyncapi/parser")), stdin=json.dumps(document).encode())
    assert not done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode()


def test_the_document_is_valid() -> None:
    """No error and no warning; every message and operation is there."""
    status, told = validate(DOCUMENT)
    assert status == 0, told
    seen = json.loads(told)
    assert seen["operations"] == 3
    assert sorted(seen["messages"]) == sorted(DOCUMENT["components"]["messages"])


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("asyncapi",), "3.9.0"),
        (("channels", "posts", "messages", "post", "$ref"), "#/components/messages/lost"),
        (("operations", "sendEntities", "action"), "publish"),
        (("components", "schemas", "Entity", "properties", "start", "type"), "number of letters"),
        (("channels", "deadLetters", "bindings", "kafka", "partitions"), "many"),
    ],
)
def test_the_validator_finds_what_is_wrong(place: tuple[str, ...], wrong: str) -> None:
    """A wrong version, reference, action, schema or binding is refused."""
    document = part = deepcopy(DOCUMENT)
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = wrong
    status, told = validate(document)
    assert status == 1, told
