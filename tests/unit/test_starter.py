"""The shipped checkpoint does what its model card says."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import model
from model.checkpoint import Checkpoint, load
from model.corpora import Corpus
from model.evaluate import predict, score
from model.features import ImageFeatures
from model.labels import spans_of
from model.tower import build_tower
from model.train import TrainConfig

STARTER = Path(model.__file__).parent / "starter"
FILE = STARTER / "nametag-starter.safetensors"


@pytest.fixture(scope="module")
def starter() -> Checkpoint:
    """The shipped checkpoint."""
    return load(FILE)[0]


def test_it_is_small() -> None:
    """It is at most 12 MB."""
    assert FILE.stat().st_size <= 12_000_000


def test_it_says_how_it_was_made(starter: Checkpoint) -> None:
    """Its settings are those of the configuration beside it."""
    config = TrainConfig.from_toml(STARTER / "picture.toml")
    made = starter.notes["settings"]
    assert {name: made[name] for name in ("variant", "hidden", "optimiser", "seed", "max_epochs", "batch_size")} == {
        name: getattr(config, name) for name in ("variant", "hidden", "optimiser", "seed", "max_epochs", "batch_size")
    }


def test_names_in_real_posts(starter: Checkpoint, shared_data: Path) -> None:
    """On Tweebank-NER's dev posts it reaches the strict F1 that is promised."""
    data = Corpus(path=str(shared_data / "ner" / "tweebank_ner" / "en_tweet.dev.json"), format="tweebank").read()
    tags = predict(starter.build(), starter.labels, starter.vocabulary, data, ImageFeatures())
    gold = [spans_of(sentence.tags) for sentence in data.sentences]
    assert score(gold, [spans_of(one) for one in tags])["overall"].f1 >= 58


def test_the_picture_counts(starter: Checkpoint, tmp_path: Path) -> None:
    """On a practice set that it hasn't seen the picture decides what an ambiguous name is, and nothing else."""
    scores = _benchmark().measure(starter, build_tower(starter.tower), tmp_path, seed=7, count=100)
    assert scores.ambiguous_with_image >= 97
    assert scores.ambiguous_text_only <= 45
    assert scores.ambiguous_shuffled <= 45
    assert scores.peak_in_box >= 80
    assert scores.plain_unrelated >= scores.plain_text_only - 0.5


def _benchmark() -> ModuleType:
    # Loaded by its path: tests/ is no package.
    path = Path(__file__).parents[1] / "benchmarks" / "practice_picture.py"
    spec = importlib.util.spec_from_file_location("practice_picture", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
