"""The composition root: every part is made here, from the settings, and wired once."""

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from consumers.jsonl import JsonlSource
from consumers.kafka import KafkaSource, KafkaSourceConfig
from consumers.source import PostSource
from worker.batches import Batcher
from worker.checkpoint_settings import load_tagger, make_checkpoints
from worker.desk import DeskConfig
from worker.errors import SettingsError
from worker.image_settings import image_source, make_cache, make_fetcher, make_marks
from worker.kafka_settings import connection_of, transactional_id
from worker.kafka_sink import KafkaSink, KafkaSinkConfig
from worker.live import LiveHub
from worker.live_rates import Rates
from worker.live_routes import LivePage
from worker.metrics import Metrics
from worker.own_thread import OwnThread
from worker.pipeline import Parts, Pipeline, PipelineConfig
from worker.post_tagger import LoadedTagger
from worker.publish import EventSink, JsonlSink, Outcome
from worker.room import RoomLimits
from worker.server import Answers, ServerConfig, serve
from worker.settings import Settings
from worker.stopping import Stopped, unless_stopped
from worker.tag_one import TagOne, TagOneConfig
from worker.tagger_link import TaggerLink
from worker.tagger_process import process_of
from worker.tracing import NO_SPANS, Tracing
from worker.transactional_sink import TransactionalKafkaSink

