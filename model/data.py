"""Reads the public data sets: CoNLL files with ``IMGID:`` lines, and their folders of images."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from model.errors import DataError
from model.labels import OUTSIDE, repair, split_tag

_IMAGE_MARK = "IMGID:"
# The Broad Twitter Corpus lost a few characters that were tokens, and kept their lines.
_LOST_TOKEN = f"\t{OUTSIDE}"
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")

# Twitter-2015 says OTHER for what Twitter-2017 calls MISC.
DEFAULT_RENAME: Mapping[str, str] = MappingProxyType({"OTHER": "MISC"})


@dataclass(frozen=True, slots=True)
class Sentence:
    """One labelled post; ``tags`` are renamed and strict IOB2, ``raw_tags`` as in the file."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    raw_tags: tuple[str, ...]
    image_id: str | None


@dataclass(frozen=True, slots=True)
class Dataset:
    """The posts of one file; ``digest`` is the hexadecimal SHA-256 of its bytes."""

    sentences: tuple[Sentence, ...]
    num_repairs: int
    digest: str
    name: str


def read_conll(path: Path, rename: Mapping[str, str] = DEFAULT_RENAME) -> Dataset:
    """Read a file of ``token<TAB>tag`` lines, with blank lines or ``IMGID:`` lines between posts.

    ``rename`` maps types of the file to types of the model. More columns between the
    token and the tag are skipped.

    Raises:
        DataError: the file can't be read, holds no post, or has a bad line, which is named.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    sentences: list[Sentence] = []
    num_repairs = 0
    for block in _blocks(path, content):
        sentence, repairs = block.sentence(rename)
        sentences.append(sentence)
        num_repairs += repairs
    if not sentences:
        raise DataError(f"{path}: holds no labelled post")
    digest = hashlib.sha256(content).hexdigest()
    return Dataset(tuple(sentences), num_repairs, digest, path.name)


class _Block:
    def __init__(self, image_id: str | None = None) -> None:
        self.image_id = image_id
        self.tokens: list[str] = []
        self.tags: list[str] = []

    def sentence(self, rename: Mapping[str, str]) -> tuple[Sentence, int]:
        renamed = []
        for tag in self.tags:
            prefix, type_ = split_tag(tag)
            renamed.append(f"{prefix}-{rename.get(type_, type_)}" if type_ else tag)
        tags, num_repairs = repair(renamed)
        return Sentence(tuple(self.tokens), tags, tuple(self.tags), self.image_id), num_repairs


def _blocks(path: Path, content: bytes) -> Iterator[_Block]:
    block = _Block()
    block_line = 0  # of an IMGID line still without tokens
    # Split at line feeds only: some tokens are characters that str.splitlines takes for an end.
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: is not UTF-8") from error
        if line.startswith(_IMAGE_MARK) and "\t" not in line:
            if block.tokens:
                yield block
            elif block.image_id is not None:
                raise DataError(f"{path}, line {block_line}: {_IMAGE_MARK} without a post")
            block, block_line = _Block(_image_id(path, number, line)), number
        elif not line.strip(" \t"):
            if block.tokens:
                yield block
                block = _Block()
        elif line != _LOST_TOKEN:
            token, tag = _columns(path, number, line)
            block.tokens.append(token)
            block.tags.append(tag)
    if block.tokens:
        yield block
    elif block.image_id is not None:
        raise DataError(f"{path}, line {block_line}: {_IMAGE_MARK} without a post")


def _image_id(path: Path, number: int, line: str) -> str:
    image_id = line.removeprefix(_IMAGE_MARK).strip()
    if not image_id:
        raise DataError(f"{path}, line {number}: {_IMAGE_MARK} names no image")
    return image_id


def _columns(path: Path, number: int, line: str) -> tuple[str, str]:
    columns = line.split("\t")
    if len(columns) < 2 or not columns[0]:
        raise DataError(f"{path}, line {number}: needs a token, a tab and a tag, got {line[:80]!r}")
    tag = columns[-1].strip()
    try:
        split_tag(tag)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    return columns[0], tag


class ImageFolder:
    """A folder of images, each named by its id and one of the usual suffixes.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise DataError(f"{path}: is not a folder of images")
        self._path = path.resolve()

    def find(self, image_id: str) -> Path | None:
        """The file of an image, or None; never one outside the folder, links included."""
        if not image_id or "\0" in image_id or len(PurePosixPath(image_id).parts) != 1:
            return None
        for suffix in _IMAGE_SUFFIXES:
            for name in (image_id + suffix, image_id + suffix.upper()):
                found = self._existing(name)
                if found is not None:
                    return found
        if image_id.lower().endswith(_IMAGE_SUFFIXES):
            return self._existing(image_id)
        return None

    def _existing(self, name: str) -> Path | None:
        try:
            file = (self._path / name).resolve()
            inside = file.is_relative_to(self._path) and file.is_file()
        except (OSError, ValueError):  # a name too long, or not encodable, names no file
            return None
        return file if inside else None
