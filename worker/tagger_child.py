"""The tagger's process: it loads a checkpoint, and looks and tags as it is asked to.

    python -m worker.tagger_child SOCKET MEMORY

The arguments are descriptors that `worker.tagger_link` has left open for it. It ends with the worker, whatever
becomes of that: then the socket is closed.
"""

import contextlib
import pickle
import signal
import socket
import sys
from io import BufferedRWPair
from typing import TYPE_CHECKING, Any

import numpy as np

from model.pixels import SIDE
from worker.tagger_wire import Facts, Failed, Slots, packed_taggings, unpacked_posts

if TYPE_CHECKING:
    from model.inference import Tagger


def serve(stream: BufferedRWPair, slots: Slots) -> None:
    """Answer requests until the worker closes the socket."""
    from worker.tagger_loading import load_here  # seconds of torch, when signals are seen to

    try:
        tagger = load_here(pickle.load(stream))
    except Exception as error:
        _tell(stream, Failed.of(error))
        return
    _tell(stream, _facts(tagger))
    while True:
        try:
            request = pickle.load(stream)
        except EOFError:
            return
        try:
            reply = _answer(tagger, slots, *request)
        except Exception as error:
            reply = Failed.of(error)
        _tell(stream, reply)


def _answer(tagger: "Tagger", slots: Slots, kind: str, slot: int, count: int, posts_bytes: int) -> Any:
    if kind == "look":
        features = tagger.look(slots.array(slot, (count, 3, SIDE, SIDE), np.uint8))
        # To the same place, for nobody looks at the pixels again.
        slots.array(slot, features.shape, np.float16)[...] = features
        return ("looked",)
    features = slots.array(slot, (count, *tagger.feature_shape), np.float16)
    posts = slots.array(slot, (posts_bytes,), np.uint8, start=features.nbytes).tobytes()
    return "tagged", packed_taggings(tagger.tag(unpacked_posts(posts, features)))


def _facts(tagger: "Tagger") -> Facts:
    return Facts(
        tagger.checkpoint_id,
        tagger.variant,
        tagger.uses_image,
        tagger.tower_digest,
        tagger.feature_shape,
        tagger.scheme,
    )


def _tell(stream: BufferedRWPair, reply: Any) -> None:
    pickle.dump(reply, stream)
    stream.flush()


def main() -> None:
    """Serve what is asked on the descriptors that the arguments name."""
    # They may be sent to all processes of a terminal, or of a service; the worker still has posts to be tagged then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ours, memory = map(int, sys.argv[1:3])
    # The worker may be gone: then nothing can be told, and nobody is there to be told.
    with (
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
        socket.socket(fileno=ours) as connection,
        connection.makefile("rwb") as stream,
    ):
        serve(stream, Slots(memory))


if __name__ == "__main__":
    main()
