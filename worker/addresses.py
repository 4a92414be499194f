"""Where a worker may go: which URLs, and which addresses behind their names.

Any post can name any URL, and a worker runs inside somebody's network. A URL is read strictly, since what two
readers read differently is how a guard is passed; and the address is checked where the socket is made, so that
what was checked is what is dialled: no rebinding, no literal past the resolver.
"""

import asyncio
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from worker.domains import Shares, registered_domain

_PORTS = frozenset({80, 443})
# IANA's special-purpose registries. Python's `is_global` has most of them, but which depends on its release;
# and to it tunnels that carry an IPv4 address inside an IPv6 one (Teredo, 6to4 and its relay) are global.
_NOT_DIALLED = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
            "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
            "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
            "224.0.0.0/3",
            "2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20",
        ),
    )
)  # fmt: skip
# The rest of IPv6 is loopback, mapped, NAT64, unique local, link-local, site-local, multicast or unassigned.
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_LONGEST_NAME = 253
_ORIGIN = re.compile(r"https?://[^/?#@\\\s\x00-\x1f\x7f*%]+(?<!:)/?", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_THREADS = 32
_THREADS_PER_DOMAIN = 4
_KEPT_SECONDS = 60.0
_MAX_KEPT = 1000

LookUp = Callable[[str], list[str]]
"""A host's name to its addresses. Raises `socket.gaierror` where it has none."""


class BlockedAddress(OSError):
    """Raised in place of a connection to where a worker must not go."""


def is_public(address: str) -> bool:
    """Whether an IP address may be dialled: globally routable, and no tunnel to another one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None or ip not in _GLOBAL_UNICAST:
            return False
        if int(ip) >> 32 & 0xFFFFFFFF in _ISATAP:
            return False
    if any(ip in network for network in _NOT_DIALLED):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def checked_url(text: str, *, allowed: frozenset[URL], max_length: int) -> URL:
    """The URL to fetch. Raises `BlockedAddress` where none of its kind is fetched.

    An origin in `allowed` may have any port and address. A name's addresses are checked later, when it is dialled.
    """
    if len(text) > max_length:
        raise BlockedAddress("the URL is too long")
    if _CONTROL_OR_BACKSLASH.search(text):
        raise BlockedAddress("the URL holds control characters or backslashes")
    try:
        url = URL(text)
        # yarl reads some parts only when asked for them.
        origin, host, port = url.origin() if url.host else None, url.raw_host or "", url.port
        has_user = url.user is not None or url.password is not None
    # As broad as can be: the text is a stranger's, and yarl says ValueError of most that it can't read, but
    # IndexError of http://u[::1]@. What can't be read isn't fetched, whatever the reader thinks of it.
    except Exception as error:
        raise BlockedAddress("no URL") from error
    if url.scheme not in ("http", "https") or origin is None:
        raise BlockedAddress("only http and https are fetched")
    # An empty name, as in http://@host, is dropped by yarl, and by others maybe not.
    authority = re.split(r"[/?#]", text.partition("//")[2], maxsplit=1)[0]
    if has_user or "@" in authority:
        raise BlockedAddress("the URL carries credentials")
    if origin in allowed:
        return url
    if port not in _PORTS:
        raise BlockedAddress(f"port {port} is not fetched from")
    _check_host(host, is_bracketed="[" in authority)
    return url


def redirected(url: URL, location: str) -> str:
    """The URL that a redirect from `url` leads to. Raises `BlockedAddress` where it leads to none."""
    if not location or _CONTROL_OR_BACKSLASH.search(location):
        raise BlockedAddress("a redirect to nowhere")
    # One that names a host is left as it came, for `checked_url`: on the way into a URL it would be mended.
    if _SCHEME.match(location):
        return location
    if location.startswith("//"):
        return f"{url.scheme}:{location}"
    try:
        return str(url.join(URL(location)))
    except Exception as error:  # as broad as in `checked_url`, and for the same reason
        raise BlockedAddress("a redirect to nowhere") from error


def allowed_origin(text: str) -> URL:
    """An origin that is exempt from the guard. Raises `ValueError` where it is none, or more than one."""
    try:
        url = URL(text)
        host, port, has_user = url.raw_host or "", url.port, url.user is not None or url.password is not None
    except Exception as error:  # as broad as in `checked_url`
        raise ValueError("no URL") from error
    is_plain = _ORIGIN.fullmatch(text) is not None and url.path in ("", "/") and not has_user and bool(port)
    is_bracketed = "[" in text
    if not is_plain or is_bracketed != (":" in host) or not _is_host(host):
        raise ValueError("no origin")
    return url.origin()


def _is_host(host: str) -> bool:
    if ":" in host or _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return True
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        return False
    try:
        host.encode("ascii").decode("idna")
    except UnicodeError:
        return False
    return True


def _check_host(host: str, *, is_bracketed: bool) -> None:
    if is_bracketed or ":" in host:
        if not is_public(host):
            raise BlockedAddress(f"{host} is no public address")
        return
    if len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise BlockedAddress("no host's name")
    if _NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):
        # An address in a short, octal or hexadecimal form is another one to another reader, such as a proxy.
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise BlockedAddress("an IPv4 address in no canonical form") from None
        if not is_public(host):
            raise BlockedAddress(f"{host} is no public address")


def look_up(host: str) -> list[str]:
    """The addresses that the system has for a name."""
    return [str(address[0]) for *_, address in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]


class NoAnswer(OSError):
    """Raised when no name server answers in time. It says nothing of the host that the name is of."""


@dataclass(slots=True)
class _LookUp:
    result: asyncio.Future[list[str]]
    work: Future[list[str]]
    num_waiting: int = 0


class LookUps:
    """Looks names up on threads of its own, waits no longer than `seconds`, and keeps what it found for a while.

    A name server that never answers holds a thread for half a minute; on asyncio's default threads it would hold
    up all that is run there. Since anybody can run such a name server, the names of one registered domain hold a
    few of the threads at most, each until it is free again; who waits for one of those waits for nobody else's.
    A name that is asked for again while it is looked up is not looked up twice.
    """

    def __init__(self, find: LookUp, *, seconds: float) -> None:
        self._find = find
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="dns")
        self._shares = Shares(_THREADS_PER_DOMAIN)
        self._running: dict[str, _LookUp] = {}
        self._kept: OrderedDict[str, tuple[float, list[str]]] = OrderedDict()

    async def addresses(self, host: str) -> list[str]:
        """The addresses of `host`. Raises `NoAnswer` where they aren't known in time."""
        until, kept = self._kept.get(host, (0.0, []))
        if asyncio.get_running_loop().time() < until:
            self._kept.move_to_end(host)
            return kept
        try:
            async with asyncio.timeout(self._seconds):
                return await self._found(host)
        except TimeoutError:
            raise NoAnswer("no name server answers in time") from None

    def close(self) -> None:
        """Begin no look-up any more. Those that run are left to end by themselves, and tell nobody."""
        for look_up in self._running.values():
            look_up.result.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _found(self, host: str) -> list[str]:
        if host not in self._running:
            domain = registered_domain(host)
            await self._shares.acquire(domain)
            if host in self._running:  # somebody else has begun it since
                self._shares.release(domain)
            else:
                self._begin(host, domain)
        look_up = self._running[host]
        look_up.num_waiting += 1
        try:
            return await asyncio.shield(look_up.result)
        finally:
            look_up.num_waiting -= 1
            if not look_up.num_waiting and look_up.work.cancel():  # it hadn't begun, and is off the queue
                self._end(host, look_up)

    def _begin(self, host: str, domain: str) -> None:
        try:
            work = self._threads.submit(self._find, host)
        except BaseException:
            self._shares.release(domain)
            raise
        look_up = self._running[host] = _LookUp(asyncio.wrap_future(work), work)
        look_up.result.add_done_callback(lambda _result: self._end(host, look_up))

    def _end(self, host: str, look_up: _LookUp) -> None:
        if self._running.get(host) is not look_up:  # it has been taken off the queue
            return
        del self._running[host]
        self._shares.release(registered_domain(host))
        result = look_up.result
        if not result.done() or result.cancelled() or result.exception() is not None or not result.result():
            return
        self._kept[host] = asyncio.get_running_loop().time() + _KEPT_SECONDS, result.result()
        self._kept.move_to_end(host)
        while len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)


class Resolver(AbstractResolver):
    """Gives connections the addresses that `look_ups` finds.

    Addresses that aren't public are left out already here, so that a host with none but those is told apart; the
    socket is guarded all the same.
    """

    def __init__(self, look_ups: LookUps, *, guarded: bool) -> None:
        self._look_ups = look_ups
        self._guarded = guarded

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`. Raises `BlockedAddress` where it has none but guarded ones."""
        found = await self._look_ups.addresses(host)
        dialled = [address for address in found if not self._guarded or is_public(address)]
        if found and not dialled:
            raise BlockedAddress(f"{found[0]} is no public address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in dialled
        ]

    async def close(self) -> None:
        """Nothing to let go of: the look-ups are the fetcher's."""


def guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the address that it will be connected to. Raises `BlockedAddress` where that isn't public."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise BlockedAddress(f"{address[0]} is no public address")
    return socket.socket(family, kind, protocol)
