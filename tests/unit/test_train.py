"""The trainer: it learns, stops and is interrupted as promised."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import model.train
from model.card import read_card
from model.checkpoint import load
from model.corpora import Corpus
from model.errors import DataError, OutputError, TrainingError
from model.evaluate import evaluate
from model.optimisation import WeightAverage, learning_rate
from model.train import TrainConfig, train


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


def test_ctrl_c_keeps_the_best(config: TrainConfig, interrupt_in_epoch: Callable[[int], None]) -> None:
    """An interrupted training gives its best checkpoint, and no half-written file beside it."""
    interrupt_in_epoch(1)
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


def test_ctrl_c_before_anything_is_learnt(config: TrainConfig, interrupt_in_epoch: Callable[[int], None]) -> None:
    """Where there is no best yet, Ctrl-C just ends the command."""
    interrupt_in_epoch(0)
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


def test_types_that_no_checkpoint_may_have_are_told_before_the_training(config: TrainConfig, tmp_path: Path) -> None:
    """Not hours later, when the checkpoint is read."""
    (tmp_path / "other.txt").write_text("Oslo\tB-TOWN!\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"the label 'B-TOWN!': .*; rename it"):
        train(replace(config, train=str(tmp_path / "other.txt")))
    assert not Path(config.out).exists()


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


def test_the_checkpoint_tells_of_its_training(config: TrainConfig) -> None:
    """Both F1s, a fitted temperature, and which mentions are seen ones."""
    path = Path(train(config).path)
    card = read_card(path)
    assert {"valid_f1", "valid_strict_f1"} <= set(card.notes)
    assert card.num_mentions
    scores = evaluate(path, Corpus(path=str(config.train)))
    assert scores.lenient_familiarity is not None
    assert scores.lenient_familiarity.unseen.num_gold == 0
