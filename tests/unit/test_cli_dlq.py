"""The command line of dead letters: what it takes, what it refuses, and that it doesn't wait for torch."""

import argparse
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from consumers.errors import Reason
from worker import cli_dlq
from worker.cli import main
from worker.moments import read_moment


@pytest.mark.parametrize("command", ["ls", "show", "retry"])
def test_each_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command says what it does and what it takes."""
    with pytest.raises(SystemExit) as caught:
        main(["dlq", command, "--help"])
    assert caught.value.code == 0
    assert len(capsys.readouterr().out) > 400


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "COMMAND"),
        (["ls", "--reason", "no_such"], "invalid choice"),
        (["ls", "--since", "soon"], "soon is neither like 2h nor an ISO time"),
        (["ls", "--since", "999999999w"], "neither like 2h"),
        (["ls", "--limit", "0"], "0 is no number from 1 on"),
        (["show"], "POSITION"),
        (["show", "17"], "17: a position is topic[partition]@offset"),
        (["retry"], "say which letters"),
        (["retry", "--limit", "3"], "say which letters"),
        (["retry", "0@1", "--all"], "not both"),
        (["retry", "0@1", "--limit", "3"], "not both"),
        (["retry", "0@1", "--reason", "empty"], "not both"),
        (["retry", "0@1", "1"], "1: a position is"),
    ],
)
def test_a_wrong_command_line_is_refused(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With status 2 and what would be right, before anything is connected to."""
    with pytest.raises(SystemExit) as caught:
        main(["dlq", *arguments])
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


def test_moments_are_read() -> None:
    """How long ago, or an ISO time, which is in UTC unless it says otherwise."""
    noon = datetime(2026, 11, 25, 12, tzinfo=UTC)
    for text in ("2026-11-25T12:00", "2026-11-25 12:00:00Z", "2026-11-25T13:00+01:00"):
        assert read_moment(text) == noon
    assert read_moment("2026-11-25") == datetime(2026, 11, 25, tzinfo=UTC)
    for text, ago in {"90s": 90, "2m": 120, "2h": 7200, "1d": 86_400, "1w": 604_800}.items():
        assert abs(datetime.now(UTC) - timedelta(seconds=ago) - read_moment(text)) < timedelta(seconds=5)
    for text in ("", "2", "h", "-2h", "2 h", "٣h"):
        with pytest.raises(argparse.ArgumentTypeError):
            read_moment(text)


def test_the_reasons_are_those_of_the_worker() -> None:
    """They are written twice, so that help need not import them."""
    assert tuple(Reason) == cli_dlq.REASONS


def test_the_commands_do_not_wait_for_torch() -> None:
    """Neither torch nor what fetches pictures is imported to read a topic."""
    code = "import sys, worker.cli, worker.dlq\nassert not {'torch', 'aiohttp', 'redis', 'PIL'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
