"""Where posts' URLs lead, by the hundred: nothing but the internet is ever dialled.

A recorder at the socket sees every connection. Hosts that stand for the internet are on loopback behind it, so
that a URL which may be fetched is, and its redirects are followed.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from consumers.image_status import ImageStatus
from tests.network import Recorder, Tls, http_host, make_tls, name_server, recording
from worker.errors import ImageError
from worker.fetch import FetchLimits, ImageFetcher

PICTURE = b"a picture"
REFUSED = (ImageStatus.BLOCKED_ADDRESS, ImageStatus.NOT_FOUND)
ZONE: dict[str, list[list[str] | str]] = {
    "public.example": [["93.184.215.14"]],
    "xn--fa-hia.example": [["93.184.215.14"]],
    "six.example": [["2606:4700:4700::1111"]],
    "mixed.example": [["127.0.0.1", "93.184.215.14", "::1", "10.0.0.1"]],
    "loopback.example": [["127.0.0.1"]],
    "loopback6.example": [["::1"]],
    "mapped.example": [["::ffff:127.0.0.1"]],
    "metadata.example": [["169.254.169.254"]],
    "nat64.example": [["64:ff9b::7f00:1"]],
    "sixtofour.example": [["2002:7f00:1::"]],
    "teredo.example": [["2001:0:7f00:1::"]],
    "alias.example": ["localhost"],
    "chain.example": ["alias.example"],
    "far.example": ["public.example"],
    "rebinding.example": [["93.184.215.14"], ["127.0.0.1"]],
}

# Each address in several spellings: dotted, short, decimal, hexadecimal, octal, mixed, too long, with signs.
V4_FORMS = [
    "127.0.0.1", "127.1", "127.0.1", "127.000.000.001", "0127.0.0.1", "0177.0.0.1", "0177.0.0.01", "0177.1",
    "00000177.0.0.1", "2130706433", "02130706433", "017700000001", "0017700000001", "0x7f000001", "0X7F000001",
    "0x7f.0.0.1", "0x7f.0x0.0x0.0x1", "0x7f.1", "0x7f.0.1", "0x7f.0x1", "127.0x1", "127.0.0x1", "0x0000007f.0.0.1",
    "0x7f.000.0.0x1", "127.0.0.01", "127.0.0.1.", "127.1.", "2130706433.", "0x7f000001.", "127.0.0.1..",
    "127.255.255.255", "127.0.0.2", "127.127.127.127", "127.0.65535", "127.16777215", "127.0.0.256", "383.0.0.1",
    "4425673729", "340282366920938463463374607431768211457", "127.0.0.1.1", "1.127.0.0.1", "127..0.1", ".127.0.0.1",
    "127.0.0.1e0", "+127.0.0.1", "-127.0.0.1", "127.0.0.-1", "127.0.0.+1", "127,0,0,1", "127_0_0_1", "127 .0.0.1",
    "0x", "0x.0x.0x.0x", "0", "00", "0.0", "0.0.0.0", "0.0.0.1", "0.1", "0x0", "000000000000", "0.255.255.255",
    "10.0.0.1", "10.1", "012.0.0.1", "0xa.0.0.1", "167772161", "0xa000001", "10.255.255.255", "010.0.0.1",
    "172.16.0.1", "172.31.255.255", "172.16.1", "2886729729", "0xac100001", "0254.16.0.1", "172.1048577",
    "192.168.0.1", "192.168.1", "192.168.255.255", "3232235521", "0xc0a80001", "0300.0250.0.1", "0xc0.168.0.1",
    "169.254.169.254", "169.254.43518", "169.16689662", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "0xa9.254.0251.254", "169.254.169.253", "169.254.0.1", "169.254.170.2",
    "100.64.0.1", "100.127.255.255", "100.100.100.200", "1681915905", "0x64400001", "192.0.0.1", "192.0.0.8",
    "192.0.0.170", "192.0.0.171", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1", "192.88.99.2",
    "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "224.0.0.251",
    "239.255.255.250", "233.252.0.1", "240.0.0.1", "254.255.255.255", "255.255.255.255", "4294967295", "0xffffffff",
    "-1", "8.8.2056", "134744072", "0x08080808", "010.010.010.010", "8.8.8.8.", "93.184.55054", "0x5d.184.215.14",
]  # fmt: skip
V6_FORMS = [
    "::1", "0:0:0:0:0:0:0:1", "0000:0000:0000:0000:0000:0000:0000:0001", "::0001", "0::1", "0:0::1", "::0.0.0.1",
    "::", "0:0:0:0:0:0:0:0", "::0", "::0.0.0.0", "::127.0.0.1", "::7f00:1", "::10.0.0.1", "::8.8.8.8", "::ffff:0:0",
    "::ffff:127.0.0.1", "::FFFF:127.0.0.1", "::ffff:7f00:1", "0:0:0:0:0:ffff:127.0.0.1", "0:0:0:0:0:FFFF:7F00:0001",
    "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::ffff:808:808",
    "::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8", "64:ff9b::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b::8.8.8.8", "0064:ff9b:0:0:0:0:7f00:0001", "64:ff9b:1::7f00:1", "64:ff9b:1::1", "64:ff9b:1:ffff::a00:1",
    "100::1", "100:0:0:1::1", "2001::1", "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "2001:1::1",
    "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:10::1", "2001:1f:ffff::1", "2001:20::1", "2001:2f:ffff::1",
    "2001:30::1", "2001:1ff:ffff::1", "2001:db8::1", "2001:DB8:ffff::1", "2002::1", "2002:7f00:1::",
    "2002:a9fe:a9fe::1", "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1",
    "fc00::1", "fd00::1", "fd12:3456::1", "fd00:ec2::254", "fe80::1", "FE80::1", "febf::1", "fec0::1", "feff::1",
    "ff00::1", "ff01::1", "ff02::1", "ff02::fb", "ff05::1:3", "ff0e::1", "8000::1", "a000::1", "e000::1",
    "fe80::1%25eth0", "fe80::1%eth0", "::1%25lo", "::1%1", "2606:4700:4700::1111%25eth0", "2606:4700:4700::1111%1",
    "2a00::5efe:7f00:1", "2a00::200:5efe:127.0.0.1", "::1]", "::1%00", "1::2::3", "1:2:3:4:5:6:7:8:9", "::g",
    "127.0.0.1", "localhost", "v1.a", "vF.127.0.0.1", "", " ::1", "::1 ", "::１", "٠::١",
]  # fmt: skip
IDNA_FORMS = [
    "⑫7.0.0.1", "①②⑦.⓪.⓪.①", "１２７.０.０.１", "１２７。０。０。１", "127。0。0。1", "127｡0｡0｡1", "127．0．0．1",
    "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "𝟙𝟚𝟟.𝟘.𝟘.𝟙", "¹²⁷.⁰.⁰.¹", "₁₂₇.₀.₀.₁", "١٢٧.٠.٠.١", "१२७.०.०.१", "0ⅹ7f.1", "⓪x7f.1", "０ｘ７ｆ.１",
    "②①③⓪⑦⓪⑥④③③", "ⓛⓞⓒⓐⓛⓗⓞⓢⓣ", "ｌｏｃａｌｈｏｓｔ", "𝐥𝐨𝐜𝐚𝐥𝐡𝐨𝐬𝐭", "LOCALHOST", "LocalHost", "loca\u00adlhost",
    "loca\u200blhost",
    "loca\u200dlhost", "local\u2060host", "\ufefflocalhost", "localhost\u3002", "localhost.", "localhost..",
    "loca\u0131host",
    "⑯⑨.②⑤④.⑯⑨.②⑤④", "１６９.２５４.１６９.２５４", "[::①]", "［::1］", "ˡocalhost", "127.0.0.1\u200b",
    "127.0.0.1\u00ad",
    "xn--localhost-.example", "xn--a", "xn--", "\ud800.example", "a\u0338.example", "localhost\u2024example",
]  # fmt: skip
ENCODED_FORMS = [
    "%31%32%37.0.0.1", "127%2e0%2e0%2e1", "%6c%6f%63%61%6c%68%6f%73%74", "localhost%00", "localhost%2e",
    "%00localhost",
    "127.0.0.1%00.public.example", "public.example%00.127.0.0.1", "public.example%2f@127.0.0.1", "%5b::1%5d",
    "127.0.0.1%20", "%0a127.0.0.1", "public.example%0d%0aHost:localhost", "%", "%zz", "%%", "%e2%91%ab7.0.0.1",
    "127.0.0.1%23", "127.0.0.1%3f", "127.0.0.1%40public.example", "127.0.0.1%5c", "127.0.0.1%3a80",
]  # fmt: skip
NAMES = [
    "localhost", "alias.example", "chain.example", "loopback.example", "loopback6.example", "mapped.example",
    "metadata.example", "nat64.example", "sixtofour.example", "teredo.example", "nowhere.example", "LOOPBACK.EXAMPLE",
    "loopback.example.", "loopback.example..", ".loopback.example", "loopback..example", "-.example", "a b.example",
    "*.example", ";public.example", "public.example;localhost", "public.example,localhost", "$(id).example", "`id`",
    "{public,localhost}.example", "<public.example>", '"public.example"', "'public.example'", "public.example|",
    "a" * 64 + ".example", ".".join(["a" * 60] * 5), "!", "~", "a=b", "a&b", "public.example(comment)",
]  # fmt: skip
WHOLE = [
    # Schemes.
    "ftp://public.example/", "file:///etc/passwd", "file://public.example/x", "gopher://127.0.0.1:6379/_x",
    "data:image/png;base64,AA", "javascript:alert(1)", "dict://127.0.0.1:11211/", "ldap://127.0.0.1/",
    "ws://public.example/",
    "wss://public.example/", "jar:http://public.example!/", "unix:///var/run/docker.sock",
    "http+unix://%2fvar%2frun/x",
    "httpx://public.example/", "shttp://public.example/", "view-source:http://public.example/", "about:blank",
    "url:http://public.example/", "blob:http://public.example/x", "netdoc:///etc/passwd", "tftp://127.0.0.1/x",
    "//public.example/x.jpg", "///public.example/", "/x.jpg", "x.jpg", "", " ", "http", "http:", "http:/", "http://",
    "http:///x.jpg", "http:////127.0.0.1/", "http:127.0.0.1", "http:/127.0.0.1/", "http:localhost", "http:?",
    "http://?x",
    "http://#x", "http://:80/", "http://[", "http://]", "http://[]/", "http://[::1", "http://::1/", "http://::1]/",
    "http//127.0.0.1/", "://127.0.0.1/", "ht\ntp://127.0.0.1/", "\x00http://127.0.0.1/", "http\x00://127.0.0.1/",
    # Ports.
    "http://public.example:22/", "http://public.example:0/", "http://public.example:8080/",
    "http://public.example:6379/",
    "http://public.example:65536/", "http://public.example:99999/", "http://public.example:-80/",
    "http://public.example:80:80/", "http://public.example:0x50/", "http://public.example:8443/",
    "http://public.example:8e1/",
    "http://public.example:80.0/", "http://public.example:80 @127.0.0.1/", "http://public.example:25/",
    "https://public.example:9200/",
    "https://public.example:2375/", "http://127.0.0.1:80/", "https://127.0.0.1:443/", "http://127.0.0.1:443/",
    "http://public.example:" + "9" * 5000 + "/", "http://93.184.215.14:81/", "http://[2606:4700:4700::1111]:81/",
    # Userinfo.
    "http://user:secret@public.example/", "http://user@public.example/", "http://@public.example/",
    "http://:@public.example/",
    "http://:secret@public.example/", "http://public.example@127.0.0.1/", "http://public.example:80@127.0.0.1/",
    "http://127.0.0.1@public.example/", "http://a@b@127.0.0.1/", "http://a@b@public.example/", "http://@127.0.0.1/",
    "http://public.example%40127.0.0.1/", "http://public.example%2F@127.0.0.1/", "http://[::1]@public.example/",
    "http://public.example@[::1]/", "http://@@public.example/", "http://public.example@/",
    "http://user:@public.example/",
    # Backslashes, which browsers read as slashes.
    "http:\\\\127.0.0.1\\", "http://public.example\\@127.0.0.1/", "http://127.0.0.1\\@public.example/",
    "http:/\\127.0.0.1/",
    "http://public.example\\.127.0.0.1/", "\\\\127.0.0.1\\x", "http://\\127.0.0.1/",
    "http://public.example:80\\@127.0.0.1/",
    "http://public.example/\\..\\x",
    # Control characters, which some readers drop.
    "http://127.0.0.1\t/", "http://127.0\t.0.1/", "http://127.0.0.1\n/", "http://lo\ncalhost/", "http://lo\rcalhost/",
    "h\tttp://127.0.0.1/", "http:\t//127.0.0.1/", "http:/\n/127.0.0.1/", "\thttp://127.0.0.1/",
    "http://public.example/\r\nX: y",
    "http://public.example/x\x00.jpg", "http://public.example\x00@127.0.0.1/", "http://public.example\x7f/",
    "http://\x01127.0.0.1/",
    "http://public.example/\t", "http://public\x0b.example/", "http://public.example\x1f/",
    "http://public.example/ HTTP/1.1\r\nHost: x",
    # Where the authority ends.
    "http://127.0.0.1#@public.example/", "http://127.0.0.1?@public.example/", "http://127.0.0.1/@public.example/",
    "http://127.0.0.1;@public.example/", "http://127.0.0.1&@public.example/", "http://127.0.0.1:80#.public.example/",
    "http://127.0.0.1?.public.example/", "http://localhost#.public.example", "http://[::1]public.example/",
    "http://[::1].public.example/",
    "http://public.example[::1]/", "http://1[::1]/", "http://[::1]:/", "http://[::1]:80/", "http://[::1]:x/",
    # Length.
    "http://public.example/" + "x" * 3000, "http://public.example/?" + "x" * 100_000,
    "http://" + "a." * 2000 + "example/",
]  # fmt: skip
PASSING = [
    "http://public.example/", "HTTP://PUBLIC.EXAMPLE/x.jpg", "http://public.example./", "http://public.example:80/",
    "http://public.example:080/", "http://public.example:/", "http://public.example?x", "http://public.example#x",
    "http://93.184.215.14/", "http://8.8.8.8/", "http://[2606:4700:4700::1111]/",
    "http://[2606:4700:4700:0:0:0:0:1111]/",
    "http://[2A00::1]/", "http://six.example/", "http://mixed.example/", "http://far.example/", "http://faß.example/",
    "http://ｐｕｂｌｉｃ.example/", "http://public。example/", "http://100.128.0.1/", "http://198.17.255.255/",
    " http://public.example/ ", "http://public.example/a b.jpg", "http://public.example/%2e%2e/x",
    "http://public.example/é.jpg",
    "http://public.example/@127.0.0.1/", "http://public.example/?u=http://127.0.0.1/",
    "http://public.example/#@127.0.0.1",
    "http://public.example//127.0.0.1/", "http://public.example/x:y@z", "http://public.example/?a@b",
    "https://public.example/",
    "https://public.example:443/x.jpg",
]  # fmt: skip
BLOCKED = [
    *(f"http://{host}/x.jpg" for host in (*V4_FORMS, *IDNA_FORMS, *ENCODED_FORMS, *NAMES)),
    *(f"http://[{host}]/x.jpg" for host in V6_FORMS),
    *(
        f"https://{host}/x.jpg"
        for host in (*V4_FORMS[:12], "[::1]", "localhost", "alias.example", "[::ffff:127.0.0.1]")
    ),
    *WHOLE,
]

PRIVATE_HOPS = [
    "http://127.0.0.1/", "http://127.1/", "http://2130706433/", "http://0x7f.1/", "http://0177.0.0.1/",
    "//127.0.0.1/",
    "http://[::1]/", "http://[::ffff:127.0.0.1]/", "http://[64:ff9b::7f00:1]/", "//[::1]/", "http://⑫7.0.0.1/",
    "http://１２７。０。０。１/", "http://%31%32%37.0.0.1/", "http://localhost/", "http://localhost./",
    "http://alias.example/",
    "http://loopback.example/", "http://169.254.169.254/latest/meta-data/", "https://127.0.0.1/",
    "https://localhost/",
    "http://public.example@127.0.0.1/", "//public.example@127.0.0.1/", "//@127.0.0.1/", "http://u:p@public.example/",
    "http://public.example\\@127.0.0.1/", "\\\\127.0.0.1\\x", "/\\127.0.0.1/", "\t//127.0.0.1/", "/\t/127.0.0.1/",
    "//127.0.0.1\t/",
    "http://127.0.0.1:6379/", "http://public.example:6379/", "file:///etc/passwd", "ftp://public.example/",
    "gopher://127.0.0.1/",
    "data:image/png;base64,AA", "javascript:alert(1)", "", " ", "http://", "//", "http:127.0.0.1",
    "http:///127.0.0.1/", "http://[::1",
    "http://public.example:99999/", "http://" + "a" * 3000 + ".example/", "/" + "x" * 3000, "HTTP://LOCALHOST/",
    "hTTp://127.1/",
]  # fmt: skip
CHAINS: list[tuple[str, ...]] = [
    *((hop,) for hop in PRIVATE_HOPS),
    *(("http://far.example/1", hop) for hop in PRIVATE_HOPS[:22]),
    *(("https://public.example/1", hop) for hop in PRIVATE_HOPS[:22]),  # up to https, and down again
    *(("/1", "//six.example/2", hop) for hop in PRIVATE_HOPS[:12]),
    ("/1", "/2", "/3", "/4"),
    ("/0", "/0", "/0", "/0"),
]
GOOD_CHAINS: list[tuple[str, ...]] = [
    ("/1",), ("1",), ("?1", ), ("//far.example/1",), ("http://six.example/1", "http://93.184.215.14/2"),
    ("https://public.example/1",), ("https://public.example/1", "http://public.example/2"), ("/1", "/2", "/3"),
    # One look-up is kept for both ports: the public address that it found is dialled again.
    ("http://rebinding.example/1", "https://rebinding.example/2"),
    ("https://rebinding.example/1", "http://rebinding.example/2"),
    ("http://rebinding.example/1", "http://rebinding.example/2"), ("../../1",), ("http://public.example:80/1",),
]  # fmt: skip


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """TLS with a certificate of our own."""
    return make_tls(Path(tmp_path_factory.mktemp("tls")))


def outcome(url: str, chain: Sequence[str], tls: Tls) -> tuple[bytes | ImageStatus, Recorder]:
    """What a fetch of `url` gives, where the internet redirects along `chain`; and what was dialled."""
    visits = iter(chain)

    async def speak(_line: str, writer: asyncio.StreamWriter) -> None:
        location = next(visits, None)
        if location is None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(PICTURE), PICTURE))
        else:
            told = location.encode("utf-8", "surrogatepass")
            writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\nLocation: %b\r\n\r\n" % told)

    async def scenario() -> tuple[bytes | ImageStatus, Recorder]:
        async with AsyncExitStack() as stack:
            find = await stack.enter_async_context(name_server(ZONE))
            plain = await stack.enter_async_context(http_host(speak))
            secure = await stack.enter_async_context(http_host(speak, tls.server))
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            patch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", tls.client)
            recorder = stack.enter_context(recording({80: plain, 443: secure}))
            fetcher = await stack.enter_async_context(ImageFetcher(FetchLimits(attempts=1), find=find))
            try:
                return await fetcher.fetch(url), recorder
            except ImageError as error:
                return error.status, recorder

    return asyncio.run(scenario())


def test_there_are_hundreds_of_cases() -> None:
    """The tables hold what they promise, and no case twice."""
    assert len(BLOCKED) + len(CHAINS) + len(PASSING) + len(GOOD_CHAINS) >= 300
    assert len(BLOCKED) == len(set(BLOCKED))
    assert len(CHAINS) == len(set(CHAINS))


@pytest.mark.parametrize("url", BLOCKED, ids=lambda url: ascii(url)[:60])
def test_nothing_is_dialled_for_a_url_that_leads_nowhere_public(url: str, tls: Tls) -> None:
    """Refused with a status, and no connection at all."""
    result, recorder = outcome(url, (), tls)
    assert result in REFUSED
    assert recorder.dialled == []


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: ascii(" > ".join(chain))[:80])
def test_no_redirect_leads_to_a_private_address(chain: tuple[str, ...], tls: Tls) -> None:
    """Each hop meets the guard; a host that redirects is the only one dialled."""
    result, recorder = outcome("http://public.example/0", chain, tls)
    assert result in REFUSED
    assert recorder.dialled
    assert recorder.private == []


@pytest.mark.parametrize("url", PASSING, ids=lambda url: ascii(url)[:60])
def test_the_internet_is_fetched_from(url: str, tls: Tls) -> None:
    """The guard doesn't refuse what it should let through."""
    result, recorder = outcome(url, (), tls)
    assert result == PICTURE
    assert recorder.private == []


@pytest.mark.parametrize("chain", GOOD_CHAINS, ids=lambda chain: ascii(" > ".join(chain))[:80])
def test_redirects_within_the_internet_are_followed(chain: tuple[str, ...], tls: Tls) -> None:
    """To https and back to http too: nothing secret is sent, and the other end is as open to anybody."""
    result, recorder = outcome("http://public.example/0", chain, tls)
    assert result == PICTURE
    assert recorder.private == []
