"""How heavy the hot path is, in counts that are the same on every machine: no seconds.

    python -m tests.benchmarks.hot_path     count anew, and keep the figures in tests/unit/hot_path.json

Python bytecodes of each step of a post that is Python, ATen operators and bytecodes of one batch on the tagger, and
bytecodes of its ways to the tagger's process and back. The cache, the batcher and the publisher aren't counted: how
often asyncio turns for them is chance.
What C does within a bytecode, such as a regular expression or a validation, isn't seen. Each step is done once before
it's counted, so that caches, lazy imports and compiled patterns are warm in every count.
"""

import json
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from consumers.events import ImageReport
from consumers.image_status import ImageStatus
from consumers.posts import Post, read_message
from consumers.source import Message, Partition, Position
from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from worker.batch_runner import BatchLimits, BatchRunner, Prepared, Tagged
from worker.batches import Batcher
from worker.checkpoints import Checkpoints, InUse
from worker.desk import Desk, DeskConfig, Work
from worker.metrics import Metrics
from worker.settings import STARTER_CHECKPOINT
from worker.tagger_wire import packed_posts, packed_taggings, unpacked_posts, unpacked_taggings

FIGURES = Path(__file__).parents[1] / "unit" / "hot_path.json"
TEXTS = (
    "Just landed in Paris with @adele and the Red Cross team :) https://t.co/abc123",
    "RT @nasa: Curiosity has found signs of water on Mars! #space #mars2020",
    "lol",
    "so happy about Phoenix… can't wait 2 see Barack Obama @ Madison Square Garden, New York 😩😍",
    "Manchester United vs. Real Madrid, 7:30pm ET on ESPN — who's watching? #UCL",
)
ALLOWED = 1.10
"""Beyond so many times the kept figure a count is too heavy."""
BATCH_POSTS = 32
NUM_REGIONS, FEATURE_SEED = 49, 0

Counts = dict[str, float]


def count() -> Counts:
    """The figures: bytecodes a post of each Python step, ATen operators and bytecodes of a batch of 32 posts."""
    tagger = Tagger.load(STARTER_CHECKPOINT)
    messages = [_message(number, text) for number, text in enumerate(TEXTS)]
    posts = [_read(message) for message in messages]
    inputs = _batch(tagger)
    desk, works = _desk(tagger, posts)
    events = [desk.event(work, message) for work, message in zip(works, messages, strict=True)]

    def write_events() -> None:
        for work, message in zip(works, messages, strict=True):
            desk.event(work, message)

    steps: dict[str, Callable[[], object]] = {
        "read_message": lambda: [read_message(message, max_bytes=1 << 18) for message in messages],
        "tokenize": lambda: [tagger.tokenize(text) for text in TEXTS],
        "desk_event": write_events,
        "event_to_json": lambda: [event.to_json() for event in events],
    }
    counts: Counts = {f"{name}_bytecodes_a_post": num_bytecodes(act) / len(TEXTS) for name, act in steps.items()}
    for name, act in _border(inputs, tagger.tag(inputs)).items():
        counts[f"{name}_bytecodes_a_batch"] = num_bytecodes(act)
    counts["tag_bytecodes_a_batch"] = num_bytecodes(lambda: tagger.tag(inputs))
    counts["tag_operators_a_batch"] = _operators(lambda: tagger.tag(inputs))
    return counts


def _border(inputs: Sequence[TaggingInput], taggings: Sequence[Tagging]) -> dict[str, Callable[[], object]]:
    """The steps to the tagger's process and back, as far as they are Python."""
    features = np.stack([post.features for post in inputs if post.features is not None])
    posts, tagged = packed_posts(inputs), packed_taggings(taggings)
    return {
        "packed_posts": lambda: packed_posts(inputs),
        "unpacked_posts": lambda: unpacked_posts(posts, features),
        "packed_taggings": lambda: packed_taggings(taggings),
        "unpacked_taggings": lambda: unpacked_taggings(tagged),
    }


def _message(number: int, text: str) -> Message:
    body = {"id": str(10**18 + number), "text": text, "image_url": f"https://pictures.example/{number}.jpg"}
    return Message(position=Position(Partition("posts", 0), number), value=json.dumps(body).encode())


def _read(message: Message) -> Post:
    found = read_message(message, max_bytes=1 << 18)
    assert isinstance(found, Post)
    return found


def _batch(tagger: Tagger) -> list[TaggingInput]:
    """32 posts, every other one with a picture."""
    features = np.random.default_rng(FEATURE_SEED).random(tagger.feature_shape).astype(np.float16)
    return [
        TaggingInput(tokens=tagger.tokenize(TEXTS[number % len(TEXTS)]), features=None if number % 2 else features)
        for number in range(BATCH_POSTS)
    ]


def _desk(tagger: Tagger, posts: list[Post]) -> tuple[Desk, list[Work]]:
    """A desk, and the posts as they come back to it from the device, found to show a picture."""
    metrics = Metrics()
    # Nobody looks for a picture: the works are ready made.
    in_use = InUse(tagger=tagger, runner=BatchRunner(tagger, BatchLimits(), metrics), images=None)  # type: ignore[arg-type]
    batcher = Batcher(metrics)
    desk = Desk(Checkpoints(in_use, batcher, metrics), batcher, metrics, DeskConfig())
    batcher.close()
    works = []
    for post in posts:
        tokens = tagger.tokenize(post.shown.text)
        (tagging,) = tagger.tag([TaggingInput(tokens=tokens)])
        report = ImageReport(status=ImageStatus.USED, url=post.image_url, digest="0" * 64)
        works.append(Work(post, in_use, Prepared(tokens=tokens), report, Tagged(tagging=tagging)))
    return desk, works


def num_bytecodes(act: Callable[[], object]) -> int:
    """Bytecodes of this thread's Python while `act` runs a second time."""
    found = 0

    def trace(frame: types.FrameType, event: str, _argument: object) -> Any:
        nonlocal found
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        found += event == "opcode"
        return trace

    act()
    # Whoever traces already, such as a debugger or a measurement of coverage, goes on afterwards.
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return found


class _OperatorCounter(TorchDispatchMode):
    """Counts what reaches the device's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.num_operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.num_operators += 1
        return func(*args, **(kwargs or {}))


def _operators(act: Callable[[], object]) -> int:
    act()
    with _OperatorCounter() as counter:
        act()
    return counter.num_operators


def kept() -> dict[str, Counts]:
    """The figures that are kept, by Python's minor version: bytecodes are its own."""
    found: dict[str, Counts] = json.loads(FIGURES.read_text()) if FIGURES.exists() else {}
    return found


def python_version() -> str:
    """Such as 3.11."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def heavier(counts: Counts, than: Counts) -> list[str]:
    """What is more than ALLOWED times as heavy as it was, a sentence each; what wasn't counted before, too."""
    return [
        f"{name}: {value:.0f}, {'not counted' if name not in than else f'{than[name]:.0f}'} before"
        for name, value in counts.items()
        if value > ALLOWED * than.get(name, 0.0)
    ]


def main() -> None:
    """Keep the figures of this Python; those of others stay."""
    before, counts = kept(), count()
    for name, value in counts.items():
        old = before.get(python_version(), {}).get(name)
        print(f"{name:34} {value:10.1f}{'' if old is None else f'  before {old:10.1f}  {value / old - 1:+.1%}'}")
    FIGURES.write_text(json.dumps(before | {python_version(): counts}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
