"""The checkpoint file: whole or refused, and never unpickled."""

import json
import pickle
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from model.checkpoint import Checkpoint, content_digest, load, save, versions
from model.errors import CheckpointError, OutputError
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


def places(data: bytes) -> dict[str, range]:
    """The parts of a safetensors file: the header's length, the header, the weights."""
    header_end = 8 + int.from_bytes(data[:8], "little")
    return {"length": range(8), "header": range(8, header_end), "weights": range(header_end, len(data))}


@pytest.mark.parametrize("part", ["length", "header", "weights"])
def test_a_file_cut_short_is_refused(path: Path, part: str) -> None:
    """A partial copy is refused in one sentence, wherever it ends: first and last byte of each part, and between."""
    data = path.read_bytes()
    place = places(data)[part]
    chance = random.Random(0)
    for end in {place[0], place[1], place[-1], *chance.choices(place, k=60)}:
        path.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match=r"^small\.safetensors is cut short .*; name a checkpoint"):
            load(path)


def test_a_file_with_more_at_its_end_is_refused(path: Path) -> None:
    """Bytes after the weights aren't overlooked."""
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(CheckpointError):
        load(path)


@pytest.mark.parametrize("part", ["length", "header", "weights"])
def test_a_changed_byte_is_refused_or_changes_nothing(path: Path, part: str) -> None:
    """Whichever byte is another, loading raises our own error, or gives what was saved (a blank, say, became a tab)."""
    data = path.read_bytes()
    whole, identity = load(path)
    chance = random.Random(1)
    num_refused = 0
    for _ in range(150):
        at, changed = chance.choice(places(data)[part]), bytearray(data)
        changed[at] ^= 1 << chance.randrange(8)
        path.write_bytes(changed)
        try:
            loaded, other = load(path)
        except CheckpointError as error:
            num_refused += 1
            assert "\n" not in str(error)
            continue
        assert other == identity
        assert loaded.notes == whole.notes
        assert all(torch.equal(loaded.state[name], tensor) for name, tensor in whole.state.items())
    assert num_refused > 140


