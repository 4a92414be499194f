"""The parts of `nametag export`: columns, row groups, and which event of a post is the last."""

import gc
import io
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from consumers.deletes import Tombstone
from consumers.events import EntityEvent
from consumers.source import Message, Partition, Position
from tests.integration.event_tools import event
from worker import cli_downstream, export_tables
from worker.cli import main
from worker.export_choice import By, LastWords
from worker.export_tables import ParquetFile, schema_of


def message(number: int, offset: int, at: int = 0) -> Message:
    return Message(position=Position(Partition("entities", number), offset), value=b"", timestamp_ms=at)


def test_no_field_of_an_event_is_forgotten() -> None:
    """The columns are the model's, in all its depth; what a new field's type may be has to be decided."""
    schema = schema_of(EntityEvent)
    fields = set(EntityEvent.model_fields) - {"position"}
    assert set(schema.names) == fields | {"topic", "partition", "offset", "published_at"}
    entity = schema.field("entities").type.value_type
    kind = EntityEvent.model_fields["entities"].annotation.__args__[0]  # type: ignore[union-attr]
    assert {entity.field(n).name for n in range(entity.num_fields)} == set(kind.model_fields)

    class Odd(BaseModel):
        odd: dict[str, int]

    with pytest.raises(TypeError, match="has no column type yet"):
        schema_of(Odd)

    class Fine(BaseModel):
        raw: EntityEvent | None = None
        list_of: tuple[tuple[float, ...], ...] | None = None

    assert schema_of(Fine).field("raw").nullable
    assert schema_of(Fine).field("list_of").type.value_type.value_type == pa.float64()


@pytest.mark.parametrize(("limit", "num"), [("MAX_ROWS", 10), ("MAX_BYTES", 10 * 500)])
def test_row_groups_are_bounded(monkeypatch: pytest.MonkeyPatch, limit: str, num: int) -> None:
    """By rows and by bytes."""
    monkeypatch.setattr(export_tables, limit, num)
    file = io.BytesIO()
    target = ParquetFile(file)
    for number in range(25):
        target.write(event(number), message(0, number))
    target.close()
    found = pq.ParquetFile(file)
    assert [found.metadata.row_group(n).num_rows for n in range(found.num_row_groups)] == [10, 10, 5]
    assert found.read().column("id").to_pylist() == [str(n) for n in range(25)]


def test_an_empty_export_has_its_columns() -> None:
    """So that a reader finds a table."""
    file = io.BytesIO()
    ParquetFile(file).close()
    assert pq.ParquetFile(file).schema_arrow.equals(schema_of(EntityEvent))


def test_a_file_that_is_given_up_is_let_go() -> None:
    """Its footer isn't written when the writer is collected, into a file that is closed by then."""
    file = io.BytesIO()
    target = ParquetFile(file)
    target.abandon()
    file.close()
    del target
    gc.collect()  # what is raised there fails this test, or the next


def orders(records: list[Any]) -> Iterator[Any]:
    return itertools.permutations(records)


def test_what_is_last_does_not_hang_on_the_order_of_reading() -> None:
    """Partitions come in any order: by offset on one, by timestamp on two."""
    one, two = event(1), event(1, lang="en")
    for first, second in ((message(1, 3, 90), message(1, 4, 10)), (message(2, 8, 10), message(1, 4, 20))):
        for order in orders([(one, first), (two, second), (event(2), message(1, 5))]):
            with LastWords.opened() as last:
                for each in order:
                    last.note(*each)
                assert last.is_overtaken(one, first)
                assert not last.is_overtaken(two, second)
                assert not last.is_taken_back(two, second)
                last.note(Tombstone(id="1"), second)
                assert last.is_taken_back(one, first)


def test_many_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than are written at once; ids may hold half an emoji."""
    monkeypatch.setattr("worker.export_choice.ROWS_AT_ONCE", 7)
    with LastWords.opened() as last:
        for number in range(50):
            last.note(event(number % 10, id=f"\ud83d{number % 10}"), message(0, number))
        overtaken = [last.is_overtaken(event(n, id=f"\ud83d{n % 10}"), message(0, n)) for n in range(50)]
    assert overtaken == [True] * 40 + [False] * 10


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "--out"),
        (["--out", "x.csv"], "must end in .parquet or .jsonl"),
        (["--out", "x.jsonl", "--since", "soon"], "neither like 2h"),
        (["--out", "x.jsonl", "--since", "1h", "--until", "2h"], "--since must be before --until"),
        (["--out", "x.jsonl", "--by", "moon"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2 and what would be right."""
    with pytest.raises(SystemExit) as caught:
        main(["export", *arguments])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_times_are_the_same_in_help_and_in_deed() -> None:
    """They are written twice, so that help need not import them."""
    assert tuple(By) == cli_downstream.TIMES
