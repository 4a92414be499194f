"""The shipped schemas."""

import json

from consumers.messages import SCHEMA_FOLDER, json_schemas


def test_the_schemas_are_those_of_the_code() -> None:
    """The checked-in schemas are equal to what the models generate (`make schemas`)."""
    for name, schema in json_schemas().items():
        assert json.loads((SCHEMA_FOLDER / name).read_text(encoding="utf-8")) == schema
