"""An example of a consumer: which names are trending, by the hour, in a file of SQLite.

    python -m consumers.examples.trending_entities localhost:9092 trending.sqlite --follow

Each post counts exactly once, whatever crashes: counts and offsets are in the same transaction, and reading goes on
from those offsets. An event of a post that came before replaces what it counted, a tombstone takes it back.
"""

import argparse
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import UTC
from typing import Literal

from consumers.entity_events import BlockingEntityEvents, EventOrTombstone, Partition
from consumers.events import EntityEvent

TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS offsets (topic TEXT, number INTEGER, next INTEGER, PRIMARY KEY (topic, number));
CREATE TABLE IF NOT EXISTS counted (post TEXT, hour TEXT, type TEXT, name TEXT, PRIMARY KEY (post, type, name));
CREATE TABLE IF NOT EXISTS trending (hour TEXT, type TEXT, name TEXT, posts INTEGER, PRIMARY KEY (hour, type, name));
"""
TAKE_BACK = "DELETE FROM counted WHERE post = ? RETURNING hour, type, name"
COUNT = "INSERT INTO trending VALUES (?, ?, ?, 1) ON CONFLICT DO UPDATE SET posts = posts + 1"
TOP = """
SELECT hour, type, name, posts FROM (
  SELECT *, row_number() OVER (PARTITION BY hour ORDER BY posts DESC, name) AS place FROM trending
  WHERE hour IN (SELECT DISTINCT hour FROM trending ORDER BY hour DESC LIMIT :hours)
) WHERE place <= :names ORDER BY hour DESC, place
"""
PRINT_SECONDS = 60


class Trending:
    """The table of names and hours, and how far on the topic it has come."""

    def __init__(self, path: str) -> None:
        self._db = sqlite3.connect(path)
        self._db.executescript(TABLES)
        self.close = self._db.close

    def start(self, topic: str) -> Mapping[Partition, int] | Literal["earliest"]:
        """Where to read on."""
        rows = self._db.execute("SELECT topic, number, next FROM offsets WHERE topic = ?", (topic,))
        return {Partition(name, number): offset for name, number, offset in rows} or "earliest"

    def add(self, event: EventOrTombstone, offsets: Mapping[Partition, int]) -> None:
        """Count a post, or take it back, and keep the offsets behind it: both or neither."""
        with self._db:
            post = event.id.encode("utf-8", "replace").decode()  # SQLite can't hold half an emoji
            self._take_back(post)
            if isinstance(event, EntityEvent):
                self._count(post, event)
            rows = [(*partition, offset) for partition, offset in offsets.items()]
            self._db.executemany("INSERT OR REPLACE INTO offsets VALUES (?, ?, ?)", rows)

    def _take_back(self, post: str) -> None:
        gone = self._db.execute(TAKE_BACK, (post,)).fetchall()
        where = "WHERE hour = ? AND type = ? AND name = ?"
        self._db.executemany(f"UPDATE trending SET posts = posts - 1 {where}", gone)
        self._db.executemany(f"DELETE FROM trending {where} AND posts = 0", gone)

    def _count(self, post: str, event: EntityEvent) -> None:
        hour = f"{(event.created_at or event.tagged_at).astimezone(UTC):%Y-%m-%d %H}:00"
        pairs = {(each.type, each.text) for each in event.entities}  # a name counts once a post
        names = {tuple(part.encode("utf-8", "replace").decode() for part in pair) for pair in pairs}
        self._db.executemany(COUNT, [(hour, *name) for name in names])
        self._db.executemany("INSERT INTO counted VALUES (?, ?, ?, ?)", [(post, hour, *name) for name in names])

    def show(self, *, hours: int = 3, names: int = 10) -> None:
        """Print the names that most posts have, in each of the last hours."""
        for hour, kind, name, posts in self._db.execute(TOP, {"hours": hours, "names": names}):
            print(f"{hour}  {ascii(kind)[1:-1]:4}  {name!r}  {posts}")


def main() -> None:
    """Read the topic into the table."""
    parser = argparse.ArgumentParser(description="Keeps a table of the names that are trending, by the hour.")
    parser.add_argument("brokers", help="host:port")
    parser.add_argument("database", help="a file of SQLite")
    parser.add_argument("--topic", default="entities")
    parser.add_argument("--follow", action="store_true", help="wait for more at the end, and print once a minute")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt), closing(Trending(options.database)) as trending:
        start, shown_at = trending.start(options.topic), time.monotonic()
        with BlockingEntityEvents(options.brokers, topic=options.topic, start=start, follow=options.follow) as events:
            for event in events:
                trending.add(event, events.offsets)
                if time.monotonic() > shown_at + PRINT_SECONDS:
                    trending.show()
                    shown_at = time.monotonic()
        trending.show()


if __name__ == "__main__":
    main()
