"""Fetching pictures from the open internet, where any post can name any URL.

The address is checked where the socket is made, so that what was checked is what is dialled: no
rebinding, no IP literal past the resolver, on every hop. Redirects are followed by hand.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from worker.errors import ImageError
from worker.image_status import ImageStatus

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = frozenset({80, 443})
_BY_STATUS = {
    401: ImageStatus.FORBIDDEN,
    403: ImageStatus.FORBIDDEN,
    404: ImageStatus.NOT_FOUND,
    410: ImageStatus.GONE,
    451: ImageStatus.FORBIDDEN,
}
# Ways to write an IPv4 address inside an IPv6 one: NAT64, and 6to4 (2002::/16 is 'global' to Python).
_TUNNELS = tuple(map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")))


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long, how much and from where. `allow_origins` are exempt from the address guard."""

    total_seconds: float = 5.0
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
    if ip.version == 6 and (ip.ipv4_mapped is not None or any(ip in network for network in _TUNNELS)):
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _BlockedAddress(OSError):
    """Raised in place of a connection to an address that isn't public."""


class ImageFetcher:
    """Fetches pictures within limits; one fetch for all that wait for the same URL."""

    def __init__(self, limits: FetchLimits) -> None:
        self._limits = limits
        self._allowed = frozenset(URL(origin).origin() for origin in limits.allow_origins)
        self._flights: dict[str, asyncio.Task[bytes]] = {}
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._guarded = self._session(_guarded_socket)
        self._trusted = self._session(None)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for flight in self._flights.values():
            flight.cancel()
        for session in (self._guarded, self._trusted):
            if session is not None:
                await session.close()

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`. Raises `ImageError` with the status that the event will have."""
        flight = self._flights.get(url)
        if flight is None:
            flight = self._flights[url] = asyncio.create_task(self._fetch_in_time(url))
            flight.add_done_callback(lambda done: self._land(url, done))
        # A waiter that gives up must not take the flight from the others.
        return await asyncio.shield(flight)

    def _land(self, url: str, flight: asyncio.Task[bytes]) -> None:
        self._flights.pop(url, None)
        if not flight.cancelled():
            flight.exception()  # whoever waited has it; nobody may be left

    async def _fetch_in_time(self, url: str) -> bytes:
        try:
            async with asyncio.timeout(self._limits.total_seconds):
                return await self._follow(url)
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise ImageError(ImageStatus.TOO_SLOW, "not within the deadline") from error
        except _BlockedAddress as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error)) from error
        except aiohttp.ClientConnectorDNSError as error:
            raise ImageError(ImageStatus.NOT_FOUND, "the host's name can't be resolved") from error
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, _BlockedAddress):
                raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error.os_error)) from error
            raise ImageError(ImageStatus.HOST_DOWN, "the host can't be reached") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ImageError(ImageStatus.HOST_DOWN, f"the host broke off: {type(error).__name__}") from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            target = self._checked(url)
            session = self._trusted if target.origin() in self._allowed else self._guarded
            if session is None:
                raise RuntimeError("the fetcher is used outside of its `async with`")
            async with session.get(target, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response)
                url = str(target.join(URL(response.headers.get("Location", ""))))
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
            raise ImageError(status, f"the host answers {response.status}")
        limit = self._limits.max_image_bytes
        if (response.content_length or 0) > limit:
            raise ImageError(ImageStatus.TOO_LARGE, f"over {limit} bytes")
        data = bytearray()
        async for chunk in response.content.iter_chunked(64 * 1024):
            data += chunk
            if len(data) > limit:  # the length that was told may lie
                raise ImageError(ImageStatus.TOO_LARGE, f"over {limit} bytes")
        return bytes(data)

    def _session(self, socket_factory: Any) -> aiohttp.ClientSession:
        limits = self._limits
        connector = aiohttp.TCPConnector(
            limit=limits.overall, limit_per_host=limits.per_host, socket_factory=socket_factory
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


def _guarded_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise _BlockedAddress(f"{address[0]} is no public address")
    return socket.socket(family, kind, protocol)
