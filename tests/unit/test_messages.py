"""The shipped schemas and the AsyncAPI document."""

import json

from consumers.messages import SCHEMA_FOLDER, documents


def test_the_schemas_are_those_of_the_code() -> None:
    """The checked-in documents are equal to what the code generates (`make schemas`)."""
    for name, schema in documents().items():
        assert json.loads((SCHEMA_FOLDER / name).read_text(encoding="utf-8")) == schema
