"""The checkpoint: one safetensors file that holds the network and all that is needed to serve it.

Loading never unpickles. A file that is cut short, altered, foreign or of a newer format is refused.
"""

import hashlib
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib import metadata as installed
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from model.checkpoint_sense import check_config, check_description, misfit
from model.errors import CheckpointError
from model.labels import LabelSet
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.vocabulary import Vocabulary
from model.whole_file import whole_file

FORMAT = "nametag-checkpoint"
FORMAT_VERSION = 1
ID_LENGTH = 12
"""Hexadecimal digits of the content's digest that name a checkpoint. The file's own bytes wouldn't do:
safetensors writes its metadata in an order that changes from run to run."""
WHAT_TO_DO = "name a checkpoint that `nametag train` made, or copy it again"


def versions() -> dict[str, str]:
    """The versions of what makes a checkpoint here."""
    packages = ("nametag", "torchvision", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # with the CUDA that it was built for
        **{package: installed.version(package) for package in packages},
    }


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint holds. `notes` tells people how it was made: data digests, seeds, scores.

    Of what a trainer notes, these names are read elsewhere: `mentions` (of `model.mentions`), and
    `calibration` (of `model.calibration`). `versions` are those of the training; empty in old files.
    """

    config: TaggerConfig
    labels: LabelSet
    vocabulary: Vocabulary
    scheme: Scheme
    tower: str
    tower_digest: str
    state: dict[str, Tensor]
    temperature: float = 1.0
    notes: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=versions)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a number above 0, not {self.temperature}")
        check_config(self.config)

    def build(self) -> NameTagger:
        """The network with its weights, in evaluation mode. Raises `CheckpointError` where they don't fit."""
        vocabulary = self.vocabulary
        if told := misfit(self.config, self.labels, vocabulary, self.state):
            raise CheckpointError(f"the weights don't fit the configuration: {told}")
        network = NameTagger(self.config, self.labels, vocabulary.num_words, vocabulary.num_characters)
        try:
            network.load_state_dict({name: tensor.float() for name, tensor in self.state.items()})
        except RuntimeError as error:
            raise CheckpointError(f"the weights don't fit the configuration: {str(error)[:200]}") from error
        return network.eval()


def save(checkpoint: Checkpoint, path: Path) -> str:
    """Write the file atomically, so that a reader sees the old one or the new one, whole; gives its id.

    Raises `OutputError` where there is no room, say.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    described = {
        "config": asdict(checkpoint.config),
        "labels": list(checkpoint.labels.tags),
        "words": list(checkpoint.vocabulary.words),
        "characters": checkpoint.vocabulary.characters,
        "scheme": str(checkpoint.scheme),
        "tower": checkpoint.tower,
        "tower_digest": checkpoint.tower_digest,
        "temperature": checkpoint.temperature,
        "notes": checkpoint.notes,
        "versions": checkpoint.versions,
    }
    text = json.dumps(described, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "description": text,
        "digest": content_digest(text, state),
    }
    with whole_file(path) as file:
        file.write(safetensors.torch.save(state, metadata))
    return metadata["digest"][:ID_LENGTH]


def load(path: Path) -> tuple[Checkpoint, str]:
    """The checkpoint in `path` and its id. Raises `CheckpointError` with what is wrong with the file."""
    try:
        data = path.read_bytes()
        state = safetensors.torch.load(data)
        metadata = _metadata(data)
    except OSError as error:
        raise CheckpointError(f"{path.name} can't be read ({error.strerror or error}); {WHAT_TO_DO}") from error
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path.name} is cut short or no safetensors file; {WHAT_TO_DO}") from error
    _check(path.name, metadata, state)
    checkpoint = _described(path.name, metadata["description"], state)
    if told := misfit(checkpoint.config, checkpoint.labels, checkpoint.vocabulary, state):
        raise CheckpointError(f"{path.name} holds weights that don't fit what it tells of them: {told}; {WHAT_TO_DO}")
    return checkpoint, metadata["digest"][:ID_LENGTH]


def _metadata(data: bytes) -> dict[str, str]:
    """The file's own metadata: safetensors reads it from a path only, where the file may be another by now."""
    length = int.from_bytes(data[:8], "little")
    metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    return metadata


def _check(name: str, metadata: dict[str, str], state: dict[str, Tensor]) -> None:
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"{name} is a safetensors file, but not nametag's; {WHAT_TO_DO}")
    version = metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{name} has format version {version[:20]!r}, and this nametag reads {FORMAT_VERSION}; update nametag"
        )
    if metadata.get("digest") != content_digest(metadata.get("description", ""), state):
        raise CheckpointError(f"{name} was altered since it was made; {WHAT_TO_DO}")


def _described(name: str, description: str, state: dict[str, Tensor]) -> Checkpoint:
    try:
        told = json.loads(description)
        check_description(told)
        return Checkpoint(
            config=TaggerConfig(**told["config"]),
            labels=LabelSet(tuple(told["labels"])),
            vocabulary=Vocabulary(words=tuple(told["words"]), characters=told["characters"]),
            scheme=Scheme(told["scheme"]),
            tower=told["tower"],
            tower_digest=told["tower_digest"],
            temperature=told["temperature"],
            notes=told["notes"],
            versions=told.get("versions", {}),
            state=state,
        )
    except (AttributeError, ArithmeticError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} lacks or misstates {str(error)[:200]}; {WHAT_TO_DO}") from error


def content_digest(description: str, state: dict[str, Tensor]) -> str:
    """The SHA-256 of a safetensors file's content: its description, and its tensors by name."""
    digest = hashlib.sha256(description.encode())
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(str(state[name].dtype).encode())
        # As bytes: NumPy has no bfloat16.
        digest.update(state[name].reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
