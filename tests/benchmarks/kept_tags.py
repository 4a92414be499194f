"""The tags of a thousand real posts with photos, kept so that no speed-up changes one unnoticed.

    python -m tests.benchmarks.kept_tags     tag anew, and keep them in tests/unit/kept_tags.json

Another checkpoint has other tags, and so has a tokenizer or a network that was changed on purpose.
"""

import io
import json
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from model.data import read_conll
from model.inference import Tagger
from model.pixels import read_pixels
from model.tagging import TaggingInput
from tests.benchmarks.capacity import SHARED
from worker.settings import STARTER_CHECKPOINT

KEPT = Path(__file__).parents[1] / "unit" / "kept_tags.json"

NUM_POSTS = 1000
Names = list[tuple[str, int, int]]


def read_captions(mner: Path) -> list[str]:
    """The first of Twitter-2015's training set."""
    sentences = read_conll(mner / "twitter2015" / "train.txt").sentences
    return [" ".join(sentence.tokens) for sentence in sentences[:NUM_POSTS]]


def read_photos(mner: Path) -> list[bytes]:
    """JPEGs as they are, and each once more at 1200 × 800, which a decoder may be tempted to halve."""
    files = sorted((mner / "tweet_images_subset" / "images").glob("*.jpg"))
    return [photo for file in files for photo in (file.read_bytes(), _large(file))]


def looked_at(tagger: Tagger, photos: Sequence[bytes]) -> list[np.ndarray]:
    """The features (49, D) of each, as the worker has them."""
    return [tagger.look(read_pixels(photo)[None])[0] for photo in photos]


def names_of(tagger: Tagger, captions: Sequence[str], features: Sequence[np.ndarray]) -> list[Names]:
    """The names in each caption, with one photo after the other."""
    posts = [
        TaggingInput(tokens=tagger.tokenize(caption), features=seen)
        for caption, seen in zip(captions, islice(cycle(features), len(captions)), strict=True)
    ]
    taggings = [tagging for start in range(0, len(posts), 50) for tagging in tagger.tag(posts[start : start + 50])]
    return [[(span.type, span.start, span.end) for span in tagging.spans] for tagging in taggings]


def written(names: Sequence[Names]) -> list[str]:
    """A line for each post: no text, only where its names are."""
    return [" ".join(f"{kind}:{start}-{end}" for kind, start, end in each) for each in names]


def _large(file: Path) -> bytes:
    out = io.BytesIO()
    with Image.open(file) as image:
        image.convert("RGB").resize((1200, 800), Image.Resampling.LANCZOS).save(out, "JPEG", quality=85)
    return out.getvalue()


def main() -> None:
    """Keep the tags of the shipped checkpoint."""
    tagger = Tagger.load(STARTER_CHECKPOINT)
    names = names_of(tagger, read_captions(SHARED), looked_at(tagger, read_photos(SHARED)))
    KEPT.write_text(json.dumps({"checkpoint": tagger.checkpoint_id, "posts": written(names)}, indent=0) + "\n")
    print(f"{sum(map(len, names))} names of {len(names)} posts in {KEPT.name}")


if __name__ == "__main__":
    main()
