"""Pretrained word vectors, read a word at a time: only those that are kept are ever in memory.

V kept words, E numbers a vector.
"""

import gzip
import zipfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.errors import DataError
from model.vocabulary import forms

Row = tuple[int, str, np.ndarray]
"""A line's number, its word, and the vector (E,)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The vectors (E,) in fp32 of the kept words, by word."""

    vectors: dict[str, Tensor]

    def coverage(self, tokens: Collection[str]) -> str:
        """A line that tells how many different words of `tokens` have a vector, in one of their forms."""
        words = {token.lower() for token in tokens}
        num_found = sum(any(form in self.vectors for form in forms(word)) for word in words)
        share = 100 * num_found / max(len(words), 1)
        return (
            f"{num_found} of the data's {len(words)} words have a vector ({share:.1f} %), "
            f"{len(self.vectors)} vectors are kept"
        )


def read_embeddings(path: Path, wanted: Collection[str], *, size: int, num_frequent: int = 0) -> Embeddings:
    """The vectors of the `wanted` words, and of the first `num_frequent` of the file, its most frequent.

    `path` is a GloVe text file, gzipped or not, or a `.npy` matrix with its words, one a line, in the
    `.txt` file of the same name beside it.

    Raises:
        DataError: the file can't be read, its vectors aren't of `size` numbers, or no wanted word is in it.
    """
    rows = _matrix_rows(path, size) if path.suffix == ".npy" else _text_rows(path, size)
    vectors: dict[str, Tensor] = {}
    try:
        for number, (line, word, vector) in enumerate(rows):
            # The first of two equal words is the more frequent.
            if (number < num_frequent or word in wanted) and word not in vectors:
                if not np.isfinite(vector).all():
                    place = "row" if path.suffix == ".npy" else "line"
                    raise DataError(
                        f"{path}, {place} {line}: the vector of {word!r:.40} holds numbers that aren't finite"
                    )
                vectors[word] = torch.from_numpy(vector)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({error}); set embeddings to a GloVe file") from error
    if wanted and not any(word in vectors for word in wanted):
        raise DataError(f"{path} has no vector for any word of the data; set embeddings to another file")
    return Embeddings(vectors=vectors)


def _text_rows(path: Path, size: int) -> Iterator[Row]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            # Split from the right: a few of GloVe's words hold spaces.
            word, *numbers = line.rstrip("\r\n ").rsplit(" ", size)
            if number == 1 and _is_header(word, numbers):
                continue
            try:
                with np.errstate(over="ignore"):  # what is too large is infinite, and told of where it is wanted
                    vector = np.array(numbers, dtype=np.float32)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}; the file isn't GloVe's") from error
            if len(vector) != size or (" " in word and _is_number(word.split(" ")[-1])):
                raise DataError(f"{path}, line {number}: the vectors aren't of {size} numbers; set word_size")
            yield number, word, vector


def _is_header(word: str, numbers: list[str]) -> bool:
    # word2vec's text files begin with the numbers of words and dimensions.
    return len(numbers) == 1 and word.isdigit() and numbers[0].isdigit()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "." in text


def _matrix_rows(path: Path, size: int) -> Iterator[Row]:
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no matrix of NumPy's: {str(error)[:200]}") from error
    if not isinstance(matrix, np.ndarray):
        raise DataError(f"{path} is an archive of NumPy's, not a matrix; save the matrix alone")
    if matrix.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {matrix.dtype} and no numbers; save it as float32")
    if matrix.ndim != 2 or matrix.shape[1] != size:
        raise DataError(f"{path} is of the shape {matrix.shape}, not words × {size}; set word_size")
    words = path.with_suffix(".txt")
    num_words = 0
    with words.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            if num_words < len(matrix):
                with np.errstate(over="ignore"):
                    vector = np.array(matrix[num_words], dtype=np.float32)
                yield num_words + 1, line.rstrip("\r\n"), vector
            num_words += 1
    if num_words != len(matrix):
        raise DataError(f"{words} has {num_words} words for {len(matrix)} vectors: they don't belong together")
