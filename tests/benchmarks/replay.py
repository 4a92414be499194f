"""How fast archives are read, in how much memory, and whether kills lose or double a post.

    python -m tests.benchmarks.replay speed      reading into posts, against bz2 and orjson alone; then two processes
    python -m tests.benchmarks.replay memory     the most memory of a dry run, over more and more lines
    python -m tests.benchmarks.replay kills 50   SIGKILLs at random moments: --out; --to-topic with NAMETAG_TEST_KAFKA

Minutes are copies of the real one in ../shared. What is compared runs by turns; CPU time where one core is meant.
"""

import bz2
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

import orjson
from kafka import KafkaConsumer, TopicPartition

from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives
from consumers.archive_posts import ArchivePosts
from tests.benchmarks.kafka_run import kafka_run

SHARED = Path(__file__).parents[3] / "shared" / "data" / "archive" / "twitter-stream-2021-01-01.zip"
NUM_ROUNDS = 7
REPLAY = (sys.executable, "-m", "worker.cli", "replay")


def main() -> None:
    """Run what is asked for, and print it."""
    what, *arguments = sys.argv[1:] or ["speed"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if what == "speed":
            _speed(folder)
        elif what == "memory":
            _memory(folder)
        else:
            _kills(folder, int(arguments[0]) if arguments else 50)


def _minutes(folder: Path, count: int) -> Path:
    with zipfile.ZipFile(SHARED) as archive:
        data = next(archive.read(name) for name in archive.namelist() if name.endswith(".bz2"))
    for number in range(count):
        path = folder / f"{count}" / f"2021/01/01/{number // 60:02}/{number % 60:02}.json.bz2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / f"{count}"


def _speed(folder: Path) -> None:
    few, many = _minutes(folder, 2), _minutes(folder, 32)
    ratios, speedups = [], []
    for _ in range(NUM_ROUNDS):
        ratios.append(_cpu_alone(few) / _cpu_of_posts(few))
        speedups.append(_dry_run(many, 1) / _dry_run(many, 2))
        print(f"bz2 and orjson / posts {ratios[-1]:.3f}   one process / two {speedups[-1]:.2f}", flush=True)
    print(f"medians: {median(ratios):.3f}, {median(speedups):.2f} (best {max(ratios):.3f}, {max(speedups):.2f})")


def _cpu_alone(path: Path) -> float:
    began = time.process_time()
    for file in sorted(path.rglob("*.bz2")):
        for line in bz2.decompress(file.read_bytes()).splitlines():
            orjson.loads(line)
    return time.process_time() - began


def _cpu_of_posts(path: Path) -> float:
    began = time.process_time()
    archives = Archives([path])
    posts = ArchivePosts(archives, PostChoice(), max_post_bytes=256 * 1024)
    for entry in archives.plan():
        for _ in posts.of(entry):
            pass
    return time.process_time() - began


def _dry_run(path: Path, num_workers: int) -> float:
    """Seconds by the clock, the start left out: the replay tells its own."""
    command = [*REPLAY, "--dry-run", "--json", "--workers", str(num_workers), str(path)]
    told = subprocess.run(command, check=True, capture_output=True)
    return float(json.loads(told.stdout)["seconds"])


def _memory(folder: Path) -> None:
    for count in (4, 40, 160):
        subprocess.run([*REPLAY, "--dry-run", "--json", str(_minutes(folder, count))], check=True, capture_output=True)
        # Of the largest of all children so far, which the last one is, if it grows.
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"{count * 14} MB of lines: {peak:.0f} MiB at most in one process", flush=True)


def _kills(folder: Path, count: int) -> None:
    _kills_to_file(folder, count)
    if bootstrap := os.environ.get("NAMETAG_TEST_KAFKA"):
        _kills_to_topic(folder, count, bootstrap)


def _kills_to_file(folder: Path, count: int) -> None:
    out = folder / "events.jsonl"
    posts = _few_posts(folder, 200 * count)
    command = [
        *REPLAY,
        "--out",
        str(out),
        "--resume",
        str(folder / "a"),
        "--dead-letters",
        str(folder / "b"),
        str(posts),
    ]
    num_kills = _killed(command, count, lambda: out.stat().st_size if out.exists() else 0)
    ids = [json.loads(line)["id"] for line in out.read_bytes().splitlines()]
    _tell("--out", num_kills, ids, 200 * count)


def _kills_to_topic(folder: Path, count: int, bootstrap: str) -> None:
    posts = _few_posts(folder, 400 * count)
    with kafka_run(bootstrap) as run:
        topic = run.topics["posts"]
        partitions = [TopicPartition(topic, number) for number in range(4)]
        plain = KafkaConsumer(bootstrap_servers=bootstrap)
        command = [*REPLAY, "--to-topic", "--resume", str(folder / "c"), str(posts)]
        num_kills = _killed(command, count, lambda: sum(plain.end_offsets(partitions).values()), run.settings)
        plain.close()
        reader = KafkaConsumer(
            bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
        )
        reader.assign(partitions)
        ids: list[str] = []
        while found := [record for records in reader.poll(timeout_ms=3000).values() for record in records]:
            ids += [record.key.decode() for record in found]
        reader.close()
    _tell("--to-topic", num_kills, ids, 400 * count)


def _few_posts(folder: Path, count: int) -> Path:
    path = folder / f"{count}.json"
    path.write_bytes(b"".join(b'{"id":"%d","text":"so happy about Phoenix"}\n' % number for number in range(count)))
    return path


def _killed(
    command: Sequence[str], count: int, written: Callable[[], int], settings: Mapping[str, str] | None = None
) -> int:
    """Start it, kill it a moment after it has written, and so on; then let it end. How often it was killed."""
    num_kills = 0
    environment = os.environ | {"NAMETAG_FLUSH_SECONDS": "0.05"} | dict(settings or {})
    while True:
        before = written()
        with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
            while num_kills < count and process.poll() is None and written() <= before:
                time.sleep(0.005)
            if num_kills < count and process.poll() is None:
                time.sleep(random.random() * 0.15)
                process.kill()
                num_kills += process.wait() == -9
                continue
        return num_kills


def _tell(what: str, num_kills: int, ids: list[str], wanted: int) -> None:
    lost, doubled = wanted - len(set(ids)), len(ids) - len(set(ids))
    print(f"{what}: {num_kills} SIGKILLs, {wanted} posts, {lost} lost, {doubled} doubled", flush=True)


if __name__ == "__main__":
    main()
