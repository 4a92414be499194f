"""Lays a tagged caption out in lines of a width: words whole where they fit, names with their types.

Widths are in pixels. Right-to-left scripts are set word by word, which is right for captions in one script.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from model.captions import Piece

_WORDS = re.compile(r"(\s*)(\S+)")
_LONGEST_WORD = 300
"""Characters of a word that are looked at: more would fill the picture by themselves."""

Measure = Callable[["Atom"], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Atom:
    """A word, or the label of a name's type; atoms of one name share its number, 0 is no name."""

    text: str
    name: int = 0
    type: str = ""
    is_label: bool = False
    is_spaced: bool = True  # white space stands before it


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An atom at `left` in its line."""

    atom: Atom
    left: float
    width: float


def lay_out(
    pieces: Iterable[Piece], measure: Measure, *, width: float, space: float, max_lines: int
) -> tuple[list[list[Placed]], bool]:
    """Lines of placed atoms, at most `max_lines`, and whether that is the whole caption."""
    lines: list[list[Atom]] = [[]]
    used, is_first_right = 0.0, None
    for atom in _fitting(_atoms(pieces), measure, width):
        if is_first_right is None:
            is_first_right = is_right_to_left(atom.text)
        gap = space if atom.is_spaced and lines[-1] else 0.0
        if lines[-1] and used + gap + measure(atom) > width:
            if len(lines) == max_lines:
                return [_place(line, measure, width, space, bool(is_first_right)) for line in lines], False
            lines.append(_taken_along(lines[-1], atom, measure, width))
            used, gap = sum(map(measure, lines[-1])), 0.0
        lines[-1].append(atom)
        used += gap + measure(atom)
    return [_place(line, measure, width, space, bool(is_first_right)) for line in lines if line], True


def is_right_to_left(text: str) -> bool | None:
    """The direction of the first letter that has one, None where there is none."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("L", "R", "AL"):
            return direction != "L"
    return None


def _atoms(pieces: Iterable[Piece]) -> Iterator[Atom]:
    is_spaced, number = False, 0
    for piece in pieces:
        number += bool(piece.type)
        name = number if piece.type else 0
        for match in _WORDS.finditer(piece.text):
            yield Atom(
                text=match[2], name=name, type=piece.type, is_spaced=bool(match[1]) or (is_spaced and not match.start())
            )
        is_spaced = piece.text[-1:].isspace()
        if piece.type:
            yield Atom(text=piece.type, name=name, type=piece.type, is_label=True, is_spaced=False)


def _fitting(atoms: Iterable[Atom], measure: Measure, width: float) -> Iterator[Atom]:
    """Atoms that each fit on a line: longer ones are broken between characters."""
    for atom in atoms:
        rest = atom.text[:_LONGEST_WORD]
        is_spaced = atom.is_spaced
        while rest:
            end = len(rest)
            while end > 1 and measure(replace(atom, text=rest[:end])) > width:
                end = max(1, end * 3 // 4)
            while end < len(rest) and unicodedata.combining(rest[end]):
                end += 1
            yield replace(atom, text=rest[:end], is_spaced=is_spaced)
            rest, is_spaced = rest[end:], False


def _taken_along(line: list[Atom], atom: Atom, measure: Measure, width: float) -> list[Atom]:
    """What goes to the next line with `atom`: the words to which it is glued, such as the # before it."""
    if atom.is_spaced:
        return []
    start = len(line) - 1
    while start > 0 and not line[start].is_spaced:
        start -= 1
    along = line[start:]
    if start == 0 or sum(map(measure, along)) + measure(atom) > width:
        return []
    del line[start:]
    return along


def _place(line: list[Atom], measure: Measure, width: float, space: float, is_right: bool) -> list[Placed]:
    placed: list[Placed] = []
    left = 0.0
    for number, atom in enumerate(_in_visual_order(line, is_right)):
        left += space if number and _is_gap(placed[-1].atom, atom, line) else 0.0
        placed.append(Placed(atom=atom, left=left, width=measure(atom)))
        left += placed[-1].width
    shift = max(0.0, width - left) if is_right else 0.0
    return [replace(one, left=one.left + shift) for one in placed]


def _is_gap(one: Atom, other: Atom, line: list[Atom]) -> bool:
    """Whether white space parts two neighbours, whichever comes first in reading order."""
    places = sorted(next(n for n, atom in enumerate(line) if atom is which) for which in (one, other))
    return any(atom.is_spaced for atom in line[places[0] + 1 : places[1] + 1])


def _in_visual_order(line: list[Atom], is_right: bool) -> list[Atom]:
    """From left to right: each stretch of words against the line's direction is turned around."""
    stretches: list[tuple[bool, list[Atom]]] = []
    for atom in line:
        told = None if atom.is_label else is_right_to_left(atom.text)
        goes_right = (stretches[-1][0] if stretches else is_right) if told is None else told
        if stretches and stretches[-1][0] == goes_right:
            stretches[-1][1].append(atom)
        else:
            stretches.append((goes_right, [atom]))
    ordered = [atoms[::-1] if goes_right else atoms for goes_right, atoms in stretches]
    return [atom for atoms in (ordered[::-1] if is_right else ordered) for atom in atoms]
