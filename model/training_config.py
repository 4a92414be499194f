"""The trainer's settings: the paper's numbers by default (section 4.1 and Table 2)."""

import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from model.corpora import Corpus
from model.errors import DataError
from model.setting_types import wrong_type
from model.tagger import TaggerConfig
from model.tokenizer import Scheme

Optimiser = Literal["sgd", "adamw"]
Schedule = Literal["hyperbolic", "linear"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """What to train on, and how. Paths are relative to where the trainer runs.

    `train` is a CoNLL file whose pictures are in `images`, or several corpora; the first one's guideline is
    that of the checkpoint. Raises `DataError` naming the setting that is out of its range.
    """

    train: str | tuple[Corpus, ...]
    valid: str | Corpus
    out: str
    images: str | None = None
    features: str | None = None
    """A folder in which the pictures' features are kept from one training to the next."""
    log: str | None = None
    """A folder for TensorBoard's scalars."""

    start: str | None = None
    """A checkpoint to start from, of the same sizes: its weights, its words and its labels."""
    learning: tuple[str, ...] = ()
    """Which parts of the network learn, `attend` say; all of them where none is named."""
    afresh: bool = False
    """Whether the parts named in `learning` begin by chance, and not as the checkpoint has them."""

    scheme: str = "owoputi_hash_split"
    embeddings: str | None = None
    frequent_words: int = 0
    """How many of the embeddings' most frequent words the checkpoint keeps beside the data's own."""

    variant: str = "attention_gate"
    tower: str = "resnet152"
    tower_weights: str = "default"
    tower_rate: float = 0.0
    """The tower's share of the learning rate, 0.01 to 0.1; at 0 it is frozen, its features computed once."""
    hidden: int = 300
    word_size: int = 100
    char_embedding: int = 50
    char_hidden: int = 50
    image_state: str = "both"
    dropout: float = 0.5
    modality_dropout: float = 0.1
    unknown_dropout: float = 0.5
    """How often a word that occurs once, and that the embeddings don't know, is trained as unknown."""
    word_dropout: float = 0.0
    """How often any word is trained as unknown, so that spelling and context learn to do without it."""

    batch_size: int = 20
    word_rate: float = 1.0
    """The word vectors' share of the learning rate; at 0 they stay as the embeddings have them."""
    optimiser: Optimiser = "sgd"
    learning_rate: float = 0.03
    decay: float = 0.01
    schedule: Schedule = "hyperbolic"
    """How the rate falls: `hyperbolic` is the paper's, by `decay`; `linear` falls to nothing at `max_epochs`."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip: float = 5.0
    average: float = 0.0
    """The decay a step of the running average of the weights, which is what is validated and kept; 0: none."""
    patience: int = 15
    max_epochs: int = 100
    bf16: bool = False
    half: bool = False
    """Whether the checkpoint holds its weights in fp16, at half the size."""
    seed: int = 0

    def __post_init__(self) -> None:
        if told := wrong_type(self):
            raise DataError(told)
        if not self.train:
            raise DataError("train names no corpus")
        try:
            self.network(region_width=1)
        except ValueError as error:
            raise DataError(str(error)) from error
        if self.scheme not in tuple(Scheme):
            raise DataError(f"scheme must be {' or '.join(Scheme)}, not {self.scheme!r}")
        for name in ("batch_size", "max_epochs", "patience"):
            if getattr(self, name) < 1:
                raise DataError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in (
            "modality_dropout",
            "unknown_dropout",
            "average",
            "momentum",
            "tower_rate",
            "word_rate",
            "word_dropout",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        for name in ("learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise DataError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("decay", "weight_decay", "frequent_words"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} must not be below 0, and is {getattr(self, name)}")
        for name in ("learning_rate", "decay", "weight_decay"):
            if math.isinf(getattr(self, name)):
                raise DataError(f"{name} must be finite")

    def network(self, region_width: int) -> TaggerConfig:
        """The network's sizes, for regions of this width. Raises a ValueError where they can't be."""
        return TaggerConfig(
            variant=self.variant,  # type: ignore[arg-type]  # it checks itself
            word_size=self.word_size,
            char_embedding=self.char_embedding,
            char_hidden=self.char_hidden,
            hidden=self.hidden,
            dropout=self.dropout,
            image_state=self.image_state,  # type: ignore[arg-type]  # likewise
            region_width=region_width,
        )

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """What to train on."""
        return (Corpus(path=self.train, images=self.images),) if isinstance(self.train, str) else self.train

    @property
    def valid_corpus(self) -> Corpus:
        """What to stop on; its pictures stand with those of the corpora."""
        return Corpus(path=self.valid, images=self.images) if isinstance(self.valid, str) else self.valid

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """The configuration in `path`. Raises `DataError` naming what is wrong with it."""
        try:
            settings: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"{path} can't be read ({error.strerror}); name the trainer's TOML file") from error
        except ValueError as error:
            raise DataError(f"{path} is no configuration of the trainer: {error}") from error
        except RecursionError as error:
            raise DataError(f"{path} is no configuration of the trainer: it is nested too deeply") from error
        try:
            if isinstance(settings.get("train"), list):
                settings["train"] = tuple(Corpus.from_table(table) for table in settings["train"])
            if isinstance(settings.get("valid"), dict):
                settings["valid"] = Corpus.from_table(settings["valid"])
            if isinstance(settings.get("learning"), list):
                settings["learning"] = tuple(settings["learning"])
            return cls(**settings)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except TypeError as error:
            raise DataError(f"{path} is no configuration of the trainer: {error}") from error
