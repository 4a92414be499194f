"""A checkpoint's tagger in this process, be it the worker's or the tagger's own."""

import torch

from model.inference import Tagger
from worker.tagger_wire import TaggerSpec


def load_here(spec: TaggerSpec) -> Tagger:
    """The tagger, and torch's threads in this process. Raises as `Tagger.load` does."""
    torch.set_num_threads(spec.threads or threads_for(spec.device))
    return Tagger.load(spec.path, spec.device, tower_precision=spec.tower_precision, may_download=spec.may_download)


def threads_for(device: str) -> int:
    """How many threads torch is to have here, where nobody says."""
    # With a device of its own the tagger leaves little to the cores, and threads that wait for such little things
    # took eight times the processor time, for two thirds of the posts.
    if device != "cpu":
        return 1
    # A core is left to asyncio and Kafka: torch's threads wait for the slowest of them, and one that has
    # to share its core made small batches forty times slower.
    return max(1, torch.get_num_threads() - 1)
