"""The resume file: all that an interrupted training needs to go on as if nothing had happened.

It stands beside the checkpoint, in safetensors with JSON, and is written at each epoch's end. Chance isn't in it:
each epoch's is seeded by the training's seed and the epoch's number (`seed_epoch`), so that the epoch says it all.
"""

import hashlib
import json
import random
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model.checkpoint import content_digest
from model.errors import CheckpointError
from model.optimisation import WeightAverage
from model.training_config import TrainConfig
from model.whole_file import whole_file

_WHAT_TO_DO = "train without --resume"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a training has come: epochs done, and the best F1 with its epoch, from 0."""

    num_epochs: int = 0
    best_f1: float = -1.0
    best_epoch: int = 0


def seed_epoch(seed: int, epoch: int, rank: int) -> random.Random:
    """Seed torch for an epoch of one process; gives the chance that all its processes share."""
    digest = hashlib.sha256(f"{seed} {epoch} {rank}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:7], "big"))
    return random.Random(f"{seed} {epoch}")


class ResumeFile:
    """The resume file of a training that writes its checkpoint to `config.out`, and reads what has `digests`."""

    def __init__(
        self,
        config: TrainConfig,
        digests: dict[str, str],
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: WeightAverage | None,
    ) -> None:
        out = Path(config.out)
        self.path = out.with_name(f"{out.stem}.resume.safetensors")
        # How long to train, and where to report, may change on the way, unless the rate hangs on it.
        max_epochs = config.max_epochs if config.schedule == "linear" else 1
        free = replace(config, max_epochs=max_epochs, patience=1, log=None)
        # By way of JSON, so that what is read compares equal: it has no tuples.
        self._training: dict[str, dict[str, Any]] = json.loads(json.dumps({"settings": asdict(free), "data": digests}))
        self._module = module
        self._optimiser = optimiser
        self._average = average

    def write(self, standing: Standing) -> None:
        """Write it atomically. Raises `OutputError`."""
        tensors = {f"module/{name}": tensor for name, tensor in self._module.state_dict().items()}
        for number, state in self._optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser/{number}/{name}": torch.as_tensor(value) for name, value in state.items()}
        num_steps = 0
        if self._average is not None:
            num_steps = self._average.num_steps
            tensors |= {f"average/{number}": tensor for number, tensor in enumerate(self._average.tensors)}
        kept = {name: part.detach().cpu().clone() for name, part in tensors.items()}
        told = json.dumps({**self._training, "standing": asdict(standing), "num_steps": num_steps})
        with whole_file(self.path) as file:
            file.write(safetensors.torch.save(kept, {"training": told, "digest": content_digest(told, kept)}))

    def read(self) -> Standing:
        """Take everything back. Raises `CheckpointError` where there is none, or of other settings or data."""
        told, tensors = self._content()
        self._compare(told)
        try:
            self._module.load_state_dict(_under(tensors, "module"))
            self._restore_optimiser(_under(tensors, "optimiser"))
            if self._average is not None:
                self._average.num_steps = int(told["num_steps"])
                for number, tensor in enumerate(self._average.tensors):
                    tensor.copy_(tensors[f"average/{number}"])
            return Standing(**told["standing"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            # Of the same settings and data, but of a network that was built otherwise.
            raise CheckpointError(f"{self.path} is of another nametag; {_WHAT_TO_DO}") from error

    def _content(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What the file tells, and its tensors, whole."""
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it's no mapping
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"{self.path} can't be resumed ({error}); {_WHAT_TO_DO}") from error
        if "training" not in metadata or "digest" not in metadata:
            raise CheckpointError(f"{self.path} is no resume file of this nametag's; {_WHAT_TO_DO}")
        if metadata["digest"] != content_digest(metadata["training"], tensors):
            raise CheckpointError(f"{self.path} was altered since it was made; {_WHAT_TO_DO}")
        told: dict[str, Any] = json.loads(metadata["training"])
        return told, tensors

    def _compare(self, told: dict[str, Any]) -> None:
        for what, own in self._training.items():
            before = told.get(what, {})
            changed = [name for name in sorted({*own, *before}) if own.get(name) != before.get(name)]
            if changed:
                raise CheckpointError(f"{self.path} is of other {what} ({', '.join(changed)}); {_WHAT_TO_DO}")

    def remove(self) -> None:
        """Remove it: the training has come to its end."""
        self.path.unlink(missing_ok=True)

    def _restore_optimiser(self, tensors: dict[str, Tensor]) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            number, _, key = name.partition("/")
            state.setdefault(int(number), {})[key] = tensor
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": state})


def _under(tensors: dict[str, Tensor], folder: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{folder}/"): part for name, part in tensors.items() if name.startswith(f"{folder}/")}
