"""Entity events as rows of a Parquet file. The columns come from the model: none can be forgotten."""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, BinaryIO, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel

from consumers.events import EntityEvent
from consumers.source import Message
from worker.errors import SettingsError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as missing:
    raise SettingsError(
        "Parquet needs pyarrow: pip install 'nametag[parquet]', or export to a file that ends in .jsonl"
    ) from missing

MAX_ROWS = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""Of events as they stood on the topic. A row group is written when either is reached."""

FLAT = "position"
"""The one part whose fields are columns of their own: topic, partition and offset of the post."""

PUBLISHED = "published_at"
"""The one column that isn't in the event: the time at which it was put on the topic."""

_PLAIN: Mapping[Any, Any] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    datetime: pa.timestamp("us", tz="UTC"),
    AwareDatetime: pa.timestamp("us", tz="UTC"),
}


def schema_of(model: type[BaseModel]) -> Any:
    """The Arrow schema of the events' file."""
    columns = []
    for field in _fields(model):
        columns += list(field.type) if field.name == FLAT else [field]
    return pa.schema([*columns, pa.field(PUBLISHED, _PLAIN[datetime])])


def _fields(model: type[BaseModel]) -> list[Any]:
    fields = []
    for name, field in model.model_fields.items():
        kind, is_optional = _arrow(field.annotation)
        fields.append(pa.field(name, kind, nullable=is_optional))
    return fields


def _arrow(annotation: Any) -> tuple[Any, bool]:
    """Arrow's type of an annotation, and whether it may be missing. Raises a TypeError for one we never had."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _arrow(arguments[0])
    if origin in (Union, UnionType):
        kinds = {_arrow(each)[0] for each in arguments if each is not NoneType}
        if len(kinds) == 1:
            return kinds.pop(), NoneType in arguments
    if origin is Literal:
        return _arrow(type(arguments[0]))
    if origin in (tuple, list) and (len(arguments) == 1 or arguments[1:] == (...,)):
        return pa.list_(pa.field("element", _arrow(arguments[0])[0], nullable=False)), False
    if annotation in _PLAIN:
        return _PLAIN[annotation], False
    if isinstance(annotation, type):
        if issubclass(annotation, BaseModel):
            return pa.struct(_fields(annotation)), False
        if issubclass(annotation, Enum):
            return pa.string(), False
    raise TypeError(f"{annotation} has no column type yet; give it one here")


class ParquetFile:
    """Writes row groups into an open file; a context manager that completes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._schema = schema_of(EntityEvent)
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []
        self._num_bytes = 0

    def write(self, event: EntityEvent, message: Message) -> None:
        """Add an event."""
        row = event.model_dump()
        row |= row.pop(FLAT)
        at = message.timestamp_ms
        row[PUBLISHED] = None if at is None else datetime.fromtimestamp(at / 1000, UTC)
        self._rows.append(row)
        self._num_bytes += message.num_bytes
        if len(self._rows) >= MAX_ROWS or self._num_bytes >= MAX_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the footer."""
        if self._rows:
            self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Let go of the file, which isn't to be kept, before it is closed."""
        with suppress(Exception):
            self._writer.close()
        # Or it would write its footer when it is collected, wherever the program is by then.
        self._writer.is_open = False

    def _flush(self) -> None:
        try:
            table = pa.Table.from_pylist(self._rows, schema=self._schema)
        except UnicodeEncodeError:
            # Half an emoji is no Unicode, and no text in Parquet; the replacement is one code point, too.
            table = pa.Table.from_pylist([_unicode(row) for row in self._rows], schema=self._schema)
        self._writer.write_table(table)
        self._rows, self._num_bytes = [], 0


def _unicode(value: Any) -> Any:
    if isinstance(value, str):
        return "".join("\ufffd" if "\ud800" <= each <= "\udfff" else each for each in value)
    if isinstance(value, dict):
        return {name: _unicode(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_unicode(each) for each in value]
    return value
