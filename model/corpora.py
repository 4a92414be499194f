"""Readers for the corpora that nametag trains on, and what their types become.

| corpus        | format      | its types                  | become |
|---------------|-------------|----------------------------|--------|
| Twitter-2015  | `conll`     | PER, LOC, ORG              | the same |
|               |             | OTHER                      | MISC   |
| Twitter-2017  | `conll`     | PER, LOC, ORG, MISC        | the same |
| WNUT-17       | `wnut17`    | person                     | PER    |
|               |             | location                   | LOC    |
|               |             | corporation, group         | ORG    |
|               |             | product, creative-work     | MISC   |
| Broad Twitter | `btc`       | PER, LOC, ORG              | the same; MISC stays open |
| Tweebank-NER  | `tweebank`  | PER, LOC, ORG, MISC        | the same |

What Broad Twitter leaves unlabelled may well be a name of type MISC, so that the trainer doesn't hold it
for none: it sums over both readings (`model/guidelines.py`). Where corpora contradict one another in
more than that, `guideline` says whose rules each follows, and each guideline gets output weights of its own.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from model.data import DEFAULT_RENAME, Dataset, Sentence, read_conll
from model.errors import DataError
from model.labels import repair
from model.setting_types import wrong_type

WNUT17_RENAME: Mapping[str, str] = MappingProxyType({
    "person": "PER",
    "location": "LOC",
    "corporation": "ORG",
    "group": "ORG",
    "product": "MISC",
    "creative-work": "MISC",
})  # fmt: skip

_OPEN_TYPES: Mapping[str, tuple[str, ...]] = MappingProxyType({"btc": ("MISC",)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A file to train on, who made it, and the folder of its pictures.

    `format` is one of conll, wnut17, btc and tweebank. Corpora of one `guideline` (the format, where it
    isn't said) share their output weights. Its posts are seen `repeat` times an epoch. Raises `DataError` on an
    unknown format.
    """

    path: str
    format: str = "conll"
    images: str | None = None
    guideline: str = ""
    repeat: int = 1

    def __post_init__(self) -> None:
        if told := wrong_type(self):
            raise DataError(f"a corpus's {told}")
        if self.repeat < 1:
            raise DataError(f"a corpus's repeat must be at least 1, not {self.repeat}")
        if self.format not in _READERS:
            raise DataError(f"no corpus has the format {self.format!r}; there are {', '.join(_READERS)}")
        if not self.guideline:
            object.__setattr__(self, "guideline", self.format)

    @property
    def open_types(self) -> tuple[str, ...]:
        """The types that it doesn't label, so that its O may mean one of them."""
        return _OPEN_TYPES.get(self.format, ())

    @classmethod
    def from_table(cls, table: Any) -> Self:
        """The corpus of a table of the trainer's TOML file. Raises `DataError` on what it can't hold."""
        if not isinstance(table, dict):
            raise DataError(f"train is a file or a list of tables [[train]], not a list with {str(table)[:60]!r}")
        unknown = set(table) - {field.name for field in fields(cls)}
        if unknown or "path" not in table:
            raise DataError(
                f"a corpus has path, format, images, guideline and repeat, not {', '.join(table) or 'nothing'}"
            )
        return cls(**table)

    def read(self) -> Dataset:
        """Its posts. Raises `DataError` with the file and the place."""
        return _READERS[self.format](Path(self.path))


def read_wnut17(path: Path) -> Dataset:
    """WNUT-17: CoNLL with six types of its own. Raises `DataError`."""
    return read_conll(path, WNUT17_RENAME)


def read_btc(path: Path) -> Dataset:
    """The Broad Twitter Corpus: CoNLL, quotes wrapped in quotes as a CSV writer left them. Raises `DataError`."""
    data = read_conll(path)
    unwrapped = tuple(
        Sentence(
            tokens=tuple('"' if token == "'\"'" else token for token in sentence.tokens),
            tags=sentence.tags,
            raw_tags=sentence.raw_tags,
            image_id=sentence.image_id,
        )
        for sentence in data.sentences
    )
    return Dataset(unwrapped, data.num_repairs, data.digest, data.name)


def read_tweebank(path: Path) -> Dataset:
    """Tweebank-NER: JSON, a list of posts, each a list of objects with `text` and `ner`. Raises `DataError`."""
    try:
        content = path.read_bytes()
        posts = json.loads(content)
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    except RecursionError as error:
        raise DataError(f"{path}: is nested too deeply for a list of posts") from error
    sentences: list[Sentence] = []
    num_repairs = 0
    for number, post in enumerate(posts if isinstance(posts, list) else [], start=1):
        try:
            tokens = tuple(_token(f"{path}, post {number}, word {at}", word) for at, word in enumerate(post, start=1))
            raw_tags = tuple(str(word["ner"]) for word in post)
            tags, repairs = repair(raw_tags)
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            told = str(error)[:200]
            raise DataError(f"{path}, post {number}: needs words with text and an IOB2 ner ({told})") from error
        if tokens:
            sentences.append(Sentence(tokens, tags, raw_tags, None))
            num_repairs += repairs
    if not sentences:
        raise DataError(f"{path}: holds no labelled post")
    return Dataset(tuple(sentences), num_repairs, hashlib.sha256(content).hexdigest(), path.name)


def _token(place: str, word: Any) -> str:
    token = word["text"]
    if not isinstance(token, str):
        raise TypeError(f"{token!r:.40} is no text")
    if not token:
        raise DataError(f"{place}: is empty; remove it, or give it its text")
    try:
        token.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: {token!r:.40} holds half a character (a lone surrogate)") from error
    return token


_READERS: dict[str, Callable[[Path], Dataset]] = {
    "conll": lambda path: read_conll(path, DEFAULT_RENAME),
    "wnut17": read_wnut17,
    "btc": read_btc,
    "tweebank": read_tweebank,
}
