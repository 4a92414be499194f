"""Records as anybody may write them: a header's name is a string to Kafka's protocol, and bytes to its brokers."""

import functools
from typing import Any, SupportsIndex

from kafka.record.default_records import DefaultRecordBatch


class _Lenient(bytearray):
    """Bytes whose slices can always be decoded."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        found = super().__getitem__(place)
        return _Lenient(found) if isinstance(found, bytearray) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The text, with what is none of it as `\\xNN`."""
        return super().decode(encoding, "backslashreplace")


def accept_any_header_name() -> None:
    """Let one record with a header whose name isn't UTF-8 be read as all others are.

    kafka-python 3.0.12 takes it for a corrupt batch: its topic's readers would end there, and after every
    start again. Only such a batch is read in the slower, lenient way.
    """
    read = DefaultRecordBatch._read_msg
    if hasattr(read, "__wrapped__"):
        return

    @functools.wraps(read)
    def read_leniently(batch: Any, *arguments: Any) -> Any:
        start = batch._pos
        try:
            return read(batch, *arguments)
        except UnicodeDecodeError:
            batch._pos, batch._buffer = start, _Lenient(batch._buffer)
            return read(batch, *arguments)

    DefaultRecordBatch._read_msg = read_leniently
