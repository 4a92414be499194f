"""Sends the example posts to a topic at a gentle rate, until stopped, and serves their pictures.

For a first look with `docker compose up`: so that there is something to see without a stream of one's own. The posts
are those of `nametag demo`; each round gives them new ids. What can't be read as a post is sent in the first round
alone: more of it would raise the alert that a producer is broken.
"""

import argparse
import itertools
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

from kafka import KafkaProducer

import worker

EXAMPLES = Path(worker.__file__).parent / "examples"
IMAGE_HOST = "http://images.example"
"""Stands in the example posts for the server of their pictures."""

Message = tuple[bytes | None, bytes]
"""A key and a value."""


class Pictures(SimpleHTTPRequestHandler):
    """Serves files, and says nothing about it."""

    def log_message(self, *_arguments: Any) -> None:
        """Not a line a picture."""


def messages(lines: list[str], origin: str, run: str) -> Iterator[Message]:
    """The examples over and over, with pictures at `origin` and ids of the run and the round."""
    for number in itertools.count():
        for line in lines:
            try:
                post = json.loads(line)
                is_readable = bool(post["text"].strip())
            except (ValueError, KeyError):
                is_readable = False
            if is_readable:
                post["id"] = f"{post['id']}-{run}-{number}"
                if post.get("image_url", "").startswith(IMAGE_HOST):
                    post["image_url"] = origin + post["image_url"].removeprefix(IMAGE_HOST)
                yield post["id"].encode(), json.dumps(post, ensure_ascii=False).encode()
            elif number == 0:
                yield None, line.encode()


def send(sent: Iterator[Message], options: argparse.Namespace) -> None:
    """Send them, `options.rate` a second. Raises a `KafkaError` where a broker takes none."""
    producer = KafkaProducer(bootstrap_servers=options.bootstrap_servers, acks="all")
    start = time.monotonic()
    try:
        for number, (key, value) in enumerate(sent):
            if options.count is not None and number >= options.count:
                break
            time.sleep(max(0.0, start + number / options.rate - time.monotonic()))
            # Waited for, so that a broker that is away ends this process, which is then started anew.
            producer.send(options.topic, key=key, value=value).get(timeout=30)
    finally:
        producer.close(timeout=5)


def _stop(*_signal: object) -> NoReturn:
    sys.exit(0)


def main() -> None:
    """Serve the pictures and send the posts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--topic", default="posts")
    parser.add_argument("--rate", type=float, default=1.0, help="posts a second (default: 1)")
    parser.add_argument("--count", type=int, help="end after so many (default: never)")
    parser.add_argument("--origin", default="http://localhost:8000", help="where workers find the pictures")
    parser.add_argument("--port", type=int, default=8000, help="the port to serve them on")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop)
    server = ThreadingHTTPServer(("", options.port), partial(Pictures, directory=EXAMPLES / "images"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    lines = (EXAMPLES / "posts.jsonl").read_text(encoding="utf-8").splitlines()
    send(messages(lines, options.origin, f"{int(time.time()):x}"), options)


if __name__ == "__main__":
    main()
