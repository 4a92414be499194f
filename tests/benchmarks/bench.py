"""What the rows measure with: the posts, the photos, the tagger, a broker; each made when a row first asks for it."""

import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from importlib.metadata import version
from typing import Any, TypeVar

from deploy.native.services import NativeKafka
from model.inference import Tagger
from tests.benchmarks.capacity import SHARED, describe_machine, read_captions
from tests.benchmarks.capacity_worker import Posts
from worker.settings import Settings
from worker.settings_loading import load_settings
from worker.tagger_loading import load_here, threads_for
from worker.tagger_start import tagger_spec

T = TypeVar("T")

PACKAGES = ("torch", "numpy", "pillow", "kafka-python", "redis", "pytorch-crf", "nltk")


class Bench:
    """One run of the benchmarks; `rounds` is how often each worker is measured, in turn with its baseline.

    What takes milliseconds is measured `quick_rounds` times. A worker does `scale` times the posts: what takes a CPU
    seconds is a blink for a GPU.
    """

    def __init__(self, stack: ExitStack, rounds: int, scale: int = 1) -> None:
        self._stack = stack
        self._kept: dict[object, Any] = {}
        self.rounds = rounds
        self.scale = scale
        self.quick_rounds = 5 * rounds

    @cached_property
    def _settings(self) -> Settings:
        return load_settings()

    @cached_property
    def kafka(self) -> str:
        """A broker's address: NAMETAG_TEST_KAFKA, or a native one, which needs Java."""
        return os.environ.get("NAMETAG_TEST_KAFKA") or self._stack.enter_context(NativeKafka()).address

    @cached_property
    def posts(self) -> Posts:
        """Twitter-2017's valid captions, and the photos of the subset, from ../shared."""
        photos = sorted((SHARED / "tweet_images_subset" / "images").glob("*.jpg"))
        return Posts(read_captions(SHARED / "twitter2017" / "valid.txt"), [path.read_bytes() for path in photos])

    @cached_property
    def tagger(self) -> Tagger:
        """The worker's own, with as many threads as the worker gives it."""
        return load_here(tagger_spec(self._settings, self._settings.checkpoint))

    def keep(self, measure: Callable[["Bench"], T]) -> T:
        """What `measure` gives or raises, measured once for all rows that need it."""
        if measure not in self._kept:
            try:
                self._kept[measure] = measure(self)
            except Exception as error:  # not tried again for each of the rows: that would take minutes each time
                self._kept[measure] = error
        found: T | Exception = self._kept[measure]
        if isinstance(found, Exception):
            raise found
        return found

    def describe(self) -> dict[str, Any]:
        """Machine, date, load, threads and versions, as they are when the rows begin."""
        versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
        threads = {
            "device": self._settings.device,
            "threads": self._settings.threads or threads_for(self._settings.device),
        }
        return describe_machine() | threads | {"versions": " ".join(f"{n} {v}" for n, v in versions.items())}
