"""What a training reads before it starts: posts, labels, words with their vectors, and pictures."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.batching import Encoder, Post, rare_words
from model.checkpoint import Checkpoint, load
from model.corpora import Corpus
from model.data import Dataset
from model.embeddings import Embeddings, read_embeddings
from model.errors import DataError
from model.features import FeatureFolder, ImageFeatures, compute_features
from model.input_digests import input_digests, picture_folders
from model.labels import LabelSet, split_tag
from model.reporting import TrainingReport
from model.tower import Tower, build_tower
from model.training_config import TrainConfig
from model.vocabulary import Vocabulary, forms


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Everything that is read; there is no tower where the variant has no use for one.

    `start` is the checkpoint to start from, if there is one.
    """

    corpora: tuple[tuple[Corpus, Dataset], ...]
    valid: Dataset
    posts: tuple[Post, ...]
    guidelines: tuple[str, ...]
    labels: LabelSet
    vocabulary: Vocabulary
    embeddings: Embeddings | None
    features: ImageFeatures
    tower: Tower | None
    start: Checkpoint | None
    digests: dict[str, str]
    """What all that was read from (`input_digests`), with what was made of it: labels, words, characters, tower."""

    @property
    def region_width(self) -> int:
        """The width of the regions' features; 1 where there are none."""
        return 1 if self.tower is None else self.tower.width

    def encoder(self, config: TrainConfig) -> Encoder:
        """What makes batches of the posts."""
        known = {} if self.embeddings is None else self.embeddings.vectors
        return Encoder(
            self.labels,
            self.vocabulary,
            self.features,
            region_width=self.region_width,
            pictures=self.features.files if config.tower_rate else None,
            rare=rare_words(self.vocabulary, self.posts, known),
            unknown_dropout=config.unknown_dropout,
            word_dropout=config.word_dropout,
            modality_dropout=config.modality_dropout,
        )

    def fill(self, words: nn.Embedding) -> None:
        """Give the words their vectors, and the others small ones by chance, as long as a vector is on average."""
        if self.embeddings is None:
            return
        vectors = torch.stack(list(self.embeddings.vectors.values()))
        with torch.no_grad():
            words.weight[1:].normal_(0, float(vectors.std()))
            for number, word in enumerate(self.vocabulary.words, start=2):
                if word in self.embeddings.vectors:
                    words.weight[number] = self.embeddings.vectors[word]

    def with_frequent_words(self, weight: Tensor) -> tuple[Vocabulary, Tensor]:
        """The vocabulary and its vectors (V, E), with the embeddings' frequent words that no post holds.

        They join when the checkpoint is written: in training they would only cost time.
        """
        vectors = {} if self.embeddings is None else self.embeddings.vectors
        others = sorted(set(vectors).difference(self.vocabulary.words))
        if not others:
            return self.vocabulary, weight
        words = Vocabulary(words=(*self.vocabulary.words, *others), characters=self.vocabulary.characters)
        return words, torch.cat([weight, torch.stack([vectors[word] for word in others]).to(weight)])


def read_training_data(config: TrainConfig, report: TrainingReport) -> TrainingData:
    """Read what `config` names, and say what was found. Raises `DataError` or `CheckpointError`."""
    corpora = tuple((corpus, corpus.read()) for corpus in config.corpora)
    valid = config.valid_corpus.read()
    posts = tuple(
        Post(sentence=sentence, guideline=corpus.guideline, open_types=corpus.open_types)
        for corpus, data in corpora
        for sentence in data.sentences * corpus.repeat
    )
    for data in (*(data for _, data in corpora), valid):
        report.say(f"{data.name}: {len(data.sentences)} posts, {data.num_repairs} labels repaired")
    start = None if config.start is None else load(Path(config.start))[0]
    vocabulary, embeddings = (start.vocabulary, None) if start else _words(config, posts, valid, report)
    features, tower = _pictures(config, corpora, valid, report)
    labels = start.labels if start else _labels(posts)
    if foreign := {tag for post in posts for tag in post.sentence.tags}.difference(labels.tags):
        raise DataError(f"the data has {', '.join(sorted(foreign))}; the checkpoint to start from has no such tags")
    digests = {
        **input_digests(config, corpora, valid),
        "labels": " ".join(labels.tags),
        "words": hashlib.sha256(json.dumps(vocabulary.words).encode()).hexdigest(),
        "characters": hashlib.sha256(json.dumps(vocabulary.characters).encode()).hexdigest(),
        "tower": "" if tower is None else tower.digest,
    }
    return TrainingData(
        corpora=corpora,
        valid=valid,
        posts=posts,
        guidelines=tuple(dict.fromkeys(post.guideline for post in posts)),
        labels=labels,
        vocabulary=vocabulary,
        embeddings=embeddings,
        features=features,
        tower=tower,
        start=start,
        digests=digests,
    )


def _labels(posts: tuple[Post, ...]) -> LabelSet:
    types = {split_tag(tag)[1] for post in posts for tag in post.sentence.tags} - {""}
    try:
        return LabelSet.of_types(sorted(types))
    except ValueError as error:
        raise DataError(f"the data can't be learnt: {error}; rename it in the files of train") from error


def _words(
    config: TrainConfig, posts: tuple[Post, ...], valid: Dataset, report: TrainingReport
) -> tuple[Vocabulary, Embeddings | None]:
    """The words of the posts, and those of the validation set and beyond that the embeddings know."""
    trained = [post.sentence.tokens for post in posts]
    if config.embeddings is None:
        return Vocabulary.of(trained), None
    tokens = {token for sentence in (*trained, *(s.tokens for s in valid.sentences)) for token in sentence}
    wanted = {form for token in tokens for form in forms(token)}
    embeddings = read_embeddings(
        Path(config.embeddings), wanted, size=config.word_size, num_frequent=config.frequent_words
    )
    report.say(embeddings.coverage(tokens))
    return Vocabulary.of(trained, wanted.intersection(embeddings.vectors)), embeddings


def _pictures(
    config: TrainConfig, corpora: tuple[tuple[Corpus, Dataset], ...], valid: Dataset, report: TrainingReport
) -> tuple[ImageFeatures, Tower | None]:
    if config.variant == "blstm_crf":
        return ImageFeatures(), None
    tower = build_tower(config.tower, config.tower_weights)
    kept = None if config.features is None else FeatureFolder(Path(config.features), tower.digest)
    seen = ImageFeatures()
    with report.steps("looking at the pictures") as on_progress:
        for folder, image_ids in picture_folders(config, corpora, valid):
            seen.add(compute_features(image_ids, folder, tower, on_progress, kept))
    report.say(seen)
    return seen, tower
