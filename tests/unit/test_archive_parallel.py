"""Archives read by several processes: the same, to the byte, as by one."""

import bz2
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives, MemberBooks
from consumers.archive_parallel import MAX_BATCHES, ParallelConfig, ParallelPosts
from consumers.archive_posts import ArchivePosts, Books, Place
from consumers.errors import SourceUnavailable

LIMIT = 2000
Item = tuple[str, object, bytes, Place]


def minute(chance: random.Random, num_lines: int = 40) -> bytes:
    """Posts, deletes, notices, and lines that are none."""
    lines: list[bytes] = []
    for _ in range(num_lines):
        name = str(chance.randrange(10**6))
        when = f"Fri Jan 01 17:29:{chance.randrange(60):02} +0000 2021"
        media = {"media": [{"type": "photo", "media_url": "http://h/1.jpg"}]} if chance.random() < 0.3 else {}
        tweet = {
            "id_str": name,
            "text": "né " * 9,
            "lang": chance.choice(["en", "de"]),
            "created_at": when,
            "entities": media,
        }
        others = [b"", b"{", b"[]", b'{"limit":{"track":1}}', b'{"delete":{"status":{"id":1}}}', b"x" * (LIMIT + 1)]
        lines.append(json.dumps(tweet).encode() if chance.random() < 0.7 else chance.choice(others))
    return b"\r\n".join(lines) + b"\r\n"


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def inputs(tmp_path: Path, shared_data: Path) -> list[Path]:
    """A folder, a tar, a zip, a compressed tar, a cut member, a tar that is named like a minute, and a real minute."""
    chance = random.Random(5)
    folder = tmp_path / "2021" / "01" / "01" / "10"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"{number:02}.json.bz2").write_bytes(bz2.compress(minute(chance)))
    (folder / "04.json").write_bytes(minute(chance, 1500))
    (folder / "05.json.gz").write_bytes(gzip.compress(minute(chance), mtime=0))
    (folder / "06.json.bz2").write_bytes(bz2.compress(minute(chance))[:-9])
    (folder / "07.json.bz2").write_bytes(b"rubbish")
    (folder / "08.json.bz2").write_bytes(bz2.compress(tar_of({"08.json": minute(chance)})))
    (folder / ".09.json.bz2.J1uA1l").write_bytes(b"a leftover")
    hour = {f"2021/01/01/11/{n:02}.json.bz2": bz2.compress(minute(chance)) for n in range(5)}
    (tmp_path / "twitter-stream-2021-01-01.tar").write_bytes(tar_of(hour))
    with zipfile.ZipFile(tmp_path / "twitter-stream-2021-01-02.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(5):
            archive.writestr(f"2021/01/02/11/{number:02}.json.bz2", bz2.compress(minute(chance)))
    hour = {f"2021/01/03/11/{n:02}.json.bz2": bz2.compress(minute(chance)) for n in range(3)}
    (tmp_path / "twitter-stream-2021-01-03.tar.gz").write_bytes(gzip.compress(tar_of(hour), mtime=0))
    return [tmp_path, shared_data / "archive" / "reference_minute.json"]


class Reading:
    """All of some inputs, read by `num_workers`."""

    def __init__(
        self, inputs: list[Path], num_workers: int, after: Place | None = None, *, hands_on: bool = True, **choice: Any
    ) -> None:
        self.archives = Archives(inputs)
        plan = self.archives.plan()
        wanted = PostChoice(**choice)
        posts = ArchivePosts(self.archives, wanted, max_post_bytes=LIMIT, after=after)
        config = ParallelConfig(num_workers=num_workers, choice=wanted, max_post_bytes=LIMIT, hands_on=hands_on)
        self.parallel = ParallelPosts(self.archives, posts, plan, config)
        self.plan, self.posts = plan, posts

    def items(self) -> Iterator[Item]:
        for entry in self.plan:
            for batch in self.parallel.batches(entry):
                yield from ((each.post.id, each.post.created_at, each.value, each.place) for each in batch)
        assert self.posts.books.num_lines == self.posts.books.num_accounted

    def all(self) -> tuple[list[Item], Books, MemberBooks]:
        with closing(self.parallel):
            return list(self.items()), self.posts.books, self.archives.books


@pytest.mark.parametrize("num_workers", [2, 3])
def test_it_is_the_same_as_by_one(inputs: list[Path], num_workers: int) -> None:
    """Items, places, books and warnings, with every kind of choice; and only the books where nothing is handed on."""
    for choice in ({}, {"share": 0.5, "with_photo": True}, {"languages": frozenset({"en"}), "deletes": "drop"}):
        alone = Reading(inputs, 1, **choice).all()
        assert len(alone[0]) > 100 and alone[2].num_warnings == 2
        assert Reading(inputs, num_workers, **choice).all() == alone
        assert Reading(inputs, num_workers, hands_on=False, **choice).all()[1:] == alone[1:]


def test_it_goes_on_after_any_place(inputs: list[Path]) -> None:
    """The place is sought by the parent, and the rest is dealt out."""
    whole, _, _ = Reading(inputs, 1).all()
    chance = random.Random(7)
    for number in sorted(chance.sample(range(len(whole)), 6)):
        rest, books, _ = Reading(inputs, 2, whole[number][3]).all()
        assert rest == whole[number + 1 :]
        assert books.num_posts + books.num_obeyed == len(rest)


def test_a_process_that_dies_is_said(inputs: list[Path]) -> None:
    """Nothing is passed over: what is missing can be had by the same command."""
    reading = Reading(inputs, 2)
    items = reading.items()
    next(items)
    for process, _ in reading.parallel._workers:
        process.kill()
        process.join()
    with closing(reading.parallel), pytest.raises(SourceUnavailable, match="--workers 1 if need be"):
        list(items)


def test_reading_ahead_has_its_bounds(tmp_path: Path) -> None:
    """A process waits when nobody takes what it has; and ends when it is told to amid that."""
    for number in range(2):
        line = json.dumps({"id": "1", "text": "x" * 1900}).encode() + b"\n"
        (tmp_path / f"2021010110{number:02}00.json").write_bytes(line * 512 * (MAX_BATCHES + 10))
    reading = Reading([tmp_path], 2)
    with closing(reading.parallel):
        items = reading.items()
        next(items)
        second, _ = reading.parallel._workers[1]
        second.join(6)
        assert second.is_alive()
    assert second.exitcode is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_no_process_and_no_traceback(inputs: list[Path], number: signal.Signals) -> None:
    """Ctrl-C in a terminal goes to all of them."""
    command = [sys.executable, "-m", "worker.cli", "replay", "--dry-run", "--workers", "2", *map(str, inputs)] + [
        str(path) for path in inputs for _ in range(2)
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        try:
            process.wait(1.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        _, told = process.communicate(timeout=30)
    assert process.returncode in (0, 130, 128 + number, -number)
    assert b"Traceback" not in told
    deadline = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
