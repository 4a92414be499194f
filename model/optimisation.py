"""The learning rate, the optimiser and the running average of the weights (section 4.1)."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from model.training_config import TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """η_t = η₀ / (1 + ρ·t), t the epoch from 0, not compounded; or η₀ · (1 - t / max_epochs), linearly."""
    if config.schedule == "linear":
        return config.learning_rate * (1 - epoch / config.max_epochs)
    return config.learning_rate / (1 + config.decay * epoch)


def build_optimiser(
    config: TrainConfig, module: nn.Module, words: nn.Embedding, tower: nn.Module | None = None
) -> torch.optim.Optimizer:
    """The optimiser of what learns in `module`, with its word vectors and its tower in groups of their own."""
    words.weight.requires_grad_(words.weight.requires_grad and config.word_rate > 0)
    special = {id(words.weight)}.union(id(weight) for weight in ([] if tower is None else tower.parameters()))
    others = [weight for weight in module.parameters() if weight.requires_grad and id(weight) not in special]
    groups: list[dict[str, object]] = [{"params": others, "share": 1.0}]
    if words.weight.requires_grad:
        groups.append({"params": [words.weight], "share": config.word_rate})
    if tower is not None:
        groups.append({"params": list(tower.parameters()), "share": config.tower_rate})
    if config.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Set the epoch's rate; a group learns at its share of it."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["share"]


class WeightAverage:
    """The exponential moving average of the weights over the steps (Polyak and Juditsky, 1992).

    The first steps are averaged over a shorter time, so that the random start is soon forgotten.
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self._parameters = [parameter.detach() for parameter in parameters if parameter.requires_grad]
        self.tensors = [parameter.clone() for parameter in self._parameters]
        self.num_steps = 0
        self._decay = decay

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.num_steps += 1
        decay = min(self._decay, (1 + self.num_steps) / (10 + self.num_steps))
        for mean, parameter in zip(self.tensors, self._parameters, strict=True):
            mean.lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averaged weights in the place of the trained ones, for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for mean, parameter in zip(self.tensors, self._parameters, strict=True):
            trained = parameter.clone()
            parameter.copy_(mean)
            mean.copy_(trained)
