"""The trainer, from top to bottom: configuration, data, model, optimiser, loop (section 4.1)."""

import gzip
import random
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from model.checkpoint import Checkpoint, save
from model.data import Dataset, ImageFolder, Sentence, read_conll
from model.errors import DataError
from model.evaluate import lenient_spans, predict, score
from model.features import ImageFeatures, compute_features
from model.labels import LabelSet, split_tag
from model.tagger import Batch, NameTagger, TaggerConfig
from model.tokenizer import Scheme
from model.tower import build_tower
from model.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What to train on, and how; the paper's numbers by default."""

    train: str
    valid: str
    out: str
    images: str | None = None
    embeddings: str | None = None
    scheme: str = "owoputi_hash_split"
    variant: str = "attention_gate"
    tower: str = "resnet152"
    tower_weights: str = "default"
    hidden: int = 300
    word_size: int = 100
    dropout: float = 0.5
    batch_size: int = 20
    learning_rate: float = 0.03
    decay: float = 0.01
    momentum: float = 0.9
    clip: float = 5.0
    patience: int = 15
    max_epochs: int = 100
    modality_dropout: float = 0.1
    seed: int = 0

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """The configuration in `path`. Raises `DataError` naming what is wrong with it."""
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror}); name the trainer's TOML file") from error
        except (tomllib.TOMLDecodeError, TypeError) as error:
            raise DataError(f"{path} is no configuration of the trainer: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """Where the checkpoint is, and how good it was on the validation set."""

    path: str
    best_f1: float
    best_epoch: int
    num_epochs: int

    def __str__(self) -> str:
        return f"{self.path}: valid F1 {self.best_f1:.2f} at epoch {self.best_epoch} of {self.num_epochs}"


def learning_rate(config: TrainConfig, epoch: int) -> float:
    """η_t = η₀ / (1 + ρ·t), t the epoch from 0; not compounded."""
    return config.learning_rate / (1 + config.decay * epoch)


def train(config: TrainConfig) -> TrainResult:
    """Train, stop early on the validation set's entity F1, write the best to `config.out`.

    Ctrl-C ends the training and keeps the best so far. Raises `DataError` or `CheckpointError`.
    """
    torch.manual_seed(config.seed)
    chance = random.Random(config.seed)
    with _progress() as progress:
        # Data
        data, valid = read_conll(Path(config.train)), read_conll(Path(config.valid))
        labels = _labels(data)
        vocabulary = Vocabulary.of(sentence.tokens for sentence in (*data.sentences, *valid.sentences))
        features, tower_digest, width = _features(config, data, valid, progress)

        # Model
        network = _build(config, labels, vocabulary, width)

        # Optimiser
        optimiser = torch.optim.SGD(network.parameters(), lr=config.learning_rate, momentum=config.momentum)

        # Loop
        best_f1, best_epoch, epoch = -1.0, 0, 0
        task = progress.add_task("training", total=config.max_epochs)
        try:
            for epoch in range(config.max_epochs):
                optimiser.param_groups[0]["lr"] = learning_rate(config, epoch)
                loss = _run_epoch(config, network, optimiser, data, labels, vocabulary, features, chance)
                f1 = _valid_f1(network, labels, vocabulary, valid, features)
                progress.update(task, advance=1, description=f"loss {loss:.3f}, valid F1 {f1:.2f}")
                if f1 > best_f1:
                    best_f1, best_epoch = f1, epoch
                    notes = _notes(config, data, valid, best_f1, epoch)
                    _save(config, network, labels, vocabulary, tower_digest, notes)
                if epoch - best_epoch >= config.patience or best_f1 == 100:
                    break
        except KeyboardInterrupt:
            if best_f1 < 0:
                raise
    return TrainResult(path=config.out, best_f1=best_f1, best_epoch=best_epoch, num_epochs=epoch + 1)


def _labels(data: Dataset) -> LabelSet:
    types = {split_tag(tag)[1] for sentence in data.sentences for tag in sentence.tags} - {""}
    return LabelSet.of_types(sorted(types))


def _features(config: TrainConfig, data: Dataset, valid: Dataset, progress: Progress) -> tuple[ImageFeatures, str, int]:
    if config.variant == "blstm_crf":
        return ImageFeatures(), "", 1
    tower = build_tower(config.tower, config.tower_weights)
    task = progress.add_task("looking at the pictures", total=None)
    folder = None if config.images is None else ImageFolder(Path(config.images))
    image_ids = [sentence.image_id for sentence in (*data.sentences, *valid.sentences)]
    features = compute_features(
        image_ids, folder, tower, lambda done, total: progress.update(task, completed=done, total=total)
    )
    progress.remove_task(task)
    return features, tower.digest, tower.width


def _build(config: TrainConfig, labels: LabelSet, vocabulary: Vocabulary, width: int) -> NameTagger:
    network_config = TaggerConfig(
        variant=config.variant,  # type: ignore[arg-type]  # it checks itself
        word_size=config.word_size,
        hidden=config.hidden,
        dropout=config.dropout,
        region_width=width,
    )
    network = NameTagger(network_config, labels, vocabulary.num_words, vocabulary.num_characters)
    if config.embeddings is not None:
        _load_embeddings(Path(config.embeddings), vocabulary, network)
    return network


def _load_embeddings(path: Path, vocabulary: Vocabulary, network: NameTagger) -> int:
    """Copy GloVe's vectors into the embedding, a line at a time; gives the number of words found."""
    opener = gzip.open if path.suffix == ".gz" else open
    num_found = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file, torch.no_grad():
            for line in file:
                word, *numbers = line.rstrip().split(" ")
                number = vocabulary.word(word)
                if number > 1 and len(numbers) == network.config.word_size:
                    network.words.weight[number] = torch.tensor([float(text) for text in numbers])
                    num_found += 1
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror}); set embeddings") from error
    if not num_found:
        raise DataError(f"{path} has no vector of {network.config.word_size} numbers for any word; set word_size")
    return num_found


