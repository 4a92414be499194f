"""What a training learns from, as digests: two trainings of the same settings and digests are the same training."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from model.corpora import Corpus
from model.data import Dataset, ImageFolder
from model.errors import DataError
from model.training_config import TrainConfig

CorpusData = tuple[Corpus, Dataset]


def input_digests(config: TrainConfig, corpora: Sequence[CorpusData], valid: Dataset) -> dict[str, str]:
    """The SHA-256 of all that `config` reads, by its setting: data, pictures, vectors and weights to start from.

    Pictures only where the variant looks at them. Raises `DataError`.
    """
    digests = {
        "train": " ".join(data.digest for _, data in corpora),
        "valid": valid.digest,
        "embeddings": _file_digest(config.embeddings),
        "start": _file_digest(config.start),
    }
    if config.variant != "blstm_crf":
        digests["tower_weights"] = "" if config.tower_weights == "default" else _file_digest(config.tower_weights)
        digests["images"] = _digest(_picture_digests(config, corpora, valid))
    return digests


def picture_folders(
    config: TrainConfig, corpora: Sequence[CorpusData], valid: Dataset
) -> Iterator[tuple[ImageFolder | None, set[str]]]:
    """Each folder of pictures once, with all image ids that are to be found there."""
    wanted: dict[str | None, set[str]] = {}
    for corpus, data in (*corpora, (config.valid_corpus, valid)):
        ids = {sentence.image_id for sentence in data.sentences if sentence.image_id is not None}
        wanted.setdefault(corpus.images, set()).update(ids)
    for images, image_ids in wanted.items():
        yield (None if images is None else ImageFolder(Path(images))), image_ids


def _picture_digests(config: TrainConfig, corpora: Sequence[CorpusData], valid: Dataset) -> Iterator[str]:
    for folder, image_ids in picture_folders(config, corpora, valid):
        for image_id in sorted(image_ids):
            path = None if folder is None else folder.find(image_id)
            try:
                yield f"{image_id} {'' if path is None else _file_digest(str(path))}"
            except DataError:  # one that can't be read is trained as missing
                yield f"{image_id} unread"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _file_digest(path: str | None) -> str:
    """The SHA-256 of a file, the empty string where none is named."""
    if path is None:
        return ""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read ({error.strerror or error})") from error
