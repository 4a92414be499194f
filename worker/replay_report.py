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
        if self.rate:
            took = timedelta(seconds=round(books.num_posts / self.rate))
            told.append(f"at {self.rate:g} posts a second these posts take {took}")
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
            "seconds_at_rate": books.num_posts / self.rate if self.rate else None,
            "num_warnings": members.num_warnings,
            "warnings": members.warnings,
        }


def _parts(what: str, counted: Counter[str]) -> str:
    if not counted:
        return ""
    parts = ", ".join(f"{count:,} {name}" for name, count in counted.most_common())
    return f"  {what}: {parts}" if what else f"  {parts}"
