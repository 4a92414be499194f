"""A tower that learns: the weights beside the checkpoint are always its own."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

import model.train
from model.checkpoint import Checkpoint, load, save
from model.errors import CheckpointError, TowerMissing
from model.tower import build_tower
from model.tower_file import tower_file, tower_of, write_tower
from model.train import TrainConfig, train


def test_a_tower_that_learns(config: TrainConfig, with_tower: Callable[[TrainConfig], TrainConfig]) -> None:
    """The tower's weights move, its BatchNorm statistics don't, and it is written beside the checkpoint."""
    config = with_tower(config)
    train(config)
    checkpoint, out = load(Path(config.out))[0], Path(config.out)
    before, after = build_tower(config.tower), build_tower(config.tower, tower_file(out, checkpoint.tower_digest))
    assert tower_of(checkpoint, out).digest == checkpoint.tower_digest == after.digest != before.digest
    moved = {
        name
        for name, tensor in before.network.state_dict().items()
        if not torch.equal(tensor, after.network.state_dict()[name])
    }
    assert "conv_stem.weight" in moved
    assert not any("running" in name for name in moved)


def test_an_interruption_between_tower_and_checkpoint_keeps_the_pair(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, with_tower: Callable[[TrainConfig], TrainConfig]
) -> None:
    """The best before still finds its own tower, gets its temperature, and no tower stays that nobody asks for."""
    config = replace(with_tower(config), max_epochs=2)
    f1s, written = count(), count()
    monkeypatch.setattr(model.train._Training, "_valid_f1s", lambda self: (float(next(f1s)), 0.0))

    def cut_off(checkpoint: Checkpoint, path: Path) -> str:
        if next(written) == 1:
            raise KeyboardInterrupt
        return save(checkpoint, path)

    monkeypatch.setattr("model.train.save", cut_off)
    result = train(config)
    out = Path(config.out)
    kept, _ = load(out)
    assert (result.best_epoch, kept.notes["epoch"]) == (0, 0)
    assert tower_of(kept, out).digest == kept.tower_digest
    assert list(out.parent.glob("*.tower.safetensors")) == [tower_file(out, kept.tower_digest)]


def test_towers_of_earlier_trainings_are_removed(config: TrainConfig, tmp_path: Path) -> None:
    """Also the ones named without a digest, and where the next training has none; other checkpoints' towers stay."""
    names = (
        "out.0123456789abcdef.tower.safetensors",
        "out.tower.safetensors",
        "out.2.0123456789abcdef.tower.safetensors",
    )
    for name in names:
        (tmp_path / name).touch()
    train(replace(config, max_epochs=1, tower_weights=str(tmp_path / names[1])))
    assert [(tmp_path / name).exists() for name in names] == [False, True, True]
    train(replace(config, max_epochs=1))
    assert [(tmp_path / name).exists() for name in names] == [False, False, True]


def test_a_tower_of_ones_own_goes_with_the_checkpoint(
    config: TrainConfig, tmp_path: Path, with_tower: Callable[[TrainConfig], TrainConfig]
) -> None:
    """One that didn't learn here, but isn't the package's, is beside the checkpoint as well."""
    tower = build_tower("efficientnet_lite0")
    next(tower.network.parameters()).add_(0.1)
    weights = write_tower(tower, tmp_path / "mine.safetensors")
    train(replace(with_tower(config), tower_rate=0, tower_weights=str(weights)))
    assert tower_of(load(Path(config.out))[0], Path(config.out)).digest == tower.digest


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1}, protocol=2), None])
@pytest.mark.parametrize("name", ["mine.pth", "mine.tower.safetensors"])
def test_weights_that_are_no_tower(
    config: TrainConfig,
    tmp_path: Path,
    content: bytes | None,
    name: str,
    with_tower: Callable[[TrainConfig], TrainConfig],
) -> None:
    """A file that is missing or damaged is named, in one line."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{name}[^\n]*$"):
        train(replace(with_tower(config), tower_weights=str(tmp_path / name)))


def test_without_a_download_a_tower_has_to_be_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Nothing is asked of the network: what torchvision has kept is used, else the sentence says what to do."""
    import torchvision

    def connect(*_arguments: object, **_named: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr("torch.hub.urlopen", connect)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    torch.manual_seed(0)
    network = torchvision.models.resnet18()
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(network.state_dict(), tmp_path / "resnet18.pth")
    digest = build_tower("resnet18", tmp_path / "resnet18.pth").digest
    checkpoint, path = (
        small_checkpoint("attention", tower="resnet18", tower_digest=digest),
        tmp_path / "new.safetensors",
    )
    told = rf"^new.safetensors needs its tower: .*; put new.{digest}.tower.safetensors beside it, or have `nametag tag "
    with pytest.raises(TowerMissing, match=told):
        tower_of(checkpoint, path, may_download=False)
    with pytest.raises(AssertionError, match="the network was asked"):
        tower_of(checkpoint, path)
    kept.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "resnet18.pth").rename(kept)
    assert tower_of(checkpoint, path, may_download=False).digest == digest
