"""A replay that was stopped or killed goes on exactly after what is done."""

import asyncio
import bz2
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consumers.archive_choice import PostChoice, Retweets
from consumers.archive_members import Archives
from consumers.archive_posts import ArchivePost, ArchivePosts, Place
from consumers.archive_source import PARTITION, ArchiveSource
from consumers.dead_letters import DeadLetter
from consumers.errors import Reason, SourceUnavailable
from consumers.source import Message, Position
from worker.cli import main
from worker.errors import SettingsError, SinkUnavailable
from worker.replay_resume import Kept, ResumableSink, ResumeFile

NUM_POSTS = 60
NUM_DELETES = 6


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A tar and a compressed tar of minutes, with retweets, deletes and lines that are none."""
    folder = tmp_path / "archives"
    folder.mkdir()
    numbers = iter(range(NUM_POSTS))
    for name, pack in (("twitter_stream_2019_09_13.tar", bytes), ("twitter_stream_2019_09_14.tar.gz", gzip.compress)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for minute in range(3):
                lines = [b"", b"{", b'{"delete":{"status":{"id":999}}}']
                for number in (next(numbers) for _ in range(NUM_POSTS // 6)):
                    tweet = {"id_str": str(number), "text": f"post {number}", "entities": {}, "user": {}}
                    if number % 3 == 0:
                        tweet["retweeted_status"] = {**tweet, "id_str": f"original {number % 9}"}
                    lines.append(json.dumps(tweet).encode())
                data = bz2.compress(b"\n".join(lines) + b"\n")
                info = tarfile.TarInfo(f"{name[-9:-7] if 'gz' in name else 13}/00/{minute:02}.json.bz2")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        (folder / name).write_bytes(pack(out.getvalue()))
    return folder


def read(folder: Path, after: Place | None = None, retweets: Retweets = "keep") -> Iterator[ArchivePost]:
    archives = Archives([folder])
    posts = ArchivePosts(archives, PostChoice(retweets=retweets), max_post_bytes=100_000, after=after)
    for entry in archives.plan():
        yield from posts.of(entry)
    posts.check_found()
    assert posts.books.num_lines == posts.books.num_accounted


@pytest.mark.parametrize("retweets", ["keep", "fold"])
def test_it_goes_on_after_each_post(archives: Path, retweets: Retweets) -> None:
    """Whichever was the last, in whatever kind of archive; a folded original that came before doesn't come again."""
    whole = list(read(archives, retweets=retweets))
    assert len(whole) - NUM_DELETES == (NUM_POSTS if retweets == "keep" else NUM_POSTS - 17)
    for number, post in enumerate(whole, 1):
        rest = read(archives, post.place, retweets)
        assert [each.post.id for each in rest] == [each.post.id for each in whole[number:]]


def test_a_place_that_is_gone_is_said(archives: Path) -> None:
    """Rather than that nothing more comes."""
    with pytest.raises(SourceUnavailable, match="in none of the inputs any more"):
        list(read(archives, Place(str(archives / "gone.tar"), "00.json", 3)))


def letter(number: int) -> DeadLetter:
    message = Message(position=Position(PARTITION, number), value=b"x" * 50)
    return DeadLetter.of(message, Reason.NOT_JSON, "no JSON")


def test_what_was_not_kept_is_cut_off(archives: Path, tmp_path: Path) -> None:
    """A kill between writing the outputs and keeping the place leaves them too long."""
    paths = (str(tmp_path / "events"), str(tmp_path / "letters"))
    resume = ResumeFile(tmp_path / "resume", ["a"])

    async def publish(kept: Kept, numbers: range) -> None:
        async def never(_partitions: object) -> dict[object, int]:
            raise AssertionError

        source = ArchiveSource(read(archives, kept.place), keeps_places=True)
        await source.start(never)  # type: ignore[arg-type]
        await source.receive()
        sink = ResumableSink(paths, resume, kept, source)
        await sink.start()
        for number in numbers:
            await sink.publish([letter(number)], {PARTITION: number + 1}, None)
        await sink.close()
        await source.close()

    asyncio.run(publish(resume.read(), range(2)))
    kept = resume.read()
    whole = (tmp_path / "letters").read_bytes()
    assert kept.place == list(read(archives))[1].place
    assert kept.lengths == (0, len(whole)) and whole.count(b"\n") == 2
    (tmp_path / "letters").write_bytes(whole + b"not kept\nhal")
    asyncio.run(publish(kept, range(1)))
    assert (tmp_path / "letters").read_bytes().startswith(whole + b"{")
    assert resume.read().place == list(read(archives))[2].place
    (tmp_path / "letters").write_bytes(whole[:-1])
    with pytest.raises(SinkUnavailable, match="letters is shorter than the replay left it"):
        asyncio.run(publish(kept, range(1)))


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "is no file of a replay"), (b"{}", "is no file"), (b"[1]", "is no file"), (None, "other inputs")],
)
def test_a_file_that_is_not_its_own_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    """Another replay's, or no such file at all."""
    path = tmp_path / "resume"
    if content is None:
        ResumeFile(path, ["b"]).write(Kept(place=Place("a", "b", 1)))
    else:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=told):
        ResumeFile(path, ["a"]).read()


def ids(path: Path) -> list[str]:
    """The ids of the events; each delete has its tombstone, too."""
    found = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [each["id"] for each in found if "deleted" in each] == ["999"] * NUM_DELETES
    return [each["id"] for each in found if "deleted" not in each]


@pytest.mark.slow
def test_kills_lose_and_double_nothing(archives: Path, tmp_path: Path) -> None:
    """Killed at random moments, it ends with the events of a replay in one go."""
    random.seed(6)
    out = tmp_path / "events.jsonl"
    # So slow that a start, which may make up for a second, is far from all of them.
    command = [sys.executable, "-m", "worker.cli", "replay", str(archives), "--out", str(out), "--rate", "5"]
    command += ["--resume", str(tmp_path / "resume"), "--dead-letters", str(tmp_path / "letters")]
    num_killed = 0
    while num_killed < 100:
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, env={**os.environ, "NAMETAG_FLUSH_SECONDS": "0.05"}
        ) as process:
            before = out.stat().st_size if out.exists() else 0
            while process.poll() is None and (not out.exists() or out.stat().st_size <= before):
                time.sleep(0.01)
            time.sleep(random.random() * 0.6)
            if process.poll() is not None:
                break
            process.kill()
        num_killed += 1
    assert process.returncode == 0
    assert num_killed >= 3
    assert ids(out) == [str(number) for number in range(NUM_POSTS)]


def test_a_replay_that_is_done_adds_nothing(archives: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one with another choice is refused."""
    monkeypatch.chdir(tmp_path)
    command = ["replay", str(archives), "--out", "events.jsonl", "--resume", "resume", "--lang", "en"]
    assert main([*command[:-2]]) == main([*command[:-2]]) == 0
    assert ids(Path("events.jsonl")) == [str(number) for number in range(NUM_POSTS)]
    assert main(command) == 1
