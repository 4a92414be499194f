"""`nametag export` on a real broker, its files read by DuckDB."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from consumers.deletes import Tombstone
from consumers.events import ImageReport, Scissors
from consumers.image_status import ImageStatus
from tests.integration.dlq_tools import Done, transaction
from tests.integration.event_tools import event, send, write_events
from worker.cli import main

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)

Export = Callable[..., Done]


@pytest.fixture
def export(
    kafka_bootstrap: str, topics: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Export:
    """Runs `nametag export` in this process."""
    monkeypatch.setenv("NAMETAG_KAFKA__BOOTSTRAP_SERVERS", kafka_bootstrap)
    monkeypatch.setenv("NAMETAG_KAFKA__ENTITIES_TOPIC", topics.entities)

    def run(path: Path, *arguments: str) -> Done:
        capsys.readouterr()
        status = main(["export", "--out", str(path), *arguments])
        told = capsys.readouterr()
        return Done(status, told.out, told.err)

    return run


def ids(path: Path) -> list[str]:
    """Of the events in a JSONL file, in order."""
    return [json.loads(line)["id"] for line in path.read_text().splitlines()]


def at(hour: int) -> int:
    """An hour of the day, as records have it."""
    return round((NOON + timedelta(hours=hour - 12)).timestamp() * 1000)


def test_duckdb_reads_the_columns(kafka_bootstrap: str, topics: Any, export: Export, tmp_path: Path) -> None:
    """Flat and typed; half an emoji, which is no text in Parquet, becomes one character that is."""
    grid = tuple(tuple(float(row * 7 + column) for column in range(7)) for row in range(7))
    text = "half \ud83d in Phoenix"
    full = event(
        1,
        source="twitter",
        lang="en",
        created_at=NOON - timedelta(days=1),
        text=text,
        entities=(Scissors(text).cut(type="LOC", start=10, end=17, confidence=0.5),),
        image=ImageReport(status=ImageStatus.USED, url="https://example.org/a.jpg", digest="00", attention=grid),
    )
    with transaction(kafka_bootstrap) as producer:
        send(producer, topics.entities, full, timestamp_ms=at(13))
        send(producer, topics.entities, event(2, text=None, entities=()))
    path = tmp_path / "deep" / "events.parquet"
    done = export(path)
    assert (done.status, done.out) == (0, f"{path}: 2 events written\n")
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    types = {name: kind for name, kind, *_ in connection.sql(f"DESCRIBE FROM '{path}'").fetchall()}
    for name, kind in {
        "id": "VARCHAR",
        "created_at": "TIMESTAMP WITH TIME ZONE",
        "tagged_at": "TIMESTAMP WITH TIME ZONE",
        "published_at": "TIMESTAMP WITH TIME ZONE",
        "topic": "VARCHAR",
        "partition": "BIGINT",
        "offset": "BIGINT",
        "checkpoint": "STRUCT(id VARCHAR, variant VARCHAR)",
        "image": "STRUCT(status VARCHAR, url VARCHAR, digest VARCHAR, attention DOUBLE[][])",
    }.items():
        assert types[name] == kind
    assert types["entities"].endswith("[]")
    query = f"SELECT id, lang, created_at = '2026-11-24 12:00Z', epoch_ms(published_at), text, image.status, \
        image.attention[7][7], entities[1].type, text[entities[1].start + 1:entities[1].end], \"offset\" FROM '{path}'"
    assert connection.sql(query + " ORDER BY id").fetchall()[0] == (
        *("1", "en", True, at(13), "half \ufffd in Phoenix", "used", 48.0, "LOC", "Phoenix", 1),
    )
    assert connection.sql(f"SELECT text, image.url, entities FROM '{path}' WHERE id = '2'").fetchall() == [
        (None, None, [])
    ]
    lines = tmp_path / "events.jsonl"
    export(lines)
    written = [json.loads(line) for line in lines.read_text().splitlines()]
    moments = [datetime.fromisoformat(each.pop("published_at")) for each in written]
    assert moments[0] == datetime.fromtimestamp(at(13) / 1000, UTC)
    assert written == [
        json.loads(full.to_json()),
        json.loads(event(2, text=None, entities=()).to_json()),
    ]


def test_posts_that_were_taken_back_are_not_written(
    kafka_bootstrap: str, topics: Any, export: Export, tmp_path: Path
) -> None:
    """Wherever the tombstone stands, also behind the range; a post that was put again after it stands."""
    with transaction(kafka_bootstrap) as producer:
        for number in range(4):
            send(producer, topics.entities, event(number), timestamp_ms=at(12))
        send(producer, topics.entities, Tombstone(id="1"), timestamp_ms=at(13))
        send(producer, topics.entities, Tombstone(id="3"), timestamp_ms=at(13))
        send(producer, topics.entities, event(3), timestamp_ms=at(14))
        send(producer, topics.entities, Tombstone(id="2"), partition=3, timestamp_ms=at(15))
    path = tmp_path / "events.jsonl"
    done = export(path)
    assert done.out == f"{path}: 2 events written; 3 left out, whose posts were taken back\n"
    assert ids(path) == ["0", "3"]
    export(path, "--overwrite", "--until", "2026-11-25T12:30")
    assert ids(path) == ["0"]


def test_the_last_event_of_a_post_is_written(kafka_bootstrap: str, topics: Any, export: Export, tmp_path: Path) -> None:
    """The last within the range; --all writes all of them."""
    with transaction(kafka_bootstrap) as producer:
        for hour in (12, 13, 14):
            send(producer, topics.entities, event(1, lang=str(hour)), timestamp_ms=at(hour))
            send(producer, topics.entities, event(hour), timestamp_ms=at(hour))
    path = tmp_path / "events.jsonl"

    def written(*arguments: str) -> list[tuple[str, str | None]]:
        assert export(path, "--overwrite", *arguments).status == 0
        lines = map(json.loads, path.read_text().splitlines())
        return [(line["id"], line.get("lang")) for line in lines]

    assert written() == [("12", None), ("13", None), ("1", "14"), ("14", None)]
    assert written("--until", "2026-11-25T14:00") == [("12", None), ("1", "13"), ("13", None)]
    assert written("--since", "2026-11-25T13:00", "--until", "2026-11-25T14:00") == [("1", "13"), ("13", None)]
    assert len(written("--all")) == 6
    assert written("--since", "2026-11-25T15:00") == []


def test_a_range_may_mean_the_posts_own_times(
    kafka_bootstrap: str, topics: Any, export: Export, tmp_path: Path
) -> None:
    """What has no such time is left out, and counted."""
    with transaction(kafka_bootstrap) as producer:
        for day in range(20, 25):
            made = datetime(2021, 1, day, tzinfo=UTC)
            send(producer, topics.entities, event(day, created_at=made, tagged_at=made + timedelta(days=2)))
        send(producer, topics.entities, event(9))
        producer.send(topics.entities, b"foreign", b"k", partition=1).get(timeout=10)
    path = tmp_path / "events.jsonl"
    done = export(path, "--since", "2021-01-21", "--until", "2021-01-23", "--by", "created_at")
    assert ids(path) == ["21", "22"]
    assert done.out.endswith(
        ": 2 events written; 1 left out, which have no such time; 1 records skipped, which are no events\n"
    )
    assert done.err == ""
    export(path, "--overwrite", "--since", "2021-01-26", "--by", "tagged_at")
    assert ids(path) == ["24", "9"]


def test_a_file_is_whole_or_as_it_was(kafka_bootstrap: str, topics: Any, export: Export, tmp_path: Path) -> None:
    """A file is taken the place of only where one says so, and only by a whole one; nothing else is left behind."""
    write_events(kafka_bootstrap, topics.entities, range(3))
    path = tmp_path / "events.parquet"
    assert export(path).status == 0
    before = path.read_bytes()
    done = export(path)
    assert (done.status, done.err) == (1, f"nametag: {path} is there already; name another, or say --overwrite\n")
    body = json.dumps(json.loads(event(1).to_json()) | {"schema_version": 2}).encode()
    with transaction(kafka_bootstrap) as producer:
        producer.send(topics.entities, body, b"1", partition=1).get(timeout=10)
    done = export(path, "--overwrite")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "upgrade nametag" in done.err
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_without_pyarrow_one_is_told(export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is read; and JSONL needs none."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "worker.export_tables", raising=False)
    done = export(tmp_path / "events.parquet")
    assert (done.status, done.err.count("\n")) == (1, 1)
    assert "pip install 'nametag[parquet]'" in done.err
    assert export(tmp_path / "events.jsonl").status == 0
