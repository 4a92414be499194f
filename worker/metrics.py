"""What the worker counts, under the conventional names and units of Prometheus."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from consumers.errors import Reason
from worker.pipeline_state import PipelineState, StateCollector
from worker.publish import Passed

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
_LATENCIES = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class _Registry(CollectorRegistry):
    """Without when each series was made, which Prometheus's text takes for a gauge.

    prometheus_client's own switch would be thrown for the whole process, which need not be ours.
    """

    def collect(self) -> Iterator[Metric]:
        for family in super().collect():
            family.samples = [each for each in family.samples if each.name != f"{family.name}_created"]
            yield family


class Metrics:
    """All metrics of one worker, in a registry of their own.

    The books balance: posts_received = posts + posts_in_flight + posts_dropped (given up with their partition, and
    read again by its next owner). The outcomes of `posts` are event, dead_letter, tombstone (of a delete), suppressed
    (a post that was deleted before it was published) and notice (of a stream, about no single post).
    """

    def __init__(self) -> None:
        self.registry = _Registry()
        registry = self.registry
        self.received = Counter("nametag_posts_received", "Messages taken from the posts topic.", registry=registry)
        self.posts = Counter(
            "nametag_posts", "Messages that are done with, by outcome.", ["outcome"], registry=registry
        )
        self.dropped = Counter("nametag_posts_dropped", "Messages given up with their partition.", registry=registry)
        self.dead_letters = Counter("nametag_dead_letters", "Dead letters, by reason.", ["reason"], registry=registry)
        self.purge_failures = Counter(
            "nametag_purge_failures", "Deleted posts of which something may be left in the cache.", registry=registry
        )
        self.unsure_deletes = Counter(
            "nametag_unsure_deletes",
            "Posts that went on although the cache couldn't say whether they are deleted.",
            registry=registry,
        )
        self.publish_failures = Counter(
            "nametag_publish_failures", "Publications that were tried again, by error.", ["error"], registry=registry
        )
        self.entities = Counter("nametag_entities", "Entities, by type.", ["type"], registry=registry)
        self.images = Counter("nametag_images", "Posts, by what became of the picture.", ["status"], registry=registry)
        self.tower_images = Counter(
            "nametag_tower_images", "Pictures that the visual tower looked at.", registry=registry
        )
        self.cache_events = Counter(
            "nametag_cache_events", "What happened at the image cache.", ["event"], registry=registry
        )
        self.host_events = Counter(
            "nametag_host_events", "How hosts of pictures were left alone, and why.", ["event"], registry=registry
        )
        self.in_flight = Gauge(
            "nametag_posts_in_flight", "Messages between intake and acknowledgement.", registry=registry
        )
        self.latency = Histogram(
            "nametag_post_latency_seconds", "From when the brokers took a post to when its outcome was acknowledged.",
            buckets=_LATENCIES, registry=registry,
        )  # fmt: skip
        self.batch_posts = Histogram(
            "nametag_batch_posts", "Posts in a batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=registry,
        )  # fmt: skip
        self.batch_limits = Gauge(
            "nametag_batch_limit", "What a batch may hold; less than configured since memory ran out.", ["of"],
            registry=registry,
        )  # fmt: skip
        self.batch_tokens = Counter(
            "nametag_batch_tokens", "Tokens on the device: those of posts, and the padding.", ["kind"],
            registry=registry,
        )  # fmt: skip
        self.device_busy = Counter(
            "nametag_device_busy_seconds", "Time in which the device had a batch; the rest it was idle.",
            registry=registry,
        )  # fmt: skip
        self.stages = Histogram(
            "nametag_stage_seconds", "Time spent in a stage.", ["stage"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.checkpoint = Gauge(
            "nametag_checkpoint_info", "The checkpoint in use.", ["id", "variant"], registry=registry
        )
        self.checkpoint_changes = Counter(
            "nametag_checkpoint_changes", "Other checkpoints that were named, by what became of them.", ["result"],
            registry=registry,
        )  # fmt: skip
        self.agreement = Gauge(
            "nametag_checkpoint_agreement_ratio", "Names that the last candidate in the shadow found alike.",
            registry=registry,
        )  # fmt: skip
        # No candidate agreed with anybody yet, and none disagreed.
        self.agreement.set(math.nan)
        self.tag_requests = Counter(
            "nametag_tag_requests", "Requests to POST /tag, by outcome; their posts are none of nametag_posts.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self.tag_seconds = Histogram(
            "nametag_tag_request_seconds", "From a request to POST /tag to its event; refused ones don't count.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._begin_at_zero()

        # Memory, processor time and file descriptors, under the names that all programs have them.
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

    def _begin_at_zero(self) -> None:
        """An increase from nothing to one is none to Prometheus, so what alerts wait for is there from the start."""
        for reason in Reason:
            self.dead_letters.labels(reason)
        for outcome in ("event", "dead_letter", "tombstone", *Passed):
            self.posts.labels(outcome)
        for error in ("PublishAborted", "PublishUnsettled"):
            self.publish_failures.labels(error)
        for result in ("swapped", "refused", "rolled_back"):
            self.checkpoint_changes.labels(result)

    def watch(self, look: Callable[[], PipelineState]) -> None:
        """Ask `look` at each scrape for what isn't counted as it happens: lag, queues, ages."""
        self.registry.register(StateCollector(look))

    def watch_tagger(self, process_id: Callable[[], int | None]) -> None:
        """Tell of the tagger's process what is told of this one; nothing while it has none."""
        ProcessCollector("nametag_tagger", pid=lambda: process_id() or "none", registry=self.registry)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the pipeline."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages.labels(name).observe(time.perf_counter() - start)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
