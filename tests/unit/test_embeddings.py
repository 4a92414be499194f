"""Word vectors from a file: streamed, counted, and no more kept than is needed."""

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from model.embeddings import read_embeddings
from model.errors import DataError

LINES = "the 1 2\nof 3 4\nrome 5 6\n. . 7 8\nrome 9 9\n"


def _write(path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 9]], dtype=np.float16))
        path.with_suffix(".txt").write_text("the\nof\nrome\n. .\nrome\n", encoding="utf-8")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    else:
        path.write_text(LINES, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["glove.txt", "glove.txt.gz", "glove.npy"])
def test_formats(tmp_path: Path, name: str) -> None:
    """Each format gives the wanted words and the most frequent ones, and counts what was found."""
    found = read_embeddings(_write(tmp_path / name), {"rome", ". .", "nowhere"}, size=2, num_frequent=1)
    assert {word: vector.tolist() for word, vector in found.vectors.items()} == {
        "the": [1, 2],
        "rome": [5, 6],
        ". .": [7, 8],
    }
    assert all(vector.dtype == torch.float32 for vector in found.vectors.values())
    assert found.coverage({"Rome", "#rome", "zorp", "ROME"}).startswith(
        "2 of the data's 3 words have a vector (66.7 %)"
    )


def test_header(tmp_path: Path) -> None:
    """The counts with which word2vec begins its text files are no vector."""
    path = tmp_path / "w2v.txt"
    path.write_text("5 2\n" + LINES, encoding="utf-8")
    assert len(read_embeddings(path, {"of"}, size=2, num_frequent=9).vectors) == 4


def test_streaming(tmp_path: Path) -> None:
    """Reading ten thousand vectors for one word takes a fraction of their memory."""
    path = tmp_path / "large.txt"
    path.write_text("".join(f"word{n} {'0.125 ' * 50}\n" for n in range(10_000)), encoding="utf-8")
    tracemalloc.start()
    read_embeddings(path, {"word9999"}, size=50)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < path.stat().st_size / 5


@pytest.mark.parametrize(
    ("name", "size", "wanted", "message"),
    [
        ("glove.txt", 3, "the", "line 1: the vectors aren't of 3 numbers; set word_size"),
        ("glove.npy", 3, "the", r"shape \(5, 2\), not words × 3; set word_size"),
        ("glove.txt", 2, "nowhere", "has no vector for any word of the data"),
        ("none.txt", 2, "the", "can't be read"),
    ],
)
def test_refusals(tmp_path: Path, name: str, size: int, wanted: str, message: str) -> None:
    """A file that doesn't fit is refused with what to do."""
    _write(tmp_path / "glove.txt")
    _write(tmp_path / "glove.npy")
    _write(tmp_path / "glove.txt")
    with pytest.raises(DataError, match=message):
        read_embeddings(tmp_path / name, {wanted}, size=size)


def test_shorter_numbers_are_refused(tmp_path: Path) -> None:
    """Vectors that are longer than asked for aren't taken for words with spaces."""
    path = tmp_path / "glove.txt"
    path.write_text("the 0.1 0.2 0.3\n", encoding="utf-8")
    with pytest.raises(DataError, match="aren't of 2 numbers"):
        read_embeddings(path, {"the"}, size=2)


def test_words_of_another_matrix(tmp_path: Path) -> None:
    """A list of words that doesn't belong to the matrix is refused, be it shorter or longer."""
    path = _write(tmp_path / "glove.npy")
    for words in ("the\n", "a\nb\nc\nd\ne\nf\n"):
        path.with_suffix(".txt").write_text(words, encoding="utf-8")
        with pytest.raises(DataError, match="don't belong together"):
            read_embeddings(path, {"the"}, size=2, num_frequent=1)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e39"])
def test_numbers_that_are_not_finite(tmp_path: Path, number: str) -> None:
    """One in a wanted word's vector is told with its place; another word's does no harm."""
    (tmp_path / "glove.txt").write_text(f"5 2\nthe 1 2\nrome 1 {number}\n", encoding="utf-8")
    np.save(tmp_path / "m.npy", np.array([[1, 2], [1, float(number)]]))
    (tmp_path / "m.txt").write_text("the\nrome\n", encoding="utf-8")
    for name, place in (("glove.txt", "line 3"), ("m.npy", "row 2")):
        with pytest.raises(DataError, match=rf"{name}, {place}: the vector of 'rome' holds numbers that aren't finite"):
            read_embeddings(tmp_path / name, {"rome"}, size=2)
        assert set(read_embeddings(tmp_path / name, {"the"}, size=2).vectors) == {"the"}


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.array([["1", "2"]]), r"m\.npy holds <U1 and no numbers"),
        (np.array([[1j, 2]]), r"m\.npy holds complex128 and no numbers"),
        (np.array([(1, 2)], dtype=[("a", "f4"), ("b", "f4")]), "and no numbers"),
        (np.array([[None, "x"]]), "is no matrix of NumPy's"),
        (np.array(3.0), r"is of the shape \(\)"),
    ],
)
def test_matrices_of_something_else(tmp_path: Path, matrix: np.ndarray, message: str) -> None:
    """A matrix of texts, of records or of objects is told by what it holds."""
    np.save(tmp_path / "m.npy", matrix, allow_pickle=True)
    (tmp_path / "m.txt").write_text("the\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_embeddings(tmp_path / "m.npy", {"the"}, size=2)


def test_files_of_another_kind(tmp_path: Path) -> None:
    """An archive under a matrix's name, noise, and a gzip file with a flaw in it."""
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=np.zeros((1, 2)))
    (tmp_path / "noise.npy").write_bytes(b"PK\x03\x04noise")
    packed = bytearray(gzip.compress(b"the 1 2\n" * 9999))
    packed[20:40] = b"\xff" * 20
    (tmp_path / "flaw.txt.gz").write_bytes(packed)
    for name in ("archive.npy", "noise.npy", "flaw.txt.gz"):
        with pytest.raises(DataError, match=name):
            read_embeddings(tmp_path / name, {"the"}, size=2)
