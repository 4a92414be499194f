"""Whether spans can be made, and something takes them where OpenTelemetry's own variables say."""

import os
from collections.abc import Callable
from urllib.parse import urlsplit

from consumers.checks import Check, Checklist, Found, Trouble, ok
from consumers.network_checks import Server, resolve, take_connection
from worker.errors import SettingsError
from worker.tracing import Tracing

IMPORT_SECONDS = 15.0
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
DEFAULT_ENDPOINT = "http://localhost:4318"
PORTS = {"http": 80, "https": 443}


def check_tracing(
    trace: bool, *, seconds: float, on_check: Callable[[Check], None] = lambda _check: None
) -> list[Check]:
    """The checks of `trace`, within `seconds`. No span is sent; the worker goes on where nobody takes them."""
    checklist = Checklist(seconds, on_check)
    if not trace:
        checklist.skip("tracing", "trace is false: no spans are made")
        return checklist.checks
    late = "look at the way to the name server, or set trace to false"
    extra = checklist.do("tracing.extra", _extra, late="try again", seconds=IMPORT_SECONDS)
    checklist.do("tracing.endpoint", _endpoint, needs=(extra,), late=late)
    return checklist.checks


def _extra() -> Found:
    try:
        Tracing.by_otlp().close()
    except SettingsError:
        seen = "trace is true, and OpenTelemetry is not installed: the worker would not start"
        raise Trouble(seen, "pip install 'nametag[tracing]', or set trace to false") from None
    return ok("OpenTelemetry is installed")


def _endpoint() -> Found:
    """The variable of traces alone wins over that of all signals."""
    variable = next(
        (name for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT) if os.environ.get(name)), ENDPOINT
    )
    try:
        url = urlsplit(os.environ.get(variable) or DEFAULT_ENDPOINT)
        server = Server(url.hostname or "", url.port or PORTS[url.scheme], variable)
        if not server.host:
            raise ValueError("no host")
    except (ValueError, KeyError):
        return Found(
            "warn", f"{variable} is no URL of a collector", f"set {variable} to one such as {DEFAULT_ENDPOINT}"
        )
    try:
        resolve(server)
        take_connection(server)
    except Trouble as trouble:
        return Found("warn", f"spans go nowhere: {trouble}", trouble.found.fix)
    return ok(f"{server} takes connections")
