"""A speed-up changes no tag: a thousand real captions with photos, seen as in training and as they are seen now."""

import io
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from model.data import read_conll
from model.inference import Tagger
from model.pixels import SIDE, read_pixels
from model.tagging import TaggingInput
from model.tower import build_tower
from worker.settings import STARTER_CHECKPOINT

NUM_POSTS = 1000


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    """The shipped checkpoint."""
    return Tagger.load(STARTER_CHECKPOINT)


@pytest.fixture(scope="module")
def captions(shared_data: Path) -> list[str]:
    """Of Twitter-2015's training set."""
    sentences = read_conll(shared_data / "mner" / "twitter2015" / "train.txt").sentences
    return [" ".join(sentence.tokens) for sentence in sentences[:NUM_POSTS]]


@pytest.fixture(scope="module")
def photos(shared_data: Path) -> list[bytes]:
    """JPEGs as they are, and each once more at 1200 × 800, which a decoder may be tempted to halve."""
    files = sorted((shared_data / "mner" / "tweet_images_subset" / "images").glob("*.jpg"))
    return [photo for file in files for photo in (file.read_bytes(), _large(file))]


@pytest.mark.slow
def test_pictures_seen_faster_change_no_tag(tagger: Tagger, captions: list[str], photos: list[bytes]) -> None:
    """Pillow alone and a tower with its BatchNorm against what the worker has."""
    plain_tower = build_tower("efficientnet_lite0")
    plain = [plain_tower(torch.from_numpy(_plainly(photo))[None])[0].numpy() for photo in photos]
    ours = [tagger.look(read_pixels(photo)[None])[0] for photo in photos]
    assert any(not np.array_equal(one, other) for one, other in zip(plain, ours, strict=True))
    before, after = _names(tagger, captions, plain), _names(tagger, captions, ours)
    assert len(before) == NUM_POSTS
    assert sum(map(len, before)) > NUM_POSTS / 10
    assert before == after


def _names(tagger: Tagger, captions: list[str], features: list[np.ndarray]) -> list[list[tuple[str, int, int]]]:
    posts = [
        TaggingInput(tokens=tagger.tokenize(caption), features=seen)
        for caption, seen in zip(captions, islice(cycle(features), len(captions)), strict=True)
    ]
    taggings = [tagging for start in range(0, len(posts), 50) for tagging in tagger.tag(posts[start : start + 50])]
    return [[(span.type, span.start, span.end) for span in tagging.spans] for tagging in taggings]


def _plainly(photo: bytes) -> np.ndarray:
    """Pixels (3, 224, 224) as they were when the checkpoint was trained."""
    with Image.open(io.BytesIO(photo)) as image:
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))


def _large(file: Path) -> bytes:
    out = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").resize((1200, 800), Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    return out.getvalue()
