"""What makes a tower fast on a CUDA device: graphs of a few batch sizes, and copies beside the computation.

Pictures go in parts: while one is computed, the next is copied there, and the features of the one before come back.
Each goes through three streams, which events keep in order: in, compute, out. A part is padded to a power of two, and
the network's launches for that size are one graph, captured when the size comes for the second time. (The first time
may be a candidate's sample, looked at on the loader's thread.)

N pictures, R regions (49), D the tower's width.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from model.errors import DeviceError
from model.tagger import NUM_REGIONS
from model.tower import IMAGE_SIZE, Tower

Precision = Literal["fp32", "bf16"]

LARGEST_PART = 64
"""Pictures at once, a power of two: fewer don't fill the device, and of more the copies have nothing to hide behind."""

NUM_WARM_UPS = 2

See = Callable[[Tensor], Tensor]
"""Features (N, R, D) in fp16 of pixels (N, 3, 224, 224) in uint8, both on one device."""

device_turn = threading.RLock()
"""Held by whoever gives a device something to do: while a graph is captured no other thread of the process may."""


def use_full_precision() -> None:
    """Have this process's convolutions and LSTMs compute in fp32 where they are of fp32.

    cuDNN's default is TF32 (`torch.backends.cudnn.allow_tf32`), with 10 bits of 23: too few for features that workers
    on CPUs share, and for tags that are to be the same. Products of matrices (`torch.backends.cuda.matmul`) are in
    fp32 by torch's default. Once for all threads, for the switch is the process's.
    """
    torch.backends.cudnn.allow_tf32 = False


def cuda_has_bf16(device: torch.device) -> bool:
    """Whether a CUDA device computes in bf16 by itself."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def check_precision(device: torch.device, precision: str) -> None:
    """Raise `DeviceError` where the tower can't compute in `precision` on `device`."""
    if precision not in get_args(Precision):
        raise DeviceError(f"no precision is called {precision[:40]!r}; set tower_precision to fp32 or bf16")
    if precision == "fp32":
        return
    if device.type != "cuda":
        raise DeviceError(f"tower_precision bf16 is for CUDA devices, and device is {device}; set it to fp32")
    if not cuda_has_bf16(device):
        raise DeviceError(f"{device} doesn't compute in bf16 by itself; set tower_precision to fp32")


class PaddedSizes:
    """`see` for batches of up to `largest` pictures, by what `capture` makes of it for sizes of powers of two."""

    def __init__(self, see: See, capture: Callable[[int], See], largest: int) -> None:
        if largest < 1 or largest & (largest - 1):
            raise ValueError(f"the largest size must be a power of two, not {largest}")
        self._see = see
        self._capture = capture
        self._largest = largest
        self._seen: set[int] = set()
        self._captured: dict[int, See] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """The features of up to `largest` pictures."""
        size = self.padded(len(pixels))
        if size not in self._captured:
            if size not in self._seen:
                self._seen.add(size)
                return self._see(pixels)
            self._captured[size] = self._capture(size)
        return self._captured[size](pixels)

    def padded(self, num_pictures: int) -> int:
        """The size at which so many are computed. Raises a ValueError on none, or more than the largest."""
        if not 1 <= num_pictures <= self._largest:
            raise ValueError(f"1 to {self._largest} pictures go at once, not {num_pictures}")
        return 1 << (num_pictures - 1).bit_length()


class Look:
    """Pictures that are being looked at."""

    def __init__(self, features: Tensor, done: torch.cuda.Event) -> None:
        self._features = features
        self._done = done

    def features(self) -> Tensor:
        """The features (N, R, D) in fp16, on the CPU and nobody else's; waits for them."""
        self._done.synchronize()
        return self._features


