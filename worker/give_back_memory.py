"""Memory that nobody uses any more, back to the system."""

import ctypes
import gc


def give_back_memory() -> None:
    """Collect cycles, and have the C library let go of what was freed: glibc keeps much of it, musl has no call for it.

    Takes up to some tenths of a second: not for asyncio's loop.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))
