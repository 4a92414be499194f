"""How the brokers are reached and what is read there, and what to say when they can't be had."""

import socket
import time
from dataclasses import dataclass, field
from typing import Any

from kafka import KafkaAdminClient
from kafka.errors import InvalidSessionTimeoutError, KafkaError

from consumers.errors import SourceUnavailable


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConnection:
    """The brokers' addresses and the credentials for them."""

    bootstrap_servers: tuple[str, ...] = ("localhost:9092",)
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = field(default=None, repr=False)
    ssl_cafile: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    client_id: str = "nametag"

    def __post_init__(self) -> None:
        if not self.bootstrap_servers:
            raise ValueError("bootstrap_servers is empty; it must name at least one host:port")
        if self.security_protocol.startswith("SASL") and not self.sasl_mechanism:
            raise ValueError(f"sasl_mechanism is missing; {self.security_protocol} needs one, such as PLAIN")

    def __str__(self) -> str:
        return ", ".join(self.bootstrap_servers)

    def client_options(self) -> dict[str, Any]:
        """Keyword arguments for any of kafka-python's clients."""
        options = {
            "bootstrap_servers": list(self.bootstrap_servers),
            "client_id": self.client_id,
            "security_protocol": self.security_protocol,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.sasl_username,
            "sasl_plain_password": self.sasl_password,
            "ssl_cafile": self.ssl_cafile,
            "ssl_certfile": self.ssl_certfile,
            "ssl_keyfile": self.ssl_keyfile,
            # The default would leave us away for up to half a minute after the broker is back.
            "reconnect_backoff_max_ms": 2000,
        }
        return {name: value for name, value in options.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSourceConfig:
    """What is read, and how much of it is held.

    The buffer's limits are soft by one poll. `revoke_seconds` is for finishing the work of
    partitions that are asked back; it must end within the broker's patience for a rebalance.
    A client that reads nothing for `stall_seconds`, though there is something to read, is started anew.
    Where posts trickle, those of `gather_seconds` come together: each by itself costs client, brokers and worker many
    times as much. The first after a while comes at once.
    """

    topic: str = "posts"
    group_id: str = "nametag"
    group_instance_id: str | None = None
    max_poll_records: int = 256
    session_timeout_ms: int = 45_000
    max_buffered_messages: int = 1024
    max_buffered_bytes: int = 16 * 1024 * 1024
    start_seconds: float = 10.0
    revoke_seconds: float = 10.0
    stall_seconds: float = 60.0
    commit_seconds: float = 15.0
    close_seconds: float = 10.0
    gather_seconds: float = 0.05

    def __post_init__(self) -> None:
        for name in (
            "max_poll_records",
            "session_timeout_ms",
            "max_buffered_messages",
            "max_buffered_bytes",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("start_seconds", "revoke_seconds", "stall_seconds", "commit_seconds", "close_seconds"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be more than 0")
        if not 0 <= self.gather_seconds <= 1:
            raise ValueError(f"gather_seconds is {self.gather_seconds}; it must be from 0 to 1")


def wait_reachable(connection: KafkaConnection, seconds: float) -> None:
    """Wait until one broker takes a TCP connection. Raises `SourceUnavailable` at the deadline.

    Done ahead of the client, which says no more of a wrong name than of a wrong password.
    """
    deadline = time.monotonic() + seconds
    while all(_why_unreachable(server) for server in connection.bootstrap_servers):
        if time.monotonic() > deadline:
            raise SourceUnavailable(explain_unreachable(connection, seconds))
        time.sleep(0.2)


def is_known_missing(connection: KafkaConnection, topic: str) -> bool:
    """Whether a broker says that there is no `topic`, or none for this user; False where none says anything.

    The other clients wait for a topic's partitions, and can't tell a missing topic from a broker that restarts.
    """
    try:
        admin = KafkaAdminClient(**connection.client_options(), bootstrap_timeout_ms=2000)
    except KafkaError:
        return False
    try:
        return topic not in admin.list_topics()
    except KafkaError:
        return False
    finally:
        admin.close()


def explain_unreachable(connection: KafkaConnection, seconds: float) -> str:
    """One sentence: what was tried for how long, where it failed, and what to do."""
    tried = f"no Kafka broker could be had at {connection} within {seconds:g} s"
    reasons = [_why_unreachable(server) for server in connection.bootstrap_servers]
    if all(reasons):
        return f"{tried} ({'; '.join(filter(None, reasons))}); start it, or set kafka.bootstrap_servers"
    return (
        f"{tried} (the port is open, but no broker speaks {connection.security_protocol} to us); "
        "see kafka.security_protocol, the credentials and the certificates"
    )


def explain_missing(connection: KafkaConnection, topic: str, setting: str) -> str:
    """One sentence: which topic isn't there, and what to do."""
    return (
        f"the topic {topic} does not exist at {connection} (or may not be seen by this user); "
        f"create it, or set {setting}"
    )


def what_to_do(error: KafkaError) -> str:
    """What mends an error of the group that no retry does."""
    if isinstance(error, InvalidSessionTimeoutError):
        return (
            "set kafka.session_timeout_seconds within what the brokers allow "
            "(their group.min.session.timeout.ms and group.max.session.timeout.ms)"
        )
    return "see the broker's log, then start again"


def _why_unreachable(server: str) -> str | None:
    host, _, port = server.rpartition(":")
    if not host or not port.isdigit():
        host, port = server, "9092"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except socket.gaierror:
        return f"the name {host} can't be resolved"
    except OSError as error:
        return f"{server}: {error.strerror or 'no answer'}"
    return None
