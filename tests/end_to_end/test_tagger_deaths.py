"""The tagger's process dies amid posts, on real parts: an event each all the same, and no dead letter."""

import json
import os
import signal
from pathlib import Path
from typing import Any

from tests.end_to_end.worker_process import Worker, receive, running, send, until

NUM_POSTS = 3000
DEATHS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT)


def tagger_of(worker: Worker) -> int | None:
    """The id of its tagger's process."""
    for each in Path(f"/proc/{worker.process.pid}/task").glob("*/children"):
        for child in each.read_text().split():
            if b"worker.tagger_child" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


def test_a_tagger_that_dies_amid_posts_costs_none(
    environment: dict[str, str], topics: Any, kafka_bootstrap: str
) -> None:
    """Killed for want of memory, or by a fault in native code: it's started again, and each post has one event."""
    posts = [json.dumps({"id": str(n), "text": "so happy about Phoenix !"}).encode() for n in range(NUM_POSTS)]
    with running(environment) as (worker,):
        worker.wait_ready()
        send(kafka_bootstrap, topics.posts, posts)
        killed: set[int] = set()
        for number in DEATHS:
            done = worker.metric("nametag_posts_total")
            until(lambda least=done + 100: worker.metric("nametag_posts_total") > least, worker.told)
            tagger = until(lambda: tagger_of(worker), worker.told)
            assert tagger not in killed
            killed.add(tagger)
            os.kill(tagger, number)
        events = receive(kafka_bootstrap, topics.entities, NUM_POSTS, [worker])
        assert worker.metric("nametag_tagger_process_resident_memory_bytes") > 50_000_000
        assert worker.metric("nametag_dead_letters_total") == 0
        assert worker.stop() == 0
    assert {json.loads(record.value)["id"] for record in events} == set(map(str, range(NUM_POSTS)))
    log = "".join(worker.log)
    assert [f"died of {number.name}" in log for number in DEATHS] == [True] * len(DEATHS)
