"""What unit tests of the model start from, and one thread for each test's arithmetic.

OpenMP's threads wait for one another by spinning: with two of them on two cores that others use too, the
small networks of these tests take up to a hundred times as long. Set before torch is first imported.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import Checkpoint, save
from model.labels import LabelSet
from model.tagger import NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.vocabulary import Vocabulary

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
