"""The checkpoint file: whole or refused, and never unpickled."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model.checkpoint import Checkpoint, load, save
from model.errors import CheckpointError
from model.labels import LabelSet
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.vocabulary import Vocabulary

LABELS = LabelSet.of_types(("PER", "LOC"))
VOCABULARY = Vocabulary.of([["Paris", "😁", "x"]])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A small checkpoint on disk."""
    config = TaggerConfig(variant="attention_gate", hidden=4, word_size=3, region_width=5, visual_size=3)
    network = NameTagger(config, LABELS, VOCABULARY.num_words, VOCABULARY.num_characters)
    path = tmp_path / "small.safetensors"
    checkpoint = Checkpoint(
        config=config,
        labels=LABELS,
        vocabulary=VOCABULARY,
        scheme=Scheme.TWITTER2017,
        tower="efficientnet_lite0",
        tower_digest="d",
        state=network.state_dict(),
        temperature=1.5,
        notes={"seed": 3},
    )
    save(checkpoint, path)
    return path


def test_it_comes_back_whole(path: Path) -> None:
    """Everything that was saved is loaded, the weights to the bit; saving again gives the same id."""
    checkpoint, identity = load(path)
    assert (checkpoint.labels, checkpoint.vocabulary, checkpoint.scheme) == (LABELS, VOCABULARY, Scheme.TWITTER2017)
    assert (checkpoint.temperature, checkpoint.notes, checkpoint.tower) == (1.5, {"seed": 3}, "efficientnet_lite0")
    again = checkpoint.build().state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in checkpoint.state.items())
    save(checkpoint, path)
    assert load(path)[1] == identity
    assert [file.name for file in path.parent.iterdir()] == ["small.safetensors"]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_refused(path: Path, share: float) -> None:
    """A partial copy is refused in one sentence."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match="cut short"):
        load(path)


def test_an_altered_file_is_refused(path: Path) -> None:
    """One flipped bit in the weights, or another word in the description, is noticed."""
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        load(path)


def test_a_description_changed_by_hand_is_refused(path: Path) -> None:
    """The digest covers the description too."""
    data = path.read_bytes().replace(b"paris", b"lyons")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="altered"):
        load(path)


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({}, "not nametag's"),
        ({"format": "nametag-checkpoint", "format_version": "2"}, "update nametag"),
        ({"format": "nametag-checkpoint", "format_version": "1"}, "altered"),
    ],
)
def test_a_foreign_or_newer_file_is_refused(tmp_path: Path, metadata: dict[str, str], told: str) -> None:
    """Another safetensors file, and one of a newer format, are told apart."""
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(1)}, path, metadata)
    with pytest.raises(CheckpointError, match=told):
        load(path)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    """A file of torch.save is not unpickled."""
    path = tmp_path / "pickle.pt"
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError):
        load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The sentence names the file and what to do."""
    with pytest.raises(CheckpointError, match=r"none\.safetensors.*nametag train"):
        load(tmp_path / "none.safetensors")


def test_the_description_is_json(path: Path) -> None:
    """Anybody can read what a checkpoint is without our code."""
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["description"])["labels"] == list(LABELS.tags)
