"""`nametag doctor` about tracing: the extra, and the place that spans go to."""

import socket
import sys

import pytest

from consumers.checks import Check
from worker.tracing_checks import check_tracing

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a collector."""
    for name in (VARIABLE, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


def endpoint() -> Check:
    extra, found = check_tracing(True, seconds=20)
    assert (extra.name, extra.state, found.name) == ("tracing.extra", "ok", "tracing.endpoint")
    return found


def test_without_spans_there_is_nothing_to_check() -> None:
    """A line says so."""
    (check,) = check_tracing(False, seconds=5)
    assert (check.name, check.state) == ("tracing", "skipped")


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker would not start; the place is not looked at."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    extra, place = check_tracing(True, seconds=20)
    assert (extra.state, extra.fix) == ("fail", "pip install 'nametag[tracing]', or set trace to false")
    assert place.state == "skipped"


def test_a_collector_that_listens_is_well_and_one_that_does_not_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker runs without it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        monkeypatch.setenv(VARIABLE, f"http://{address}")
        assert (endpoint().state, endpoint().seen) == ("ok", f"{address} takes connections")
    gone = endpoint()
    assert (gone.state, gone.seen) == ("warn", f"spans go nowhere: nothing listens at {address}")
    assert gone.fix == f"start the server at {address}, or correct the port in {VARIABLE}"


def test_the_place_is_the_one_that_spans_go_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable of traces alone wins; what is no URL is told with one that is."""
    for text in ("localhost:4318", "http://"):
        monkeypatch.setenv(VARIABLE, text)
        wrong = endpoint()
        assert (wrong.state, wrong.fix) == ("warn", f"set {VARIABLE} to one such as http://localhost:4318")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{port}/v1/traces")
        assert endpoint().state == "ok"
