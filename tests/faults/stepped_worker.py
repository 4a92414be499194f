"""A worker whose pipeline asks the harness before it goes on from an armed step.

The steps are put round the worker's own functions from outside: production code has no hooks.
"""

import contextlib
import functools
import importlib
import json
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Reach = Callable[[str], None]
Wrap = Callable[[Any, Reach, str | None, str | None], Any]


class Renamed(Exception):
    """Raised when a name of the table below is no longer in the worker; says which."""


def _around(function: Any, reach: Reach, before: str | None, after: str | None) -> Any:
    @functools.wraps(function)
    def stepped(*arguments: Any, **named: Any) -> Any:
        if before:
            reach(before)
        result = function(*arguments, **named)
        if after:
            reach(after)
        return result

    return stepped


def _around_awaited(function: Any, reach: Reach, before: str | None, after: str | None) -> Any:
    @functools.wraps(function)
    async def stepped(*arguments: Any, **named: Any) -> Any:
        if before:
            reach(before)
        result = await function(*arguments, **named)
        if after:
            reach(after)
        return result

    return stepped


def _around_answered(function: Any, reach: Reach, before: str | None, after: str | None) -> Any:
    """For a call that gives back a client's future: it has happened when the answer is there."""

    @functools.wraps(function)
    def stepped(*arguments: Any, **named: Any) -> Any:
        if before:
            reach(before)
        answer = function(*arguments, **named)
        if after:
            answer.add_callback(lambda _result: reach(after))
        return answer

    return stepped


@dataclass(frozen=True, slots=True)
class Place:
    """A function of the worker, and the steps that it begins with and ends with."""

    module: str
    owner: str
    attribute: str
    before: str | None
    after: str | None
    wrap: Wrap = _around


PLACES = (
    Place("kafka.coordinator.base", "BaseCoordinator", "_do_join_and_sync_async", "in_join", None, _around_awaited),
    Place("consumers.kafka", "KafkaSource", "deliver", None, "after_poll"),
    Place("worker.desk", "Desk", "_prepare", None, "after_prepare", _around_awaited),
    Place("model.inference", "Tagger", "tag", "in_tag", None),
    Place(
        "worker.transactional_sink", "TransactionalKafkaSink", "_send_in_transaction", "before_produce", "after_produce"
    ),
    Place("worker.kafka_sink", "KafkaSink", "_send_all", "before_produce", "after_produce"),
    Place("kafka", "KafkaProducer", "commit_transaction", "before_commit", "after_commit"),
    Place("kafka", "KafkaConsumer", "commit_async", "before_commit", "after_commit", _around_answered),
)
"""All that is known of the worker's names; one that is renamed there has to be renamed here."""


def check_places() -> None:
    """Raise `Renamed` unless every place is there."""
    for place in PLACES:
        owner = getattr(importlib.import_module(place.module), place.owner, None)
        if not callable(getattr(owner, place.attribute, None)):
            raise Renamed(
                f"{place.module}.{place.owner}.{place.attribute} is no longer there; mend PLACES in "
                "tests/faults/stepped_worker.py"
            )


class Steps:
    """Counts the passages of each step, and asks the harness at those that are armed."""

    def __init__(self, number: int, address: str, armed: dict[str, list[int]]) -> None:
        self._number = number
        self._address = address
        self._armed = {step: frozenset(passages) for step, passages in armed.items()}
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, step: str) -> None:
        """One passage; at an armed one the harness does what it wants before this returns."""
        with self._lock:
            self._counts[step] += 1
            passage = self._counts[step]
        if passage in self._armed.get(step, ()):
            self._ask(step, passage)

    def _ask(self, step: str, passage: int) -> None:
        fields = {"number": self._number, "pid": os.getpid(), "step": step, "passage": passage}
        # The harness hears nobody any more once all has come out: then the worker goes on.
        with socket.socket(socket.AF_UNIX) as harness, contextlib.suppress(ConnectionError):
            harness.connect(self._address)
            harness.sendall(json.dumps(fields).encode() + b"\n")
            harness.recv(16)


def install(reach: Reach, marker: str) -> None:
    """Put the steps round the worker's functions, and let the tagger break on posts with the word `marker`."""
    check_places()
    _poison(marker)
    for place in PLACES:
        owner = getattr(importlib.import_module(place.module), place.owner)
        setattr(owner, place.attribute, place.wrap(getattr(owner, place.attribute), reach, place.before, place.after))


def _poison(marker: str) -> None:
    from model.inference import Tagger
    from model.tagging import TaggingInput

    tag = Tagger.tag

    def poisoned(self: Tagger, inputs: Sequence[TaggingInput]) -> Any:
        if any(token.text == marker for each in inputs for token in each.tokens):
            raise RuntimeError("the harness has poisoned this post")
        return tag(self, inputs)

    Tagger.tag = poisoned  # type: ignore[method-assign] # from outside, as said above


def run(number: int, address: str, armed: dict[str, list[int]], marker: str) -> int:
    """Run `nametag worker` with its steps armed; gives back its exit status."""
    install(Steps(number, address, armed).reach, marker)
    from worker.cli import main

    return main(["worker"])
