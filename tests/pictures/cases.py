"""What a hostile picture is, and what may become of it."""

from dataclasses import dataclass
from enum import Enum


class Wanted(Enum):
    """What may become of a picture."""

    SAME = "the pixels of the picture that it was made of"
    REFUSED = "a status"
    SAME_OR_REFUSED = "either of these"
    ANY = "a status, or pixels: its format has no way of telling"


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """A file, and what may become of it; `made_of` is the sound file that it was made of."""

    kind: str
    name: str
    data: bytes
    wanted: Wanted
    made_of: bytes = b""


def case(kind: str, name: str, data: bytes, wanted: Wanted, made_of: bytes = b"") -> Hostile:
    """A `Hostile` in one line."""
    return Hostile(kind=kind, name=name, data=data, wanted=wanted, made_of=made_of)
