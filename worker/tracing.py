"""Spans of posts that carry a trace: fetch, tag and publish, as children of the span that their producer began.

A post without a `traceparent` begins no trace, and costs nothing. Where no spans are made, its trace context goes on
with its event as it came. Spans go out by OTLP over HTTP, to where OpenTelemetry's own OTEL_… variables say.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from consumers.source import Message
from consumers.traces import PARENT, STATE, Header, trace_of
from worker.errors import ImageError, SettingsError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter


class PostTrace:
    """The trace of one post. This one makes no spans: what came goes on."""

    def __init__(self, headers: tuple[Header, ...] = ()) -> None:
        self.headers = headers
        """What goes on with the post's event, or its tombstone."""

    @contextmanager
    def span(self, _name: str) -> Iterator[None]:
        """Time a part of the work."""
        yield

    def published(self, _begun_ns: int) -> None:
        """The outcome is acknowledged; its publication began then, in Unix time."""


NO_TRACE = PostTrace()


class _SpannedTrace(PostTrace):
    """A trace with a span of ours, `nametag.process`, which others are in."""

    def __init__(self, tracer: Any, headers: tuple[Header, ...], message: Message) -> None:
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        carrier = {name: value.decode("ascii", "replace") for name, value in headers}
        partition, offset = message.position
        attributes: dict[str, Any] = {
            "messaging.system": "kafka",
            "messaging.destination.name": partition.topic,
            "messaging.destination.partition.id": str(partition.number),
            "messaging.kafka.offset": offset,
        }
        self._tracer = tracer
        self._span = tracer.start_span(
            "nametag.process", context=propagator.extract(carrier), kind=SpanKind.CONSUMER, attributes=attributes
        )
        self._context = set_span_in_context(self._span)
        ours: dict[str, str] = {}
        propagator.inject(ours, context=self._context)
        super().__init__(tuple((name, ours[name].encode()) for name in (PARENT, STATE) if name in ours))

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a part of the work; what it raises is told by its kind alone, for its words may quote the post.

        Of a picture that can't be had the kind is its status, as in the event.
        """
        with self._tracer.start_as_current_span(
            f"nametag.{name}", context=self._context, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                yield
            except Exception as error:
                kind = error.status.value if isinstance(error, ImageError) else type(error).__name__
                span.set_attribute("error.type", kind)
                raise

    def published(self, begun_ns: int) -> None:
        """The publication as a span, and the end of ours."""
        self._tracer.start_span("nametag.publish", context=self._context, start_time=begun_ns).end()
        self._span.end()


class Tracing:
    """Begins the traces of posts; with a `tracer` it makes spans."""

    def __init__(self, tracer: Any = None, close: Callable[[], None] = lambda: None) -> None:
        self._tracer = tracer
        self.close = close
        """Sends what is left."""

    @classmethod
    def by_otlp(cls, exporter: "SpanExporter | None" = None) -> "Tracing":
        """Spans by OTLP, or to `exporter`. Raises `SettingsError` where the extra isn't installed."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SettingsError(
                "trace needs OpenTelemetry: pip install 'nametag[tracing]', or set trace = false"
            ) from error
        # A name from OTEL_SERVICE_NAME, where that is set, wins.
        resource = Resource({SERVICE_NAME: "nametag"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(exporter or OTLPSpanExporter()))
        return cls(provider.get_tracer("nametag"), provider.shutdown)

    def begin(self, message: Message) -> PostTrace:
        """The trace that `message` carries; `NO_TRACE` where it carries none."""
        headers = trace_of(message.headers) if message.headers else ()
        if not headers:
            return NO_TRACE
        return PostTrace(headers) if self._tracer is None else _SpannedTrace(self._tracer, headers, message)


NO_SPANS = Tracing()
"""Trace contexts go on as they came."""


def now_ns() -> int:
    """Unix time in nanoseconds, as spans have it."""
    return time.time_ns()
