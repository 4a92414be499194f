"""The names of the training data, hashed, so that a checkpoint can tell seen mentions from unseen ones."""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence

from model.data import Sentence
from model.errors import CheckpointError
from model.labels import Span, spans_of

HASH_BYTES = 8


def surface(tokens: Sequence[str], span: Span) -> str:
    """The surface form of a mention: its tokens with a blank between them, lower-cased."""
    return " ".join(tokens[span.start : span.end]).lower()


def mention_hashes(sentences: Iterable[Sentence]) -> str:
    """The distinct mentions of `sentences` as sorted 64-bit hashes, in base64: 11 characters a mention.

    It goes into a checkpoint's notes as `mentions`. Hashes keep the names themselves, which may be
    private people's, out of the file; of 10,000 mentions two share one with a chance of 3 in 10¹².
    """
    hashes = {_hash(surface(s.tokens, span)) for s in sentences for span in spans_of(s.tags)}
    return base64.b64encode(b"".join(sorted(hashes))).decode()


class Mentions:
    """A set of mentions; `in` takes a surface form."""

    def __init__(self, hashes: str) -> None:
        """The set that `mention_hashes` wrote. Raises `CheckpointError` where it didn't."""
        try:
            data = base64.b64decode(hashes, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise CheckpointError(f"the checkpoint's mentions aren't base64 ({error}); give --train") from error
        self._hashes = {data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)}

    @classmethod
    def of(cls, sentences: Iterable[Sentence]) -> "Mentions":
        """The mentions of `sentences`."""
        return cls(mention_hashes(sentences))

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, form: str) -> bool:
        return _hash(form) in self._hashes


def _hash(form: str) -> bytes:
    return hashlib.blake2b(form.encode(), digest_size=HASH_BYTES).digest()
