"""What a post costs on this machine: the figures that `tests/simulation` and deploy/SCALING.md reckon with.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.capacity [--out tests/simulation/measured.json]

Takes under four minutes. Needs ../shared (captions, photos) and a Kafka: NAMETAG_TEST_KAFKA, or Java for a native one.
The parts are medians of processor time, for the machine may have other work; of the real worker's figures, those
of `per_second`, `device` and `latency` are by the clock, of one run each: `cores` says how much of the machine it had.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, median

import numpy as np
import torch

from deploy.native.services import NativeKafka
from model.inference import Tagger
from model.pixels import read_pixels
from model.tagging import TaggingInput
from tests.benchmarks.capacity_worker import Posts, measure_worker
from worker.packed_features import pack
from worker.settings import STARTER_CHECKPOINT

SHARED = Path(__file__).parents[3] / "shared" / "data" / "mner"
BATCHES = (1, 8, 32)
ROUNDS = 15
WORKER_SECONDS = 20.0

Figures = dict[str, float]


def main() -> None:
    """Measure the parts, then the worker as a whole; print the table and the JSON."""
    parser = argparse.ArgumentParser(description="What a post costs on this machine.")
    parser.add_argument("--out", type=Path, help="where the JSON goes, beside the screen")
    out: Path | None = parser.parse_args().out
    torch.set_num_threads(1)
    start = time.monotonic()
    captions = read_captions(SHARED / "twitter2017" / "valid.txt")
    photos = [path.read_bytes() for path in sorted((SHARED / "tweet_images_subset" / "images").glob("*.jpg"))]
    tagger = Tagger.load(STARTER_CHECKPOINT)
    figures = measure_pictures(tagger, photos) | measure_tagging(tagger, captions)
    with ExitStack() as stack:
        kafka = os.environ.get("NAMETAG_TEST_KAFKA") or stack.enter_context(NativeKafka()).address
        figures |= measure_worker(kafka, Posts(captions, photos), seconds=WORKER_SECONDS)
    told = describe_machine() | {"seconds": round(time.monotonic() - start)}
    for name, value in (told | figures).items():
        print(f"{name:34} {value if isinstance(value, str) else f'{value:.5g}'}")
    text = json.dumps({"machine": told, "figures": {name: float(f"{v:.4g}") for name, v in figures.items()}}, indent=1)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


def describe_machine() -> dict[str, str | int]:
    """Where and when; the load says how much else was running."""
    models = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    return {
        "processor": f"{len(models)} × {models[0] if models else platform.processor()}",
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "load": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }


def read_captions(path: Path) -> list[str]:
    """The posts of a corpus, as texts."""
    posts = path.read_text(encoding="utf-8").split("\n\n")
    words = [[line.split("\t")[0] for line in post.splitlines() if "\t" in line] for post in posts]
    return [" ".join(post) for post in words if post]


def measure_tagging(tagger: Tagger, captions: Sequence[str]) -> Figures:
    """Seconds a batch of 1, 8 and 32 posts, and the line through them: `tag_batch` + `tag_post` × posts.

    Every post comes with features, as the dearer of both kinds.
    """
    rng = np.random.default_rng(1)
    features = np.zeros(tagger.feature_shape, np.float16)
    seconds: list[float] = []
    for size in BATCHES:
        chosen = [rng.choice(len(captions), size) for _ in range(ROUNDS)]
        batches = [
            [TaggingInput(tokens=tagger.tokenize(captions[i]), features=features) for i in each] for each in chosen
        ]
        seconds.append(median_seconds(tagger.tag, batches))
    slope, base = np.polyfit(BATCHES, seconds, 1)
    measured = {f"tag_{size}_posts_seconds": value for size, value in zip(BATCHES, seconds, strict=True)}
    lengths = [len(tagger.tokenize(caption)) for caption in captions]
    return measured | {
        "tag_batch_seconds": max(0.0, float(base)),
        "tag_post_seconds": float(slope),
        "tokens_mean": mean(lengths),
    }


def measure_pictures(tagger: Tagger, photos: Sequence[bytes]) -> Figures:
    """Of a photo: its decoding, the tower's look, and the bytes that are fetched and kept."""
    pixels = [read_pixels(photo) for photo in photos]
    looked = [tagger.look(each[None]) for each in pixels]
    eights = [np.stack(pixels[start : start + 8]) for start in (0, 8, 16)]
    kept = [len(pack(each[0])) for each in looked]
    decoding = [median_seconds(read_pixels, [photo] * 3) for photo in photos]
    return {
        "decode_picture_seconds": mean(decoding),
        "tower_1_picture_seconds": median_seconds(tagger.look, [each[None] for each in pixels]),
        "tower_picture_seconds": median_seconds(tagger.look, eights * 2) / 8,
        "picture_bytes": mean(map(len, photos)),
        "picture_bytes_median": median(map(len, photos)),
        "features_bytes": mean(kept),
    }


def median_seconds(act: Callable[..., object], inputs: Sequence[object]) -> float:
    """Processor time of `act` on each of `inputs`; the first is done twice, for what only the first time costs."""
    act(inputs[0])
    seconds = []
    for each in inputs:
        start = time.thread_time()
        act(each)
        seconds.append(time.thread_time() - start)
    return median(seconds)


if __name__ == "__main__":
    main()
