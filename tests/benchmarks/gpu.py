"""What a CUDA device gives: the tower, its copies, the worker's path to it, the text half, the tags, and the decoding.

    python -m tests.benchmarks.gpu [--out FOLDER] [--cpu] [ROWS…]

Under 100 seconds on one H100; needs ../shared, and no Kafka. --cpu runs the same code on a CPU, on next to nothing.
Rates are medians of rounds by the clock, the device waited for; a ratio is of two figures of the same run. Rows: tower,
copies, path, text, tags, decoding.
"""

import argparse
import copy
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load
from model.cuda_tower import CudaTower, Precision, use_full_precision
from model.inference import Tagger
from model.pixels import read_pixels
from model.tagger import NameTagger
from model.tagging import TaggingInput
from model.tower import Tower, build_tower
from tests.benchmarks.capacity import SHARED, describe_machine, read_captions
from tests.benchmarks.gpu_path import path_rate
from worker.batch_runner import BatchLimits
from worker.settings import STARTER_CHECKPOINT

Told = dict[str, Any]
TOWERS = ("efficientnet_lite0", "resnet152")
REACH = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much is measured, and how often."""

    rounds: int = 3
    towers: tuple[str, ...] = TOWERS
    sizes: tuple[int, ...] = (1, 8, 32, 64, 128)
    num_pictures: int = 256
    num_posts: int = 1536
    images_at_once: tuple[int, ...] = (16, 32, 64, 128, 256)
    text_batches: tuple[int, ...] = (32, 128, 256)
    num_text_posts: int = 768
    num_tag_posts: int = 1000
    num_decoded: int = 480


TINY = Scale(
    rounds=1, towers=TOWERS[:1], sizes=(1, 2, 4), num_pictures=4, num_posts=8, images_at_once=(4,),
    text_batches=(8,), num_text_posts=16, num_tag_posts=20, num_decoded=24,
)  # fmt: skip


class Gpu:
    """What the rows measure with. On a CPU a tower of any kind is the folded one."""

    def __init__(self, device: torch.device, scale: Scale) -> None:
        self.device, self.scale = device, scale
        self.is_cuda = device.type == "cuda"
        self._towers: dict[str, Tower] = {}
        self._bare: dict[tuple[str, int, str], float] = {}
        self.precisions: tuple[Precision, ...] = ("fp32", "bf16") if self.is_cuda else ("fp32",)

    @cached_property
    def captions(self) -> list[str]:
        """Of Twitter-2015's training set, as the sameness test has them."""
        return read_captions(SHARED / "twitter2015" / "train.txt")

    @cached_property
    def photos(self) -> list[bytes]:
        """The subset's photos."""
        return [path.read_bytes() for path in sorted((SHARED / "tweet_images_subset" / "images").glob("*.jpg"))]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Decoded photos (N, 3, 224, 224); those that come again have noise on them, so that none is another's."""
        once = np.stack([read_pixels(photo) for photo in self.photos])
        rng = np.random.default_rng(0)
        count = max(self.scale.num_pictures, self.scale.num_posts, max(self.scale.sizes))
        noise = rng.integers(0, 8, (count, 3, 1, 1), dtype=np.uint8)
        many: np.ndarray = once[np.arange(count) % len(once)] ^ noise
        many[:, 0, 0, 0], many[:, 0, 0, 1] = np.arange(count) % 256, np.arange(count) // 256
        return many

    def tower(self, name: str) -> Tower:
        """Lite0 with its weights, the others with random ones; the caller's own."""
        if name not in self._towers:
            tower = build_tower(name, "default" if name == "efficientnet_lite0" else None)
            for module in tower.network.modules():
                if isinstance(last := getattr(module, "bn3", None), torch.nn.BatchNorm2d) and name != TOWERS[0]:
                    # At random each block doubles what it is given, and fifty of them leave fp16.
                    last.weight.fill_(0.1)
            self._towers[name] = tower
        return copy.deepcopy(self._towers[name])

    def checkpoint(self, name: str) -> Checkpoint:
        """The starter; of another tower, one as large with random weights where it projects the features."""
        starter, _ = load(STARTER_CHECKPOINT)
        if name == starter.tower:
            return starter
        config = replace(starter.config, region_width=2048)
        words = starter.vocabulary
        network = NameTagger(config, starter.labels, words.num_words, words.num_characters)
        random = network.state_dict()
        kept = {key: value for key, value in starter.state.items() if value.shape == random[key].shape}
        return replace(starter, config=config, tower=name, tower_digest="0" * 16, state=random | kept)

    def tagger(self, name: str, precision: Precision) -> Tagger:
        """A tagger on the device."""
        return Tagger(
            self.checkpoint(name), "bench", self.tower(name).fold(), str(self.device), tower_precision=precision
        )

    def rate(self, count: int, act: Callable[[], object]) -> float:
        """A second's share of `count`: the median of the rounds, after two that don't count."""
        seconds = []
        for number in range(-2 if self.is_cuda else -1, self.scale.rounds):
            self.wait()
            begun = time.perf_counter()
            act()
            self.wait()
            if number >= 0:
                seconds.append(time.perf_counter() - begun)
        return count / median(seconds)

    def wait(self) -> None:
        """Until the device has done all."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def bare(self, name: str, size: int, kind: str) -> float:
        """Pictures/s of a tower alone, its pixels on the device and its features left there."""
        key = name, size, kind
        if key not in self._bare:
            given = torch.from_numpy(self.pixels[:size]).to(self.device)
            repeats = max(1, min(64, self.scale.num_pictures // size))
            see = self.see(*key)
            with torch.inference_mode():
                self._bare[key] = self.rate(size * repeats, lambda: [see(given) for _ in range(repeats)])
        return self._bare[key]

    def see(self, name: str, size: int, kind: str) -> Callable[[Tensor], Tensor]:
        """The tower alone, on pixels on the device."""
        tower = self.tower(name)
        if kind == "eager" or not self.is_cuda:
            return tower.to(self.device) if kind == "eager" else tower.fold()
        if kind == "folded":
            return tower.fold().to(self.device)
        precision: Precision = "bf16" if kind == "bf16 graph" else "fp32"
        fast = CudaTower(tower, self.device, precision, largest=size)

        def see(given: Tensor) -> Tensor:
            # The graph alone: without the copies, which are a row of their own.
            with torch.cuda.stream(fast._compute):
                return fast._sizes(given)

        return see


def tower_row(gpu: Gpu) -> Iterator[Told]:
    """Bare towers, by size of the batch."""
    for name in gpu.scale.towers:
        for size in gpu.scale.sizes:
            rates = {kind: gpu.bare(name, size, kind) for kind in ("eager", "folded", "fp32 graph", "bf16 graph")}
            told = {"tower": name, "pictures at once": size} | {f"{kind}, pictures/s": rates[kind] for kind in rates}
            yield told | {"bf16 graph / eager": rates["bf16 graph"] / rates["eager"]}


def copies_row(gpu: Gpu) -> Iterator[Told]:
    """`Tagger.look` from pixels on the CPU to features there: plainly, page-locked in one part, in several."""
    for name in gpu.scale.towers:
        for precision in gpu.precisions:
            yield _copies(gpu, name, precision, gpu.scale.sizes[-2])


def _copies(gpu: Gpu, name: str, precision: Precision, size: int) -> Told:
    given = torch.from_numpy(gpu.pixels[: gpu.scale.num_pictures])
    batches = given.split(size)
    see = gpu.see(name, size, f"{precision} graph")
    told: Told = {"tower": name, "precision": precision, "pictures at once": size}
    told["on the device, pictures/s"] = gpu.bare(name, size, f"{precision} graph")
    told["pageable, pictures/s"] = gpu.rate(len(given), lambda: _pageable(gpu, see, batches))
    for largest in (size, size // 2, size // 4) if gpu.is_cuda else ():
        look = CudaTower(gpu.tower(name), gpu.device, precision, largest=largest).look
        told[f"page-locked, parts of {largest}, pictures/s"] = _look_rate(gpu, look, batches)
    return told


def _look_rate(gpu: Gpu, look: Callable[[Tensor], Tensor], batches: tuple[Tensor, ...]) -> float:
    return gpu.rate(sum(map(len, batches)), lambda: [look(each) for each in batches])


def _pageable(gpu: Gpu, see: Callable[[Tensor], Tensor], batches: tuple[Tensor, ...]) -> None:
    with torch.inference_mode():
        for each in batches:
            there = each.to(gpu.device)
            gpu.wait()
            features = see(there)
            gpu.wait()
            features.cpu()


def path_row(gpu: Gpu) -> Iterator[Told]:
    """The worker's Batcher and BatchRunner, posts with pixels all waiting, against the bare tower at its best size."""
    pixels = list(gpu.pixels[: gpu.scale.num_posts])
    for name in gpu.scale.towers:
        for precision in gpu.precisions:
            kind = f"{precision} graph"
            best = max(gpu.bare(name, size, kind) for size in gpu.scale.sizes[-3:])
            tagger = gpu.tagger(name, precision)
            texts = [tagger.tokenize(text) for text in islice(cycle(gpu.captions), len(pixels))]
            # In fp32 a large tower would take most of the time.
            for images in (
                gpu.scale.images_at_once[1::2] if gpu.is_cuda and precision == "fp32" else gpu.scale.images_at_once
            ):
                limits = BatchLimits(max_posts=images, max_images=images, max_padded_tokens=1 << 16)
                rates = {}
                for ahead in (True, False):
                    rounds = [path_rate(tagger, texts, pixels, limits, ahead=ahead) for _ in range(3)]
                    rates[ahead] = median(rounds[1:])  # in the first graphs are captured, and words are new
                yield {
                    "tower": name, "precision": precision, "max_images = max_posts": images, "posts/s": rates[True],
                    "bare tower, pictures/s": best, "ratio": rates[True] / best, "reached": rates[True] / best >= REACH,
                    "without looking ahead, posts/s": rates[False],
                }  # fmt: skip


