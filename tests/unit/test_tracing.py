"""Trace contexts: what a post brought along goes on, and spans reach a collector where they are asked for."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from consumers.deletes import Tombstone
from consumers.image_status import ImageStatus
from consumers.source import Message, Partition, Position
from consumers.traces import trace_of
from worker.errors import ImageError
from worker.tracing import NO_SPANS, NO_TRACE, Tracing

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01".encode()


def message(*headers: tuple[str, bytes]) -> Message:
    return Message(position=Position(Partition("posts", 2), 7), value=b"{}", headers=headers)


@pytest.mark.parametrize(
    "parent",
    [
        b"",
        PARENT.upper(),
        PARENT[:-1],
        PARENT + b"-more",
        b"ff" + PARENT[2:],
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        f"00-{TRACE_ID}-0000000000000000-01".encode(),
        PARENT + b"\n",
    ],
)
def test_what_is_no_trace_context_does_not_go_on(parent: bytes) -> None:
    """Neither a malformed parent nor a state that stands alone."""
    assert trace_of([("traceparent", parent), ("tracestate", b"a=1")]) == ()


def test_a_trace_context_is_read_as_the_standard_says() -> None:
    """Several states are one list; two parents are none; a later version may have more; a large state stays behind."""
    assert trace_of([("x", b"1"), ("traceparent", PARENT)]) == (("traceparent", PARENT),)
    states = [("tracestate", b"a=1"), ("tracestate", b"b=2")]
    assert trace_of([("traceparent", PARENT), *states]) == (("traceparent", PARENT), ("tracestate", b"a=1,b=2"))
    assert trace_of([("traceparent", PARENT), ("traceparent", PARENT)]) == ()
    assert trace_of([("traceparent", b"01" + PARENT[2:] + b"-more")]) != ()
    for bad in (b"a" * 600, b"a=1\r\nX: y", b"a=\0", b"a=\xe9", b""):
        assert trace_of([("traceparent", PARENT), ("tracestate", bad)]) == (("traceparent", PARENT),)


def test_without_spans_it_goes_on_as_it_came() -> None:
    """And a post without one has none."""
    headers = (("traceparent", PARENT), ("tracestate", b"a=1"))
    assert NO_SPANS.begin(message(*headers)).headers == headers
    assert NO_SPANS.begin(message()) is NO_TRACE
    assert Tombstone(id="1").traced(headers).headers[-2:] == headers


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A server that takes OTLP over HTTP, as a collector does; its address, and what came."""
    came: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            came.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", came
    server.shutdown()
    server.server_close()


def test_spans_reach_a_collector(
    collector: tuple[str, list[ExportTraceServiceRequest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Process below the producer's span, the others below process; the event names process as its parent."""
    address, came = collector
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    tracing = Tracing.by_otlp()
    trace = tracing.begin(message(("traceparent", PARENT), ("tracestate", b"a=1")))
    with pytest.raises(ImageError), trace.span("fetch"):
        raise ImageError(ImageStatus.TOO_SLOW, "secret words of a URL")
    with pytest.raises(ValueError, match="secret"), trace.span("tag"):
        raise ValueError("secret words of a post")
    trace.published(1)
    assert tracing.begin(message()) is NO_TRACE
    tracing.close()
    spans = {span.name: span for each in came for found in each.resource_spans for scope in found.scope_spans
             for span in scope.spans}  # fmt: skip
    assert set(spans) == {"nametag.process", "nametag.fetch", "nametag.tag", "nametag.publish"}
    process = spans.pop("nametag.process")
    assert process.trace_id.hex() == TRACE_ID
    assert process.parent_span_id.hex() == "00f067aa0ba902b7"
    assert all(span.parent_span_id == process.span_id for span in spans.values())
    assert dict(trace.headers) == {
        "traceparent": f"00-{TRACE_ID}-{process.span_id.hex()}-01".encode(), "tracestate": b"a=1"
    }  # fmt: skip
    assert "secret" not in str(came)
    told = {name: {each.key: each.value.string_value for each in span.attributes} for name, span in spans.items()}
    assert told["nametag.fetch"] == {"error.type": "too_slow"}
    assert told["nametag.tag"] == {"error.type": "ValueError"}
    assert told["nametag.publish"] == {}
    names = [each.value.string_value for each in came[0].resource_spans[0].resource.attributes]
    assert "nametag" in names
