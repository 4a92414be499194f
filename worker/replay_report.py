"""The books of a replay, for people and for programs."""

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from consumers.archive_members import MemberBooks
from consumers.archive_posts import Books
from model.captions import harmless


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was read, what became of it, and in which time."""

    members: MemberBooks
    books: Books
    seconds: float
    rate: float | None
    speed: float | None = None

    @property
    def span_seconds(self) -> float | None:
        """Over how long the posts were made; None for no time at all."""
        books = self.books
        return (books.last - books.first).total_seconds() or None if books.first and books.last else None

    @property
    def seconds_at_pace(self) -> float | None:
        """How long the posts take at the pace that was asked for; None where none was."""
        times = []
        if self.rate:
            times.append(self.books.num_posts / self.rate)
        if self.speed and self.span_seconds:
            times.append(self.span_seconds / self.speed)
        return max(times, default=None)

    def text(self) -> str:
        """Lines for a person; the second part is the equation of the books."""
        books, members = self.books, self.members
        span = f", {books.first:%Y-%m-%d %H:%M:%S} to {books.last:%Y-%m-%d %H:%M:%S}" if books.first else ""
        told = [
            f"members     {members.num_read:>13,}{_parts('left alone', members.left_alone)}",
            f"lines       {books.num_lines:>13,}",
            f"  posts     {books.num_posts:>13,}  {books.num_with_photo:,} with photo, "
            f"{books.num_post_bytes / 1e6:,.1f} MB{span}",
            f"  deletes   {books.num_deletes:>13,}  {books.num_obeyed:,} handed on",
            *(
                f"  {name:<10}{counted.total():>13,}{_parts('', counted)}"
                for name, counted in (
                    ("control", books.control),
                    ("filtered", books.filtered),
                    ("skipped", books.skipped),
                )
            ),
            f"{self.seconds:,.1f} s, {books.num_lines / max(self.seconds, 1e-9):,.0f} lines a second",
        ]
        if self.span_seconds:
            took, rate = _duration(self.span_seconds), books.num_posts / self.span_seconds
            told.append(f"the posts were made within {took}, {rate:,.1f} a second")
        if seconds := self.seconds_at_pace:
            paces = [(self.rate, " posts a second"), (self.speed, "x")]
            pace = " and ".join(f"{number:g}{unit}" for number, unit in paces if number)
            told.append(f"at {pace} they take {_duration(seconds)}")
        return "\n".join(told)

    def warnings(self) -> list[str]:
        """A line for each warning that was kept, and one for the others."""
        told = [f"warning: {harmless(warning)}" for warning in self.members.warnings]
        if (num_others := self.members.num_warnings - len(told)) > 0:
            told.append(f"and {num_others} more warnings")
        return told

    def json(self) -> dict[str, Any]:
        """The same for a program."""
        books, members = self.books, self.members
        return {
            "members": {"read": members.num_read, "left_alone": dict(members.left_alone)},
            "lines": books.num_lines,
            "posts": books.num_posts,
            "deletes": books.num_deletes,
            "deletes_handed_on": books.num_obeyed,
            "control": dict(books.control),
            "filtered": dict(books.filtered),
            "skipped": dict(books.skipped),
            "posts_with_photo": books.num_with_photo,
            "post_bytes": books.num_post_bytes,
            "first": books.first.isoformat() if books.first else None,
            "last": books.last.isoformat() if books.last else None,
            "seconds": round(self.seconds, 3),
            "posts_a_second": books.num_posts / self.span_seconds if self.span_seconds else None,
            "seconds_at_pace": self.seconds_at_pace,
            "num_warnings": members.num_warnings,
            "warnings": members.warnings,
        }


def _duration(seconds: float) -> str:
    try:
        return str(timedelta(seconds=round(seconds)))
    except OverflowError:
        return "over 2.7 million years"


def _parts(what: str, counted: Counter[str]) -> str:
    if not counted:
        return ""
    parts = ", ".join(f"{count:,} {name}" for name, count in counted.most_common())
    return f"  {what}: {parts}" if what else f"  {parts}"