def text_row(gpu: Gpu) -> Iterator[Told]:
    """Embedding, BLSTM, attention, CRF, spans, every post with features, against one thread of a CPU."""
    here = Tagger.load(STARTER_CHECKPOINT)
    there = Tagger.load(STARTER_CHECKPOINT, str(gpu.device))
    features = here.look(gpu.pixels[:2])
    texts = islice(cycle(gpu.captions), gpu.scale.num_text_posts)
    posts = [TaggingInput(tokens=here.tokenize(text), features=features[n % 2]) for n, text in enumerate(texts)]
    for size in gpu.scale.text_batches:
        batches = [posts[start : start + size] for start in range(0, len(posts), size)]
        on_device, on_cpu = _tag_rate(gpu, there, batches), _one_thread(_tag_rate, gpu, here, batches)
        yield {"posts at once": size, "device, posts/s": on_device, "CPU, posts/s": on_cpu, "ratio": on_device / on_cpu}


def _tag_rate(gpu: Gpu, tagger: Tagger, batches: list[list[TaggingInput]]) -> float:
    return gpu.rate(sum(map(len, batches)), lambda: [tagger.tag(each) for each in batches])


def _one_thread(rate: Callable[..., float], *args: object) -> float:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return rate(*args)
    finally:
        torch.set_num_threads(threads)


