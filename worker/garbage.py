"""Python's collector of cycles: seldom at work amid posts, and memory that nobody uses any more, back to the system."""

import ctypes
import gc
import sys

THRESHOLDS = (5_000, 20, 10)
"""New objects, and collections of younger ones, before a collection. By Python's own a burst of a thousand posts, each
with its tasks, is walked over and over: a sixth of the loop's time, with torch's half million objects beside."""


def collect_seldom() -> None:
    """Leave what there is out of all collections, and collect by THRESHOLDS. For a process that is about to begin."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def give_back_memory() -> None:
    """Collect cycles, and have device and C library let go of what was freed: musl has no call for it.

    Takes up to some tenths of a second: not for asyncio's loop.
    """
    was_frozen = gc.get_freeze_count() > 0
    # What is replaced was there at the beginning.
    gc.unfreeze()
    gc.collect()
    if was_frozen:
        gc.freeze()
    if "torch" in sys.modules:  # else it's another process that has a device
        from model.device_memory import free_device_memory

        free_device_memory()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
