"""The composition root refuses what can't work before anything is loaded or opened."""

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from consumers.errors import SourceUnavailable
from worker.errors import SettingsError
from worker.kafka_settings import transactional_id
from worker.service import Files, run_worker
from worker.settings import STARTER_CHECKPOINT, CheckpointsTable, KafkaTable
from worker.settings_loading import load_settings
from worker.tagger_link import TaggerLink
from worker.tagger_process import TaggerProcess
from worker.tagger_wire import TaggerSpec


@pytest.mark.parametrize("url", ["redis://u:SECRETPW/x@127.0.0.1:6379/0", "redis://h:notaport/0", "nonsense"])
def test_a_wrong_redis_url_is_told_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names the setting, and quotes nothing of a URL that holds a password."""
    monkeypatch.setenv("NAMETAG_REDIS__URL", url)
    with pytest.raises(SettingsError, match=r"redis\.url") as caught:
        asyncio.run(run_worker(load_settings()))
    assert "SECRET" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("events", ["posts.jsonl", "./posts.jsonl", "letters.jsonl", "link.jsonl"])
def test_an_output_that_is_the_input_is_refused(events: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The posts stay as they were, under whatever name the file was given twice."""
    monkeypatch.chdir(tmp_path)
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"id": "1", "text": "a"}\n')
    (tmp_path / "link.jsonl").symlink_to(posts)
    with pytest.raises(SettingsError, match="three different files"):
        asyncio.run(
            run_worker(load_settings(), Files(posts="posts.jsonl", events=events, dead_letters="letters.jsonl"))
        )
    assert posts.read_text() == '{"id": "1", "text": "a"}\n'


def test_workers_of_different_names_have_different_transactional_ids() -> None:
    """Group a-b with member c is not group a with member b-c: one would fence the other."""
    names = [("a-b", "c"), ("a", "b-c"), ("a/b", "c"), ("a", "b/c"), ("a", "b%2Fc"), ("a%2Fb", "c")]
    tables = [KafkaTable(group_id=group, group_instance_id=member) for group, member in names]
    assert len({transactional_id(table) for table in tables}) == len(names)
    assert transactional_id(KafkaTable()) is None


def test_settings_of_pictures_are_told_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that can't be one is refused before the tagger is loaded, and without its password."""
    monkeypatch.setenv("NAMETAG_IMAGES__PROXY", "socks5://user:SECRETPW@proxy:1080")
    with pytest.raises(SettingsError, match=r"images\.proxy must be http://host:port") as caught:
        asyncio.run(run_worker(load_settings()))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("slow", ["first", "watched"])
def test_a_stop_does_not_wait_for_a_checkpoint(
    slow: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither for the first, nor for a named one that is looked at before the first post: told to stop, it ends."""
    caplog.set_level("INFO", "nametag.worker")
    watched = tmp_path / "current.safetensors"
    watched.write_bytes(STARTER_CHECKPOINT.read_bytes())
    released = threading.Event()

    def load(spec: TaggerSpec, link: TaggerLink | None) -> TaggerProcess:
        if (spec.path == watched) == (slow == "watched"):
            os.kill(os.getpid(), signal.SIGTERM)
            released.wait(30)  # a disk that doesn't answer
        return TaggerProcess(spec, link)

    monkeypatch.setattr("worker.checkpoint_settings.TaggerProcess", load)
    settings = load_settings().model_copy(update={"checkpoints": CheckpointsTable(watch=watched)})
    files = Files(posts=str(tmp_path / "none"), events=str(tmp_path / "events"), dead_letters=str(tmp_path / "letters"))
    begun = time.monotonic()
    try:
        asyncio.run(run_worker(settings, files))
    finally:
        released.set()
    assert time.monotonic() - begun < 20
    last = vars(caplog.records[-1])
    assert (last["message"], last["by"], last["posts"]) == ("worker_stopped", "a signal", 0)


def test_the_first_line_tells_what_is_loaded_and_the_last_what_was_done(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Posts in, what came of them, and for how long; of an error that it was one."""
    caplog.set_level("INFO", "nametag.worker")
    posts = tmp_path / "posts.jsonl"
    posts.write_text('{"id": "1", "text": "a"}\nnonsense\n')
    files = Files(posts=str(posts), events=str(tmp_path / "events"), dead_letters=str(tmp_path / "letters"))
    asyncio.run(run_worker(load_settings(), files))
    first, last = vars(caplog.records[0]), vars(caplog.records[-1])
    # Before it is read, for that may take a minute.
    assert (first["message"], first["file"]) == ("checkpoint_loading", str(STARTER_CHECKPOINT))
    assert (last["message"], last["by"]) == ("worker_stopped", "the end of the posts")
    assert (last["posts"], last["events"], last["dead_letters"], last["tombstones"]) == (2, 1, 1, 0)
    assert 0 < last["seconds"] < 60
    posts.unlink()
    with pytest.raises(SourceUnavailable):
        asyncio.run(run_worker(load_settings(), files))
    assert vars(caplog.records[-1])["by"] == "an error"
