"""Scores of a checkpoint on a labelled file: lenient as papers report, and strict beside it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from model.checkpoint import load
from model.data import Dataset, ImageFolder, read_conll
from model.features import ImageFeatures, compute_features
from model.labels import LabelSet, Span, repair, spans_of, split_tag
from model.tagger import NameTagger
from model.tower import build_tower
from model.vocabulary import Vocabulary

BATCH_POSTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Precision, recall and F1 in percent, and what was counted."""

    precision: float
    recall: float
    f1: float
    num_gold: int
    num_predicted: int

    @classmethod
    def of(cls, num_correct: int, num_predicted: int, num_gold: int) -> "Score":
        """The score for these counts; 0 where there is nothing to divide by."""
        precision = 100 * num_correct / num_predicted if num_predicted else 0.0
        recall = 100 * num_correct / num_gold if num_gold else 0.0
        both = precision + recall
        return cls(
            precision=precision,
            recall=recall,
            f1=2 * precision * recall / both if both else 0.0,
            num_gold=num_gold,
            num_predicted=num_predicted,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Overall and per type; lenient on the labels as they came, strict on repaired ones."""

    data: str
    digest: str
    num_sentences: int
    num_repairs: int
    num_images_missing: int
    lenient: dict[str, Score]
    strict: dict[str, Score]


def lenient_spans(tags: Sequence[str]) -> list[Span]:
    """Spans as conlleval reads them: an I- after nothing of its type begins a name too."""
    return spans_of(repair(tags)[0])


def score(gold: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> dict[str, Score]:
    """Scores by type, and `overall`; a span counts where type, start and end agree."""
    num_gold = Counter(span.type for spans in gold for span in spans)
    num_predicted = Counter(span.type for spans in predicted for span in spans)
    num_correct = Counter(
        span.type for left, right in zip(gold, predicted, strict=True) for span in set(left) & set(right)
    )
    types = sorted(num_gold | num_predicted)
    scores = {type_: Score.of(num_correct[type_], num_predicted[type_], num_gold[type_]) for type_ in types}
    overall = Score.of(num_correct.total(), num_predicted.total(), num_gold.total())
    return {"overall": overall, **scores}


@torch.inference_mode()
def predict(
    network: NameTagger, labels: LabelSet, vocabulary: Vocabulary, data: Dataset, features: ImageFeatures
) -> list[list[str]]:
    """The tags of each sentence of `data`; batches are of like length."""
    network.eval()
    order = sorted(range(len(data.sentences)), key=lambda n: len(data.sentences[n].tokens))
    tags: list[list[str]] = [[] for _ in order]
    for start in range(0, len(order), BATCH_POSTS):
        rows = order[start : start + BATCH_POSTS]
        batch = vocabulary.encode(
            [data.sentences[row].tokens for row in rows],
            [features.of(data.sentences[row].image_id) for row in rows],
            network.config.region_width,
        )
        paths = network.crf.decode(network(batch).emissions, batch.mask)
        for row, path in zip(rows, paths, strict=True):
            tags[row] = [labels.tags[tag] for tag in path]
    return tags


def evaluate_file(checkpoint_path: Path, data_path: Path, images: Path | None = None) -> Scores:
    """Scores of a checkpoint on a CoNLL file. Raises `CheckpointError` or `DataError`."""
    checkpoint, _ = load(checkpoint_path)
    data = read_conll(data_path)
    features = ImageFeatures()
    if checkpoint.config.uses_image:
        folder = None if images is None else ImageFolder(images)
        image_ids = [sentence.image_id for sentence in data.sentences]
        features = compute_features(image_ids, folder, build_tower(checkpoint.tower))
    predicted = predict(checkpoint.build(), checkpoint.labels, checkpoint.vocabulary, data, features)
    return Scores(
        data=data.name,
        digest=data.digest,
        num_sentences=len(data.sentences),
        num_repairs=data.num_repairs,
        num_images_missing=features.num_missing + features.num_broken,
        lenient=score(
            [lenient_spans(sentence.raw_tags) for sentence in data.sentences],
            [lenient_spans(tags) for tags in predicted],
        ),
        strict=score(
            [spans_of(sentence.tags) for sentence in data.sentences], [_strict_spans(tags) for tags in predicted]
        ),
    )


def _strict_spans(tags: Sequence[str]) -> list[Span]:
    """Spans of strict IOB2: an I- that continues nothing is no name."""
    kept, open_type = [], ""
    for tag in tags:
        prefix, type_ = split_tag(tag)
        legal = prefix != "I" or type_ == open_type
        kept.append(tag if legal else "O")
        open_type = type_ if legal else ""
    return spans_of(kept)


def render(scores: Scores) -> str:
    """A table for people."""
    lines = [
        f"{scores.data}  {scores.num_sentences} sentences, {scores.num_repairs} labels repaired, "
        f"{scores.num_images_missing} images missing, sha256 {scores.digest[:12]}",
        f"{'':10}{'lenient':^24}  {'strict':^24}",
        f"{'':10}{'P':>8}{'R':>8}{'F1':>8}  {'P':>8}{'R':>8}{'F1':>8}  {'gold':>6}",
    ]
    for name, lenient in scores.lenient.items():
        strict = scores.strict.get(name, Score.of(0, 0, 0))
        numbers = [lenient.precision, lenient.recall, lenient.f1, strict.precision, strict.recall, strict.f1]
        cells = [f"{number:8.2f}" for number in numbers]
        lines.append(f"{name:10}{''.join(cells[:3])}  {''.join(cells[3:])}  {lenient.num_gold:6d}")
    return "\n".join(lines)


def to_json(scores: Scores) -> str:
    """The same for programs."""
    return json.dumps(asdict(scores), indent=2)
