"""`nametag doctor` about the worker's own server, on real ports, and about the place of another checkpoint."""

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from consumers.checks import Check, Found
from worker.metrics import Metrics
from worker.server import ServerConfig, serve
from worker.server_checks import check_server
from worker.settings import ServerTable
from worker.watch_checks import watched_file


def server(**fields: Any) -> dict[str, Check]:
    return {check.name: check for check in check_server(ServerTable(**fields), seconds=20)}


@contextmanager
def another_program() -> Iterator[int]:
    """One that listens, and is no web server; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            while True:
                try:
                    listening.accept()[0].close()
                except OSError:
                    return

        threading.Thread(target=hang_up, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def test_a_free_port_is_well_and_stays_free() -> None:
    """It can be listened on afterwards; port 0 is any."""
    with another_program() as port:
        pass
    for _ in range(2):
        assert (server(port=port)["server.port"].state, server(port=0)["server.port"].state) == ("ok", "ok")
    socket.create_server(("127.0.0.1", port)).close()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_taken_port_is_told(host: str) -> None:
    """The worker would not start. With what to do, and once."""
    with another_program() as port:
        found = server(host=host, port=port)
    assert (found["server.port"].state, found["server.port"].fix) == ("fail", "set server.port to a free one, or to 0")
    assert found["server.port"].seen == f"{host}:{port} is taken by another program"
    assert found["server.token"].state == "skipped"


def test_a_worker_that_runs_already_is_no_fault() -> None:
    """The doctor may be asked beside it, in its container say."""

    async def scenario() -> dict[str, Check]:
        async with serve(ServerConfig(port=0), Metrics(), lambda: True) as address:
            return await asyncio.to_thread(server, port=int(address.rpartition(":")[2]))

    found = asyncio.run(scenario())["server.port"]
    assert (found.state, found.seen[:24]) == ("warn", "a worker listens on 127.")
    assert "set server.port" in found.fix


@pytest.mark.parametrize("host", ["192.0.2.1", "nobody.invalid"])
def test_a_host_that_is_not_this_machine_is_told(host: str) -> None:
    """An address of another machine, and a name that nobody has."""
    found = server(host=host, port=0)["server.port"]
    assert (found.state, found.seen) == ("fail", f"{host} is no address of this machine")
    assert found.fix.startswith("set server.host to 127.0.0.1")


def test_an_open_server_without_a_token_is_a_warning() -> None:
    """On loopback nobody needs one, and who has one is well everywhere; the token isn't shown."""
    opened = server(host="0.0.0.0", port=0)["server.token"]
    assert (opened.state, opened.fix[:50]) == ("warn", "set server.token (NAMETAG_SERVER__TOKEN) to 16 or ")
    for host in ("127.0.0.1", "localhost"):
        assert server(host=host, port=0)["server.token"].state == "ok"
    guarded = server(host="0.0.0.0", port=0, token="hush-hush-hush-hush")
    assert guarded["server.token"].state == "ok"
    assert "hush" not in str(guarded)


def test_what_stands_at_the_watched_place_is_told(tmp_path: Path) -> None:
    """A file, nothing yet, no folder, a folder in place of the file: no worker fails for it."""
    path = tmp_path / "current.safetensors"
    missing = watched_file(path)
    assert missing.state == "ok"
    assert "until then the checkpoint of the settings is used" in missing.seen
    path.write_bytes(b"x")
    assert watched_file(path) == Found("ok", f"{path} is there")
    nowhere = watched_file(tmp_path / "none" / "current.safetensors")
    assert (nowhere.state, nowhere.fix) == (
        "warn", f"make the folder {tmp_path / 'none'}, or correct checkpoints.watch",
    )  # fmt: skip
    assert watched_file(path / "below").state == "warn"
    folder = watched_file(tmp_path)
    assert (folder.state, folder.seen) == ("warn", f"{tmp_path} can't be used: it is no regular file")


@pytest.mark.parametrize("closed", ["folder", "file", "above"])
def test_a_watched_place_that_may_not_be_read_is_told(closed: str) -> None:
    """The folder, one above it, or the file itself."""
    # Not pytest's folder, which nobody but its user may enter.
    with tempfile.TemporaryDirectory() as name:
        above = Path(name)
        folder = above / "folder"
        path = folder / "current.safetensors"
        folder.mkdir()
        path.write_bytes(b"x")
        above.chmod(0o711)
        shut = {"folder": folder, "file": path, "above": above}[closed]
        shut.chmod(0)
        try:
            told = as_nobody(lambda: watched_file(path))
        finally:
            shut.chmod(0o700)
    subject = path if closed == "file" else folder
    assert told == f"warn: let this user read {subject}"


def as_nobody(act: Callable[[], Found]) -> str:
    """State and fix of what is found by a user who isn't root, to whom everything is open."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        try:
            found = act()
            os.write(writing, f"{found.state}: {found.fix}".encode())
        except BaseException as error:
            os.write(writing, repr(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told:
        return told.read()
