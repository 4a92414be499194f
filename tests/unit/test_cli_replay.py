"""`nametag replay` from its command line: what it takes and refuses, and what it counts."""

import bz2
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from consumers.archive_choice import PostChoice, Retweets
from consumers.archive_members import Archives
from consumers.archive_posts import ArchivePosts
from worker import cli_replay
from worker.cli import main
from worker.pace import Pace
from worker.replay_progress import ReplayProgress


@pytest.fixture
def minute(tmp_path: Path) -> Path:
    """Three posts, a delete, a blank line and a broken one, in a member that is cut short."""
    path = tmp_path / "29.json.bz2"
    posts = [
        {"id_str": str(n), "text": "x", "lang": "en", "created_at": f"Fri Jan 01 17:29:0{n} +0000 2021"}
        for n in (1, 2, 3)
    ]
    lines = [*map(json.dumps, posts), '{"delete":{"status":{"id":1}}}', "", "{", ""]
    path.write_bytes(bz2.compress("\r\n".join(lines).encode()) + bz2.compress(b"lost")[:-15])
    return path


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "PATH"),
        (["a"], "--dry-run"),
        (["a", "--dry-run", "--to-topic"], "not allowed with"),
        (["a", "--out", "b", "--to-topic"], "not allowed with"),
        (["a", "--dry-run", "--resume", "b"], "--resume needs --to-topic, or --out with a file"),
        (["a", "--out", "-", "--resume", "b"], "--resume needs --to-topic, or --out with a file"),
        (["a", "--dry-run", "--rate", "0"], "0 is no number above 0"),
        (["a", "--dry-run", "--rate", "inf"], "inf is no number above 0"),
        (["a", "--dry-run", "--speed", "fast"], "fast is no number above 0"),
        (["a", "--dry-run", "--since", "soon"], "soon is no ISO time"),
        (["a", "--dry-run", "--sample", "1.5"], "it must be above 0, and 1 at most"),
        (["a", "--dry-run", "--since", "2021-02-01", "--until", "2021-01-01"], "it must begin before it ends"),
        (["a", "--dry-run", "--retweets", "some"], "invalid choice"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2 and what would be right, before anything is read."""
    with pytest.raises(SystemExit) as caught:
        main(["replay", *arguments])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_a_dry_run_counts(minute: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a program as JSON, its warnings too; for people as lines that add up."""
    assert main(["replay", str(minute), "--dry-run", "--json", "--rate", "2", "--since", "2021-01-01T17:29:02"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report.pop("seconds") >= 0
    warning = f"{minute} is cut short: its bz2 goes on behind its end"
    assert report == {
        "members": {"read": 1, "left_alone": {}},
        "lines": 6,
        "posts": 2,
        "deletes": 1,
        "deletes_handed_on": 1,
        "control": {"keep_alive": 1},
        "filtered": {"time": 1},
        "skipped": {"not_json": 1},
        "posts_with_photo": 0,
        "post_bytes": 2 * len(json.dumps({"id_str": "1", "text": "x", "lang": "en", "created_at": "x" * 30})),
        "first": "2021-01-01T17:29:02+00:00",
        "last": "2021-01-01T17:29:03+00:00",
        "posts_a_second": 2.0,
        "seconds_at_pace": 1.0,
        "num_warnings": 1,
        "warnings": [warning],
    }
    assert captured.err == f"warning: {warning}\n"

    assert main(["replay", str(minute), "--dry-run", "--rate", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {words[0]: int(words[1]) for line in lines[:7] if (words := line.split())}
    assert counts.pop("members") == 1
    assert counts.pop("lines") == sum(counts.values()) == 6
    assert lines[-2:] == ["the posts were made within 0:00:02, 1.5 a second", "at 0.5 posts a second they take 0:00:06"]
    assert main(["replay", str(minute), "--dry-run", "--rate", "0.5", "--speed", "0.1x"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "at 0.5 posts a second and 0.1x they take 0:00:20"


def test_warnings_do_not_drive_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name in an archive may be anything; where nothing could be read, the status tells."""
    path = tmp_path / "\x1b[2Jevil.tar"
    path.write_bytes(b"rubbish")
    assert main(["replay", str(path), "--dry-run"]) == 1
    captured = capsys.readouterr()
    assert "evil.tar is damaged" in captured.err
    assert "\x1b" not in captured.err + captured.out


def test_an_input_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And nothing is read."""
    assert main(["replay", str(tmp_path / "gone.tar"), "--dry-run"]) == 1
    assert "gone.tar isn't there; name archives" in capsys.readouterr().err


def test_posts_are_tagged_in_their_order(
    minute: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Events go to the file as the archive has the posts, then the tombstone of the first; and the books are told."""
    monkeypatch.chdir(tmp_path)
    for deletes in ("drop", "obey"):
        command = ["replay", str(minute), "--out", "events.jsonl", "--json", "--sample", "0.9999", "--deletes", deletes]
        assert main([*command, "--overwrite"]) == 0
        events = [json.loads(line) for line in Path("events.jsonl").read_bytes().splitlines()]
        tombstones = [event for event in events if "deleted" in event]
        if tombstones:
            assert deletes == "obey" and events[-1] == tombstones[0] and tombstones[0]["id"] == "1"
            events = events[:-1]
        # Under way, the first is suppressed.
        assert [event["id"] for event in events] in (["1", "2", "3"], ["2", "3"])
        assert [event["position"]["offset"] for event in events] == [int(event["id"]) - 1 for event in events]
        assert len(events) == 3 or tombstones
        assert Path("dead-letters.jsonl").read_bytes() == b""
        report = json.loads(capsys.readouterr().out)
        assert (report["posts"], report["deletes_handed_on"]) == (3, len(tombstones))


@pytest.mark.parametrize("out", ["29.json.bz2", "dead-letters.jsonl", "link"])
def test_an_output_that_is_an_input_is_refused(
    out: str, minute: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The archive stays as it was, under whatever name it was given twice, and in a folder too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(minute)
    before = minute.read_bytes()
    assert main(["replay", str(tmp_path), "--out", out]) == 1
    assert "none of the archives" in capsys.readouterr().err
    assert minute.read_bytes() == before


def test_the_choices_are_those_of_the_reader() -> None:
    """They are written twice, so that help need not import them."""
    assert get_args(Retweets) == cli_replay.RETWEETS


def test_the_command_does_not_wait_for_torch() -> None:
    """Neither torch nor what fetches pictures is imported to read archives."""
    code = "import sys, worker.cli, worker.replay\nassert not {'torch', 'aiohttp', 'redis', 'PIL'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


class Clock:
    """Time that passes only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def pace(self, *settings: float | None, is_stopped: Callable[[], bool] = lambda: False) -> Pace:
        return Pace(*settings, is_stopped=is_stopped, clock=lambda: self.now, sleep=self.sleep)

    def took(self, pace: Pace, moments: Iterable[datetime | None]) -> float:
        started = self.now
        for moment in moments:
            pace.wait(moment)
        return self.now - started

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_a_rate_is_kept_and_a_pause_made_up_for_in_part() -> None:
    """Of an hour's pause a second's posts are made up for; without a rate nobody waits."""
    clock = Clock()
    pace = clock.pace(10)
    assert clock.took(pace, [None] * 51) == pytest.approx(5.0)
    clock.now += 3600
    assert clock.took(pace, [None] * 51) == pytest.approx(4.0)
    assert clock.took(clock.pace(), [None] * 1000) == 0


def test_the_posts_own_clock_is_kept() -> None:
    """Sixty times as fast; a post without a time, or of an earlier one, comes at once; a rate holds besides."""
    noon = datetime(2021, 1, 1, 12, tzinfo=UTC)
    minutes = [noon + timedelta(minutes=n) for n in (0, 1, 2, 2, 1, 10)]
    clock = Clock()
    assert clock.took(clock.pace(None, 60), [None, *minutes, None]) == pytest.approx(10.0)
    assert clock.took(clock.pace(0.1, 60), minutes) == pytest.approx(50.0)
    assert clock.took(clock.pace(1000, 60), minutes) == pytest.approx(10.0)


def test_a_gap_or_a_wrong_date_is_jumped_over() -> None:
    """A post of 1970 or of the year 9999, or a day that is missing, holds up nothing; what follows keeps its pace."""
    noon = datetime(2021, 1, 1, 12, tzinfo=UTC)
    minutes = [noon + timedelta(minutes=n) for n in range(11)]
    for odd in (datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC), noon + timedelta(days=1)):
        clock = Clock()
        assert clock.took(clock.pace(None, 60), [odd, *minutes, odd, *minutes]) == pytest.approx(20.0)


def test_nothing_is_held_back_in_a_long_wait() -> None:
    """What waits for company is told to go before one of more than a second, and not before short ones."""
    told: list[float] = []
    clock = Clock()
    pace = Pace(0.5, before_long_wait=lambda: told.append(clock.now), clock=lambda: clock.now, sleep=clock.sleep)
    clock.took(pace, [None] * 3)
    assert told == [100.0, pytest.approx(102.0)]
    pace = Pace(2, before_long_wait=lambda: told.append(clock.now), clock=lambda: clock.now, sleep=clock.sleep)
    clock.took(pace, [None] * 3)
    assert len(told) == 2


def test_a_long_wait_ends_where_one_is_to_stop() -> None:
    """Ctrl-C doesn't wait for a post of next week."""
    clock = Clock()
    pace = clock.pace(1e-6, None, is_stopped=lambda: clock.now > 105)
    assert clock.took(pace, [None, None]) < 6


def test_a_file_that_is_there_is_not_taken(
    minute: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither for events nor for dead letters, nor by a replay that is only now begun with --resume."""
    monkeypatch.chdir(tmp_path)
    for name in ("events.jsonl", "dead-letters.jsonl"):
        Path(name).write_text("precious\n")
        for more in ([], ["--resume", "place.json"]):
            assert main(["replay", str(minute), "--out", "events.jsonl", *more]) == 1
            assert f"{name} is there already" in capsys.readouterr().err
        assert Path(name).read_text() == "precious\n"
        Path(name).unlink()


def test_the_bar_tells_how_far_it_is(minute: Path) -> None:
    """On a terminal: members, lines, posts, deletes, what was left out, and nothing where there is none."""
    for is_terminal in (True, False):
        archives = Archives([minute])
        posts = ArchivePosts(archives, PostChoice(share=0.9999), max_post_bytes=1000)
        shown = io.StringIO()
        console = Console(file=shown, force_terminal=is_terminal, width=200)
        with ReplayProgress(posts.books, archives.plan(), console) as progress:
            for entry in progress.entries():
                assert len(list(posts.of(entry))) == 4
        told = "3 posts  1 deletes  skipped: 1 not_json  0 filtered"
        assert (told in shown.getvalue()) is is_terminal
        assert bool(shown.getvalue()) is is_terminal
