"""A tagger in a process of its own, so that asyncio's loop and the tagger don't wait for one interpreter's lock.

Within one process the tagger's thread asks for that lock at each of torch's steps, a hundred times a batch, and waits a
third of its time for it while the loop is at work. This process has no torch at all: its memory is the other's.

A process that dies (of a fault in native code, or killed for want of memory) is started again, and asked once more.
Then the batch is halved as after any error, and a post that the tagger dies of becomes a dead letter. Where its file
has been replaced meanwhile the worker stops, to begin anew with the checkpoint that is configured.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import numpy as np

from model.errors import OutOfMemory, TaggingError
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from worker.errors import TaggerDied
from worker.tagger_link import Reply, TaggerLink
from worker.tagger_wire import SLOT_BYTES, Slots, TaggerSpec, packed_posts, unpacked_taggings

log = logging.getLogger("nametag.device")

T = TypeVar("T")


class TaggerProcess:
    """The tagger of `spec`, ready; by `link`, where its process was begun before.

    Its process ends when nobody has it any more, and with this process.

    Raises as `Tagger.load` does, and `TaggerDied` where its process can't be started, or dies.
    """

    begin_look = None

    def __init__(self, spec: TaggerSpec, link: TaggerLink | None = None) -> None:
        self._spec = spec
        self._link = link or TaggerLink(spec)
        self._is_closed = False
        facts = self._link.facts
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
        return self._link.process_id

    def tokenize(self, text: str) -> tuple[Token, ...]:
        """The tokens of a caption, by the scheme that the checkpoint was trained with; in this process."""
        return tuple(tokenize(text, self._scheme))

    def look(self, pixels: np.ndarray) -> np.ndarray:
        """Features (N, R, D) in fp16 of pixels (N, 3, 224, 224) in uint8. Raises `OutOfMemory`."""
        most = SLOT_BYTES // max(math.prod(pixels.shape[1:]), self._features_bytes)
        parts = [self._look(pixels[start : start + most]) for start in range(0, len(pixels), most)]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]

    def _look(self, pixels: np.ndarray) -> np.ndarray:
        shape = (len(pixels), *self.feature_shape)

        def ask() -> np.ndarray:
            link = self._living()
            with link.filling(link.take_slot()) as slot:
                link.slots.array(slot, pixels.shape, np.uint8)[...] = pixels
            read = partial(_copied, link.slots, slot, shape)
            return link.wait(link.ask(slot, ("look", slot, len(pixels), 0), read))

        return _once_more(ask)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        """Tag posts; as many taggings as inputs, in their order. Raises `TaggingError`, `TaggerDied`, `OutOfMemory`."""
        packed = packed_posts(inputs)
        if not self._fits(inputs, packed):
            if len(inputs) == 1:
                raise TaggingError("the post has too many tokens for the tagger's process; set tagger_process to false")
            middle = len(inputs) // 2
            return self.tag(inputs[:middle]) + self.tag(inputs[middle:])

        def ask() -> list[Tagging]:
            link = self._living()
            return link.wait(self._begin(link, link.take_slot(), inputs, packed))

        return _once_more(ask)

    def begin_tag(self, inputs: Sequence[TaggingInput]) -> Callable[[], list[Tagging]] | None:
        """`tag` in two steps: its process has the posts at hand when it is done with those before.

        None where there is no room for them now, or nobody to take them. Never waits; on any thread.
        """
        link = self._link
        if link.is_gone or (slot := link.free_slot()) is None:
            return None
        with link.filling(slot):
            packed = packed_posts(inputs)
        if not self._fits(inputs, packed):
            link.put_back(slot)
            return None
        return partial(link.wait, self._begin(link, slot, inputs, packed))

    def close(self) -> None:
        """End the process at once, whatever it does; none is started after it."""
        self._is_closed = True
        self._link.close()

    def _fits(self, inputs: Sequence[TaggingInput], packed: bytes) -> bool:
        num_seen = sum(post.features is not None for post in inputs)
        return num_seen * self._features_bytes + len(packed) <= SLOT_BYTES

    def _begin(
        self, link: TaggerLink, slot: int, inputs: Sequence[TaggingInput], packed: bytes
    ) -> Reply[list[Tagging]]:
        seen = [post.features for post in inputs if post.features is not None]
        with link.filling(slot):
            array = link.slots.array(slot, (len(seen), *self.feature_shape), np.float16)
            for row, features in enumerate(seen):
                array[row] = features
            behind = link.slots.array(slot, (len(packed),), np.uint8, start=array.nbytes)
            behind[...] = np.frombuffer(packed, np.uint8)
        return link.ask(slot, ("tag", slot, len(seen), len(packed)), lambda reply: unpacked_taggings(reply[1]))

    def _living(self) -> TaggerLink:
        """The process, or another where it has died."""
        if self._is_closed:
            raise TaggerDied("the tagger is closed, for the worker has ended")
        if self._link.is_gone:
            log.warning("tagger_started_again", extra={"id": self.checkpoint_id, "reason": self._link.how_it_ended})
            try:
                link = TaggerLink(self._spec)
                facts = link.facts
            except Exception as error:
                log.warning("tagger_not_started", extra={"id": self.checkpoint_id, "reason": str(error)[:500]})
                raise
            if facts != self._link.facts:
                link.close()
                raise TaggerDied(
                    f"the tagger's process has ended, and {self._spec.path.name} is {facts.checkpoint_id} now "
                    f"instead of {self.checkpoint_id}; restart the worker"
                )
            self._link.close()
            self._link = link
            if self._is_closed:  # meanwhile, and of this process nobody knew
                link.close()
        return self._link


def close_process(tagger: object) -> None:
    """End the process that `tagger` has, if it has one: one that hangs would not hear that the worker is gone."""
    if isinstance(tagger, TaggerProcess):
        tagger.close()


def process_of(tagger: object) -> int | None:
    """The id of the process that `tagger` has; None where it has none of its own."""
    return tagger.process_id if isinstance(tagger, TaggerProcess) else None


def _copied(slots: Slots, slot: int, shape: tuple[int, ...], _reply: object) -> np.ndarray:
    return slots.array(slot, shape, np.float16).copy()


def _once_more(ask: Callable[[], T]) -> T:
    """What `ask` gives; a second time where the process dies, for it may have died of something else.

    Raises `OutOfMemory` where it's killed amid both: by the kernel, most likely, and of that.
    """
    with contextlib.suppress(TaggerDied):
        return ask()
    try:
        return ask()
    except TaggerDied as error:
        if error.was_killed:
            raise OutOfMemory(f"out of memory, or killed by hand twice: {error}") from error
        raise