def _run_epoch(
    config: TrainConfig,
    network: NameTagger,
    optimiser: torch.optim.Optimizer,
    data: Dataset,
    labels: LabelSet,
    vocabulary: Vocabulary,
    features: ImageFeatures,
    chance: random.Random,
) -> float:
    """The mean loss of an epoch, after its steps."""
    network.train()
    total, num_batches = 0.0, 0
    for sentences in _batches(data.sentences, config.batch_size, chance):
        batch, tags = _encode(sentences, labels, vocabulary, features, network.config.region_width)
        kept = torch.rand(len(sentences)) >= config.modality_dropout
        loss = network.loss(replace(batch, has_image=batch.has_image & kept), tags)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimiser.step()
        total += float(loss.detach())
        num_batches += 1
    return total / max(num_batches, 1)


def _batches(sentences: tuple[Sentence, ...], size: int, chance: random.Random) -> Iterator[list[Sentence]]:
    """Batches of like length in random order: shuffled first, so that equals change their company."""
    shuffled = list(sentences)
    chance.shuffle(shuffled)
    shuffled.sort(key=lambda sentence: len(sentence.tokens))
    batches = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]
    chance.shuffle(batches)
    yield from batches


def _encode(
    sentences: list[Sentence], labels: LabelSet, vocabulary: Vocabulary, features: ImageFeatures, width: int
) -> tuple[Batch, Tensor]:
    batch = vocabulary.encode(
        [sentence.tokens for sentence in sentences],
        [features.of(sentence.image_id) for sentence in sentences],
        width,
    )
    tags = torch.zeros_like(batch.words)
    for row, sentence in enumerate(sentences):
        tags[row, : len(sentence.tags)] = torch.tensor([labels.index(tag) for tag in sentence.tags])
    return batch, tags


def _valid_f1(
    network: NameTagger, labels: LabelSet, vocabulary: Vocabulary, valid: Dataset, features: ImageFeatures
) -> float:
    predicted = predict(network, labels, vocabulary, valid, features)
    gold = [lenient_spans(sentence.raw_tags) for sentence in valid.sentences]
    return score(gold, [lenient_spans(tags) for tags in predicted])["overall"].f1


def _notes(config: TrainConfig, data: Dataset, valid: Dataset, f1: float, epoch: int) -> dict[str, Any]:
    files = ("train", "valid", "out", "images", "embeddings", "tower_weights")
    settings = {name: value for name, value in asdict(config).items() if name not in files}
    return {
        "settings": settings,
        "train": {"file": Path(data.name).name, "sha256": data.digest, "num_repairs": data.num_repairs},
        "valid": {"file": Path(valid.name).name, "sha256": valid.digest},
        "valid_f1": f1,
        "epoch": epoch,
        "torch": torch.__version__,
    }


def _save(
    config: TrainConfig,
    network: NameTagger,
    labels: LabelSet,
    vocabulary: Vocabulary,
    tower_digest: str,
    notes: dict[str, Any],
) -> None:
    checkpoint = Checkpoint(
        config=network.config,
        labels=labels,
        vocabulary=vocabulary,
        scheme=Scheme(config.scheme),
        tower=config.tower,
        tower_digest=tower_digest,
        state=network.state_dict(),
        notes=notes,
    )
    save(checkpoint, Path(config.out))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(), transient=True
    )