log = logging.getLogger("nametag.worker")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The embedded default: posts from a JSONL file, events to another."""

    posts: str
    events: str
    dead_letters: str

    def check(self) -> None:
        """Raise `SettingsError` where two are one file: to open one for writing empties it."""
        named = [Path(path) for path in (self.posts, self.events, self.dead_letters) if path != "-"]
        files = [path.resolve() for path in named if not path.is_char_device()]
        if len(set(files)) < len(files):
            raise SettingsError("--input, --output and --dead-letters must name three different files")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edges:
    """A source and a sink, ready made."""

    source: PostSource
    sink: EventSink


async def run_worker(
    settings: Settings,
    files: Files | Edges | None = None,
    *,
    on_outcome: Callable[[Outcome], None] | None = None,
    on_listening: Callable[[str], None] | None = None,
    on_loaded: Callable[[], None] = lambda: None,
    first: TaggerLink | None = None,
) -> Metrics:
    """Run the worker until its source ends or SIGTERM or SIGINT comes; gives back what it counted.

    `files` replace Kafka. `on_listening` is told the address of the worker's server, which is
    left out where nobody asks for it; `on_loaded` is called before the first post. `first` is the process of the
    first tagger, where that was begun already (`worker.tagger_start`). Raises a `WorkerError`
    or `ConsumersError` that says what to do, or an ExceptionGroup of whatever else stopped it.
    """
    stop = asyncio.Event()
    _stop_on_signals(stop)
    metrics, begun, why = Metrics(), time.monotonic(), "an error"
    try:
        await _run(settings, files, metrics, stop, on_outcome, on_listening, on_loaded, first)
        why = "a signal" if stop.is_set() else "the end of the posts"
    except Stopped:
        why = "a signal"
    finally:
        log.info(
            "worker_stopped", extra={"by": why, **_counted(metrics), "seconds": round(time.monotonic() - begun, 1)}
        )
    return metrics


async def _run(
    settings: Settings,
    files: Files | Edges | None,
    metrics: Metrics,
    stop: asyncio.Event,
    on_outcome: Callable[[Outcome], None] | None,
    on_listening: Callable[[str], None] | None,
    on_loaded: Callable[[], None],
    first: TaggerLink | None,
) -> None:
    if isinstance(files, Files):
        files.check()
    cache, fetcher = make_cache(settings, metrics), make_fetcher(settings.images, metrics)
    marks = make_marks(settings.redis, cache, metrics)
    try:
        tagger = await unless_stopped(stop, _first_tagger(settings, first))
        batcher = Batcher(metrics)
        async with AsyncExitStack() as stack:
            images = await stack.enter_async_context(image_source(settings, fetcher, cache, marks, tagger))
            tracing = Tracing.by_otlp() if settings.trace else NO_SPANS
            # Beside asyncio, for it waits for whoever takes the spans.
            stack.push_async_callback(asyncio.to_thread, tracing.close)
            checkpoints = make_checkpoints(settings, tagger, images, batcher, metrics)
            stack.push_async_callback(checkpoints.close)
            metrics.watch_tagger(lambda: process_of(checkpoints.current.tagger))
            await unless_stopped(stop, checkpoints.look(at_start=True))
            parts = Parts(
                source=_source(settings, files),
                checkpoints=checkpoints,
                batcher=batcher,
                sink=_sink(settings, files),
                metrics=metrics,
                tracing=tracing,
            )
            live = LiveHub() if on_listening else None
            pipeline = Pipeline(parts, _pipeline_config(settings), on_outcome, live)
            metrics.watch(pipeline.state)
            on_loaded()
            if on_listening is None or live is None:
                await pipeline.run(stop)
                return
            page = LivePage(live, Rates(metrics, lambda: pipeline.state().total_lag))
            answers: list[Answers] = [_tag_one(settings, pipeline, metrics, stop), page]
            async with serve(_server_config(settings), metrics, lambda: pipeline.unready, answers) as address:
                on_listening(address)
                await pipeline.run(stop)
    finally:
        for each in {cache, marks}:
            await each.close()


async def _first_tagger(settings: Settings, link: TaggerLink | None) -> LoadedTagger:
    # On a thread that nobody waits for: a stop needn't wait for a disk, or a download.
    loader = OwnThread("first-checkpoint")
    log.info("checkpoint_loading", extra={"file": str(settings.checkpoint)})
    try:
        return await loader.call(partial(load_tagger, settings, link))
    finally:
        loader.end()


def _counted(metrics: Metrics) -> dict[str, int]:
    """What a worker did, in a few numbers."""

    def value(name: str, **labels: str) -> int:
        return round(metrics.registry.get_sample_value(name, labels) or 0)

    return {
        "posts": value("nametag_posts_received_total"),
        "events": value("nametag_posts_total", outcome="event"),
        "dead_letters": value("nametag_posts_total", outcome="dead_letter"),
        "tombstones": value("nametag_posts_total", outcome="tombstone"),
    }


def _source(settings: Settings, files: Files | Edges | None) -> PostSource:
    if isinstance(files, Edges):
        return files.source
    if files is not None:
        return JsonlSource(files.posts, max_line_bytes=settings.max_post_bytes)
    kafka = settings.kafka
    config = KafkaSourceConfig(
        topic=kafka.posts_topic,
        group_id=kafka.group_id,
        group_instance_id=kafka.group_instance_id,
        session_timeout_ms=round(kafka.session_timeout_seconds * 1000),
        stall_seconds=kafka.stall_seconds,
    )
    return KafkaSource(connection_of(settings.kafka), config)


def _sink(settings: Settings, files: Files | Edges | None) -> EventSink:
    if isinstance(files, Edges):
        return files.sink
    if files is not None:
        return JsonlSink(files.events, files.dead_letters)
    kafka = settings.kafka
    config = KafkaSinkConfig(
        entities_topic=kafka.entities_topic,
        dead_letters_topic=kafka.dead_letters_topic,
        transaction_seconds=kafka.transaction_seconds,
        # With the name comes the transaction of the process before, which is settled at the start.
        transactional_id=transactional_id(kafka),
    )
    sink = TransactionalKafkaSink if kafka.delivery == "exactly_once" else KafkaSink
    return sink(connection_of(settings.kafka), config)


def _pipeline_config(settings: Settings) -> PipelineConfig:
    return PipelineConfig(
        max_post_bytes=settings.max_post_bytes,
        desk=DeskConfig(
            max_post_tokens=settings.max_post_tokens,
            image_choice=settings.images.choice,
            include_text=settings.include_text,
            include_attention=settings.include_attention,
        ),
        shutdown_seconds=settings.shutdown_seconds,
        flush_seconds=settings.flush_seconds,
        room=RoomLimits(max_posts=settings.max_in_flight_posts, max_bytes=settings.max_in_flight_bytes),
    )


def _server_config(settings: Settings) -> ServerConfig:
    server = settings.server
    token = None if server.token is None else server.token.get_secret_value()
    return ServerConfig(host=server.host, port=server.port, token=token)


def _tag_one(settings: Settings, pipeline: Pipeline, metrics: Metrics, stop: asyncio.Event) -> TagOne:
    config = TagOneConfig(max_post_bytes=settings.max_post_bytes)
    return TagOne(pipeline.tag_alone, lambda: pipeline.is_running and not stop.is_set(), metrics, config)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
