"""What is handed out, what counts as handed out, and what goes with its partition; and what a record is."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from consumers.deletes import Tombstone
from consumers.errors import BadEvent, NewerSchema
from consumers.event_records import read_record
from consumers.event_shelf import Item, Nothing, Shelf
from consumers.source import Message, Partition, Position
from tests.integration.event_tools import event

ONE, TWO = Partition("entities", 1), Partition("entities", 2)


def item(partition: Partition, offset: int, error: BadEvent | NewerSchema | None = None) -> Item:
    message = Message(position=Position(partition, offset), value=b"x")
    return Item(message=message, found=error or event(offset))


def shelf_of(*, skip_bad: bool = False, on_change: Callable[[], None] = lambda: None) -> Shelf:
    shelf = Shelf(skip_bad=skip_bad, on_change=on_change)
    shelf.begin({ONE: 5, TWO: 0})
    return shelf


def offsets(shelf: Shelf) -> dict[Partition, int]:
    return {partition: place.offset for partition, place in shelf.places.items()}


def test_what_was_handed_out_counts_and_nothing_else() -> None:
    """Not what is only read; but what ends a transaction counts with the last event before it."""
    changes: list[None] = []
    shelf = shelf_of(on_change=lambda: changes.append(None))
    shelf.put([item(ONE, 5), item(ONE, 7)], {ONE: 9, TWO: 3})
    assert len(changes) == 1
    assert offsets(shelf) == {ONE: 5, TWO: 0}
    shelf.take()
    assert shelf.last is not None
    assert shelf.last.position == Position(ONE, 5)
    assert offsets(shelf) == {ONE: 6, TWO: 0}
    shelf.take()
    assert offsets(shelf) == {ONE: 9, TWO: 3}
    assert shelf.take() is Nothing.YET
    shelf.end()
    assert shelf.take() is Nothing.MORE


def test_partitions_that_go_take_all_with_them() -> None:
    """Their events, their offsets, and commits of an earlier stay, also where they come back."""
    shelf = shelf_of()
    shelf.put([item(ONE, 5), item(TWO, 0), item(ONE, 6)], {ONE: 7, TWO: 1})
    shelf.take()
    before = shelf.places
    shelf.forget({ONE})
    assert offsets(shelf) == {TWO: 0}
    assert shelf.still_ours(before) == {TWO: 0}
    shelf.put([item(ONE, 7)], {ONE: 8})
    shelf.begin({ONE: 6})
    assert shelf.still_ours(before) == {TWO: 0}
    found = shelf.take()
    assert isinstance(found, Item)
    assert found.message.position == Position(TWO, 0)
    assert shelf.take() is Nothing.YET
    assert not shelf.is_over(0.0001)


def test_an_error_stands_where_its_record_stands() -> None:
    """And stays there; an end with an error is told when all is handed out."""
    shelf = shelf_of()
    shelf.put([item(ONE, 5), item(ONE, 6, BadEvent("odd"))], {ONE: 7})
    shelf.end(ValueError("broken"))
    shelf.take()
    for _ in range(2):
        with pytest.raises(BadEvent):
            shelf.take()
    assert offsets(shelf)[ONE] == 6
    skipping = shelf_of(skip_bad=True)
    skipping.put([item(ONE, 5, BadEvent("odd")), item(ONE, 6, NewerSchema("2", 1))], {ONE: 7})
    with pytest.raises(NewerSchema):
        skipping.take()
    assert (offsets(skipping)[ONE], skipping.num_skipped) == (6, 1)
    ended = shelf_of()
    ended.end(ValueError("broken"))
    with pytest.raises(ValueError, match="broken"):
        ended.take()


def test_a_tombstone_is_told_by_its_lack_of_a_value() -> None:
    """Its moment is one where it can be read; an empty value is no tombstone."""
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    for told, found in (("2026-11-25T00:00:00+00:00", moment), ("2026-11-25T00:00", None), ("soon", None)):
        headers = (("nametag-deleted-at", told.encode()),)
        message = Message(position=Position(ONE, 0), value=None, key="né".encode(), headers=headers)
        assert read_record(message) == Tombstone(id="né", deleted_at=found)
    for key in (None, b""):
        with pytest.raises(BadEvent, match="neither a value nor a key"):
            read_record(Message(position=Position(ONE, 0), value=None, key=key))
    with pytest.raises(BadEvent, match=r"entities\[1\]@0 is no event of nametag: it is no JSON"):
        read_record(Message(position=Position(ONE, 0), value=b"", key=b"1"))
