"""Whether the worker's own server can listen where the settings say, and whom it is open to."""

import asyncio
import errno
import http.client
import ipaddress
import socket
from collections.abc import Callable
from contextlib import suppress

from consumers.checks import Check, Checklist, Found, ok
from consumers.network_checks import Server
from worker.settings import ServerTable

ASK_SECONDS = 2.0
METRICS_BYTES = 64 * 1024
OURS = b"nametag_"
"""What the name of each metric of a worker begins with."""


def check_server(
    server: ServerTable, *, seconds: float, on_check: Callable[[Check], None] = lambda _check: None
) -> list[Check]:
    """The checks of `[server]`, within `seconds`. The port is listened on for a moment."""
    checklist = Checklist(seconds, on_check)
    late = "set server.host and server.port to others"
    port = checklist.do("server.port", lambda: _port(server), late=late)
    checklist.do("server.token", lambda: _token(server), needs=(port,), late=late)
    return checklist.checks


def _port(server: ServerTable) -> Found:
    place = Server(server.host, server.port, "server.host")
    try:
        asyncio.run(_listen(server))
    except OSError as error:
        return _refused(place, error)
    return ok("a free port is taken at the start" if server.port == 0 else f"{place} is free to listen on")


async def _listen(server: ServerTable) -> None:
    # As the worker's server does it, a name with several addresses included.
    listening = await asyncio.get_running_loop().create_server(asyncio.Protocol, server.host, server.port)
    listening.close()


def _refused(place: Server, error: OSError) -> Found:
    if error.errno == errno.EADDRINUSE:
        if _is_worker(place):
            seen = f"a worker listens on {place} already"
            return Found("warn", seen, "for another one beside it, set server.port to a free one, or to 0")
        return Found("fail", f"{place} is taken by another program", "set server.port to a free one, or to 0")
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        fix = "set server.host to 127.0.0.1, or to 0.0.0.0 for every address that there is"
        return Found("fail", f"{place.host} is no address of this machine", fix)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Found("fail", f"this user may not listen on {place}", "set server.port to 1024 or above")
    return Found(
        "fail", f"{place} can't be listened on ({error.strerror})", "set server.host and server.port to others"
    )


def _is_worker(place: Server) -> bool:
    """Whether what listens there is a worker, of which anybody may read the metrics."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(place.host, place.host)
    asked = http.client.HTTPConnection(host, place.port, timeout=ASK_SECONDS)
    with suppress(OSError, http.client.HTTPException):
        asked.request("GET", "/metrics")
        return OURS in asked.getresponse().read(METRICS_BYTES)
    return False


def _token(server: ServerTable) -> Found:
    if server.token is not None:
        return ok("all but health and metrics is for holders of server.token")
    answers = socket.getaddrinfo(server.host or None, server.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    if all(ipaddress.ip_address(str(answer[4][0])).is_loopback for answer in answers):
        return ok(f"without a token, and only this machine reaches {server.host}")
    return Found(
        "warn",
        f"whoever reaches {server.host} can read the posts on /live, and use /tag: there is no token",
        "set server.token (NAMETAG_SERVER__TOKEN) to 16 or more characters that nobody guesses",
    )
