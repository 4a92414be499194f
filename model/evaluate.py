"""Scores of a checkpoint on a labelled file: lenient as papers report, and strict beside it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint import Checkpoint, load
from model.corpora import Corpus
from model.data import Dataset, ImageFolder
from model.features import ImageFeatures, compute_features
from model.labels import LabelSet, Span, spans_of
from model.mentions import Mentions, mention_hashes, surface
from model.scores import Familiarity, Score, familiarity, lenient_spans, score, strict_spans
from model.tagger import NameTagger
from model.tower_file import tower_of
from model.vocabulary import Vocabulary

__all__ = ["Score", "Scores", "evaluate", "lenient_spans", "mention_hashes", "predict", "score", "strict_spans"]

BATCH_POSTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Overall and per type, and for seen and unseen mentions where the training data's are known.

    Lenient scores read the labels as they came, their types renamed; strict ones the repaired labels.
    `digest` is the SHA-256 of the labelled file. A picture that can't be decoded, or that stands under
    several ids, is missing too.
    """

    data: str
    digest: str
    checkpoint: str
    num_sentences: int
    num_repairs: int
    num_images_missing: int
    lenient: dict[str, Score]
    strict: dict[str, Score]
    lenient_familiarity: Familiarity | None
    strict_familiarity: Familiarity | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a checkpoint says of a data set: the tags of each sentence."""

    checkpoint: Checkpoint
    checkpoint_id: str
    data: Dataset
    tags: list[list[str]]
    num_images_missing: int

    @property
    def gold(self) -> list[list[Span]]:
        """The gold spans; the repair of labels is conlleval's reading of them, so both ways of scoring share these."""
        return [spans_of(sentence.tags) for sentence in self.data.sentences]


@torch.inference_mode()
def emissions_of(
    network: NameTagger, vocabulary: Vocabulary, data: Dataset, features: ImageFeatures
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Emissions (B, T, K) and mask (B, T) in batches of like length, each with its sentences' numbers."""
    network.eval()
    device = next(network.parameters()).device
    order = sorted(range(len(data.sentences)), key=lambda number: len(data.sentences[number].tokens))
    for start in range(0, len(order), BATCH_POSTS):
        rows = order[start : start + BATCH_POSTS]
        batch = vocabulary.encode(
            [data.sentences[row].tokens for row in rows],
            [features.of(data.sentences[row].image_id) for row in rows],
            network.config.region_width,
        ).to(device)
        yield rows, network(batch).emissions, batch.mask


def predict(
    network: NameTagger, labels: LabelSet, vocabulary: Vocabulary, data: Dataset, features: ImageFeatures
) -> list[list[str]]:
    """The tags of each sentence of `data`; the network is in evaluation mode afterwards."""
    tags: list[list[str]] = [[] for _ in data.sentences]
    for rows, emissions, mask in emissions_of(network, vocabulary, data, features):
        for row, path in zip(rows, network.crf.decode(emissions, mask), strict=True):
            tags[row] = [labels.tags[tag] for tag in path]
    return tags


def read_with_features(corpus: Corpus, checkpoint: Checkpoint, path: Path) -> tuple[Dataset, ImageFeatures]:
    """A corpus and the features of its pictures for the checkpoint in `path`, none where it doesn't look at them.

    Raises `CheckpointError` or `DataError`.
    """
    data = corpus.read()
    if not checkpoint.config.uses_image:
        return data, ImageFeatures()
    folder = None if corpus.images is None else ImageFolder(Path(corpus.images))
    image_ids = [sentence.image_id for sentence in data.sentences]
    return data, compute_features(image_ids, folder, tower_of(checkpoint, path))


def predict_corpus(checkpoint_path: Path, corpus: Corpus) -> Predictions:
    """What a checkpoint says of a corpus. Raises `CheckpointError` or `DataError`."""
    checkpoint, identity = load(checkpoint_path)
    data, features = read_with_features(corpus, checkpoint, checkpoint_path)
    return Predictions(
        checkpoint=checkpoint,
        checkpoint_id=identity,
        data=data,
        tags=predict(checkpoint.build(), checkpoint.labels, checkpoint.vocabulary, data, features),
        num_images_missing=features.num_missing + features.num_broken + features.num_duplicated,
    )


def evaluate(checkpoint_path: Path, corpus: Corpus, train: Sequence[Corpus] = ()) -> Scores:
    """Scores of a checkpoint on a corpus. Raises `CheckpointError` or `DataError`.

    Which mentions are seen, the corpora `train` tell, or without them the checkpoint's notes.
    """
    predictions = predict_corpus(checkpoint_path, corpus)
    return scores_of(predictions, _mentions(predictions.checkpoint, train))


def scores_of(predictions: Predictions, mentions: Mentions | None) -> Scores:
    """The scores of `predictions`; without `mentions` nothing is said of seen and unseen ones."""
    data, gold = predictions.data, predictions.gold
    lenient = [lenient_spans(tags) for tags in predictions.tags]
    strict = [strict_spans(tags) for tags in predictions.tags]

    def is_seen(number: int, span: Span) -> bool:
        return mentions is not None and surface(data.sentences[number].tokens, span) in mentions

    return Scores(
        data=data.name,
        digest=data.digest,
        checkpoint=predictions.checkpoint_id,
        num_sentences=len(data.sentences),
        num_repairs=data.num_repairs,
        num_images_missing=predictions.num_images_missing,
        lenient=score(gold, lenient),
        strict=score(gold, strict),
        lenient_familiarity=None if mentions is None else familiarity(gold, lenient, is_seen),
        strict_familiarity=None if mentions is None else familiarity(gold, strict, is_seen),
    )


def _mentions(checkpoint: Checkpoint, train: Sequence[Corpus]) -> Mentions | None:
    if train:
        return Mentions.of(sentence for corpus in train for sentence in corpus.read().sentences)
    noted = checkpoint.notes.get("mentions")
    return None if noted is None else Mentions(noted)


def render(scores: Scores) -> str:
    """A table for people."""
    rows = [(name, lenient, scores.strict.get(name, Score.of(0, 0, 0))) for name, lenient in scores.lenient.items()]
    lenient, strict = scores.lenient_familiarity, scores.strict_familiarity
    if lenient is not None and strict is not None:
        rows += [("seen", lenient.seen, strict.seen), ("unseen", lenient.unseen, strict.unseen)]
    width = max(len(name) for name, _, _ in rows) + 2
    lines = [
        f"{scores.data}  {scores.num_sentences} sentences, {scores.num_repairs} labels repaired, "
        f"{scores.num_images_missing} images missing, sha256 {scores.digest[:12]}, checkpoint {scores.checkpoint}",
        f"{'':{width}}{'lenient':^24}  {'strict':^24}",
        f"{'':{width}}{'P':>8}{'R':>8}{'F1':>8}  {'P':>8}{'R':>8}{'F1':>8}  {'gold':>6}  {'found':>6}",
    ]
    lines += [f"{name:{width}}{_cells(left)}  {_cells(right)}  {_counts(left)}" for name, left, right in rows]
    if lenient is None:
        lines.append("seen and unseen mentions: give --train, this checkpoint doesn't know its training data's")
    return "\n".join(lines)


def _cells(score: Score) -> str:
    return "".join(f"{number:8.2f}" for number in (score.precision, score.recall, score.f1))


def _counts(score: Score) -> str:
    return f"{score.num_gold:6d}  {score.num_predicted:6d}"


def to_json(scores: Scores) -> str:
    """The same for programs."""
    return json.dumps(asdict(scores), indent=2)
