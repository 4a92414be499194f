"""The trainer: it learns, stops, goes on and is interrupted as promised."""

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import model.train
from model.batching import Post
from model.card import read_card
from model.checkpoint import Checkpoint, load, save
from model.corpora import Corpus
from model.errors import CheckpointError, DataError, OutputError, TrainingError
from model.evaluate import evaluate
from model.optimisation import WeightAverage, learning_rate
from model.practice import write_practice_set
from model.tower import build_tower
from model.tower_file import tower_file, tower_of, write_tower
from model.train import TrainConfig, train

POSTS = (
    "Ann\tB-PER\nsings\tO\nin\tO\nRome\tB-LOC\n\n"
    "Bob\tB-PER\nSmith\tI-PER\nlikes\tO\nIBM\tB-ORG\n\n"
    "no\tO\nnames\tO\nhere\tO\n\n"
    "Rome\tB-LOC\nhas\tO\nIBM\tB-ORG\n\n"
    "reading\tO\nDracula\tB-MISC\n"
)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A training of seconds, on five posts."""
    (tmp_path / "train.txt").write_text(POSTS, encoding="utf-8")
    return TrainConfig(
        train=str(tmp_path / "train.txt"),
        valid=str(tmp_path / "train.txt"),
        out=str(tmp_path / "out.safetensors"),
        variant="blstm_crf",
        hidden=8,
        word_size=8,
        batch_size=2,
        max_epochs=4,
        unknown_dropout=0.2,
    )


def test_a_tiny_set_is_overfitted(config: TrainConfig) -> None:
    """Five posts are learnt to F1 1.0, and the checkpoint that was written scores that too."""
    result = train(replace(config, dropout=0.1, learning_rate=0.1, max_epochs=60, patience=80, unknown_dropout=0))
    assert result.best_f1 == 100
    scores = evaluate(Path(result.path), Corpus(path=str(config.train)))
    assert scores.strict["overall"].f1 == 100


def test_learning_rate_is_not_compounded(config: TrainConfig) -> None:
    """η is 0.03 at the start, 0.02 at epoch 50, and not the 5e-7 of a decay upon the decayed."""
    assert learning_rate(config, 0) == 0.03
    assert learning_rate(config, 50) == pytest.approx(0.02)
    assert learning_rate(config, 100) == pytest.approx(0.015)


def test_linear_schedule(config: TrainConfig) -> None:
    """A linear schedule ends at nothing when the last epoch does."""
    config = replace(config, schedule="linear", max_epochs=10)
    assert [learning_rate(config, epoch) for epoch in (0, 5, 10)] == pytest.approx([0.03, 0.015, 0])


@pytest.mark.parametrize("change", [{}, {"average": 0.9}, {"optimiser": "adamw", "learning_rate": 0.01}])
def test_resuming_is_exact(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    """A training that was cut in its third epoch and goes on has the losses and weights of one that wasn't."""
    config = replace(config, **change)  # type: ignore[arg-type]
    whole = train(config)
    whole_state = load(Path(config.out))[0].state
    cut = replace(config, out=str(tmp_path / "cut.safetensors"))
    config_resume = tmp_path / "cut.resume.safetensors"
    _interrupt_in_epoch(2, monkeypatch)
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


def test_a_scheme_that_is_none_is_told_at_once(config: TrainConfig) -> None:
    """And not after an epoch."""
    with pytest.raises(DataError, match=r"scheme must be owoputi or .*, not 'foo'"):
        replace(config, scheme="foo")


def test_nothing_to_resume(config: TrainConfig) -> None:
    """Without a resume file, or with one of another configuration, resuming is refused."""
    with pytest.raises(CheckpointError, match="can't be resumed"):
        train(config, resume=True)


