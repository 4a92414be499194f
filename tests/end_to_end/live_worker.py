"""A worker process that reads posts from a pipe and serves its page, with a host of pictures beside it."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.end_to_end.worker_process import clean_environment

SCRIPT = """
import asyncio, os, sys
from worker.service import Files, run_worker
from worker.settings_loading import load_settings

def told(address):
    print(address, flush=True)

files = Files(posts="-", events=sys.argv[1], dead_letters=sys.argv[2])
asyncio.run(run_worker(load_settings(), files, on_listening=told))
os._exit(0)  # as the console script does: a thread still waits for standard input
"""


class LiveWorker:
    """The process; posts are sent to its standard input."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.events = folder / "events.jsonl"
        self._log = (folder / "log.txt").open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.events), str(folder / "letters.jsonl")],
            env={**clean_environment(), "NAMETAG_SERVER__PORT": "0", "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
        )
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().strip()
        assert self.address, (folder / "log.txt").read_text()

    def send(self, *posts: dict[str, object]) -> None:
        """Send posts, or deletes, as lines of JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(json.dumps(post).encode() + b"\n" for post in posts))
        self.process.stdin.flush()

    def stop(self) -> int:
        """Ask it to stop; gives the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self._log.close()


@contextmanager
def live_worker(folder: Path, environment: dict[str, str] | None = None) -> Iterator[LiveWorker]:
    """A worker that is ended with the context."""
    folder.mkdir(parents=True, exist_ok=True)
    worker = LiveWorker(folder, environment or {})
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def picture_host(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """A loopback server of a folder; gives its origin, and the user agents of those who ask."""
    agents: list[str] = []

    class Noting(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            agents.append(self.headers.get("User-Agent", ""))

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Noting, directory=os.fspath(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", agents
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