class CudaTower:
    """`tower` on a CUDA device; it is folded, moved there and, with `bf16`, rounded. May be asked from several threads.

    Raises `DeviceError` where the device can't compute in `precision`.
    """

    def __init__(
        self, tower: Tower, device: torch.device, precision: Precision = "fp32", largest: int = LARGEST_PART
    ) -> None:
        check_precision(device, precision)
        use_full_precision()
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._network: nn.Module = tower.fold().network.to(device, self._dtype)
        self._mean, self._std = tower.mean.to(device), tower.std.to(device)
        self._width = tower.width
        self._device = device
        self._largest = largest
        with torch.cuda.device(device):
            streams = [torch.cuda.Stream() for _ in range(3)]  # type: ignore[no-untyped-call]  # torch's own gap
            self._in, self._compute, self._out = streams
            self._pool = torch.cuda.graph_pool_handle()
            # Of all graphs, for one runs at a time. What a part doesn't fill are pictures of parts before.
            self._pixels = torch.zeros(largest, 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, device=device)
            # What was moved and rounded on another stream is whole before it is used on this one.
            self._compute.wait_stream(torch.cuda.current_stream())
        self._sizes = PaddedSizes(self._see, self._capture, largest)

    def look(self, pixels: Tensor) -> Tensor:
        """Features (N, R, D) in fp16, on the CPU, of pixels (N, 3, 224, 224) in uint8 on the CPU."""
        return self.begin(list(pixels)).features()

    @torch.inference_mode()
    def begin(self, pixels: Sequence[Tensor]) -> Look:
        """Begin to look at pictures (3, 224, 224), and don't wait: the device goes on beside this thread."""
        with device_turn, torch.cuda.device(self._device):
            # Page-locked, so that it is copied beside the rest; torch takes such memory back for another look once
            # the caller has let go of it and the copy is over.
            features = torch.empty(len(pixels), NUM_REGIONS, self._width, dtype=torch.float16, pin_memory=True)
            for start in range(0, len(pixels), self._largest):
                part = pixels[start : start + self._largest]
                seen = self._seen(part)
                self._out.wait_stream(self._compute)
                with torch.cuda.stream(self._out):
                    features[start : start + len(part)].copy_(seen, non_blocking=True)
                # Its memory isn't given to another part before it is copied.
                seen.record_stream(self._out)
            return Look(features, self._out.record_event())

    def _seen(self, part: Sequence[Tensor]) -> Tensor:
        """Features of a part, on the device once the computing stream has got there."""
        with torch.cuda.stream(self._in):
            here = torch.empty(len(part), 3, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.uint8, pin_memory=True)
            there = torch.stack(list(part), out=here).to(self._device, non_blocking=True)
        self._compute.wait_stream(self._in)
        there.record_stream(self._compute)
        with torch.cuda.stream(self._compute):
            return self._sizes(there)

    def _see(self, pixels: Tensor) -> Tensor:
        pictures = (pixels.float() - self._mean) / self._std
        maps = self._network(pictures.to(self._dtype, memory_format=torch.channels_last))
        features: Tensor = maps.flatten(2).transpose(1, 2).half().contiguous()
        return features

    def _capture(self, size: int) -> See:
        """The graph of `size` pictures, on the computing stream, which is the current one."""
        pixels = self._pixels[:size]
        graph = torch.cuda.CUDAGraph()
        with _choosing_algorithms():
            for _ in range(NUM_WARM_UPS):  # what only the first time does, such as choosing, can't be captured
                self._see(pixels)
            self._compute.synchronize()
            try:
                # Other threads may allocate meanwhile, and wait for what they do.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._compute, capture_error_mode="thread_local"):
                    features = self._see(pixels)
            except RuntimeError as error:
                # What broke off may have left its pool in no state for another.
                self._pool = torch.cuda.graph_pool_handle()
                # A capture that broke off is told of as such; who runs out of memory wants to know that.
                if isinstance(error.__context__, torch.OutOfMemoryError):
                    raise error.__context__ from None
                raise

        def replay(given: Tensor) -> Tensor:
            pixels[: len(given)].copy_(given)
            graph.replay()
            # A copy: the next part's features come to the same place.
            return features[: len(given)].clone()

        return replay


@contextlib.contextmanager
def _choosing_algorithms() -> Iterator[None]:
    """Have cuDNN try its algorithms for each shape that comes, and keep the fastest."""
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False
