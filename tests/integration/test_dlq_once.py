"""Dead letters go back once each, whatever happens in between."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from consumers import dead_letter_retry
from consumers.dead_letter_retry import Retry
from consumers.dead_letter_topic import Choice, DeadLetterTopic
from consumers.errors import RetryStopped
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_reader import KafkaReader
from consumers.parcels import Parcel
from tests.integration.dlq_tools import Run, counted, letter, transaction, write
from tests.integration.topic_tools import records


def run_in_process(environment: dict[str, str], patch: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start `nametag dlq` as a process of its own, changed by the lines of `patch`."""
    code = f"""
import os, signal, sys
from kafka import KafkaProducer
from consumers import dead_letter_retry
{patch}
from worker.cli import main
sys.exit(main(["dlq", *{list(arguments)!r}]))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


KILL_BEFORE = """
commit, commits = KafkaProducer.commit_transaction, []
def die(producer):
    commits.append(1)
    if len(commits) == {nth}:
        {first}
        os.kill(os.getpid(), signal.SIGKILL)
    commit(producer)
KafkaProducer.commit_transaction = die
dead_letter_retry.MAX_LETTERS = 2
"""


@pytest.mark.parametrize(
    ("nth", "first", "num_back"),
    [(1, "pass", 0), (2, "pass", 2), (2, "commit(producer)", 4)],
    ids=["before the first commit", "before the second commit", "after the second commit"],
)
def test_a_kill_doubles_and_loses_nothing(
    kafka_bootstrap: str, topics: Any, dlq: Run, environment: dict[str, str], nth: int, first: str, num_back: int
) -> None:
    """Killed between sending and committing, or just after: whole transactions went, and the next run does the rest."""
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(5)])
    killed = run_in_process(environment, KILL_BEFORE.format(nth=nth, first=first), "retry", "--all")
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(records(kafka_bootstrap, topics.posts)) == num_back
    # What the open transaction holds up, a list doesn't wait for.
    assert f"{num_back} of them retried already" in dlq("ls").out
    assert f"{5 - num_back} letters put back" in dlq("retry", "--all").out.replace("1 letter ", "1 letters ")
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(5)}
    assert "5 of them retried already" in dlq("ls").out


def test_two_at_once_double_nothing(kafka_bootstrap: str, topics: Any, environment: dict[str, str], dlq: Run) -> None:
    """Both are started together: each message goes back once, and who is overtaken says so in one sentence."""
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(12)])
    one_by_one = "dead_letter_retry.MAX_LETTERS = 1"
    both = [run_in_process(environment, one_by_one, "retry", "--all") for _ in range(2)]
    ends = [(process.communicate(timeout=120), process.returncode) for process in both]
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(12)}
    assert 0 in [status for _, status in ends]
    for (_, err), status in ends:
        assert status == 0 or (err.count("\n") == 1 and "another retry" in err), err
    assert "12 of them retried already" in dlq("ls").out


class Interrupted(Retry):
    """A retry at whose second letter something else happens first; everything else is the real thing."""

    happens: Callable[[], object]

    def _parcels(self, entries: Sequence[Any]) -> Iterator[Parcel]:
        if self.report.num_put_back == 1:
            self.happens()
        return super()._parcels(entries)


@contextmanager
def interrupted(bootstrap: str, topics: Any, happens: Callable[[], object]) -> Iterator[Callable[[], Any]]:
    """A call that puts back all letters one by one, with `happens` after the first."""
    connection = KafkaConnection(bootstrap_servers=(bootstrap,))
    with KafkaReader(connection) as reader:
        topic = DeadLetterTopic(reader, topics.dead_letters)
        survey = topic.survey(Choice())
        with Interrupted(connection, reader, topic, topics.posts, sources=()) as retry:
            retry.happens = happens  # type: ignore[method-assign]
            yield lambda: retry.put_back(survey, survey.in_order())


def test_the_second_retry_ends_the_first(
    kafka_bootstrap: str, topics: Any, dlq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retry that was overtaken in the middle stops with one clear sentence, and doubles nothing."""
    monkeypatch.setattr(dead_letter_retry, "MAX_LETTERS", 1)
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(4)])
    told: list[str] = []
    with (
        interrupted(kafka_bootstrap, topics, lambda: told.append(dlq("retry", "--all").out)) as put_back,
        pytest.raises(RetryStopped, match=rf"another retry of {topics.dead_letters} has taken over \(1 put back"),
    ):
        put_back()
    assert told == [f"3 letters put back on {topics.posts}\n"]
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(4)}


def test_a_mark_behind_an_open_transaction_counts(
    kafka_bootstrap: str, topics: Any, dlq: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's open transaction hides the marks behind it from readers: a retry waits until it sees them."""
    monkeypatch.setattr(dead_letter_retry, "MAX_LETTERS", 1)
    write(kafka_bootstrap, topics, [letter(topics, n, value=b"%d" % n) for n in range(3)])
    end = threading.Event()
    is_open = threading.Event()

    def hold_up() -> None:
        with transaction(kafka_bootstrap) as producer:
            producer.send(topics.dead_letters, b"x", partition=1).get(timeout=10)
            is_open.set()
            end.wait(30)

    holding = threading.Thread(target=hold_up)

    def begin() -> None:
        holding.start()
        assert is_open.wait(30)

    with interrupted(kafka_bootstrap, topics, begin) as put_back:
        put_back()
    # The list shows what can be read, at once; the retry knows that it isn't all.
    assert "1 of them retried already" in dlq("ls").out
    threading.Timer(2.0, end.set).start()
    start = time.monotonic()
    assert dlq("retry", "--all").out.startswith("0 letters put back")
    assert time.monotonic() - start > 1
    holding.join(30)
    assert counted(kafka_bootstrap, topics.posts) == {b"%d" % n: 1 for n in range(3)}