def test_random_bytes_are_refused(path: Path) -> None:
    """Files of noise, some with a plausible header length, raise our own error."""
    chance = random.Random(2)
    for size in (0, 1, 8, 9, 100, 5000):
        noise = chance.randbytes(size)
        for data in (noise, (size // 2).to_bytes(8, "little") + noise, (2).to_bytes(8, "little") + b"[]" + noise):
            path.write_bytes(data)
            with pytest.raises(CheckpointError):
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
        ({"format": "nametag-checkpoint"}, "update nametag"),
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


def test_loading_never_unpickles(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a checkpoint nor a pickle under its name reaches any unpickler."""

    def refuse(*_arguments: object, **_named: object) -> None:
        raise AssertionError("unpickled")

    pickle_path = tmp_path / "evil.safetensors"
    pickle_path.write_bytes(pickle.dumps({"x": 1}))
    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    load(path)[0].build()
    with pytest.raises(CheckpointError):
        load(pickle_path)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_weights_of_half_the_size_come_back(path: Path, kind: torch.dtype) -> None:
    """Half-precision weights are kept as they are, digested as they are, and computed with in fp32."""
    checkpoint, _ = load(path)
    state = {name: tensor.to(kind) for name, tensor in checkpoint.state.items()}
    identity = save(replace(checkpoint, state=state), path)
    again, same = load(path)
    assert same == identity
    assert {tensor.dtype for tensor in again.state.values()} == {kind}
    assert {tensor.dtype for tensor in again.build().state_dict().values()} == {torch.float32}


def test_weights_of_another_shape_are_refused(path: Path) -> None:
    """A description that doesn't fit the weights is told when the network is built."""
    checkpoint, _ = load(path)
    config = replace(checkpoint.config, hidden=5)
    with pytest.raises(CheckpointError, match="don't fit"):
        replace(checkpoint, config=config).build()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_temperature_is_refused(path: Path, temperature: float) -> None:
    """Confidences are divided by it, so it is a number above 0."""
    with pytest.raises(ValueError, match="above 0"):
        replace(load(path)[0], temperature=temperature)


def test_versions_are_those_of_the_training(path: Path) -> None:
    """A checkpoint tells what made it, and keeps telling so when another environment writes it anew."""
    checkpoint, _ = load(path)
    assert checkpoint.versions == versions()
    assert checkpoint.versions["torch"] == torch.__version__
    save(replace(checkpoint, versions={"nametag": "0.0.1"}), path)
    assert load(path)[0].versions == {"nametag": "0.0.1"}


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends in an error, with the old checkpoint whole and nothing beside it."""

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    checkpoint, identity = load(path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"No space left on device.*make room"):
        save(replace(checkpoint, temperature=3.0), path)
    assert load(path)[1] == identity
    assert [file.name for file in path.parent.iterdir()] == ["small.safetensors"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """The sentence names the file and what to do."""
    with pytest.raises(CheckpointError, match=r"none\.safetensors.*nametag train"):
        load(tmp_path / "none.safetensors")


def test_the_description_is_json(path: Path) -> None:
    """Anybody can read what a checkpoint is without our code."""
    with safetensors.safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["description"])["labels"] == list(LABELS.tags)


def _rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Change description and weights, and give them a valid digest."""
    with safetensors.safe_open(path, framework="pt") as file:
        told, metadata = json.loads(file.metadata()["description"]), dict(file.metadata())
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it's no mapping
    change(told, state)
    text = json.dumps(told, sort_keys=True)
    metadata |= {"description": text, "digest": content_digest(text, state)}
    safetensors.torch.save_file(state, path, metadata)


def _nested(depth: int) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for _ in range(depth):
        told = {"start": told}
    return told


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("labels", "O", "labels, which must be a list of texts"),
        ("labels", ["O", 3], "labels, which must be a list of texts"),
        ("labels", ["O", "B-PER"], "also needs I-PER"),
        ("labels", ["O", "B-<b>", "I-<b>"], "the label 'B-<b>'"),
        ("labels", ["O", "B-" + "P" * 65, "I-" + "P" * 65], "1 to 64 characters"),
        ("labels", [f"{prefix}-{n}" for n in range(10**5) for prefix in "BI"], "its 200000 labels"),
        ("words", {"a": 1}, "words, which must be a list of texts"),
        ("words", ["a", None], "words, which must be a list of texts"),
        ("words", ["\ud800", *VOCABULARY.words[1:]], "a lone surrogate"),
        ("characters", ["a", "b"], "characters, which must be a text"),
        ("scheme", "spacy", "spacy"),
        ("tower", None, "tower, which must be a text"),
        ("tower_digest", 5, "tower_digest, which must be a text"),
        ("tower_digest", "../../etc", "tower_digest, which names a file"),
        ("temperature", "1", "temperature, which must be a number"),
        ("temperature", True, "temperature, which must be a number"),
        ("temperature", 10**400, "too large"),
        ("notes", ["x"], "notes, which must be an object"),
        ("notes", _nested(200), "notes, which are nested too deeply"),
        ("notes", {"name": "\udfff"}, "a lone surrogate"),
        ("versions", {"torch": 2}, "versions, which must be texts"),
        ("versions", [], "versions, which must be texts"),
        ("config", None, "small.safetensors lacks or misstates"),
    ],
)
def test_absurd_descriptions_are_refused(path: Path, name: str, value: object, message: str) -> None:
    """A digest that is right makes no sense of what isn't: one sentence, and no traceback."""
    _rewritten(path, lambda told, _: told.update({name: value}))
    with pytest.raises(
        CheckpointError, match=r"^small\.safetensors lacks or misstates [^\n]*; name a checkpoint"
    ) as caught:
        load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden", -4, "hidden must be at least 1, not -4"),
        ("hidden", 4.0, "hidden must be a whole number, not 4.0"),
        ("hidden", "4", "lacks or misstates"),
        ("hidden", 10**9, "blstm.weight_hh_l0 is of 16×4, not of 4000000000×1000000000"),
        ("hidden", 10**30, "hidden must be a whole number"),
        ("char_hidden", 10**9, "characters.lstm.weight_hh_l0 is of"),
        ("char_embedding", 10**9, "characters.embedding.weight is of"),
        ("word_size", 10**9, "words.weight is of"),
        ("region_width", 10**9, "attend.value.weight is of"),
        ("visual_size", 10**9, "attend.value.weight is of"),
        ("variant", ["attention"], "variant must be one of"),
        ("variant", "global_image", "project.weight is missing"),
        ("dropout", float("nan"), r"dropout must be in [0, 1), not nan"),
        ("colour", 1, "colour"),
    ],
)
def test_absurd_sizes_are_refused(path: Path, name: str, value: object, message: str) -> None:
    """Before a network is built of them."""
    _rewritten(path, lambda told, _: told["config"].update({name: value}))
    with pytest.raises(CheckpointError, match=r"^small\.safetensors [^\n]*; name a checkpoint") as caught:
        load(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.full((5,), float("nan")), "emit.bias holds numbers that aren't finite"),
        (torch.tensor([1, 1, 1, 1, float("-inf")]), "emit.bias holds numbers that aren't finite"),
        (torch.zeros(5, dtype=torch.int64), "emit.bias holds int64"),
        (torch.zeros(5, dtype=torch.bool), "emit.bias holds bool"),
    ],
)
def test_absurd_weights_are_refused(path: Path, weight: torch.Tensor, message: str) -> None:
    """Weights that are no finite numbers tag nothing."""
    _rewritten(path, lambda _, state: state.update({"emit.bias": weight}))
    with pytest.raises(CheckpointError, match=f"small.safetensors holds weights that don't fit .*: {message}"):
        load(path)
