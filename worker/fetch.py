"""Fetching pictures from the open internet, where any post can name any URL.

worker/addresses.py says where a fetch may go, on every hop, for redirects are followed by hand; worker/hosts.py
when a host may be asked. Here is how long it may take, how much it may send, and what its answers mean.
"""

import asyncio
import errno
import re
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.helpers import is_ip_address
from yarl import URL

from consumers.image_status import ImageStatus
from worker.addresses import (
    BlockedAddress,
    LookUp,
    LookUps,
    NoAnswer,
    Resolver,
    allowed_origin,
    checked_url,
    guarded_socket,
    look_up,
    redirected,
)
from worker.errors import ImageError, NothingLearnt
from worker.hosts import HostFailure, HostLimits, Hosts, seconds_asked
from worker.limits import LONGEST_SECONDS, check_number
from worker.retry import RetryPolicy, retry
from worker.wire import TooMuchWork, WatchedConnector

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BY_STATUS = {
    401: ImageStatus.FORBIDDEN,
    403: ImageStatus.FORBIDDEN,
    404: ImageStatus.NOT_FOUND,
    407: ImageStatus.HOST_DOWN,  # said by a proxy, of itself
    410: ImageStatus.GONE,
    451: ImageStatus.FORBIDDEN,
}
_PASSING = frozenset({429, 502, 503, 504})
"""Answers of a host that may be well again in a moment."""
_OWN_TROUBLE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
"""Errors of a connection that say nothing of the host."""
_KEPT_SECONDS = 5.0
_MAX_IDLE = 64
_MOST = {
    "total_seconds": LONGEST_SECONDS,
    "attempts": 100,
    "connect_seconds": LONGEST_SECONDS,
    "idle_seconds": LONGEST_SECONDS,
    "least_rate": 1e9,
    "rate_grace_seconds": LONGEST_SECONDS,
    "max_image_bytes": 2**31,
    "max_url_length": 1_000_000,
}
_CONTACT = re.compile(r"[!-'*-~]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How long, how much and from where. `allow_origins` are exempt from the address guard.

    `attempts` are for what may pass, such as a connection that broke off; `total_seconds` is for all of them. A
    body has to come at `least_rate` bytes a second on average, once `rate_grace_seconds` are over. `contact`, a
    URL or a mail address, is told to hosts.

    `proxy` is where all requests go through, as http://host:port, with credentials if it wants them. It then
    looks the hosts' names up, and the guard knows only what this machine finds for a name before it is handed
    over: it can't promise that the proxy finds the same (rebinding), nor where the proxy dials. A proxy has to
    refuse private addresses by itself. A name that can't be resolved here is not handed over.
    """

    total_seconds: float = 5.0
    attempts: int = 2
    connect_seconds: float = 2.0
    idle_seconds: float = 2.0
    least_rate: float = 1024.0
    rate_grace_seconds: float = 2.0
    max_image_bytes: int = 10 * 1024 * 1024
    max_redirects: int = 3
    max_url_length: int = 2048
    hosts: HostLimits = field(default_factory=HostLimits)
    contact: str | None = None
    proxy: str | None = field(default=None, repr=False)
    allow_origins: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            check_number(name, getattr(self, name), most=most)
        check_number("max_redirects", self.max_redirects, least=0, most=100)
        for origin in self.allow_origins:
            try:
                allowed_origin(origin)
            except ValueError:
                told = origin.rpartition("@")[2]  # a password is not to be read in a log
                raise ValueError(
                    f"allow_origins must be origins such as http://127.0.0.1:8000, and nothing more, not {told!r}"
                ) from None
        if self.contact is not None and not _CONTACT.fullmatch(self.contact):
            raise ValueError("contact must be a URL or a mail address, in ASCII without spaces and parentheses")
        if self.proxy is not None and not _is_proxy(self.proxy):
            raise ValueError(
                "proxy must be http://host:port, or http://user:password@host:port, with a user without a colon "
                "and both in Latin-1"
            )

    @property
    def user_agent(self) -> str:
        """What hosts are told of who asks."""
        name = f"nametag/{version('nametag')}"
        return name if self.contact is None else f"{name} (+{self.contact})"


class ImageFetcher:
    """Fetches pictures within limits. `find` looks names up; `on_event` hears what worker/hosts.py does."""

    def __init__(
        self,
        limits: FetchLimits,
        *,
        find: LookUp = look_up,
        on_event: Callable[[str], None] = lambda _event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._allowed = frozenset(allowed_origin(origin) for origin in limits.allow_origins)
        self._proxy = None if limits.proxy is None else URL(limits.proxy)
        self._look_ups = LookUps(find, seconds=limits.connect_seconds)
        self._guard = Resolver(self._look_ups, guarded=True)
        self._free = Resolver(self._look_ups, guarded=False)
        self._hosts = Hosts(
            limits.hosts,
            patience_seconds=min(limits.idle_seconds, limits.total_seconds / 2),
            probe_seconds=limits.total_seconds,
            on_event=on_event,
            clock=clock,
        )
        self._guarded: aiohttp.ClientSession | None = None
        self._trusted: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._guarded = self._session(guarded=True)
        self._trusted = self._session(guarded=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._hosts.close()
        for session in (self._guarded, self._trusted):
            if session is not None:
                await session.close()
        self._look_ups.close()

    def check(self, url: str) -> None:
        """Raise `ImageError` where `url` itself says that it may not be fetched."""
        self._checked(url)

    async def fetch(self, url: str) -> bytes:
        """The bytes at `url`. Raises `ImageError` with the status that the event will have."""
        policy = RetryPolicy(attempts=self._limits.attempts, total_seconds=self._limits.total_seconds)
        try:
            return await retry(policy, lambda: self._follow(url))
        except TimeoutError as error:
            raise ImageError(ImageStatus.TOO_SLOW, "not within the deadline") from error

    async def _follow(self, url: str) -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            target = self._checked(url)
            host = f"{(target.raw_host or '').rstrip('.')}:{target.port}"
            answer = await self._hosts.visit(host, partial(self._request, target), partial(self._look_up, target))
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise ImageError(ImageStatus.BLOCKED_ADDRESS, "too many redirects")

    def _checked(self, url: str) -> URL:
        try:
            return checked_url(url, allowed=self._allowed, max_length=self._limits.max_url_length)
        except BlockedAddress as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error)) from error

    async def _look_up(self, target: URL) -> None:
        """Have the name's addresses ready, so that what goes wrong with the look-up isn't the host's fault."""
        host = target.raw_host or ""
        if is_ip_address(host):
            return
        try:
            await (self._free if target.origin() in self._allowed else self._guard).resolve(host)
        except BlockedAddress as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error)) from error
        except OSError as error:
            raise _unresolved(error) from error
        except ValueError as error:  # a name that the system's look-up can't write down
            raise ImageError(ImageStatus.NOT_FOUND, "the host's name can't be resolved") from error

    async def _request(self, target: URL) -> bytes | str:
        """One hop: the bytes, or the URL that a redirect leads to."""
        try:
            return await self._get(target)
        except TimeoutError as error:
            detail = "not within the time to connect or to the next byte, or below the least rate"
            raise HostFailure(ImageStatus.TOO_SLOW, detail) from error
        except TooMuchWork as error:
            raise HostFailure(ImageStatus.TOO_SLOW, str(error)) from error
        except BlockedAddress as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, str(error)) from error
        except (socket.gaierror, NoAnswer) as error:
            raise _unresolved(error) from error
        except aiohttp.InvalidURL as error:
            raise ImageError(ImageStatus.BLOCKED_ADDRESS, "no URL") from error
        except aiohttp.ClientConnectorError as error:
            raise _unconnected(error) from error
        except aiohttp.ClientHttpProxyError as error:
            kind = HostFailure if error.status >= 500 else ImageError
            raise kind(ImageStatus.HOST_DOWN, f"the proxy answers {error.status}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in _OWN_TROUBLE:
                raise _own_trouble() from error
            detail = f"the host broke off: {type(error).__name__}"
            raise HostFailure(ImageStatus.HOST_DOWN, detail, retriable=True) from error

    async def _get(self, target: URL) -> bytes | str:
        is_allowed = target.origin() in self._allowed
        if self._proxy is not None and not is_allowed:
            await self._guard.resolve(target.raw_host or "")
        # The connection to a proxy is the operator's own, and so not guarded.
        session = self._trusted if is_allowed or self._proxy is not None else self._guarded
        if session is None:
            raise RuntimeError("the fetcher is used outside of its `async with`")
        async with session.get(target, allow_redirects=False) as response:
            if response.status not in _REDIRECTS:
                return await self._read(response)
            return redirected(target, response.headers.get("Location", ""))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        if response.status != 200:
            raise _refused(response.status, response.headers.get("Retry-After"))
        limits = self._limits
        too_large = ImageError(ImageStatus.TOO_LARGE, f"over {limits.max_image_bytes} bytes")
        if (response.content_length or 0) > limits.max_image_bytes:
            raise too_large
        data = bytearray()
        start = asyncio.get_running_loop().time()
        while True:
            # When what has come by then would be too little; sooner than that, silence is the idle limit's.
            due = start + max(limits.rate_grace_seconds, min(len(data) / limits.least_rate, limits.total_seconds))
            async with asyncio.timeout_at(due):
                chunk = await response.content.readany()
            if not chunk:
                return bytes(data)
            data += chunk
            await asyncio.sleep(0)  # what has come already is had without a pause, and others wait
            if len(data) > limits.max_image_bytes:  # the length that was told may lie
                raise too_large

    def _session(self, *, guarded: bool) -> aiohttp.ClientSession:
        limits = self._limits
        connector = WatchedConnector(
            max_idle=_MAX_IDLE,
            limit=0,  # the turns of worker/hosts.py are the limit
            resolver=self._guard if guarded else self._free,
            use_dns_cache=False,  # worker/addresses.py has one
            socket_factory=guarded_socket if guarded else None,
            keepalive_timeout=_KEPT_SECONDS,
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
            proxy=None if guarded else self._proxy,
            trust_env=False,
        )


def _is_proxy(text: str) -> bool:
    try:
        url = URL(text)
        f"{url.user or ''}{url.password or ''}".encode("latin-1")  # as the header has it
        allowed_origin("http://" + text.partition("//")[2].rpartition("@")[2])  # as plain as one of those
        return url.scheme == "http" and ":" not in (url.user or "")
    except Exception:  # yarl raises more than ValueError, as in worker/addresses.py
        return False


def _refused(code: int, retry_after: str | None) -> ImageError:
    detail = f"the host answers {code}"
    if code in _PASSING or code >= 500:
        seconds = seconds_asked(retry_after, time.time()) if code in (429, 503) else None
        retriable = code in _PASSING and not seconds
        return HostFailure(ImageStatus.HOST_DOWN, detail, retriable=retriable, wait_seconds=seconds)
    return ImageError(_BY_STATUS.get(code, ImageStatus.NOT_FOUND), detail)


def _unresolved(error: OSError) -> ImageError:
    if isinstance(error, NoAnswer):  # not tried again, since that would hold another thread for as long
        return NothingLearnt(ImageStatus.HOST_DOWN, "no name server answers in time")
    # A name server's trouble, or this machine's where it has no files or memory left; nothing that the name is.
    if error.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM, socket.EAI_MEMORY) or not isinstance(
        error, socket.gaierror
    ):
        return NothingLearnt(ImageStatus.HOST_DOWN, "no name server answers", retriable=True)
    return ImageError(ImageStatus.NOT_FOUND, "the host's name can't be resolved")


def _own_trouble() -> ImageError:
    return NothingLearnt(ImageStatus.HOST_DOWN, "no connection can be made here", retriable=True)


def _unconnected(error: aiohttp.ClientConnectorError) -> ImageError:
    cause = error.os_error
    if isinstance(cause, BlockedAddress):
        return ImageError(ImageStatus.BLOCKED_ADDRESS, str(cause))
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _unresolved(cause)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return NothingLearnt(ImageStatus.HOST_DOWN, "the proxy can't be reached", retriable=True)
    if cause.errno in _OWN_TROUBLE:
        return _own_trouble()
    if isinstance(error, aiohttp.ClientSSLError):
        return HostFailure(ImageStatus.HOST_DOWN, "no TLS with the host")
    return HostFailure(ImageStatus.HOST_DOWN, "the host can't be reached", retriable=True)
