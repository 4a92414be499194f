"""`nametag replay`, as the options of `worker/cli_replay.py` ask. No torch in here."""

import argparse
import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TextIO

from rich.console import Console

from consumers.archive_choice import PostChoice
from consumers.archive_members import Archives, Member
from consumers.archive_parallel import ParallelConfig, ParallelPosts
from consumers.archive_posts import ArchivePost, ArchivePosts
from consumers.archive_source import ArchiveSource
from consumers.posts_topic import PostsTopic
from consumers.posts_topic_once import PostsTopicOnce
from worker.errors import SettingsError
from worker.kafka_settings import connection_of
from worker.logs import configure_logs
from worker.pace import Pace
from worker.publish import JsonlSink
from worker.replay_progress import ReplayProgress
from worker.replay_report import Report
from worker.replay_resume import Kept, ResumableSink, ResumeFile
from worker.settings import Settings
from worker.settings_loading import load_settings

INTERRUPTED = 130


def replay(options: argparse.Namespace, choice: PostChoice) -> int:
    """Do what the options ask, and print the books; gives back the exit status.

    Raises `SourceUnavailable` where an input isn't there, and `ReplayStopped` where the brokers fail.
    """
    settings = load_settings(options.config)
    configure_logs("text", logging.WARNING)
    resume = _resume_file(options, choice)
    kept = resume.read() if resume else Kept()
    archives = Archives(options.paths)
    plan = archives.plan()
    if options.out is not None:
        _check_output(options, plan, is_begun=resume is not None and resume.is_there)
    with closing(archives), _topic(options, settings, resume, kept) as topic:
        after = topic.after if topic else kept.place
        posts = ArchivePosts(archives, choice, max_post_bytes=settings.max_post_bytes, after=after)
        started_at = time.monotonic()
        parallel = ParallelPosts(archives, posts, plan, _parallel(options, choice, settings))
        try:
            with closing(parallel), ReplayProgress(posts.books, plan, Console(stderr=True)) as progress:
                if options.out is not None:
                    found = _in_time(_found(posts, parallel, progress), Pace(options.rate, options.speed))
                    is_at_end = _to_file(found, settings, options, resume, kept)
                else:
                    is_at_end = _to_topic_or_nowhere(
                        lambda is_stopped: _found(posts, parallel, progress, is_stopped), topic, options
                    )
        finally:
            seconds = time.monotonic() - started_at
            pace = {"rate": options.rate, "speed": options.speed}
            report = Report(members=archives.books, books=posts.books, seconds=seconds, **pace)
            _print(report, as_json=options.json, to=sys.stderr if options.out == "-" else sys.stdout)
            if not archives.books.num_read and not archives.books.num_warnings:
                print("nothing was found that could be read", file=sys.stderr)
    if not is_at_end:
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


def _parallel(options: argparse.Namespace, choice: PostChoice, settings: Settings) -> ParallelConfig:
    """Several processes where reading is what takes the time, and no member has to know of another."""
    is_reading_slow = options.out is None and not options.rate and not options.speed
    return ParallelConfig(
        num_workers=options.workers if is_reading_slow and choice.retweets != "fold" else 1,
        choice=choice,
        max_post_bytes=settings.max_post_bytes,
        hands_on=not options.dry_run,
    )


def _found(
    posts: ArchivePosts,
    parallel: ParallelPosts,
    progress: ReplayProgress,
    is_stopped: Callable[[], bool] = lambda: False,
) -> Iterator[ArchivePost]:
    """The posts, told of on the way, until one is asked to stop; each that was counted is given."""
    for entry in progress.entries():
        for batch in parallel.batches(entry):
            yield from batch
            progress.tell_sometimes()
            if is_stopped():
                return
        if is_stopped():
            return
    posts.check_found()


@contextmanager
def _topic(
    options: argparse.Namespace, settings: Settings, resume: ResumeFile | None, kept: Kept
) -> Iterator[PostsTopic | None]:
    """The topic that posts are to be put on, if they are; with `resume` each of them once."""
    if not options.to_topic:
        yield None
        return
    try:
        connection = connection_of(settings.kafka)
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: {error}") from error
    name = settings.kafka.posts_topic
    if resume is None:
        with PostsTopic(connection, name) as topic:
            yield topic
        return
    # The name first: what is put on the topic under a name that is lost would come twice.
    resume.write(kept)
    with PostsTopicOnce(connection, name, name=kept.name, is_begun=kept.place is not None) as topic:
        try:
            yield topic
        finally:
            resume.write(replace(kept, place=topic.after))


