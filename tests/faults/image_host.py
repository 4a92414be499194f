"""A loopback host of pictures that goes down, trickles, or closes in the middle of a body, as it is told."""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.02
TRICKLE_SECONDS = 0.25


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Ended at once: a request that trickles must not hold up the harness.
    block_on_close = False


class ImageHost:
    """Serves `/anything/N.jpg` as the N-th of `pictures`; `mode` is normal, down, slow or cut.

    Each answer begins after `delay` seconds, as that of a host far away.
    """

    def __init__(self, pictures: list[bytes], *, delay: float = 0.0) -> None:
        self._pictures = pictures
        self._delay = delay
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self._mode = "normal"
        self._listen()

    @property
    def origin(self) -> str:
        """Scheme, host and port; the same for good."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def num_pictures(self) -> int:
        """How many different pictures there are."""
        return len(self._pictures)

    def set_mode(self, mode: str) -> None:
        """Begin to be `mode` at once."""
        with self._lock:
            self._mode = mode
            if mode == "down":
                self._unlisten()
            elif self._server is None:
                self._listen()

    def close(self) -> None:
        """Serve no more."""
        with self._lock:
            self._unlisten()

    def _listen(self) -> None:
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host._answer(self)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), daemon=True).start()

    def _unlisten(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        time.sleep(self._delay)
        data = self._pictures[int(request.path.rpartition("/")[2].partition(".")[0])]
        request.send_response(200)
        request.send_header("Content-Type", "image/jpeg")
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        with contextlib.suppress(OSError):  # the worker had enough
            self._send(request.wfile, data)

    def _send(self, out: Any, data: bytes) -> None:
        if self._mode == "cut":
            out.write(data[: len(data) // 2])
        elif self._mode == "slow":
            for byte in data:
                if self._mode != "slow":
                    return
                out.write(bytes([byte]))
                time.sleep(TRICKLE_SECONDS)
        else:
            out.write(data)


def example_pictures() -> list[bytes]:
    """The pictures of the demo that are whole and differ."""
    folder = Path(__file__).parents[2] / "worker" / "examples" / "images"
    return [path.read_bytes() for path in sorted(folder.glob("*.jpg")) if path.name != "cut_short.jpg"]
