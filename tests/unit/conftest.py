"""What unit tests of the model start from, and one thread for each test's arithmetic.

OpenMP's threads wait for one another by spinning: with two of them on two cores that others use too, the
small networks of these tests take up to a hundred times as long. Set before torch is first imported.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

import model.train
from model.batching import Post
from model.checkpoint import Checkpoint, save
from model.labels import LabelSet
from model.practice import write_practice_set
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.train import TrainConfig
from model.vocabulary import Vocabulary

TRAINING_POSTS = (
    "Ann\tB-PER\nsings\tO\nin\tO\nRome\tB-LOC\n\n"
    "Bob\tB-PER\nSmith\tI-PER\nlikes\tO\nIBM\tB-ORG\n\n"
    "no\tO\nnames\tO\nhere\tO\n\n"
    "Rome\tB-LOC\nhas\tO\nIBM\tB-ORG\n\n"
    "reading\tO\nDracula\tB-MISC\n"
)
SMALL_POSTS = (("Paris", "😁", "x"), ("Ann", "met", "Bob"))


@pytest.fixture
def small_checkpoint() -> Callable[..., Checkpoint]:
    """Makes an untrained checkpoint of a few thousand weights; fields by keyword."""

    def make(variant: str = "blstm_crf", seed: int = 0, **fields: Any) -> Checkpoint:
        torch.manual_seed(seed)
        labels, vocabulary = LabelSet.of_types(("PER", "LOC")), Vocabulary.of(SMALL_POSTS)
        config = TaggerConfig(variant=variant, hidden=4, word_size=3, region_width=5, visual_size=3)  # type: ignore[arg-type]
        network = NameTagger(config, labels, vocabulary.num_words, vocabulary.num_characters)
        told: dict[str, Any] = {
            "config": config,
            "labels": labels,
            "vocabulary": vocabulary,
            "scheme": Scheme.TWITTER2017,
            "tower": "efficientnet_lite0",
            "tower_digest": "d",
            "state": network.state_dict(),
        }
        return Checkpoint(**{**told, **fields})

    return make


@pytest.fixture
def small_file(tmp_path: Path) -> Path:
    """A labelled file of 30 posts; half of the names are people."""
    posts = ["Ann\tB-PER\nmet\tO\nBob\tB-PER\n", "x\tO\nParis\tB-LOC\n", "x\tO\n😁\tO\n"]
    path = tmp_path / "data.txt"
    path.write_text("\n".join(f"IMGID:{number}\n{posts[number % 3]}" for number in range(30)), encoding="utf-8")
    return path


@pytest.fixture
def small_path(tmp_path: Path, small_checkpoint: Callable[..., Checkpoint]) -> Path:
    """An untrained checkpoint on disk."""
    path = tmp_path / "small.safetensors"
    save(small_checkpoint(temperature=1.5, notes={"seed": 3}), path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    """A training of seconds, on five posts."""
    (tmp_path / "train.txt").write_text(TRAINING_POSTS, encoding="utf-8")
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


@pytest.fixture
def with_tower(tmp_path: Path) -> Callable[[TrainConfig], TrainConfig]:
    """Makes of a training one of an epoch whose tower learns, on six drawn posts."""

    def make(config: TrainConfig) -> TrainConfig:
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

    return make


@pytest.fixture
def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has Ctrl-C pressed in the middle of an epoch; until `monkeypatch.undo()`."""

    def interrupt(epoch: int) -> None:
        make_batches = model.train.make_batches
        calls = count()

        def interrupted(*arguments: Any) -> Iterable[list[Post]]:
            batches = make_batches(*arguments)
            return _Interrupting(batches) if next(calls) == epoch else batches

        monkeypatch.setattr(model.train, "make_batches", interrupted)

    return interrupt


class _Interrupting(list[list[Post]]):
    def __iter__(self) -> Iterator[list[Post]]:
        yield self[0]
        raise KeyboardInterrupt
