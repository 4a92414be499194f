"""Does the picture count? Measures a checkpoint on a practice set that it has never seen.

Run it from the repository: `python tests/benchmarks/practice_picture.py CHECKPOINT [--seed N] [--folder F]`.
"""

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import Checkpoint, load
from model.data import Dataset, ImageFolder, Sentence, read_conll
from model.evaluate import predict, score
from model.features import FeatureFolder, ImageFeatures, compute_features
from model.labels import spans_of
from model.practice import write_practice_set
from model.tagger import NameTagger
from model.tower import IMAGE_SIZE, Tower, build_tower

SIDE_REGIONS = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureScores:
    """In percent: accuracy on ambiguous mentions, peaks of the attention in the telling box, F1 on the others."""

    ambiguous_text_only: float
    ambiguous_with_image: float
    ambiguous_shuffled: float
    peak_in_box: float
    plain_text_only: float
    plain_unrelated: float

    def __str__(self) -> str:
        return (
            f"ambiguous mentions: text only {self.ambiguous_text_only:.1f} %, with image "
            f"{self.ambiguous_with_image:.1f} %, images shuffled {self.ambiguous_shuffled:.1f} %\n"
            f"peak of the attention inside the telling box: {self.peak_in_box:.1f} %\n"
            f"unambiguous mentions, F1: text only {self.plain_text_only:.2f}, with an unrelated image "
            f"{self.plain_unrelated:.2f} (a loss of {self.plain_text_only - self.plain_unrelated:.2f})"
        )


def measure(checkpoint: Checkpoint, tower: Tower, folder: Path, *, seed: int, count: int = 480) -> PictureScores:
    """The scores of `checkpoint` on `count` posts of the practice set of `seed`, written into `folder`."""
    write_practice_set(folder, num_train=0, num_valid=count, seed=seed)
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    data = read_conll(folder / "valid.txt")
    kept = FeatureFolder(folder / "features", tower.digest)
    image_ids = [sentence.image_id for sentence in data.sentences]
    features = compute_features(image_ids, ImageFolder(folder / "images"), tower, kept=kept)
    network = checkpoint.build()
    ambiguous, boxes = _pick(data, index, ambiguous=True)
    plain, _ = _pick(data, index, ambiguous=False)
    return PictureScores(
        ambiguous_text_only=_accuracy(checkpoint, network, ambiguous, ImageFeatures()),
        ambiguous_with_image=_accuracy(checkpoint, network, ambiguous, features),
        ambiguous_shuffled=_accuracy(checkpoint, network, ambiguous, _shuffled(ambiguous, features, seed)),
        peak_in_box=_peaks(checkpoint, network, ambiguous, boxes, features),
        plain_text_only=_f1(checkpoint, network, plain, ImageFeatures()),
        plain_unrelated=_f1(checkpoint, network, plain, _shuffled(data, features, seed, plain)),
    )


def _pick(data: Dataset, index: list[dict[str, Any]], *, ambiguous: bool) -> tuple[Dataset, list[list[int]]]:
    chosen = [
        (sentence, post["box"])
        for sentence, post in zip(data.sentences, index, strict=True)
        if post["name"] is not None and post["ambiguous"] is ambiguous
    ]
    return replace(data, sentences=tuple(sentence for sentence, _ in chosen)), [box for _, box in chosen]


def _shuffled(source: Dataset, features: ImageFeatures, seed: int, to: Dataset | None = None) -> ImageFeatures:
    """Each post of `to` (or of `source`) with the picture of a post of `source` by chance."""
    chance = random.Random(seed)
    pictures = [features.by_id[s.image_id] for s in source.sentences if s.image_id in features.by_id]
    sentences = (to or source).sentences
    if to is None:
        chance.shuffle(pictures)
    else:
        pictures = chance.choices(pictures, k=len(sentences))
    return ImageFeatures(by_id={_id(s): picture for s, picture in zip(sentences, pictures, strict=True)})


def _id(sentence: Sentence) -> str:
    assert sentence.image_id is not None
    return sentence.image_id


def _accuracy(checkpoint: Checkpoint, network: NameTagger, data: Dataset, features: ImageFeatures) -> float:
    """How many gold mentions are found with their very type."""
    predicted = _spans(checkpoint, network, data, features)
    right = sum(set(spans_of(s.tags)) <= set(found) for s, found in zip(data.sentences, predicted, strict=True))
    return 100 * right / len(data.sentences)


def _f1(checkpoint: Checkpoint, network: NameTagger, data: Dataset, features: ImageFeatures) -> float:
    gold = [spans_of(sentence.tags) for sentence in data.sentences]
    return score(gold, _spans(checkpoint, network, data, features))["overall"].f1


def _spans(checkpoint: Checkpoint, network: NameTagger, data: Dataset, features: ImageFeatures) -> list[list[Any]]:
    tags = predict(network, checkpoint.labels, checkpoint.vocabulary, data, features)
    return [spans_of(one) for one in tags]


@torch.inference_mode()
def _peaks(
    checkpoint: Checkpoint, network: NameTagger, data: Dataset, boxes: list[list[int]], features: ImageFeatures
) -> float:
    """How often the middle of the region with the largest weight lies in the box."""
    inside = 0
    for sentence, (left, top, right, bottom) in zip(data.sentences, boxes, strict=True):
        seen = [features.of(sentence.image_id)]
        batch = checkpoint.vocabulary.encode([sentence.tokens], seen, checkpoint.config.region_width)
        attention = network(batch).attention
        assert attention is not None
        row, column = divmod(int(attention[0].argmax()), SIDE_REGIONS)
        x, y = ((place + 0.5) * IMAGE_SIZE / SIDE_REGIONS for place in (column, row))
        inside += left <= x <= right and top <= y <= bottom
    return 100 * inside / len(boxes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the scores of a checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--seed", type=int, default=1, help="the practice set's; training uses 0")
    parser.add_argument("--count", type=int, default=480, help="how many posts")
    parser.add_argument("--folder", type=Path, help="where to keep the set (default: nowhere)")
    options = parser.parse_args(arguments)
    checkpoint, _ = load(options.checkpoint)
    tower = build_tower(checkpoint.tower)
    with tempfile.TemporaryDirectory() as temporary:
        print(measure(checkpoint, tower, options.folder or Path(temporary), seed=options.seed, count=options.count))


if __name__ == "__main__":
    main()
