"""What `nametag worker` logs, by its settings."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.cli import main

AT_INFO = ["starting", "checkpoint_loading", "published", "worker_stopped"]


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """The command configures the logs of the whole process."""
    root, ours = logging.getLogger(), logging.getLogger("nametag")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.mark.parametrize(
    ("level", "events"),
    [("debug", AT_INFO), (None, AT_INFO), ("warning", []), ("error", [])],
)
def test_the_log_begins_at_its_level(
    level: str | None,
    events: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line for each publication, up to four a second, goes with the rest of what is no warning."""
    monkeypatch.setenv("NAMETAG_LOG_FORMAT", "json")
    if level is not None:
        monkeypatch.setenv("NAMETAG_LOG_LEVEL", level)
    posts, letters = tmp_path / "posts.jsonl", tmp_path / "letters.jsonl"
    posts.write_text('{"id": "1", "text": "so happy about Phoenix !"}\n')
    output = ["--output", str(tmp_path / "events.jsonl"), "--dead-letters", str(letters)]
    assert main(["worker", "--input", str(posts), *output]) == 0
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == events
