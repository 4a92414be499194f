"""A million tiny posts through one worker: whether its memory stays flat, and every post comes out.

`python tests/benchmarks/soak.py [POSTS]` needs NAMETAG_TEST_KAFKA, the address of a broker. It prints posts
done, posts a second and the resident memory of worker and tagger twenty times on the way, then the slope of the memory
by least squares, and its ratio to that after the first hundredth.
"""

import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from statistics import linear_regression
from typing import NamedTuple

from tests.benchmarks.capacity_worker import worker_rss
from tests.benchmarks.kafka_run import kafka_run

STEPS = 20


class Sample(NamedTuple):
    """After `seconds`, `num_posts` were done, and the worker held `mebibytes`."""

    seconds: float
    num_posts: int
    mebibytes: float


def main() -> None:
    """Run it, and print what was seen."""
    num_posts = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    _report(soak(os.environ["NAMETAG_TEST_KAFKA"], num_posts))


def soak(bootstrap: str, num_posts: int) -> list[Sample]:
    """Send the posts, run the worker until it has done them all: a sample after a hundredth, and at each twentieth."""
    with kafka_run(bootstrap) as run:
        run.send(num_posts)
        worker = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", "worker"],
            env=os.environ | run.settings,
            stderr=subprocess.PIPE,
            text=True,
        )
        told = _Log(worker)
        try:
            return _watch(worker, told, num_posts)
        finally:
            worker.terminate()
            worker.wait(timeout=60)


class _Log:
    """Reads a worker's log for ever, so that it never waits for us, and keeps the address in it."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        self.address = ""
        threading.Thread(target=self._read, args=(worker,), daemon=True).start()

    def _read(self, worker: subprocess.Popen[str]) -> None:
        assert worker.stderr is not None
        for line in worker.stderr:
            if found := re.search(r"address=(\S+)", line):
                self.address = found[1]


def _watch(worker: subprocess.Popen[str], told: _Log, num_posts: int) -> list[Sample]:
    start = time.monotonic()
    marks = [num_posts // 100] + [num_posts * step // STEPS for step in range(1, STEPS + 1)]
    samples: list[Sample] = []
    while len(samples) < len(marks):
        time.sleep(0.2)
        if worker.poll() is not None:
            raise SystemExit(f"the worker ended with {worker.returncode}")
        done = _num_done(told.address) if told.address else 0
        if done >= marks[len(samples)]:
            samples.append(Sample(time.monotonic() - start, done, worker_rss(worker.pid) / 2**20))
            print(f"{done:9,} posts, {samples[-1].seconds:7.1f} s, {samples[-1].mebibytes:7.1f} MiB", flush=True)
    return samples


def _num_done(address: str) -> int:
    with urllib.request.urlopen(address + "/metrics", timeout=10) as response:
        text = response.read().decode()
    return round(sum(map(float, re.findall(r"^nametag_posts_total\{[^}]*\} (\S+)$", text, re.MULTILINE))))


def _report(samples: list[Sample]) -> None:
    first, *rest = samples
    slope = linear_regression([each.num_posts for each in rest], [each.mebibytes for each in rest]).slope
    rate = (rest[-1].num_posts - first.num_posts) / (rest[-1].seconds - first.seconds)
    ratio = rest[-1].mebibytes / first.mebibytes
    print(f"{rate:.0f} posts/s; memory {ratio:.3f} times that after {first.num_posts:,} posts")
    print(f"slope {slope * 100_000:+.2f} MiB each 100,000 posts")


if __name__ == "__main__":
    main()
