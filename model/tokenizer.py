"""Splits a post into tokens by the rules of Owoputi et al. (NAACL 2013), with exact offsets.

The rules work in three steps. Whitespace runs count as one space, and a space is imagined between a
word and the quotes or brackets at its edge. Then the protected spans are found: URLs, emoticons,
numbers, punctuation and so on, the leftmost first and, at one place, the earliest rule. What
lies between protected spans is split at spaces alone.

No rule looks beyond the spaces around a word, so words are cut one by one, and what they are cut into is kept:
of a stream's words most have been seen before, and of the others most are letters that no rule cuts.
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from model import tokenizer_rules as rules

# A rule looks no further than this without whitespace, so that a hostile post costs linear time.
_WINDOW = 512

_NUM_KEPT = 65_536
_LONGEST_KEPT = 40
"""Characters of a word whose pieces are kept: those of 65,536 words are 20 MB at most."""

# The original trims what Java calls blank: every control character up to the space.
_BLANK = "".join(map(chr, range(0x21)))


class Token(NamedTuple):
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
        return [Token(match.group(), *match.span()) for match in rules.TWITTER2017.finditer(text)]
    cut_kept, cut = _CUTS[scheme]
    tokens: list[Token] = []
    at = len(text) - len(text.lstrip(_BLANK))
    space = ""
    for word in rules.OTHER_SPACE.sub(" ", text.strip(_BLANK)).split(" "):
        if word.isalnum() and word.isascii():
            tokens.append(Token(word, at, at + len(word)))
        elif word:
            # Some rules tell a word at a post's beginning from one after a space.
            piece, start = space + word, at - len(space)
            pieces = cut_kept(piece) if len(piece) <= _LONGEST_KEPT else cut(piece)
            tokens += [Token(token, start + begin, start + end) for token, begin, end in pieces]
        if word:
            space = " "
        at += len(word) + 1
    return tokens


def _cut(piece: str) -> tuple[Token, ...]:
    """The tokens of a word, with a space before it or none, at their places in `piece`."""
    spaced, origin = _spaced(piece)
    spans: list[tuple[int, int]] = []
    done = 0
    for start, end in _protected(spaced):
        spans += _at_spaces(spaced, origin, done, start)
        spans += _trimmed(spaced, origin, start, end)
        done = end
    spans += _at_spaces(spaced, origin, done, len(spaced))
    return tuple(Token(piece[start:end], start, end) for start, end in spans)


def _cut_hashes(piece: str) -> tuple[Token, ...]:
    """The same, with a hashtag's sign apart from its word."""
    tokens: list[Token] = []
    for text, start, end in _cut(piece):
        if rules.HASHTAG.match(text):
            tokens += Token("#", start, start + 1), Token(text[1:], start + 1, end)
        else:
            tokens.append(Token(text, start, end))
    return tuple(tokens)


_CUTS = {
    Scheme.OWOPUTI: (lru_cache(_NUM_KEPT)(_cut), _cut),
    Scheme.OWOPUTI_HASH_SPLIT: (lru_cache(_NUM_KEPT)(_cut_hashes), _cut_hashes),
}


def _spaced(piece: str) -> tuple[str, Sequence[int]]:
    """Set edge punctuation apart; also each character's place in `piece`."""
    cuts = {match.end() - 1 for match in rules.EDGE_LEFT.finditer(piece)}
    cuts.update(match.start() + 1 for match in rules.EDGE_RIGHT.finditer(piece))
    if not cuts:
        return piece, range(len(piece))
    parts: list[str] = []
    places: list[int] = []
    done = 0
    for cut in sorted(cuts):
        parts += (piece[done:cut], " ")
        places += range(done, cut + 1)
        done = cut
    parts.append(piece[done:])
    places += range(done, len(piece))
    return "".join(parts), places


def _at_spaces(spaced: str, origin: Sequence[int], start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = spaced.find(" ", start, end)
        if stop < 0:
            stop = end
        yield from _trimmed(spaced, origin, start, stop)
        start = stop + 1


def _trimmed(spaced: str, origin: Sequence[int], start: int, end: int) -> Iterator[tuple[int, int]]:
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