def _to_topic_or_nowhere(
    found: Callable[[Callable[[], bool]], Iterator[ArchivePost]],
    topic: PostsTopic | None,
    options: argparse.Namespace,
) -> bool:
    """Whether the end was reached; `found` gives the posts, until it is told that one is asked to stop."""
    stop = _Stop()
    before_long_wait = topic.wait if topic else lambda: None
    pace = Pace(options.rate, options.speed, is_stopped=lambda: stop.is_asked, before_long_wait=before_long_wait)
    with stop.on_signals():
        for post in found(lambda: stop.is_asked):
            if topic:
                pace.wait(post.post.created_at)
                topic.put(post)
        if topic:
            topic.wait()
    return not stop.is_asked


def _to_file(
    posts: Iterator[ArchivePost], settings: Settings, options: argparse.Namespace, resume: ResumeFile | None, kept: Kept
) -> bool:
    """Whether the end was reached."""
    # These take seconds: what is wrong in the settings and the inputs was told at once.
    from worker.tagger_start import begin_tagger

    first = begin_tagger(settings)
    from worker.garbage import collect_seldom
    from worker.service import Edges, run_worker

    source = ArchiveSource(posts, one_by_one=bool(options.rate or options.speed), keeps_places=resume is not None)
    outputs = (options.out, options.dead_letters)
    sink = ResumableSink(outputs, resume, kept, source) if resume else JsonlSink(*outputs)
    asyncio.run(run_worker(settings, Edges(source=source, sink=sink), on_loaded=collect_seldom, first=first))
    return source.is_at_end


def _in_time(posts: Iterator[ArchivePost], pace: Pace) -> Iterator[ArchivePost]:
    for post in posts:
        pace.wait(post.post.created_at)
        yield post


def _resume_file(options: argparse.Namespace, choice: PostChoice) -> ResumeFile | None:
    if options.resume is None:
        return None
    # A set has no order of its own.
    chosen = repr((sorted(choice.languages), replace(choice, languages=frozenset())))
    return ResumeFile(options.resume, [*options.paths, chosen, options.out or "", options.dead_letters])


def _check_output(options: argparse.Namespace, plan: Sequence[Member], *, is_begun: bool) -> None:
    """Raise `SettingsError` where an output is an input, or the other output: to open it for writing empties it.

    And where one has something already, unless that is this replay's from before, or may go.
    """
    named = (options.out, options.dead_letters, options.resume or "-")
    outputs = [Path(path).resolve() for path in named if path != "-"]
    inputs = {entry.file.resolve() for entry in plan if entry.file}
    if len(set(outputs)) < len(outputs) or inputs & set(outputs) or _are_read(options.paths, outputs):
        raise SettingsError(
            "--out, --dead-letters and --resume must name different files, none of the archives, nor in their folder"
        )
    for path in map(Path, (options.out, options.dead_letters)):
        if not (is_begun or options.overwrite) and str(path) != "-" and path.is_file() and path.stat().st_size:
            raise SettingsError(f"{path} is there already; name another file, or say --overwrite")


def _are_read(paths: Sequence[str], outputs: Sequence[Path]) -> bool:
    """Whether an output is one of `paths`, under whatever name, or in a folder of them: it would be read next time."""
    named = [Path(path) for path in paths if path != "-"]
    folders = [path.resolve() for path in named if path.is_dir()]
    files = [path for path in named if path.is_file()]
    there = [output for output in outputs if output.is_file()]
    is_inside = any(output.is_relative_to(folder) for output in outputs for folder in folders)
    return is_inside or any(output.samefile(file) for output in there for file in files)


def _print(report: Report, *, as_json: bool, to: TextIO) -> None:
    for line in report.warnings():
        print(line, file=sys.stderr)
    print(json.dumps(report.json()) if as_json else report.text(), file=to)
