"""The command line: help that reads well, and errors in one sentence."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from worker.cli import main

COMMANDS = (
    "demo", "worker", "dlq", "tokenize", "practice", "train", "evaluate", "ablate", "calibrate", "inspect", "tag",
    "errors", "doctor", "config", "init",
)  # fmt: skip


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`nametag --help` lists the commands with a line each."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert all(f"\n    {command} " in told for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command says what it does and what it takes."""
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert len(capsys.readouterr().out) > 200


def test_help_does_not_wait_for_torch() -> None:
    """Help comes without importing torch."""
    code = "import sys, worker.cli\ntry: worker.cli.main(['--help'])\nexcept SystemExit: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "assert 'torch' not in sys.modules"], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_tokenize_writes_an_object_a_line() -> None:
    """`nametag tokenize` gives text and tokens with offsets, a line each, hostile bytes included."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.cli", "tokenize", "--scheme", "owoputi_hash_split"],
        input="go #Warriors!\n\n\x00\ud83d\n".encode("utf-8", "surrogatepass"),
        capture_output=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [token["text"] for token in lines[0]["tokens"]] == ["go", "#", "Warriors", "!"]
    assert lines[1] == {"text": "", "tokens": []}
    assert len(lines) == 3
    for line in lines:
        assert all(line["text"][t["start"] : t["end"]] == t["text"] for t in line["tokens"])


def test_an_unknown_scheme_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument ends in one sentence that names the right ones, not in a traceback."""
    with pytest.raises(SystemExit):
        main(["tokenize", "--scheme", "nltk"])
    assert "owoputi_hash_split" in capsys.readouterr().err


@pytest.mark.parametrize("daemon", [False, True])
def test_the_process_ends_whatever_its_threads_do(daemon: bool) -> None:
    """A look-up that can't be broken off doesn't keep the process, a client that logs on doesn't abort it."""
    code = f"""
import sys, threading, time
import worker.cli
def go_on():
    while {daemon}:
        sys.stderr.write("still here ")
    time.sleep(60)
def main():
    threading.Thread(target=go_on, daemon={daemon}).start()
    print("said")
    return 3
worker.cli.main = main
worker.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (3, b"said\n")


def test_nothing_is_said_under_the_last_line() -> None:
    """A process pool that is left behind had multiprocessing warn of leaked semaphores, as if that were the error."""
    code = """
import multiprocessing, threading, time
import worker.cli
def main():
    global kept
    kept = multiprocessing.get_context("spawn").Semaphore()
    threading.Thread(target=time.sleep, args=(60,)).start()
    return 1
worker.cli.main = main
worker.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (1, b"")


def test_the_process_ends_without_taking_itself_apart() -> None:
    """With torch that lasts a second under the last line; what was to be done at the end is done."""
    code = """
import atexit
import worker.cli
class Large:
    def __del__(self):
        print("taken apart")
def main():
    global kept
    kept = Large()
    atexit.register(print, "at the end")
    return 0
worker.cli.main = main
worker.cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"at the end\n")


def test_an_output_that_is_lost_at_the_end_is_a_failure() -> None:
    """A disk may be full only when the last lines are written, after the command itself went well."""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "worker.cli", "config"], stdout=full, stderr=subprocess.PIPE, check=False, timeout=30
        )
    assert done.returncode == 1
    assert b"nametag: [Errno 28] No space left on device\n" in done.stderr
