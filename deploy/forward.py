"""One port for several workers: `forward.py PORT WORKERS`, where the name WORKERS leads to all of them.

`docker compose up --scale worker=N` can't have N workers on one port of the host. A live page shows one worker's posts
and fetches their pictures from the same, so that all connections go to one: the first by address that takes them.
"""

import asyncio
import ipaddress
import socket
import sys
from functools import partial

CONNECT_SECONDS = 3.0
CHUNK_BYTES = 65536

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(name: str, port: int) -> Streams:
    """A connection to the first address of `name` that takes one. Raises `OSError` where none does."""
    found = await asyncio.get_running_loop().getaddrinfo(name, port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    addresses = sorted({str(place[0]) for *_, place in found}, key=ipaddress.IPv4Address)
    for address in addresses:
        try:
            return await asyncio.wait_for(asyncio.open_connection(address, port), CONNECT_SECONDS)
        except (OSError, TimeoutError):
            continue
    raise OSError(f"none of {', '.join(addresses)} takes a connection on port {port}: see the workers' logs")


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the reader's end, and pass the end on."""
    while data := await reader.read(CHUNK_BYTES):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, name: str, port: int) -> None:
    """Join a visitor to a worker, until both have ended or one breaks off."""
    try:
        from_worker, to_worker = await connect(name, port)
    except OSError as error:
        print(f"forward: {error}", file=sys.stderr, flush=True)
        writer.close()
        return
    try:
        async with asyncio.TaskGroup() as both_ways:
            both_ways.create_task(copy(reader, to_worker))
            both_ways.create_task(copy(from_worker, writer))
    except* ConnectionError:
        pass
    finally:
        writer.close()
        to_worker.close()


async def main(port: int, name: str) -> None:
    """Forward for good."""
    server = await asyncio.start_server(partial(forward, name=name, port=port), "0.0.0.0", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
