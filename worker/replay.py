"""`nametag replay`, as the options of `worker/cli_replay.py` ask. No torch in here."""

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives
from consumers.archive_posts import ArchivePost, ArchivePosts
from consumers.posts_topic import PostsTopic
from worker.errors import SettingsError
from worker.kafka_settings import connection_of
from worker.pace import Pace
from worker.replay_progress import ReplayProgress
from worker.replay_report import Report
from worker.settings import Settings, load_settings

INTERRUPTED = 130


def replay(options: argparse.Namespace, choice: PostChoice) -> int:
    """Do what the options ask, and print the books; gives back the exit status.

    Raises `SourceUnavailable` where an input isn't there, and `ReplayStopped` where the brokers fail.
    """
    settings = load_settings(options.config)
    archives = Archives(options.paths)
    posts = ArchivePosts(archives, choice, max_post_bytes=settings.max_post_bytes)
    started_at = time.monotonic()
    stop = _Stop()
    try:
        with stop.on_signals(), ReplayProgress(posts.books, archives.plan(), Console(stderr=True)) as progress:
            found = _until(stop, posts, progress)
            if options.to_topic:
                _to_topic(found, settings, options.rate)
            else:
                for _ in found:
                    pass
    finally:
        archives.close()
        report = Report(
            members=archives.books, books=posts.books, seconds=time.monotonic() - started_at, rate=options.rate
        )
        _print(report, as_json=options.json)
    if stop.is_asked:
        print("stopped before the end", file=sys.stderr)
        return INTERRUPTED
    return 0 if archives.books.num_read or not archives.books.num_warnings else 1


class _Stop:
    """Ctrl-C and SIGTERM, which end a replay between two posts; the second time they end it at once."""

    def __init__(self) -> None:
        self.is_asked = False

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Listen, meanwhile."""
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_asked:
            raise KeyboardInterrupt
        self.is_asked = True


def _until(stop: _Stop, posts: ArchivePosts, progress: ReplayProgress) -> Iterator[ArchivePost]:
    """The posts, until one is asked to stop."""
    for entry in progress.entries():
        for post in posts.of(entry):
            yield post
            progress.tell_sometimes()
            if stop.is_asked:
                return
        if stop.is_asked:
            return


def _to_topic(posts: Iterator[ArchivePost], settings: Settings, rate: float | None) -> None:
    try:
        connection = connection_of(settings.kafka)
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: {error}") from error
    with PostsTopic(connection, settings.kafka.posts_topic) as topic:
        pace = Pace(rate)
        for post in posts:
            pace.wait()
            topic.put(post)
        topic.wait()


def _print(report: Report, *, as_json: bool) -> None:
    for line in report.warnings():
        print(line, file=sys.stderr)
    print(json.dumps(report.json()) if as_json else report.text())
