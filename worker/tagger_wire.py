"""What the worker and the tagger's process say to each other (worker/tagger_link.py, worker/tagger_child.py).

Messages are pickled tuples on a socket, a request answered by one reply, in their order:

    TaggerSpec                          Facts, or Failed
    ("look", slot, pictures, 0)         ("looked",), or Failed
    ("tag", slot, features, bytes)      ("tagged", …), or Failed

What is large stands in memory that both see, cut into slots: pixels of a request, features of a request or a reply, and
behind them a request's posts, which take so many `bytes`. So a request is short, and to send one never waits.
"""

import contextlib
import mmap
import os
import pickle
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from model.tagging import TaggedSpan, Tagging, TaggingInput
from model.tokenizer import Scheme, Token

NUM_SLOTS = 2
"""Batches at the process at once: one that it works on, and one that waits there for its turn."""
SLOT_BYTES = 8 << 20
"""Room for the features of 66 pictures of the small tower, or of 41 of a ResNet."""
LONGEST_CHAIN = 5
"""An error and its causes, so many of them at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerSpec:
    """Which tagger, and what it runs on; with `threads` 0, as many threads as `threads_for` says."""

    path: Path
    device: str = "cpu"
    tower_precision: Literal["fp32", "bf16"] = "fp32"
    threads: int = 0
    may_download: bool = True


class Facts(NamedTuple):
    """What the worker knows of a tagger that is ready."""

    checkpoint_id: str
    variant: str
    uses_image: bool
    tower_digest: str
    feature_shape: tuple[int, int]
    scheme: Scheme


class Failed(NamedTuple):
    """A request that raised an error: it, its cause, and so on."""

    chain: tuple[Exception, ...]

    @classmethod
    def of(cls, error: BaseException) -> "Failed":
        """`error` and its causes; where one doesn't come through a pickle as itself, its words."""
        chain: list[Exception] = []
        cause: BaseException | None = error
        while cause is not None and len(chain) < LONGEST_CHAIN:
            chain.append(_passable(cause))
            cause = cause.__cause__
        return cls(tuple(chain))

    @property
    def error(self) -> Exception:
        """What is to be raised again; a pickle forgets of what."""
        for effect, cause in pairwise(self.chain):
            effect.__cause__ = cause
        return self.chain[0]


def _passable(error: BaseException) -> Exception:
    with contextlib.suppress(Exception):
        if isinstance(error, Exception) and type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RuntimeError(repr(error)[:500])


class Slots:
    """Memory of `NUM_SLOTS` × `SLOT_BYTES` that processes share by a file's descriptor; it's taken as it is used."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory = mmap.mmap(file, NUM_SLOTS * SLOT_BYTES)

    @classmethod
    def new(cls) -> "Slots":
        """Memory of its own; raises OSError."""
        # Not of /dev/shm: a container has 64 MiB of that, and whoever writes beyond it is killed.
        if hasattr(os, "memfd_create"):
            file = os.memfd_create("nametag-tagger")
        else:
            with tempfile.TemporaryFile() as opened:
                file = os.dup(opened.fileno())
        try:
            os.ftruncate(file, NUM_SLOTS * SLOT_BYTES)
            return cls(file)
        except BaseException:
            os.close(file)
            raise

    def array(self, slot: int, shape: Sequence[int], kind: type[np.generic], *, start: int = 0) -> np.ndarray:
        """The array from byte `start` of a slot on: what is written to it, both processes see."""
        return np.ndarray(tuple(shape), kind, self._memory, slot * SLOT_BYTES + start)

    def close(self) -> None:
        """Let go of the descriptor, and of the memory, unless somebody looks at it still."""
        os.close(self.file)
        with contextlib.suppress(BufferError):
            self._memory.close()


_token = partial(tuple.__new__, Token)
"""A token of its tuple, without a step of Python."""


def packed_posts(inputs: Sequence[TaggingInput]) -> bytes:
    """The tokens of each post, and whether it has features."""
    # Plain tuples: of classes pickle makes ten times the work.
    return pickle.dumps([(tuple(map(tuple, post.tokens)), post.features is not None) for post in inputs])


def unpacked_posts(packed: bytes, features: np.ndarray) -> list[TaggingInput]:
    """What was packed, with `features` (M, R, D) of those posts that have any, in their order."""
    seen = iter(features)
    return [
        TaggingInput(tokens=tuple(map(_token, tokens)), features=next(seen) if has_features else None)
        for tokens, has_features in pickle.loads(packed)
    ]


def packed_taggings(taggings: Sequence[Tagging]) -> Any:
    """The taggings as plain tuples."""
    return [
        ([(span.type, span.start, span.end, span.confidence) for span in each.spans], each.attention, each.gate)
        for each in taggings
    ]


def unpacked_taggings(packed: Any) -> list[Tagging]:
    """What was packed."""
    return [
        Tagging(
            spans=tuple(TaggedSpan(type=t, start=start, end=end, confidence=p) for t, start, end, p in spans),
            attention=attention,
            gate=gate,
        )
        for spans, attention, gate in packed
    ]