def tags_row(gpu: Gpu) -> Iterator[Told]:
    """Posts whose names change, of a thousand; and how far the features are from a CPU's."""
    posts = gpu.captions[: gpu.scale.num_tag_posts]
    pixels = gpu.pixels[: min(64, gpu.scale.num_tag_posts // 5)]
    here = Tagger.load(STARTER_CHECKPOINT)
    seen = here.look(pixels)
    expected = _names(here, posts, seen)
    for precision in gpu.precisions:
        tagger = Tagger.load(STARTER_CHECKPOINT, str(gpu.device), tower_precision=precision)
        for _ in range(3):
            features = tagger.look(pixels)
        error = float(np.linalg.norm(features.astype(float) - seen) / np.linalg.norm(seen.astype(float)))
        changed = sum(one != other for one, other in zip(_names(tagger, posts, features), expected, strict=True))
        alone = sum(one != other for one, other in zip(_names(here, posts, features), expected, strict=True))
        yield {
            "precision": precision, "posts": len(posts), "names": sum(map(len, expected)), "posts changed": changed,
            "of them by the features alone": alone, "relative error of the features": error,
        }  # fmt: skip


def _names(tagger: Tagger, captions: list[str], features: np.ndarray) -> list[list[tuple[str, int, int]]]:
    seen = islice(cycle(features), len(captions))
    posts = [TaggingInput(tokens=tagger.tokenize(t), features=f) for t, f in zip(captions, seen, strict=True)]
    taggings = [each for start in range(0, len(posts), 50) for each in tagger.tag(posts[start : start + 50])]
    return [[(span.type, span.start, span.end) for span in tagging.spans] for tagging in taggings]


def decoding_row(gpu: Gpu) -> Iterator[Told]:
    """What the cores can feed: `read_pixels` on one process, and on all cores but one."""
    photos = list(islice(cycle(gpu.photos), gpu.scale.num_decoded))
    for processes in sorted({1, max(1, (os.cpu_count() or 2) - 1)}):
        with ProcessPoolExecutor(processes) as pool:
            chunk = max(1, len(photos) // (8 * processes))
            list(pool.map(_decode, photos[: 4 * processes]))
            begun = time.perf_counter()
            list(pool.map(_decode, photos, chunksize=chunk))
            yield {"processes": processes, "pictures/s": len(photos) / (time.perf_counter() - begun)}


def _decode(photo: bytes) -> int:
    return len(read_pixels(photo))


ROWS: dict[str, Callable[[Gpu], Iterator[Told]]] = {
    "decoding": decoding_row,  # first: its processes are forked, and a forked process can't have a device
    "tags": tags_row, "path": path_row, "tower": tower_row, "copies": copies_row, "text": text_row,
}  # fmt: skip


def main() -> int:
    """Measure, print the tables, and keep them; 1 where a row couldn't be measured."""
    parser = argparse.ArgumentParser(description="What a CUDA device gives.")
    parser.add_argument("names", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; all without")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where gpu.md and gpu.json go")
    parser.add_argument("--cpu", action="store_true", help="run the code on a CPU, on next to nothing")
    wanted = parser.parse_args()
    if unknown := set(wanted.names) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    if not wanted.cpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --cpu runs the code without one")
    device = torch.device("cpu" if wanted.cpu else "cuda")
    if wanted.cpu:  # threads of torch wait for one another, and others may be at work here
        torch.set_num_threads(1)
    gpu = Gpu(device, TINY if wanted.cpu else Scale())
    machine = describe_machine() | {"torch": str(torch.__version__), "device": str(device)}
    tables: dict[str, list[Told]] = {}
    failed = 0
    for name in [each for each in ROWS if not wanted.names or each in wanted.names]:
        begun, tables[name] = time.monotonic(), []
        try:
            # As the rows come: those before a failure are told.
            for told in ROWS[name](gpu):
                tables[name].append(told)
        except Exception as error:
            # The border of a row: what is wrong with one costs none of the others.
            traceback.print_exc()
            tables[name].append({"not measured": f"{type(error).__name__}: {str(error)[:200]}"})
            failed = 1
        print(_markdown(name, tables[name]), f"({time.monotonic() - begun:.1f} s)\n", sep="\n", flush=True)
        if wanted.out is not None:
            _write(wanted.out, machine, tables)
    if gpu.is_cuda:
        machine["device"] = torch.cuda.get_device_name(device)
    print(json.dumps(machine))
    if wanted.out is not None:
        _write(wanted.out, machine, tables)
    return failed


def _write(folder: Path, machine: Told, tables: dict[str, list[Told]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps({"machine": machine, "tables": tables}, indent=1) + "\n")
    text = "\n".join(_markdown(name, rows) for name, rows in tables.items())
    (folder / "gpu.md").write_text(f"{'; '.join(f'{k} {v}' for k, v in machine.items())}\n\n{text}\n")


def _markdown(name: str, rows: list[Told]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"**{name}**", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(row.get(key)) for key in columns)} |" for row in rows)]) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    use_full_precision()
    raise SystemExit(main())
