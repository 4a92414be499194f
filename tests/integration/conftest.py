"""`nametag dlq` on the topics of one test."""

from typing import Any

import pytest

from tests.integration.dlq_tools import Done, Run
from worker.cli import main


@pytest.fixture
def environment(kafka_bootstrap: str, topics: Any) -> dict[str, str]:
    """The settings of this test, as variables."""
    return {
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": kafka_bootstrap,
        "NAMETAG_KAFKA__POSTS_TOPIC": topics.posts,
        "NAMETAG_KAFKA__DEAD_LETTERS_TOPIC": topics.dead_letters,
    }


@pytest.fixture
def dlq(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `nametag dlq` in this process."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Done:
        capsys.readouterr()
        status = main(["dlq", *arguments])
        told = capsys.readouterr()
        return Done(status, told.out, told.err)

    return run
