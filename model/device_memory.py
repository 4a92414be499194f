"""A device's memory: that it ran out is said in one way, whatever says so; and what torch keeps is given back."""

from types import TracebackType

import torch

from model.cuda_tower import device_turn
from model.errors import OutOfMemory


class DeviceMemory:
    """A context in which `OutOfMemory` is raised for whatever says so, the host's lack of memory included.

    What torch keeps for later is given back before what comes after that, when nobody holds on to what broke off.
    """

    def __init__(self) -> None:
        self._has_run_out = False

    def __enter__(self) -> None:
        if self._has_run_out:
            self._has_run_out = False
            free_device_memory()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and is_out_of_memory(error):
            self._has_run_out = True
            raise OutOfMemory(f"the device is out of memory ({_first_line(error)})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the host, had no more memory to give.

    Of a CPU torch says so only in words, and so it does where CUDA itself has none for a graph, or page-locked.
    """
    told = str(error)
    in_words = "can't allocate memory" in told or "CUDA error: out of memory" in told
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (isinstance(error, RuntimeError) and in_words)


def free_device_memory() -> None:
    """Give memory that torch keeps for later back to the device: it may be just what another process needs."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's own gap
        with device_turn:
            torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines else type(error).__name__
