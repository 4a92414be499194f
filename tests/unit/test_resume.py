"""An interrupted training goes on as if nothing had happened, or says why it can't."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from model.checkpoint import load
from model.errors import CheckpointError
from model.train import TrainConfig, train


@pytest.mark.parametrize("change", [{}, {"average": 0.9}, {"optimiser": "adamw", "learning_rate": 0.01}])
def test_resuming_is_exact(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    interrupt_in_epoch: Callable[[int], None],
) -> None:
    """A training that was cut in its third epoch and goes on has the losses and weights of one that wasn't."""
    config = replace(config, **change)  # type: ignore[arg-type]
    whole = train(config)
    whole_state = load(Path(config.out))[0].state
    cut = replace(config, out=str(tmp_path / "cut.safetensors"))
    config_resume = tmp_path / "cut.resume.safetensors"
    interrupt_in_epoch(2)
    first = train(cut)
    monkeypatch.undo()
    assert config_resume.exists()
    second = train(cut, resume=True)
    assert first.losses + second.losses == whole.losses
    assert (second.best_f1, second.best_epoch) == (whole.best_f1, whole.best_epoch)
    state = load(Path(cut.out))[0].state
    assert all(torch.equal(state[name], tensor) for name, tensor in whole_state.items())
    assert not config_resume.exists()


def test_an_end_that_is_cut_off_is_resumed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the temperature couldn't be fitted, the training goes on from there: no epoch more, and nothing lost."""
    config = replace(config, patience=1)
    whole = train(config)
    state = load(Path(config.out))[0]
    with monkeypatch.context() as patched:
        patched.setattr("model.train.fit_temperature", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config)
    again = train(config, resume=True)
    assert again.losses == ()
    assert (again.best_f1, again.best_epoch, again.num_epochs) == (whole.best_f1, whole.best_epoch, whole.num_epochs)
    assert load(Path(config.out))[0].temperature == state.temperature


def test_nothing_to_resume(config: TrainConfig) -> None:
    """Without a resume file, or with one of another configuration, resuming is refused."""
    with pytest.raises(CheckpointError, match="can't be resumed"):
        train(config, resume=True)


def test_another_training_is_not_resumed(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, interrupt_in_epoch: Callable[[int], None]
) -> None:
    """A resume file of another configuration is refused; how long to train may change."""
    interrupt_in_epoch(1)
    train(config)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"other settings \(hidden, seed\); train without --resume"):
        train(replace(config, seed=1, hidden=9), resume=True)
    assert train(replace(config, max_epochs=2), resume=True).num_epochs == 2


@pytest.mark.parametrize(
    ("name", "changed"),
    [("train.txt", "characters, labels, train, words"), ("valid.txt", "valid"), ("glove.txt", "embeddings")],
)
def test_other_data_is_not_resumed(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changed: str,
    interrupt_in_epoch: Callable[[int], None],
) -> None:
    """Files whose content isn't what it was, though their names are, are told by setting."""
    (tmp_path / "valid.txt").write_text(Path(str(config.train)).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "glove.txt").write_text("rome 1 2 3 4 5 6 7 8\n", encoding="utf-8")
    config = replace(config, valid=str(tmp_path / "valid.txt"), embeddings=str(tmp_path / "glove.txt"))
    interrupt_in_epoch(1)
    train(config)
    monkeypatch.undo()
    other = (tmp_path / name).read_text(encoding="utf-8").replace("Rome\tB-LOC", "Oslo\tB-TOWN").replace(" 8", " 9")
    (tmp_path / name).write_text(other, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"is of other data \({changed}\); train without --resume"):
        train(config, resume=True)


def test_other_pictures_are_not_resumed(
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interrupt_in_epoch: Callable[[int], None],
    with_tower: Callable[[TrainConfig], TrainConfig],
) -> None:
    """A picture is data as well."""
    config = replace(with_tower(config), tower_rate=0, max_epochs=2)
    interrupt_in_epoch(1)
    train(config)
    monkeypatch.undo()
    next((tmp_path / "practice" / "images").iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"other data \(images\)"):
        train(config, resume=True)


@pytest.mark.parametrize("kind", ["empty", "noise", "foreign", "altered", "checkpoint", "folder"])
def test_what_is_no_resume_file_is_refused(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, kind: str, interrupt_in_epoch: Callable[[int], None]
) -> None:
    """Whatever stands under its name, resuming ends in a line that names it."""
    interrupt_in_epoch(1)
    train(config)
    monkeypatch.undo()
    path = Path(config.out).with_name("out.resume.safetensors")
    altered = bytearray(path.read_bytes())
    altered[-3] ^= 1
    contents = {"empty": b"", "noise": b"\x09" * 99, "altered": bytes(altered)}
    contents["foreign"] = safetensors.torch.save({"x": torch.zeros(1)})
    contents["checkpoint"] = Path(config.out).read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(contents[kind])
    with pytest.raises(CheckpointError, match=r"out\.resume\.safetensors [^\n]*; train without --resume$"):
        train(config, resume=True)


def test_the_best_so_far_is_gone(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, interrupt_in_epoch: Callable[[int], None]
) -> None:
    """Without it a resumed training might end with nothing."""
    interrupt_in_epoch(1)
    train(config)
    monkeypatch.undo()
    Path(config.out).unlink()
    with pytest.raises(CheckpointError, match=r"out\.safetensors, the best so far, is gone"):
        train(config, resume=True)
