"""Training on several devices under torchrun: each process takes its share of every batch."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from model.cuda_tower import cuda_has_bf16

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's number, of how many, and its device."""

    rank: int = 0
    num_ranks: int = 1
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process validates, writes and reports."""
        return self.rank == 0

    @property
    def has_bf16(self) -> bool:
        """Whether the device computes in bf16 by itself; a CPU without refuses an LSTM in it."""
        if self.device.type == "cuda":
            return cuda_has_bf16(self.device)
        # What torch itself asks before it hands an LSTM to oneDNN.
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    def share(self, items: Sequence[Item]) -> tuple[Sequence[Item], float]:
        """This process's items, and the weight of their mean in the mean of all.

        Gradients are averaged over the processes, whatever their shares: the weight makes up for that. A
        process without a share takes one item at weight 0, since all must take part.
        """
        own = items[self.rank :: self.num_ranks]
        return (own, self.num_ranks * len(own) / len(items)) if own else (items[:1], 0.0)

    def wrap(self, module: nn.Module, *, has_unused: bool) -> nn.Module:
        """The module with its gradients averaged over the processes; `has_unused` if a batch may skip a part."""
        if self.num_ranks == 1:
            return module
        return DistributedDataParallel(module, find_unused_parameters=has_unused)

    def agree(self, number: float) -> float:
        """The first process's `number`, in every process."""
        if self.num_ranks == 1:
            return number
        shared = torch.tensor(number, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared)

    def average(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.num_ranks > 1:
            distributed.all_reduce(tensor)
            tensor /= self.num_ranks
        return tensor


@contextlib.contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it started none."""
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if num_ranks == 1:
        yield Ranks(device=device)
        return
    distributed.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield Ranks(rank=distributed.get_rank(), num_ranks=num_ranks, device=device)
    finally:
        distributed.destroy_process_group()
