"""Fetching pictures from the open internet, where any post can name any URL.

The address is checked where the socket is made, so that what was checked is what is dialled: no
rebinding, no IP literal past the resolver, on every hop. Redirects are followed by hand.
"""

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from consumers.image_status import ImageStatus
from worker.errors import ImageError
from worker.retry import RetryPolicy, retry

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = frozenset({80, 443})
_BY_STATUS = {
    401: ImageStatus.FORBIDDEN,
    403: ImageStatus.FORBIDDEN,
    404: ImageStatus.NOT_FOUND,
    410: ImageStatus.GONE,
    451: ImageStatus.FORBIDDEN,
}
_PASSING = frozenset({502, 503, 504})
"""Answers of a host that may be well again in a moment."""
# What is 'global' to Python, or to some release of it, and must not be dialled: the IETF's own blocks, the
# tunnels that carry an IPv4 address inside an IPv6 one (Teredo, 6to4 and its relay), and documentation.
_NOT_DIALLED = tuple(
    map(ipaddress.ip_network, ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20"))
)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_DNS_THREADS = 8
_DNS_CACHE_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long, how much and from where. `allow_origins` are exempt from the address guard.

    `attempts` are for what may pass, such as a connection that broke off; `total_seconds` is for all of them.
    """

    total_seconds: float = 5.0
    attempts: int = 2
    connect_seconds: float = 2.0
    idle_seconds: float = 2.0
    max_image_bytes: int = 10 * 1024 * 1024
    max_redirects: int = 3
    max_url_length: int = 2048
    per_host: int = 8
    overall: int = 64
    user_agent: str = "nametag"
    allow_origins: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name in (
            "total_seconds",
            "attempts",
            "connect_seconds",
            "idle_seconds",
            "max_image_bytes",
            "per_host",
            "overall",
        ):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")


def is_public(address: str) -> bool:
    """Whether an IP address may be dialled: globally routable, and no tunnel to another one."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.version == 6 and ip not in _GLOBAL_UNICAST:  # mapped, NAT64, site-local, …
        return False
    if any(ip in network for network in _NOT_DIALLED):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _BlockedAddress(OSError):
    """Raised in place of a connection to an address that isn't public."""


class _Resolver(AbstractResolver):
    """Looks names up on threads of its own.

    A name server that never answers holds a thread for half a minute; on asyncio's default threads
    it would hold up all that is run there. Addresses that aren't public are left out already here, so
    that a host with none but those is told apart; the socket is guarded all the same.
    """

    def __init__(self, threads: ThreadPoolExecutor, *, guarded: bool) -> None:
        self._threads = threads
        self._guarded = guarded

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`. Raises `_BlockedAddress` where it has none but guarded ones."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        addresses = [(kind, protocol, str(address[0])) for kind, _, protocol, _, address in found]
        dialled = [entry for entry in addresses if not self._guarded or is_public(entry[2])]
        if addresses and not dialled:
            raise _BlockedAddress(f"{addresses[0][2]} is no public address")
        return [
            ResolveResult(
                hostname=host, host=address, port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, protocol, address in dialled
        ]

    async def close(self) -> None:
        """Nothing to let go of: the threads are the fetcher's."""


class ImageFetcher:
    """Fetches pictures within limits."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._allowed = frozenset(URL(origin).origin() for origin in limits.allow_origins)
        self._dns = ThreadPoolExecutor(_DNS_THREADS, thread_name_prefix="dns")
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._guarded = self._session(guarded=True)
        self._trusted = self._session(guarded=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for session in (self._guarded, self._trusted):
            if session is not None:
                await session.close()
        self._dns.shutdown(wait=False, cancel_futures=True)

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`. Raises `ImageError` with the status that the event will have."""
        policy = RetryPolicy(attempts=self._limits.attempts, total_seconds=self._limits.total_seconds)
        try:
            return await retry(policy, lambda: self._fetch_once(url))
        except TimeoutError as error:
            raise ImageError(ImageStatus.TOO_SLOW, "not within the deadline") from error

    async def _fetch_once(self, url: str) -> bytes:
        try:
            return await self._follow(url)
        except TimeoutError as error:
            raise ImageError(ImageStatus.TOO_SLOW, "not within the time to connect or to the next byte") from error
        except _BlockedAddress as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error)) from error
        except aiohttp.InvalidURL as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "no URL") from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _BlockedAddress):
                raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error.os_error)) from error
            if isinstance(error, aiohttp.ClientConnectorDNSError):
                raise ImageError(ImageStatus.NOT_FOUND, "the host's name can't be resolved") from error
            raise ImageError(ImageStatus.HOST_DOWN, "the host can't be reached", retriable=True) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            detail = f"the host broke off: {type(error).__name__}"
            raise ImageError(ImageStatus.HOST_DOWN, detail, retriable=True) from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            target = self._checked(url)
            session = self._trusted if target.origin() in self._allowed else self._guarded
            if session is None:
                raise RuntimeError("the fetcher is used outside of its `async with`")
            async with session.get(target, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response)
                url = _next_hop(target, response.headers.get("Location"))
        raise ImageError(ImageStatus.BLOCKED_ADDRESS, "too many redirects")

    def _checked(self, url: str) -> URL:
        if len(url) > self._limits.max_url_length:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "the URL is too long")
        try:
            target = URL(url)
            origin = target.origin() if target.host else None
        except ValueError as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "no URL") from error
        if target.scheme not in ("http", "https") or origin is None:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "only http and https are fetched")
        if target.user is not None or target.password is not None:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "the URL carries credentials")
        if origin not in self._allowed and target.port not in _PORTS:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, f"port {target.port} is not fetched from")
        return target

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            status = _BY_STATUS.get(response.status)
            if status is None:
                status = ImageStatus.HOST_DOWN if response.status >= 500 else ImageStatus.NOT_FOUND
            retriable = response.status in _PASSING
            raise ImageError(status, f"the host answers {response.status}", retriable=retriable)
        limit = self._limits.max_image_bytes
        if (response.content_length or 0) > limit:
            raise ImageError(ImageStatus.TOO_LARGE, f"over {limit} bytes")
        data = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            data += chunk
            if len(data) > limit:  # the length that was told may lie
                raise ImageError(ImageStatus.TOO_LARGE, f"over {limit} bytes")
        return bytes(data)

    def _session(self, *, guarded: bool) -> aiohttp.ClientSession:
        limits = self._limits
        connector = aiohttp.TCPConnector(
            limit=limits.overall,
            limit_per_host=limits.per_host,
            resolver=_Resolver(self._dns, guarded=guarded),
            ttl_dns_cache=_DNS_CACHE_SECONDS,
            socket_factory=_guarded_socket if guarded else None,
        )
        timeout = aiohttp.ClientTimeout(
            total=limits.total_seconds, sock_connect=limits.connect_seconds, sock_read=limits.idle_seconds
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity", "User-Agent": limits.user_agent, "Accept": "image/*"},
            trust_env=False,
        )


def _next_hop(target: URL, location: str | None) -> str:
    if not location:
        raise ImageError(ImageStatus.NOT_FOUND, "a redirect to nowhere")
    try:
        return str(target.join(URL(location)))
    except ValueError as error:
        raise ImageError(ImageStatus.BLOCKED_ADDRESS, "a redirect to what is no URL") from error


def _guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _BlockedAddress(f"{address[0]} is no public address")
    return socket.socket(family, kind, protocol)
