"""How long events fall silent while a checkpoint is changed under a worker.

`python tests/benchmarks/checkpoint_change.py [CHANGES]`, from the repository. Posts come steadily; a watched file
is replaced again and again by the starter under other temperatures, each of which is loaded, checked and swapped in.
Printed are the longest silences between two events without a change, and around each change, in the same run.
"""

import argparse
import asyncio
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from consumers.events import EntityEvent
from consumers.source import Message, Offsets, Partition, Position, RevokeListener
from model.checkpoint import load, save
from worker.publish import Outcome
from worker.service import Edges, run_worker
from worker.settings import STARTER_CHECKPOINT, CheckpointsTable
from worker.settings_loading import load_settings

RATE = 100
QUIET_SECONDS = 10.0
PARTITION = Partition("posts", 0)


class SteadySource:
    """`RATE` posts a second until it is stopped."""

    unready = None
    membership = None
    backlog: Mapping[Partition, int] = {}

    def __init__(self) -> None:
        self.is_stopped = asyncio.Event()
        self._next = 0
        self._begun = 0.0

    async def start(self, on_revoke: RevokeListener) -> None:
        self._begun = time.monotonic()

    async def rewind(self, forget: Callable[[], None]) -> None:
        raise NotImplementedError

    async def receive(self) -> Sequence[Message]:
        await asyncio.sleep(max(0.0, self._begun + self._next / RATE - time.monotonic()))
        if self.is_stopped.is_set():
            return ()
        self._next += 1
        text = "so happy about Phoenix , says Tim Cook of Apple"
        value = json.dumps({"id": str(self._next), "text": text}).encode()
        return [Message(position=Position(PARTITION, self._next), value=value)]

    async def commit(self, offsets: Offsets) -> None: ...
    async def stop_intake(self) -> None: ...
    async def close(self) -> None: ...


class NotingSink:
    """Notes when the events of which checkpoint came."""

    commits_offsets = True

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []

    async def start(self) -> None: ...

    async def publish(self, outcomes: Sequence[Outcome], offsets: Offsets, membership: object) -> None:
        now = time.monotonic()
        self.events += [(now, each.checkpoint.id) for each in outcomes if isinstance(each, EntityEvent)]

    async def close(self) -> None: ...


def longest_silence(events: Sequence[tuple[float, str]], begin: float, end: float) -> float:
    """The longest time between two events from `begin` to `end`, in seconds."""
    moments = [at for at, _ in events if begin <= at <= end]
    return max((after - before for before, after in pairwise(moments)), default=end - begin)


async def measure(num_changes: int, folder: Path) -> None:
    """Change the checkpoint `num_changes` times, and print what that cost."""
    checkpoint, _ = load(STARTER_CHECKPOINT)
    watched = folder / "current.safetensors"
    table = CheckpointsTable(watch=watched, poll_seconds=0.2, trial_seconds=2.0)
    settings = load_settings().model_copy(update={"checkpoints": table, "flush_seconds": 0.0})
    source, sink = SteadySource(), NotingSink()
    running = asyncio.create_task(run_worker(settings, Edges(source=source, sink=sink)))
    while not sink.events:  # noqa: ASYNC110 (it tells nobody)
        await asyncio.sleep(0.1)
    await asyncio.sleep(2.0)
    quiet_at = time.monotonic()
    await asyncio.sleep(QUIET_SECONDS)
    quiet = longest_silence(sink.events, quiet_at, time.monotonic())
    silences = []
    for number in range(num_changes):
        new = dataclasses.replace(checkpoint, temperature=2.0 + number)
        identity = await asyncio.to_thread(save, new, folder / "next")
        changed_at = time.monotonic()
        (folder / "next").replace(watched)
        while sink.events[-1][1] != identity:  # noqa: ASYNC110 (it tells nobody)
            await asyncio.sleep(0.05)
        await asyncio.sleep(3.0)
        silences.append(longest_silence(sink.events, changed_at, time.monotonic()))
    source.is_stopped.set()
    await running
    print(f"longest silence without a change: {1000 * quiet:.0f} ms")
    print("around each change: " + ", ".join(f"{1000 * each:.0f}" for each in silences) + " ms")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("changes", type=int, nargs="?", default=5)
    with tempfile.TemporaryDirectory() as name:
        asyncio.run(measure(parser.parse_args().changes, Path(name)))
