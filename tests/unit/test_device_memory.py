"""That memory ran out is told in one way."""

import pytest
import torch

from model.device_memory import DeviceMemory, is_out_of_memory
from model.errors import OutOfMemory


def test_torch_says_on_a_cpu_that_memory_is_out() -> None:
    """The sentence that is_out_of_memory knows is the one that the installed torch says."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("shapes don't match"))


def test_whoever_says_so_it_is_out_of_memory_and_nothing_else_is() -> None:
    """The device, the host or torch's allocator; the first line of what it said is told."""
    memory = DeviceMemory()
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory.\nand much more"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with pytest.raises(OutOfMemory, match=r"^the device is out of memory \([^\n]+\)$"), memory:
            raise error
    with pytest.raises(RuntimeError, match="shapes"), memory:
        raise RuntimeError("shapes don't match")
    with memory:
        pass
