"""A tagger in a process of its own, so that asyncio's loop and the tagger don't wait for one interpreter's lock.

Within one process the tagger's thread asks for that lock at each of torch's steps, a hundred times a batch, and waits a
third of its time for it while the loop is at work. This process has no torch at all: its memory is the other's.

A process that dies (of a fault in native code, or killed for want of memory) is started again when it is next asked:
then the batch is halved as after any error, and a post that the tagger dies of becomes a dead letter.
"""

import contextlib
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from model.errors import OutOfMemory, TaggingError
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from worker.errors import TaggerDied
from worker.tagger_wire import (
    NUM_SLOTS,
    SLOT_BYTES,
    Facts,
    Failed,
    Slots,
    TaggerSpec,
    packed_posts,
    unpacked_taggings,
)

log = logging.getLogger("nametag.device")

T = TypeVar("T")

PROGRAM = ("-m", "worker.tagger_child")
END_SECONDS = 5.0
PIXEL_BYTES = 3 * 224 * 224


class TaggerProcess:
    """The tagger of `spec`, ready. Its process ends when nobody has it any more, and with this process.

    Raises as `Tagger.load` does, and `TaggingError` where its process can't be started or dies.
    """

    begin_look = None

    def __init__(self, spec: TaggerSpec) -> None:
        self._spec = spec
        self._child = _Child(spec)
        facts = self._child.facts
        self.checkpoint_id = facts.checkpoint_id
        self.variant = facts.variant
        self.uses_image = facts.uses_image
        self.tower_digest = facts.tower_digest
        self.feature_shape = facts.feature_shape
        self._scheme = facts.scheme
        self._features_bytes = 2 * facts.feature_shape[0] * facts.feature_shape[1]

    @property
    def process_id(self) -> int:
        """Of the process that tags now."""
        return self._child.process_id

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """The tokens of a caption, by the scheme that the checkpoint was trained with; in this process."""
        return tuple(tokenize(text, self._scheme))

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Features (N, R, D) in fp16 of pixels (N, 3, 224, 224) in uint8. Raises `OutOfMemory`."""
        most = SLOT_BYTES // max(PIXEL_BYTES, self._features_bytes)
        parts = [self._look(pixels[start : start + most]) for start in range(0, len(pixels), most)]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _look(self, pixels: np.ndarray) -> np.ndarray:
        def ask() -> np.ndarray:
            child = self._living()
            slot = child.take_slot()
            child.slots.array(slot, pixels.shape, np.uint8)[...] = pixels
            shape = (len(pixels), *self.feature_shape)
            copied = lambda _: child.slots.array(slot, shape, np.float16).copy()  # noqa: E731
            return child.wait(child.ask(slot, ("look", slot, len(pixels), 0), copied))

        return _once_more(ask) if len(pixels) == 1 else ask()

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order. Raises `TaggingError`, `TaggerDied`, `OutOfMemory`."""
        packed = packed_posts(inputs)
        if not self._fits(inputs, packed):
            if len(inputs) == 1:
                raise TaggingError("the post has too many tokens for the tagger's process; set tagger_process to false")
            middle = len(inputs) // 2
            return self.tag(inputs[:middle]) + self.tag(inputs[middle:])

        def ask() -> list[Tagging]:
            child = self._living()
            return child.wait(self._begin(child, child.take_slot(), inputs, packed))

        return _once_more(ask) if len(inputs) == 1 else ask()

    def begin_tag(self, inputs: Sequence[TaggingInput]) -> Callable[[], list[Tagging]] | None:
        """`tag` in two steps: its process has the posts at hand when it is done with those before.

        None where there is no room for them now, or nobody to take them. Never waits; on any thread.
        """
        child, packed = self._child, packed_posts(inputs)
        if child.is_gone or not self._fits(inputs, packed) or (slot := child.free_slot()) is None:
            return None
        return partial(child.wait, self._begin(child, slot, inputs, packed))

    def _fits(self, inputs: Sequence[TaggingInput], packed: bytes) -> bool:
        num_seen = sum(post.features is not None for post in inputs)
        return num_seen * self._features_bytes + len(packed) <= SLOT_BYTES

    def _begin(
        self, child: "_Child", slot: int, inputs: Sequence[TaggingInput], packed: bytes
    ) -> "_Reply[list[Tagging]]":
        seen = [post.features for post in inputs if post.features is not None]
        array = child.slots.array(slot, (len(seen), *self.feature_shape), np.float16)
        for row, features in enumerate(seen):
            array[row] = features
        child.slots.array(slot, (len(packed),), np.uint8, start=array.nbytes)[...] = np.frombuffer(packed, np.uint8)
        return child.ask(slot, ("tag", slot, len(seen), len(packed)), lambda reply: unpacked_taggings(reply[1]))

    def _living(self) -> "_Child":
        """The process, or another where it has died."""
        if self._child.is_gone:
            log.warning("tagger_started_again", extra={"id": self.checkpoint_id, "reason": self._child.how_it_ended})
            child = _Child(self._spec)
            if child.facts != self._child.facts:
                raise TaggerDied(
                    f"the tagger's process has ended, and {self._spec.path.name} is {child.facts.checkpoint_id} now "
                    f"instead of {self.checkpoint_id}; restart the worker"
                )
            self._child = child
        return self._child