def test_another_training_is_not_resumed(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resume file of another configuration is refused; how long to train may change."""
    _interrupt_in_epoch(1, monkeypatch)
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
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, changed: str
) -> None:
    """Files whose content isn't what it was, though their names are, are told by setting."""
    (tmp_path / "valid.txt").write_text(POSTS, encoding="utf-8")
    (tmp_path / "glove.txt").write_text("rome 1 2 3 4 5 6 7 8\n", encoding="utf-8")
    config = replace(config, valid=str(tmp_path / "valid.txt"), embeddings=str(tmp_path / "glove.txt"))
    _interrupt_in_epoch(1, monkeypatch)
    train(config)
    monkeypatch.undo()
    other = (tmp_path / name).read_text(encoding="utf-8").replace("Rome\tB-LOC", "Oslo\tB-TOWN").replace(" 8", " 9")
    (tmp_path / name).write_text(other, encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"is of other data \({changed}\); train without --resume"):
        train(config, resume=True)


def test_other_pictures_are_not_resumed(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is data as well."""
    config = replace(_with_tower(config, tmp_path), tower_rate=0, max_epochs=2)
    _interrupt_in_epoch(1, monkeypatch)
    train(config)
    monkeypatch.undo()
    next((tmp_path / "practice" / "images").iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"other data \(images\)"):
        train(config, resume=True)


@pytest.mark.parametrize("kind", ["empty", "noise", "foreign", "altered", "checkpoint", "folder"])
def test_what_is_no_resume_file_is_refused(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Whatever stands under its name, resuming ends in a line that names it."""
    _interrupt_in_epoch(1, monkeypatch)
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


def test_the_best_so_far_is_gone(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a resumed training might end with nothing."""
    _interrupt_in_epoch(1, monkeypatch)
    train(config)
    monkeypatch.undo()
    Path(config.out).unlink()
    with pytest.raises(CheckpointError, match=r"out\.safetensors, the best so far, is gone"):
        train(config, resume=True)


def test_ctrl_c_keeps_the_best(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted training gives its best checkpoint, and no half-written file beside it."""
    _interrupt_in_epoch(1, monkeypatch)
    result = train(config)
    assert result.num_epochs == 1
    assert load(Path(config.out))[0].notes["epoch"] == 0
    left = {path.name for path in Path(config.out).parent.iterdir()}
    assert left == {"train.txt", "out.safetensors", "out.resume.safetensors"}


def test_ctrl_c_amid_the_writing_keeps_the_best_before(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that stood there is neither replaced nor taken for the best."""
    Path(config.out).write_bytes(b"an older one")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("model.train.save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert Path(config.out).read_bytes() == b"an older one"


def test_ctrl_c_before_anything_is_learnt(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no best yet, Ctrl-C just ends the command."""
    _interrupt_in_epoch(0, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        train(config)


def test_stops_early(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patience counts the epochs since the best one, and one that is only as good doesn't renew it."""
    f1s = iter([10.0, 30.0, 20.0, 30.0, 20.0, 20.0, 40.0])
    monkeypatch.setattr(model.train._Training, "_valid_f1s", lambda self: (next(f1s), 0.0))
    result = train(replace(config, patience=2, max_epochs=9))
    assert (result.best_f1, result.best_epoch, result.num_epochs) == (30, 1, 4)


def test_seeds(config: TrainConfig) -> None:
    """The same seed gives the same losses, another seed others."""
    config = replace(config, max_epochs=1)
    assert train(config).losses == train(config).losses
    assert train(config).losses != train(replace(config, seed=1)).losses


def test_several_corpora(config: TrainConfig, tmp_path: Path) -> None:
    """Each guideline has output weights of its own, and the checkpoint holds none but the first's."""
    (tmp_path / "wnut").write_text("Acme\tB-corporation\nrocks\tO\n", encoding="utf-8")
    corpora = (Corpus(path=str(config.train)), Corpus(path=str(tmp_path / "wnut"), format="wnut17"))
    train(replace(config, train=corpora, max_epochs=1))
    checkpoint, _ = load(Path(config.out))
    checkpoint.build()
    assert [corpus["guideline"] for corpus in checkpoint.notes["train"]] == ["conll", "wnut17"]
    assert str(tmp_path) not in json.dumps(checkpoint.notes)


def test_half_precision(config: TrainConfig) -> None:
    """A checkpoint in fp16 is half as large, and loads."""
    train(replace(config, max_epochs=1, half=True))
    checkpoint, _ = load(Path(config.out))
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float16}
    assert checkpoint.build().words.weight.dtype == torch.float32


def test_bf16(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """With bf16 the losses are nearly those of fp32, as the CRF stays there. Without any, it says so."""
    config = replace(config, max_epochs=1)
    whole = train(config).losses
    capsys.readouterr()
    half = train(replace(config, bf16=True)).losses
    assert half == pytest.approx(whole, rel=0.02)
    assert (half == whole) == ("no bf16" in capsys.readouterr().err)


def test_frozen_words(config: TrainConfig) -> None:
    """Word vectors with no rate of their own stay as they were."""
    for epochs in (1, 3):
        train(replace(config, word_rate=0, max_epochs=epochs, out=f"{config.out}{epochs}", patience=9))
    early, late = (load(Path(f"{config.out}{epochs}"))[0].state for epochs in (1, 3))
    assert torch.equal(early["words.weight"], late["words.weight"])


def test_frequent_words_join_at_the_end(config: TrainConfig, tmp_path: Path) -> None:
    """A frequent word that no post holds is in the checkpoint, with its very vector."""
    vectors = "".join(f"{word} {' '.join([str(number)] * 8)}\n" for number, word in enumerate(("the", "rome", "rare")))
    (tmp_path / "glove.txt").write_text(vectors, encoding="utf-8")
    train(replace(config, embeddings=str(tmp_path / "glove.txt"), frequent_words=1, max_epochs=1))
    checkpoint, _ = load(Path(config.out))
    assert "rare" not in checkpoint.vocabulary.words
    assert checkpoint.build().words.weight[checkpoint.vocabulary.word("The")].tolist() == [0] * 8
    assert checkpoint.vocabulary.word("the") > checkpoint.vocabulary.word("Rome")


def test_starting_from_a_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    """A training may start from a checkpoint and leave all of it as it was but the named part."""
    train(replace(config, max_epochs=1))
    before, _ = load(Path(config.out))
    second = replace(
        config, start=config.out, learning=("emit",), out=str(tmp_path / "second.safetensors"), max_epochs=1
    )
    train(second)
    after, _ = load(Path(second.out))
    moved = {name for name, tensor in before.state.items() if not torch.equal(tensor, after.state[name])}
    assert moved == {"emit.weight", "emit.bias"}
    assert (after.state["emit.weight"] - before.state["emit.weight"]).norm() < 0.5 * before.state["emit.weight"].norm()
    # Another seed: one epoch from the same draw would end close by.
    train(replace(second, afresh=True, seed=config.seed + 1))
    anew, _ = load(Path(second.out))
    assert (anew.state["emit.weight"] - before.state["emit.weight"]).norm() > before.state["emit.weight"].norm()
    assert torch.equal(anew.state["blstm.weight_hh_l0"], before.state["blstm.weight_hh_l0"])
    assert after.vocabulary == before.vocabulary
    assert after.notes["start"] == before.notes
    with pytest.raises(DataError, match="learning names attend; the network has words"):
        train(replace(second, learning=("attend",)))
    with pytest.raises(DataError, match="the checkpoint to start from is of"):
        train(replace(second, hidden=9))
    (tmp_path / "other.txt").write_text("Oslo\tB-TOWN\n", encoding="utf-8")
    with pytest.raises(DataError, match="the data has B-TOWN; the checkpoint to start from has no such tags"):
        train(replace(second, train=str(tmp_path / "other.txt")))


def test_average_of_weights() -> None:
    """The average follows the weights, stands in for them for a while, and gives them back."""
    weight = torch.nn.Parameter(torch.zeros(1))
    average = WeightAverage([weight], decay=0.5)
    for value in (1.0, 2.0):
        weight.data.fill_(value)
        average.update()
    # After the first steps of decays 2/11 and 3/12: 9/11, and 9/11 · 3/12 + 2 · 9/12.
    expected = 9 / 11 * 0.25 + 2 * 0.75
    with average.in_place():
        assert float(weight.detach()) == pytest.approx(expected)
    assert float(weight.detach()) == 2


def test_a_tower_that_learns(config: TrainConfig, tmp_path: Path) -> None:
    """The tower's weights move, its BatchNorm statistics don't, and it is written beside the checkpoint."""
    config = _with_tower(config, tmp_path)
    train(config)
    before, after = build_tower(config.tower), tower_of(load(Path(config.out))[0], Path(config.out))
    assert load(Path(config.out))[0].tower_digest == after.digest != before.digest
    moved = {
        name
        for name, tensor in before.network.state_dict().items()
        if not torch.equal(tensor, after.network.state_dict()[name])
    }
    assert "conv_stem.weight" in moved
    assert not any("running" in name for name in moved)


def test_an_interruption_between_tower_and_checkpoint_keeps_the_pair(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best before still finds its own tower, gets its temperature, and no tower stays that nobody asks for."""
    config = replace(_with_tower(config, tmp_path), max_epochs=2)
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


def test_a_tower_of_ones_own_goes_with_the_checkpoint(config: TrainConfig, tmp_path: Path) -> None:
    """One that didn't learn here, but isn't the package's, is beside the checkpoint as well."""
    tower = build_tower("efficientnet_lite0")
    next(tower.network.parameters()).add_(0.1)
    weights = write_tower(tower, tmp_path / "mine.safetensors")
    train(replace(_with_tower(config, tmp_path), tower_rate=0, tower_weights=str(weights)))
    assert tower_of(load(Path(config.out))[0], Path(config.out)).digest == tower.digest


@pytest.mark.parametrize("content", [b"", b"no weights", pickle.dumps({"a": 1}, protocol=2), None])
@pytest.mark.parametrize("name", ["mine.pth", "mine.tower.safetensors"])
def test_weights_that_are_no_tower(config: TrainConfig, tmp_path: Path, content: bytes | None, name: str) -> None:
    """A file that is missing or damaged is named, in one line."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^{name}[^\n]*$"):
        train(replace(_with_tower(config, tmp_path), tower_weights=str(tmp_path / name)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batch_size = 0", "batch_size must be at least 1, not 0"),
        ("optimiser = 'adam'", "optimiser must be sgd or adamw, not 'adam'"),
        ("average = 1.5", r"average must be in \[0, 1\], not 1.5"),
        ("learning_rate = 0", "learning_rate must be above 0"),
        ("colour = 'red'", "colour"),
        ("batch_size = '20'", "train.toml: batch_size must be a whole number, not '20'"),
        ("batch_size = 20.0", "batch_size must be a whole number, not 20.0"),
        ("hidden = true", "hidden must be a whole number, not True"),
        ("hidden = 0", "hidden must be at least 1, not 0"),
        (f"max_epochs = 1{'0' * 400}", "max_epochs must be a whole number, not 10000"),
        (f"learning_rate = 1{'0' * 400}", "learning_rate must be a number, not 10000"),
        ("learning_rate = nan", "learning_rate must be a number, not nan"),
        ("learning_rate = inf", "learning_rate must be finite"),
        ("decay = -1", "decay must not be below 0"),
        ("dropout = [0.5]", r"dropout must be a number, not \[0.5\]"),
        ("dropout = 1.0", r"dropout must be in \[0, 1\), not 1.0"),
        ("half = 1", "half must be true or false, not 1"),
        ("half = 2020-01-01", r"half must be true or false, not datetime.date\(2020, 1, 1\)"),
        ("images = 3", "images must be a text, not 3"),
        ('images = "a\\u0000b"', "images must be a text, not 'a.x00b'"),
        ("learning = [1]", r"learning must be a list, each a text, not \(1,\)"),
        ("learning = 'emit'", "learning must be a list, each a text, not 'emit'"),
        ("variant = 'attention_gates'", "variant must be one of blstm_crf, .*, not 'attention_gates'"),
        ("image_state = 'h1'", "image_state must be both, h0 or c0, not 'h1'"),
        (f"seed = {'[' * 5000}", "nested too deeply"),
        ("[[train]]\npath = 3", "a corpus's path must be a text, not 3"),
        ("[[train]]\npath = 'x'\nformat = ['conll']", "a corpus's format must be a text"),
        ("[[train]]\npath = 'x'\nrepeat = 0", "a corpus's repeat must be at least 1, not 0"),
        ("[[train]]\nfile = 'x'", "a corpus has path, format, images, guideline and repeat, not file"),
        ("[[train]]\npath = 'x'\nformat = 'y'", "no corpus has the format 'y'; there are conll"),
    ],
)
def test_bad_settings(tmp_path: Path, setting: str, message: str) -> None:
    """A setting out of its range is named, with the range."""
    given = "valid = 'v'\nout = 'o'\n" + ("" if "[[train]]" in setting else "train = 't'\n")
    (tmp_path / "train.toml").write_text(given + setting, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        TrainConfig.from_toml(tmp_path / "train.toml")


def test_a_list_of_files_is_no_list_of_corpora(tmp_path: Path) -> None:
    """What must stand there instead is told."""
    (tmp_path / "train.toml").write_text("train = ['a.txt']\nvalid = 'v'\nout = 'o'\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"tables \[\[train\]\], not a list with 'a.txt'"):
        TrainConfig.from_toml(tmp_path / "train.toml")


def test_an_out_that_can_not_be_is_told_at_once(config: TrainConfig, tmp_path: Path) -> None:
    """A folder, a place under a file, and the data itself; before anything is read."""
    with pytest.raises(OutputError, match="is a folder; name a file"):
        train(replace(config, out=str(tmp_path)))
    with pytest.raises(OutputError, match=r"can't be written \((File exists|Not a directory)\); name another place"):
        train(replace(config, out=f"{config.train}/out.safetensors"))
    with pytest.raises(DataError, match=r"out would replace .*train\.txt"):
        train(replace(config, out=str(config.train)))


def test_features_that_can_not_be_kept(config: TrainConfig, tmp_path: Path) -> None:
    """A file in the place of the folder is told."""
    with pytest.raises(OutputError, match="can't be written"):
        train(replace(_with_tower(config, tmp_path), tower_rate=0, features=str(config.train)))


def test_a_network_that_is_too_large_is_told(config: TrainConfig) -> None:
    """And not with the allocator's words."""
    with pytest.raises(DataError, match=r"this machine can't hold a network of .*make it smaller"):
        train(replace(config, hidden=10**9))


@pytest.mark.parametrize("spoilt", [0, 2])
def test_a_loss_that_is_no_number(config: TrainConfig, monkeypatch: pytest.MonkeyPatch, spoilt: int) -> None:
    """The training stops with epoch, step and advice, and keeps the best so far where there is one."""
    config = replace(config, learning_rate=0.1)
    rates = count()

    def spoil(training: model.train._Training, epoch: int, rate: float) -> float:
        if next(rates) == spoilt:
            training._network.emit.bias.data[1] = float("nan")
        return run_epoch(training, epoch, rate)

    run_epoch = model.train._Training._run_epoch
    monkeypatch.setattr(model.train._Training, "_run_epoch", spoil)
    told = rf"^epoch {spoilt}, step 1 of 3: the loss is no finite number any more; try a lower learning_rate than 0.1"
    if spoilt:
        told += r".*; \S*out.safetensors keeps the best so far \(epoch \d, valid F1 [\d.]+\)$"
    with pytest.raises(TrainingError, match=told):
        train(config)
    assert Path(config.out).exists() == bool(spoilt)
    if spoilt:
        assert load(Path(config.out))[0].notes["epoch"] < spoilt


def test_a_full_disk_ends_a_training_with_a_sentence(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing half-written is left, and what was the best before is still there."""
    train(replace(config, max_epochs=1))
    before = Path(config.out).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"out.safetensors can't be written \(No space left on device\); make room"):
        train(config)
    assert Path(config.out).read_bytes() == before
    assert {path.name for path in Path(config.out).parent.iterdir()} == {"train.txt", "out.safetensors"}


@pytest.mark.slow
def test_two_processes(config: TrainConfig) -> None:
    """Two gloo processes under torchrun learn what one learns: gradients are those of the whole batch."""
    config = replace(config, dropout=0, unknown_dropout=0, batch_size=3, max_epochs=3)
    alone = train(config)
    alone_state = load(Path(config.out))[0].state
    script = Path(config.out).with_name("ranks.py")
    script.write_text(
        f"from model.train import TrainConfig, train\nprint(list(train({config!r}).losses))\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(model.train.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first == second == pytest.approx(list(alone.losses), rel=1e-4)
    state = load(Path(config.out))[0].state
    for name, tensor in alone_state.items():
        torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-5)


def _with_tower(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    """A training of one epoch whose tower learns, on six drawn posts."""
    write_practice_set(tmp_path / "practice", num_train=4, num_valid=2)
    return replace(
        config,
        train=str(tmp_path / "practice" / "train.txt"),
        valid=str(tmp_path / "practice" / "valid.txt"),
        images=str(tmp_path / "practice" / "images"),
        variant="attention",
        tower="efficientnet_lite0",
        tower_rate=0.1,
        modality_dropout=0,
        max_epochs=1,
    )


def _interrupt_in_epoch(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C in the middle of an epoch."""
    make_batches = model.train.make_batches
    calls = count()

    def interrupted(*arguments: Any) -> Iterable[list[Post]]:
        batches = make_batches(*arguments)
        return _Interrupting(batches) if next(calls) == epoch else batches

    monkeypatch.setattr(model.train, "make_batches", interrupted)


class _Interrupting(list[list[Post]]):
    def __iter__(self) -> Iterator[list[Post]]:
        yield self[0]
        raise KeyboardInterrupt


def test_the_checkpoint_tells_of_its_training(config: TrainConfig) -> None:
    """Both F1s, a fitted temperature, and which mentions are seen ones."""
    path = Path(train(config).path)
    card = read_card(path)
    assert {"valid_f1", "valid_strict_f1"} <= set(card.notes)
    assert card.num_mentions
    scores = evaluate(path, Corpus(path=str(config.train)))
    assert scores.lenient_familiarity is not None
    assert scores.lenient_familiarity.unseen.num_gold == 0
