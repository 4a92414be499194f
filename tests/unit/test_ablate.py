"""The ablation: every training once, resumed where it stopped, and the paper's table."""

import contextlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from model.ablate import PAPER, ablate, render, to_json
from model.checkpoint import Checkpoint, save
from model.corpora import Corpus
from model.errors import DataError
from model.train import TrainConfig, TrainResult

VARIANTS = ["blstm_crf", "global_image", "attention", "attention_gate"]


class FakeTrainer:
    """Writes an untrained text checkpoint for each configuration, and remembers what it was asked."""

    def __init__(self, make: Callable[..., Checkpoint], fail_at: int = -1, interrupt_at: int = -1) -> None:
        self._make = make
        self._fail_at, self._interrupt_at = fail_at, interrupt_at
        self.asked: list[tuple[str, int]] = []

    def __call__(self, config: TrainConfig) -> TrainResult:
        if len(self.asked) == self._fail_at:
            raise DataError("out of luck")
        self.asked.append((config.variant, config.seed))
        save(self._make(seed=VARIANTS.index(config.variant) * 100 + config.seed), Path(config.out))
        if len(self.asked) - 1 == self._interrupt_at:
            with contextlib.suppress(KeyboardInterrupt):  # as the trainer does, which keeps its best
                os.kill(os.getpid(), signal.SIGINT)
        return TrainResult(path=config.out, best_f1=0, best_epoch=0, num_epochs=1)


@pytest.fixture
def config(small_file: Path) -> TrainConfig:
    """A configuration whose validation set is the small file."""
    return TrainConfig(train=str(small_file), valid=str(small_file), out="unused")


def test_each_variant_is_trained_with_each_seed(
    tmp_path: Path, config: TrainConfig, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Four variants by two seeds; the table has the paper's order, and a comparison but for the baseline."""
    trainer = FakeTrainer(small_checkpoint)
    told = ablate(config, 2, tmp_path / "out", train_one=trainer)
    assert trainer.asked == [(variant, seed) for variant in VARIANTS for seed in (0, 1)]
    assert [row.variant for row in told.rows] == VARIANTS
    assert [row.against_baseline is None for row in told.rows] == [True, False, False, False]
    text = render(told)
    assert "±" in text
    assert "BLSTM-CRF + Visual attention + Gate    66.67   57.84   61.94     81.62   79.90   80.75" in text
    again = json.loads(to_json(told))
    assert again["paper"]["attention_gate"][1] == list(PAPER["attention_gate"][1])
    assert again["rows"][1]["against_baseline"]["low"] <= again["rows"][1]["against_baseline"]["high"]


def test_finished_trainings_are_not_repeated(
    tmp_path: Path, config: TrainConfig, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """After a failure the next call trains only what is missing, and tells the same as one that never failed."""
    out = tmp_path / "out"
    with pytest.raises(DataError, match="luck"):
        ablate(config, 2, out, train_one=FakeTrainer(small_checkpoint, fail_at=5))
    rest = FakeTrainer(small_checkpoint)
    told = ablate(config, 2, out, train_one=rest)
    assert rest.asked == [("attention", 1), ("attention_gate", 0), ("attention_gate", 1)]
    assert told == ablate(config, 2, tmp_path / "other", train_one=FakeTrainer(small_checkpoint))
    more = FakeTrainer(small_checkpoint)
    ablate(config, 3, out, train_one=more)
    assert more.asked == [(variant, 2) for variant in VARIANTS]


def test_an_interrupted_training_is_not_finished(
    tmp_path: Path, config: TrainConfig, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """Ctrl-C, at which the trainer returns its best so far, ends the ablation; that training is repeated."""
    out = tmp_path / "out"
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        ablate(config, 1, out, train_one=FakeTrainer(small_checkpoint, interrupt_at=1))
    assert signal.getsignal(signal.SIGINT) is handler
    rest = FakeTrainer(small_checkpoint)
    ablate(config, 1, out, train_one=rest)
    assert rest.asked == [(variant, 0) for variant in VARIANTS[1:]]


def test_results_of_other_settings_are_refused(
    tmp_path: Path, config: TrainConfig, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """A folder with results of another learning rate isn't mixed with new ones."""
    out = tmp_path / "out"
    ablate(config, 1, out, train_one=FakeTrainer(small_checkpoint))
    with pytest.raises(DataError, match="another --out"):
        ablate(replace(config, learning_rate=0.1), 1, out, train_one=FakeTrainer(small_checkpoint))


@pytest.mark.parametrize("name", ["train.txt", "valid.txt", "picture.png"])
def test_results_of_other_data_are_refused(
    tmp_path: Path, small_file: Path, small_checkpoint: Callable[..., Checkpoint], name: str
) -> None:
    """What was trained on counts, not only what was scored on: content, not names."""
    files = {file: tmp_path / file for file in ("train.txt", "valid.txt", "picture.png")}
    for file in files.values():
        file.write_text("IMGID:picture\nAnn\tB-PER\n", encoding="utf-8")
    config = TrainConfig(
        train=str(files["train.txt"]), valid=str(files["valid.txt"]), images=str(tmp_path), out="unused"
    )
    scored_on, out = Corpus(path=str(small_file)), tmp_path / "out"
    ablate(config, 1, out, scored_on, train_one=FakeTrainer(small_checkpoint))
    files[name].write_text("IMGID:picture\nBob\tB-PER\n", encoding="utf-8")
    with pytest.raises(DataError, match="another --out"):
        ablate(config, 1, out, scored_on, train_one=FakeTrainer(small_checkpoint))


def test_a_spoilt_result_is_named(
    tmp_path: Path, config: TrainConfig, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """A result file that isn't one ends in a sentence that names it."""
    out = tmp_path / "out"
    ablate(config, 1, out, train_one=FakeTrainer(small_checkpoint))
    (out / "attention" / "seed-0.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"seed-0\.json.*remove it"):
        ablate(config, 1, out, train_one=FakeTrainer(small_checkpoint))


def test_no_seed_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    """A table of no training is none."""
    with pytest.raises(DataError, match="at least one"):
        ablate(config, 0, tmp_path)
