"""Rows of a whole process: how soon it works, and whether its memory stays flat."""

import subprocess
import sys
import time
from contextlib import closing

from deploy.native.services import NativeRedis
from tests.benchmarks.bench import Bench
from tests.benchmarks.capacity_worker import Worker
from tests.benchmarks.kafka_run import kafka_run
from tests.benchmarks.rows import Measured, Reach, compare_sizes, row, seconds_of
from tests.benchmarks.soak import soak
from tests.benchmarks.stream import EventReader

NUM_SOAKED = 1_000_000


@row("start to first event, without importing torch", against="`import torch` alone", reach=Reach("≤", 3.0))
def start(bench: Bench) -> Measured:
    """Seconds from a worker's start to when a reader has the event of a post that waited, less those of `import torch`.

    Both are processes of their own, with their files in the system's cache: the first of each isn't counted.
    """
    starts, imports = [], []
    for _ in range(bench.rounds + 1):
        starts.append(_seconds_to_first_event(bench.kafka))
        imports.append(seconds_of(lambda: subprocess.run([sys.executable, "-c", "import torch"], check=True)))
    besides = [whole - imported for whole, imported in zip(starts[1:], imports[1:], strict=True)]
    return Measured(figures=besides, baselines=imports[1:], unit="s")


def _seconds_to_first_event(bootstrap: str) -> float:
    with NativeRedis() as redis, kafka_run(bootstrap) as run, closing(EventReader(run)) as reader:
        run.send(1)
        reader.read()  # it is connected before the worker is
        begun = time.perf_counter()
        worker = Worker(run, redis.address, "")
        try:
            for _ in reader.take(1):
                return time.perf_counter() - begun
        finally:
            worker.end()
    raise AssertionError("take(1) gives an event, or raises")


@row("memory after 1,000,000 posts", against="after 10,000", reach=Reach("≤", 1.05), is_long=True)
def memory(bench: Bench) -> Measured:
    """Resident memory of one worker, tiny posts without pictures; one round, which takes ten minutes and more."""
    first, *rest = soak(bench.kafka, NUM_SOAKED)
    return compare_sizes([(rest[-1].mebibytes, first.mebibytes)], "MiB")
