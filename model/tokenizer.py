"""Splits a post into tokens by the rules of Owoputi et al. (NAACL 2013), with exact offsets.

The rules work in three steps. Whitespace runs count as one space, and a space is imagined between a
word and the quotes or brackets at its edge. Then the protected spans are found: URLs, emoticons,
numbers, punctuation and so on, the leftmost first and, at one place, the earliest rule. What
lies between protected spans is split at spaces alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from model import tokenizer_rules as rules

# A rule looks no further than this without whitespace, so that a hostile post costs linear time.
_WINDOW = 512

# The original trims what Java calls blank: every control character up to the space.
_BLANK = "".join(map(chr, range(0x21)))


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a post: ``text == post[start:end]``, in code points."""

    text: str
    start: int
    end: int


class Scheme(StrEnum):
    """How a post is cut; a checkpoint carries the one it was trained with."""

    OWOPUTI = "owoputi"
    OWOPUTI_HASH_SPLIT = "owoputi_hash_split"
    TWITTER2017 = "twitter2017"


def tokenize(text: str, scheme: Scheme = Scheme.OWOPUTI_HASH_SPLIT) -> list[Token]:
    """Cut a post into tokens, in order and without overlap; any string is accepted.

    Only whitespace and control characters are left out. HTML entities are kept as they are
    written, since unescaping would break the offsets.
    """
    if scheme is Scheme.TWITTER2017:
        spans = _twitter2017_spans(text)
    elif scheme is Scheme.OWOPUTI_HASH_SPLIT:
        spans = _split_hashes(text, _owoputi_spans(text))
    else:
        spans = _owoputi_spans(text)
    return [Token(text[start:end], start, end) for start, end in spans]


def _owoputi_spans(text: str) -> Iterator[tuple[int, int]]:
    spaced, origin = _spaced(text)
    done = 0
    for start, end in _protected(spaced):
        yield from _at_spaces(spaced, origin, done, start)
        yield from _trimmed(spaced, origin, start, end)
        done = end
    yield from _at_spaces(spaced, origin, done, len(spaced))


def _spaced(text: str) -> tuple[str, list[int]]:
    """Squeeze whitespace and set edge punctuation apart; also each character's place in `text`."""
    pieces: list[str] = []
    origin: list[int] = []
    at = 0
    lead = len(text) - len(text.lstrip(_BLANK))
    for match in rules.WORD.finditer(text, lead, max(lead, len(text.rstrip(_BLANK)))):
        if pieces:
            pieces.append(" ")
            origin.append(at)
        at = match.end()
        pieces.append(match.group())
        origin.extend(range(match.start(), at))
    squeezed = "".join(pieces)

    cuts = {match.end() - 1 for match in rules.EDGE_LEFT.finditer(squeezed)}
    cuts.update(match.start() + 1 for match in rules.EDGE_RIGHT.finditer(squeezed))
    if not cuts:
        return squeezed, origin
    parts: list[str] = []
    places: list[int] = []
    done = 0
    for cut in sorted(cuts):
        parts += (squeezed[done:cut], " ")
        places += origin[done:cut]
        places.append(origin[cut])
        done = cut
    parts.append(squeezed[done:])
    places += origin[done:]
    return "".join(parts), places


def _at_spaces(spaced: str, origin: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = spaced.find(" ", start, end)
        if stop < 0:
            stop = end
        yield from _trimmed(spaced, origin, start, stop)
        start = stop + 1


def _trimmed(spaced: str, origin: list[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    piece = spaced[start:end]
    start += len(piece) - len(piece.lstrip(_BLANK))
    end -= len(piece) - len(piece.rstrip(_BLANK))
    # A lone line separator is a token to the original, since Java's \s leaves it out; not to us.
    if start < end and not spaced[start:end].isspace():
        yield origin[start], origin[end - 1] + 1


def _protected(spaced: str) -> Iterator[tuple[int, int]]:
    at = 0
    while at < len(spaced):
        end = min(at + _WINDOW, len(spaced))
        if end < len(spaced):
            # The space opens the next window: some rules look at the character before.
            space = spaced.rfind(" ", at + 1, end)
            end = space if space > 0 else end
        yield from _protected_in(spaced, at, end)
        at = end


def _protected_in(spaced: str, at: int, stop: int) -> Iterator[tuple[int, int]]:
    """Merge the three lists of rules, leftmost match first, the earlier list winning a tie."""
    eastern = _eastern_emoticons(spaced, at, stop)
    first = rules.BEFORE_EASTERN.search(spaced, at, stop)
    second = rules.AFTER_EASTERN.search(spaced, at, stop)
    next_eastern = 0
    while True:
        if first and first.start() < at:
            first = rules.BEFORE_EASTERN.search(spaced, at, stop)
        if second and second.start() < at:
            second = rules.AFTER_EASTERN.search(spaced, at, stop)
        while next_eastern < len(eastern) and eastern[next_eastern][0] < at:
            next_eastern += 1
        spans = [first.span()] if first else []
        if next_eastern < len(eastern):
            spans.append(eastern[next_eastern])
        if second:
            spans.append(second.span())
        if not spans:
            return
        start, at = min(spans, key=lambda span: span[0])
        yield start, at


def _eastern_emoticons(spaced: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Find an emoticon such as ``(^_^)`` at each place that opens one, ascending.

    The rule is left+ (face | symbol)+ right+, and its three classes overlap: a backtracking
    expression takes cubic time, so the choices it would make are worked out from the right.
    """
    if not rules.EASTERN_HINT.search(spaced, start, stop):
        return []
    found: list[tuple[int, int]] = []
    size = stop - start
    # Where the emoticon ends, given that at this place ...
    right_run = [0] * (size + 1)  # ... its right side may start
    middle = [0] * (size + 1)  # ... another face or symbol must be read
    left = [0] * (size + 1)  # ... another character of its left side must be read
    for here in range(size - 1, -1, -1):
        char = spaced[start + here]
        if char in rules.EASTERN_RIGHT:
            right_run[here] = right_run[here + 1] or start + here + 1
        face = rules.FACE.match(spaced, start + here, stop) if char in rules.FACE_STARTS else None
        if face:
            after = face.end() - start
            middle[here] = middle[after] or right_run[after]
        if not middle[here] and char not in rules.NO_EASTERN_SYMBOL:
            middle[here] = middle[here + 1] or right_run[here + 1]
        if char in rules.EASTERN_LEFT:
            left[here] = left[here + 1] or middle[here + 1]
            if left[here]:
                found.append((start + here, left[here]))
    found.reverse()
    return found


def _split_hashes(text: str, spans: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in spans:
        if rules.HASHTAG.match(text, start, end):
            yield start, start + 1
            start += 1
        yield start, end


def _twitter2017_spans(text: str) -> Iterator[tuple[int, int]]:
    for match in rules.TWITTER2017.finditer(text):
        yield match.span()
