"""The bar of a replay on a terminal: members, lines, posts, deletes, skipped, rate and time left."""

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Column

from consumers.archive_members import Member
from consumers.archive_posts import Books

SECONDS_BETWEEN = 0.2


class ReplayProgress:
    """Shown where `console` is a terminal; the time left goes by the bytes of the members."""

    def __init__(self, books: Books, plan: Sequence[Member], console: Console) -> None:
        self._books, self._plan = books, plan
        self._num_entries = 0
        self._started_at = self._told_at = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=16),
            TimeRemainingColumn(compact=True),
            # What doesn't fit is cut here, and the bar stays.
            TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=console,
            expand=True,
            disable=not console.is_terminal,
            transient=True,
        )
        # What is read from a pipe has no size, and no end that could be told.
        num_bytes = sum(entry.num_bytes for entry in plan)
        self._task = self._progress.add_task("", total=num_bytes or None)

    def __enter__(self) -> Self:
        """Show it."""
        self._progress.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        """Take it away."""
        self._progress.stop()

    def entries(self) -> Iterator[Member]:
        """The entries of the plan, each counted when the next is asked for."""
        for entry in self._plan:
            yield entry
            self._num_entries += 1
            self._progress.advance(self._task, entry.num_bytes)
            self.tell()

    def tell_sometimes(self) -> None:
        """Bring it up to date, but not for each post."""
        if time.monotonic() - self._told_at > SECONDS_BETWEEN:
            self.tell()

    def tell(self) -> None:
        """Bring it up to date."""
        self._told_at = time.monotonic()
        books = self._books
        rate = books.num_lines / max(self._told_at - self._started_at, 1e-9)
        self._progress.update(
            self._task,
            description=f"{self._num_entries}/{len(self._plan)} members  {books.num_lines:,} lines  {rate:,.0f}/s  "
            f"{books.num_posts:,} posts  {books.num_deletes:,} deletes{_skipped(books)}  "
            f"{books.filtered.total():,} filtered",
        )


def _skipped(books: Books) -> str:
    reasons = ", ".join(f"{num:,} {reason}" for reason, num in books.skipped.most_common())
    return f"  skipped: {reasons}" if reasons else ""
