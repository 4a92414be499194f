"""A small internet of the tests' own: a recorder of connections, hosts behind it, a name server and a proxy.

`PUBLIC` are addresses that stand for the internet. A connection to one is recorded and delivered to a server on
loopback; one to any other address is recorded and refused, so that nothing ever leaves the machine.
"""

import asyncio
import base64
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PUBLIC = frozenset(
    {"93.184.215.14", "8.8.8.8", "1.1.1.1", "198.17.255.255", "100.128.0.1", "2606:4700:4700::1111", "2a00::1"}
)
A, CNAME, AAAA = 1, 5, 28
_DNS_SECONDS = 2.0

Speak = Callable[[str, asyncio.StreamWriter], Awaitable[None]]
"""Answers a request, of which it is told the first line."""


@dataclass(slots=True)
class Recorder:
    """The addresses that sockets were connected to, in order."""

    dialled: list[tuple[str, int]] = field(default_factory=list)

    @property
    def private(self) -> list[tuple[str, int]]:
        """The connections that a guard should have kept from being made."""
        return [address for address in self.dialled if address[0] not in PUBLIC]


@contextmanager
def recording(deliver: Mapping[int, int], *, exempt: frozenset[int] = frozenset()) -> Iterator[Recorder]:
    """Record every connection of this process. `deliver` maps a public host's port to one on loopback.

    Ports on loopback in `exempt`, such as a proxy's, are let through without a record.
    """
    recorder = Recorder()
    connect = socket.socket.connect

    def record(self: socket.socket, address: Any) -> None:
        if self.family not in (socket.AF_INET, socket.AF_INET6):
            return connect(self, address)
        host, port = address[0], address[1]
        if host == "127.0.0.1" and port in exempt:
            return connect(self, address)
        recorder.dialled.append((host, port))
        if host not in PUBLIC or port not in deliver:
            raise ConnectionRefusedError
        loopback = "127.0.0.1" if self.family == socket.AF_INET else "::ffff:127.0.0.1"
        return connect(self, (loopback, deliver[port]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", record)
        yield recorder


@asynccontextmanager
async def http_host(speak: Speak, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A host on loopback that says what `speak` writes, one answer a connection; its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            await speak(head.partition(b"\r\n")[0].decode("latin-1"), writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Both ends of TLS for hosts under .example."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def make_tls(folder: Path) -> Tls:
    """A certificate of our own, by openssl."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    names = "subjectAltName=DNS:public.example,DNS:rebinding.example"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-subj", "/CN=public.example", "-addext", names, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return Tls(server=server, client=ssl.create_default_context(cafile=str(certificate)))


class NameServer(asyncio.DatagramProtocol):
    """A DNS server over UDP. `zone` has for each name what its n-th look-up finds; the last one stays.

    An entry is a list of addresses of both kinds, or another name (CNAME). The time to live is 0.
    """

    def __init__(self, zone: Mapping[str, list[list[str] | str]]) -> None:
        self._zone = zone
        self._asked: dict[tuple[str, int], int] = {}

    def connection_made(self, transport: Any) -> None:
        """Keep the way to answer."""
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        """Answer one question."""
        name, end = _read_name(data, 12)
        (kind,) = struct.unpack_from("!H", data, end)
        question = data[12 : end + 4]
        if name not in self._zone:
            self._transport.sendto(data[:2] + struct.pack("!5H", 0x8183, 1, 0, 0, 0) + question, address)
            return
        rounds = self._zone[name]
        turn = self._asked.get((name, kind), 0)
        self._asked[name, kind] = turn + 1
        found = rounds[min(turn, len(rounds) - 1)]
        records = [(CNAME, _write_name(found))] if isinstance(found, str) else _addresses(found, kind)
        answer = b"".join(b"\xc0\x0c" + struct.pack("!HHIH", of, 1, 0, len(value)) + value for of, value in records)
        self._transport.sendto(
            data[:2] + struct.pack("!5H", 0x8180, 1, len(records), 0, 0) + question + answer, address
        )


@asynccontextmanager
async def name_server(zone: Mapping[str, list[list[str] | str]]) -> AsyncIterator[Callable[[str], list[str]]]:
    """A running `NameServer`; gives a look-up function that asks it, as a resolver does, for A and AAAA."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: NameServer(zone), ("127.0.0.1", 0))
    address = transport.get_extra_info("sockname")

    def find(host: str) -> list[str]:
        with suppress(OSError):
            return _system(host)
        found = [at for kind in (A, AAAA) for at in _ask(address, host.rstrip("."), kind)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return found

    try:
        yield find
    finally:
        transport.close()


def _system(host: str) -> list[str]:
    """Literals in all forms that the C library reads."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return [str(address[0]) for *_, address in found]


def _ask(server: Any, name: str, kind: int) -> list[str]:
    if name == "localhost":  # as a resolver with a hosts file does
        return ["127.0.0.1"] if kind == A else ["::1"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(_DNS_SECONDS)
        query = b"\x12\x34" + struct.pack("!5H", 0x0100, 1, 0, 0, 0)
        client.sendto(query + _write_name(name) + struct.pack("!HH", kind, 1), server)
        data = client.recv(4096)
    (num_answers,) = struct.unpack_from("!H", data, 6)
    _, at = _read_name(data, 12)
    at += 4
    found: list[str] = []
    for _ in range(num_answers):
        _, at = _read_name(data, at)
        of, _, _, size = struct.unpack_from("!HHIH", data, at)
        at += 10
        if of == CNAME:
            found += _ask(server, _read_name(data, at)[0], kind)
        elif of == kind:
            family = socket.AF_INET if of == A else socket.AF_INET6
            found.append(socket.inet_ntop(family, data[at : at + size]))
        at += size
    return found


def _addresses(found: list[str], kind: int) -> list[tuple[int, bytes]]:
    family = socket.AF_INET6 if kind == AAAA else socket.AF_INET
    return [(kind, socket.inet_pton(family, address)) for address in found if (":" in address) == (kind == AAAA)]


def _write_name(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    labels: list[str] = []
    while size := data[at]:
        if size >= 0xC0:
            return ".".join([*labels, _read_name(data, (size & 0x3F) << 8 | data[at + 1])[0]]), at + 2
        labels.append(data[at + 1 : at + 1 + size].decode("latin-1").lower())
        at += 1 + size
    return ".".join(labels), at + 1


@dataclass(slots=True)
class HttpProxy:
    """A proxy that looks no names up: what it is asked for it passes to `deliver`'s port on loopback."""

    deliver: Mapping[int, int]
    credentials: str | None = None
    requests: list[str] = field(default_factory=list)
    answer: bytes | None = None
    """What it says in place of passing a request on."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        """The proxy's port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line = head.partition(b"\r\n")[0].decode("latin-1")
            self.requests.append(line)
            if refusal := self._refusal(head):
                writer.write(refusal)
                await writer.drain()
            else:
                is_tunnel = line.startswith("CONNECT ")
                other = await asyncio.open_connection("127.0.0.1", self.deliver[443 if is_tunnel else 80])
                if is_tunnel:
                    writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    other[1].write(head)
                await asyncio.gather(_pump(reader, other[1]), _pump(other[0], writer))
        writer.close()

    def _refusal(self, head: bytes) -> bytes | None:
        if self.credentials is not None:
            wanted = b"Basic " + base64.b64encode(self.credentials.encode())
            if wanted not in head:
                return b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        return self.answer


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
