"""The shipped checkpoint at work: the same tags whatever the batch, and no input that breaks it."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.checkpoint import Checkpoint, save
from model.errors import TowerMissing
from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from model.tower import build_tower
from model.tower_file import tower_file, write_tower
from worker.settings import STARTER_CHECKPOINT


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """The shipped checkpoint."""
    return Tagger.load(STARTER_CHECKPOINT)


def test_batches_do_not_change_the_tags(tagger: Tagger, shared_data: Path) -> None:
    """1,000 real posts at batch sizes 1, 7, 32 and 256: no tag changes, confidences within 1e-4."""
    with gzip.open(shared_data / "twokenize" / "reference.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line, _ in zip(file, range(1000), strict=False)]
    chance = random.Random(0)
    pictures = [noise(tagger), noise(tagger), None]
    inputs = [TaggingInput(tokens=tagger.tokenize(text), features=chance.choice(pictures)) for text in texts]
    taggings = {size: tag_in_batches(tagger, inputs, size) for size in (1, 7, 32, 256)}
    for size in (7, 32, 256):
        for alone, together in zip(taggings[1], taggings[size], strict=True):
            assert [(s.type, s.start, s.end) for s in alone.spans] == [(s.type, s.start, s.end) for s in together.spans]
            for left, right in zip(alone.spans, together.spans, strict=True):
                assert abs(left.confidence - right.confidence) < 1e-4
    assert sum(len(tagging.spans) for tagging in taggings[1]) > 100


def noise(tagger: Tagger) -> np.ndarray:
    return np.random.default_rng().standard_normal(tagger.feature_shape).astype(np.float16)


def tag_in_batches(tagger: Tagger, inputs: list[TaggingInput], size: int) -> list[Tagging]:
    return [t for start in range(0, len(inputs), size) for t in tagger.tag(inputs[start : start + size])]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_any_text_is_tagged(tagger: Tagger, texts: list[str]) -> None:
    """Any text, the empty one included, gets as many taggings as there are posts, spans inside the text."""
    inputs = [TaggingInput(tokens=tagger.tokenize(text)) for text in texts]
    taggings = tagger.tag(inputs)
    assert len(taggings) == len(texts)
    for text, tagging in zip(texts, taggings, strict=True):
        for span in tagging.spans:
            assert 0 <= span.start < span.end <= len(text)
            assert 0 <= span.confidence <= 1


def test_a_very_long_post_is_tagged_in_windows(tagger: Tagger) -> None:
    """100 kB of words don't take memory beyond a window's, and a name past the first window is found."""
    text = "word " * 20_000 + "Mr Smith spoke to the class"
    (tagging,) = tagger.tag([TaggingInput(tokens=tagger.tokenize(text))])
    assert any(text[span.start : span.end] == "Smith" for span in tagging.spans)


def test_attention_adds_up_to_one(tagger: Tagger) -> None:
    """A post with a picture has 49 weights; one without has none."""
    tokens = tagger.tokenize("so happy about Paris !")
    features = noise(tagger)
    with_picture, without = tagger.tag([TaggingInput(tokens=tokens, features=features), TaggingInput(tokens=tokens)])
    assert with_picture.attention is not None
    assert len(with_picture.attention) == 49
    assert abs(sum(with_picture.attention) - 1) < 1e-5
    assert without.attention is None


def test_each_word_has_a_gate(tagger: Tagger) -> None:
    """As many gates as words, each from 0 to 1, in a post longer than a window too; none without a picture."""
    features = noise(tagger)
    for text in ("so happy about Paris !", "word " * 600):
        tokens = tagger.tokenize(text)
        (tagging,) = tagger.tag([TaggingInput(tokens=tokens, features=features)])
        assert tagging.gate is not None
        assert len(tagging.gate) == len(tokens)
        assert all(0 <= gate <= 1 for gate in tagging.gate)
        assert tagger.tag([TaggingInput(tokens=tokens)])[0].gate is None


def test_a_tower_that_learnt_is_served(tmp_path: Path, small_checkpoint: Callable[..., Checkpoint]) -> None:
    """The weights that a fine-tuning left beside the checkpoint are the ones that look; without them it is refused."""
    path = tmp_path / "tuned.safetensors"
    tower = build_tower("efficientnet_lite0")
    with torch.no_grad():
        next(tower.network.parameters()).add_(0.1)
    weights = write_tower(tower, path)
    save(small_checkpoint("attention", tower_digest=tower.digest), path)
    pixels = np.random.default_rng(0).integers(256, size=(1, 3, 224, 224), dtype=np.uint8)
    assert np.array_equal(Tagger.load(path).look(pixels), tower.fold()(torch.from_numpy(pixels)).numpy())
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TowerMissing, match=rf"{weights.name} is cut short.*copy it again"):
        Tagger.load(path)
    weights.unlink()
    with pytest.raises(TowerMissing, match=f"put {weights.name} beside it"):
        Tagger.load(path)


def test_a_tower_under_the_name_of_another_is_refused(
    tmp_path: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """The name says which weights a checkpoint asks for, and the weights are held against it."""
    path = tmp_path / "tuned.safetensors"
    write_tower(build_tower("efficientnet_lite0"), path).rename(tower_file(path, "0" * 16))
    save(small_checkpoint("attention", tower_digest="0" * 16), path)
    with pytest.raises(TowerMissing, match=r"tuned\.0{16}\.tower\.safetensors isn't the tower .* named for"):
        Tagger.load(path)
