"""The guard by itself: which addresses are public, and that what was checked is what is dialled."""

import asyncio
import ipaddress
import socket
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from consumers.image_status import ImageStatus
from tests.network import Recorder, http_host, name_server, recording
from worker.addresses import BlockedAddress, checked_url, guarded_socket, is_public, redirected
from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher

OUTSIDE = "93.184.215.14"


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8", "1.1.1.1", "1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0",
        "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255",
        "2606:4700:4700::1111", "2001:200::", "2001:4860:4860::8888", "2001:db7:ffff::", "2001:db9::", "2003::",
        "2a00::",
        "2c00::1",
    ],
)  # fmt: skip
def test_public_addresses_may_be_dialled(address: str) -> None:
    """The guard lets the internet through, up to the neighbours of what it refuses."""
    assert is_public(address)


@pytest.mark.parametrize(
    "network",
    [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/32",
        "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28", "2001:30::/28",
        "2001:db8::/32",
        "2002::/16", "2620:4f:8000::/48", "3fff::/20", "4000::/2", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10",
        "ff00::/8",
    ],
)  # fmt: skip
def test_no_address_of_a_special_network_is_dialled(network: str) -> None:
    """First and last of each block in IANA's registries, and of the tunnels."""
    block = ipaddress.ip_network(network)
    assert not is_public(str(block[0]))
    assert not is_public(str(block[-1]))
    assert not is_public(str(block[block.num_addresses // 2]))


@pytest.mark.parametrize(
    "text", ["", "localhost", "127.1", "0x7f.0.0.1", "8.8.8.8%eth0", "2a00::1%eth0", "2a00::5efe:0a00:1"]
)
def test_what_is_no_plain_address_is_not_public(text: str) -> None:
    """Names, short forms, zones, and ISATAP, which carries an IPv4 address in its last half."""
    assert not is_public(text)


@pytest.mark.parametrize(
    "address", [("127.0.0.1", 80), ("10.0.0.1", 80), ("::1", 80, 0, 0), ("::ffff:8.8.8.8", 80, 0, 0)]
)
def test_no_socket_is_made_for_a_private_address(address: tuple[Any, ...]) -> None:
    """The last line, past whatever is wrong with the reading of URLs and the resolver."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with pytest.raises(BlockedAddress):
        guarded_socket((family, socket.SOCK_STREAM, 6, "", address))


def test_an_allowed_origin_is_exempt_and_no_other_of_its_host() -> None:
    """Scheme, host and port all count; the rest of the rules holds for it too."""
    allowed = frozenset({URL("http://127.0.0.1:8000")})

    def check(text: str) -> URL:
        return checked_url(text, allowed=allowed, max_length=100)

    assert str(check("http://127.0.0.1:8000/x")) == "http://127.0.0.1:8000/x"
    for other in ("https://127.0.0.1:8000/", "http://127.0.0.1:8001/", "http://localhost:8000/", "http://127.1:8000/"):
        with pytest.raises(BlockedAddress):
            check(other)
    for wrong in ("http://u:p@127.0.0.1:8000/", "http://127.0.0.1:8000/" + "x" * 100, "http://127.0.0.1:8000/\n"):
        with pytest.raises(BlockedAddress):
            check(wrong)


_PARTS = [
    "http://", "https://", "h", "a.com", "[", "::1", "]", "%", "25", "@", ":", "80", "0", "/", "?", "#", "\\", "\t",
    "\ud800", "xn--", "ß", "。", "．", "①", "1.2.3.4", "..", ".", "%2f", "%00", "\u202e", "ﬃ", "\u0301", "-",
    "a" * 64,
    " ", "//", "../", "{}", "|",
    "^", "`", '"', "'", "%zz", "%ff", "٣", ";", "&", "=", "+", "\u00ad", "\u200d", "[v1.x]",
    "[::1%25a]", "[::1]", "u[::1]@", "99999", "\uffff", "𝟏", "ftp:", "data:", "x-" * 130,
]  # fmt: skip
_TEXTS = st.one_of(st.text(max_size=30), st.lists(st.sampled_from(_PARTS), max_size=8).map("".join))


@settings(max_examples=1500, deadline=None)
@given(_TEXTS, st.sampled_from(["", "http://", "//", "http://u[::1]@"]))
def test_whatever_is_read_as_a_url_is_one_or_is_refused(text: str, before: str) -> None:
    """No text ends in any other error, neither a post's nor a redirect's."""
    base = URL("http://a.example/x")
    for read in (str, lambda text: redirected(base, text)):
        with suppress(BlockedAddress):
            url = checked_url(read(before + text), allowed=frozenset(), max_length=2048)
            assert url.host and url.origin()


@pytest.mark.parametrize("text", ["http://u[::1]@/x.jpg", "http://[::1]@", "//u[::1]@/x.jpg"])
def test_a_url_that_its_reader_stumbles_over_is_refused(text: str) -> None:
    """yarl raises IndexError for these, which would end the worker."""
    with pytest.raises(BlockedAddress):
        checked_url(redirected(URL("http://a.example/"), text), allowed=frozenset(), max_length=100)


def fetched(zone: dict[str, list[list[str] | str]], *urls: str, anew: bool = True) -> tuple[list[Any], Recorder]:
    """What fetches of `urls` give, one after another, where `zone` says what the name server finds.

    `anew` with a fetcher each, since one keeps what it looked up.
    """

    async def speak(_line: str, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx")

    async def scenario() -> tuple[list[Any], Recorder]:
        async with AsyncExitStack() as stack:
            find = await stack.enter_async_context(name_server(zone))
            port = await stack.enter_async_context(http_host(speak))
            recorder = stack.enter_context(recording({80: port}))
            results: list[Any] = []
            fetcher = await stack.enter_async_context(ImageFetcher(FetchLimits(attempts=1), find=find))
            for url in urls:
                if anew:
                    fetcher = await stack.enter_async_context(ImageFetcher(FetchLimits(attempts=1), find=find))
                try:
                    results.append(await fetcher.fetch(url))
                except ImageError as error:
                    results.append(error.status)
            return results, recorder

    return asyncio.run(scenario())


@pytest.mark.parametrize(
    "private", [["127.0.0.1"], ["10.0.0.1"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], "localhost"]
)
def test_a_name_that_turns_private_is_not_followed_there(private: list[str] | str) -> None:
    """Rebinding with a time to live of 0: public at first, private next. The first answer is all that is used."""
    results, recorder = fetched({"a.example": [[OUTSIDE], private]}, *["http://a.example/"] * 3)
    assert results == [b"x", ImageStatus.BLOCKED_ADDRESS, ImageStatus.BLOCKED_ADDRESS]
    assert recorder.dialled == [(OUTSIDE, 80)]


def test_one_look_up_serves_the_check_and_the_connection() -> None:
    """A name that alternates with every question reaches the public address that was checked, or none."""
    rounds: list[list[str] | str] = [[OUTSIDE], ["127.0.0.1"]] * 20
    results, recorder = fetched({"a.example": rounds}, *["http://a.example/"] * 20)
    assert results == [b"x", ImageStatus.BLOCKED_ADDRESS] * 10
    assert recorder.private == []


def test_look_ups_are_kept_for_a_while() -> None:
    """One fetcher asks once, whatever the time to live: fewer questions, and no chance to rebind."""
    results, recorder = fetched({"a.example": [[OUTSIDE], ["127.0.0.1"]]}, *["http://a.example/"] * 3, anew=False)
    assert results == [b"x"] * 3
    assert recorder.private == []


@pytest.mark.parametrize(
    "found",
    [
        ["127.0.0.1", OUTSIDE],
        [OUTSIDE, "127.0.0.1"],
        ["::1", OUTSIDE],
        ["10.0.0.1", "fd00::1", OUTSIDE, "169.254.169.254", "::ffff:127.0.0.1", "64:ff9b::7f00:1"],
    ],
)
def test_of_mixed_answers_only_the_public_ones_are_dialled(found: list[str]) -> None:
    """A and AAAA, in any order."""
    results, recorder = fetched({"a.example": [found]}, "http://a.example/")
    assert results == [b"x"]
    assert recorder.dialled == [(OUTSIDE, 80)]


def test_a_public_address_that_fails_has_no_private_one_for_a_fallback() -> None:
    """Nothing answers at the public address; the private one beside it stays out."""
    results, recorder = fetched({"a.example": [["8.8.8.8", "127.0.0.1"]]}, "https://a.example/")
    assert results == [ImageStatus.HOST_DOWN]
    assert recorder.dialled == [("8.8.8.8", 443)]


@pytest.mark.parametrize("chain", [["localhost"], ["b.example", "localhost"], ["b.example", ["127.0.0.1"]]])
def test_an_alias_to_a_private_name_is_seen_through(chain: list[Any]) -> None:
    """CNAMEs are followed by the resolver; what counts is where they end."""
    zone: dict[str, list[list[str] | str]] = {"a.example": [chain[0]], "b.example": [chain[-1]]}
    results, recorder = fetched(zone, "http://a.example/")
    assert results == [ImageStatus.BLOCKED_ADDRESS]
    assert recorder.dialled == []
