"""Structured logs: constant event names and fields, as text for people or JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

# kafka-python tells each retry of each connection as an error; `kafka_away` and `kafka_back` say it once.
_TOLD_BY_US = ("kafka.cluster", "kafka.net.connection", "kafka.net.manager", "kafka.net.transport", "kafka.coordinator")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class _Formatter(logging.Formatter):
    def __init__(self, style: Literal["text", "json"]) -> None:
        super().__init__()
        self._as = style

    def format(self, record: logging.LogRecord) -> str:
        fields = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if self._as == "json":
            line = {"time": moment, "level": record.levelname, "logger": record.name}
            return json.dumps({**line, "event": record.getMessage(), **fields}, default=str)
        told = " ".join(f"{name}={value}" for name, value in fields.items())
        return f"{moment} {record.levelname:<7} {record.name} {record.getMessage()} {told}".rstrip()


def configure_logs(style: Literal["text", "json"], level: int | str) -> None:
    """Send nametag's logs to standard error, and of the libraries' only warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("nametag").setLevel(level)
    logging.getLogger("kafka").setLevel(logging.ERROR)
    for name in _TOLD_BY_US:
        logging.getLogger(name).setLevel(logging.CRITICAL)
