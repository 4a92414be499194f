"""What the example of a consumer counts."""

import inspect
from datetime import datetime
from pathlib import Path

import pytest

from consumers.deletes import Tombstone
from consumers.events import CheckpointName, Entity, EntityEvent, ImageReport, Scissors
from consumers.examples import trending_entities
from consumers.examples.trending_entities import Trending
from consumers.image_status import ImageStatus
from consumers.source import Partition
from consumers.wire import PositionReport


def event(post: str, *names: str, at: str = "2026-11-25T10:59:59+00:00") -> EntityEvent:
    return EntityEvent(
        id=post,
        created_at=datetime.fromisoformat(at),
        tagged_at=datetime.fromisoformat("2026-11-26T00:00:00+00:00"),
        entities=tuple(entity(name) for name in names),
        image=ImageReport(status=ImageStatus.NONE),
        checkpoint=CheckpointName(id="c", variant="text"),
        position=PositionReport(topic="posts", partition=0, offset=0),
    )


def entity(name: str) -> Entity:
    return Scissors(name).cut(type="PER", start=0, end=len(name), confidence=1)


@pytest.mark.parametrize(
    ("events", "shown"),
    [
        ([event("1", "Ann", "Ann"), event("2", "Ann", "Bob")], ["10:00  PER   'Ann'  2", "10:00  PER   'Bob'  1"]),
        ([event("1", "Ann"), event("1", "Bob")], ["10:00  PER   'Bob'  1"]),
        ([event("1", "Ann"), event("1", "Ann", at="2026-11-25T11:00:00+00:00")], ["11:00  PER   'Ann'  1"]),
        ([event("1", "Ann"), event("2", "Ann"), Tombstone(id="1")], ["10:00  PER   'Ann'  1"]),
        ([event("1", "Ann"), Tombstone(id="1"), Tombstone(id="1"), Tombstone(id="2")], []),
        ([event("1", "Ann", at="2026-11-25T12:30:00+02:00")], ["10:00  PER   'Ann'  1"]),
        ([event("1", "\x1b[2JAnn")], [r"10:00  PER   '\x1b[2JAnn'  1"]),
        ([event("1", "Ann\ud83d", "Ann\ude00")], ["10:00  PER   'Ann?'  1"]),
    ],
    ids=[
        "twice in a post",
        "again",
        "in another hour",
        "deleted",
        "deleted twice",
        "another zone",
        "escapes",
        "half an emoji",
    ],
)
def test_each_post_counts_once(
    events: list[EntityEvent | Tombstone], shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names count once a post; a later event replaces an earlier one; a tombstone takes back."""
    trending = Trending(str(tmp_path / "t.sqlite"))
    partition = Partition("entities", 3)
    for offset, each in enumerate(events, start=1):
        trending.add(each, {partition: offset})
    assert trending.start("entities") == {partition: len(events)}
    assert trending.start("others") == "earliest"
    trending.show()
    trending.close()
    assert capsys.readouterr().out.splitlines() == [f"2026-11-25 {line}" for line in shown]


def test_it_stays_short() -> None:
    """An example is read from top to bottom: fewer than a hundred lines."""
    assert len(inspect.getsource(trending_entities).splitlines()) < 100