def process_of(tagger: object) -> int | None:
    """The id of the process that `tagger` has; None where it has none of its own."""
    return tagger.process_id if isinstance(tagger, TaggerProcess) else None


def _once_more(ask: Callable[[], T]) -> T:
    """What `ask` gives; a second time where the process dies, for it may have died of something else."""
    try:
        return ask()
    except TaggerDied:
        return ask()


class _Reply(Generic[T]):
    """What a request will bring; `read` makes it of the message."""

    def __init__(self, slot: int, read: Callable[[Any], T]) -> None:
        self.slot = slot
        self.read = read
        self.is_there = False
        self.found: T | None = None
        self.error: Exception | None = None


class _Child:
    """One process, the socket and the memory to talk to it by, and the requests that it hasn't answered.

    It may be asked on one thread while another waits for a reply: replies come in the order of the requests.
    """

    def __init__(self, spec: TaggerSpec) -> None:
        try:
            self.slots = Slots.new()
            ours, theirs = socket.socketpair()
            with theirs:
                self._process = _start(theirs.fileno(), self.slots.file)
        except OSError as error:
            raise TaggerDied(f"no process for the tagger can be started: {error}") from error
        self._connection, self._stream = ours, ours.makefile("rb")
        weakref.finalize(self, _end, self._process, ours, self.slots)
        self._asking, self._receiving = threading.Lock(), threading.RLock()
        self._asked: deque[_Reply[Any]] = deque()
        self._free = deque(range(NUM_SLOTS))
        self.is_gone = False
        self.facts: Facts = self._first_answer(spec)

    def _first_answer(self, spec: TaggerSpec) -> Facts:
        self._send(spec)
        found = self._receive()
        if found is None:
            raise self._death()
        if isinstance(found, Failed):
            raise found.error
        assert isinstance(found, Facts)
        return found

    @property
    def process_id(self) -> int:
        return self._process.pid

    def free_slot(self) -> int | None:
        """A slot, if one is free."""
        try:
            return self._free.popleft()
        except IndexError:
            return None

    def take_slot(self) -> int:
        """A slot, as soon as one is free."""
        while (slot := self.free_slot()) is None:
            with self._receiving:
                if not self._free:
                    self._settle_next()
        return slot

    def ask(self, slot: int, request: tuple[str, int, int, int], read: Callable[[Any], T]) -> "_Reply[T]":
        """Send a request on what stands in `slot`; never waits, for it is short."""
        reply = _Reply(slot, read)
        with self._asking:
            self._asked.append(reply)
            self._send(request)
        return reply

    def wait(self, reply: "_Reply[T]") -> T:
        """What it brought. Raises what was raised there, and where the process ends, as `_death` says."""
        with self._receiving:
            while not reply.is_there:
                self._settle_next()
        if reply.error is not None:
            raise reply.error
        return cast(T, reply.found)

    def _settle_next(self) -> None:
        found = self._receive()
        reply = self._asked.popleft()
        if found is None:
            reply.error = self._death()
        elif isinstance(found, Failed):
            reply.error = found.error
        else:
            reply.found = reply.read(found)
        reply.is_there = True
        self._free.append(reply.slot)

    def _send(self, message: object) -> None:
        try:
            self._connection.sendall(pickle.dumps(message))
        except OSError:
            self.is_gone = True  # whoever waits for the reply hears of it

    def _receive(self) -> Any:
        """The next message; None where there will be none."""
        try:
            return pickle.load(self._stream)
        except (EOFError, OSError, pickle.UnpicklingError):
            self.is_gone = True
            return None

    @property
    def how_it_ended(self) -> str:
        """In words."""
        try:
            status = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return "its process doesn't answer any more"
        return f"its process ended with {status}" if status >= 0 else f"its process died of {_signal_name(-status)}"

    def _death(self) -> Exception:
        how = self.how_it_ended
        if self._process.returncode == -signal.SIGKILL:
            # By whom isn't told; by the kernel, mostly.
            return OutOfMemory(f"the tagger is out of memory, or was killed by hand: {how}")
        return TaggerDied(f"the tagger broke off: {how}; its last words may be on the worker's standard error")


def _start(connection: int, memory: int) -> "subprocess.Popen[bytes]":
    # What this process finds is what that one is to find, and nothing that lies in the working directory by chance.
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return subprocess.Popen(
        [sys.executable, "-P", *PROGRAM, str(connection), str(memory)],
        env=os.environ | {"PYTHONPATH": path},
        pass_fds=(connection, memory),
        stdin=subprocess.DEVNULL,
        stdout=2,  # whatever is printed there is no event
    )


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, slots: Slots) -> None:
    process.kill()
    process.wait()
    with contextlib.suppress(OSError):
        connection.close()
    slots.close()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
