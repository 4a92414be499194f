"""Lines for a shell that mend a cluster, with the worker's own login; the password stays a variable."""

import shlex
import sys

from consumers.kafka_connection import KafkaConnection
from consumers.network_checks import Server

PASSWORD_VARIABLE = "NAMETAG_KAFKA__SASL_PASSWORD"


def creation_command(connection: KafkaConnection, server: Server, topic: str) -> str:
    """Creates the topic as the broker would."""
    return f"{_admin(connection, server)} topics create -t {shlex.quote(topic)}"


def cleanup_command(connection: KafkaConnection, server: Server, topic: str, policy: str) -> str:
    """Sets what the topic, which is there, is cleaned up by."""
    setting = shlex.quote(f"cleanup.policy={policy}")
    return f"{_admin(connection, server)} configs alter -r topic -n {shlex.quote(topic)} -c {setting}"


def _admin(connection: KafkaConnection, server: Server) -> str:
    words = [sys.executable, "-m", "kafka.admin", "-b", str(server)]
    if connection.security_protocol != "PLAINTEXT":
        words += ["-S", connection.security_protocol]
    if connection.security_protocol.startswith("SASL"):
        words += ["-M", connection.sasl_mechanism or "PLAIN", "-U", connection.sasl_username or ""]
    for name in ("ssl_cafile", "ssl_certfile", "ssl_keyfile"):
        if path := getattr(connection, name):
            words += ["-C", f"{name}={path}"]
    password = f' -P "${PASSWORD_VARIABLE}"' if connection.security_protocol.startswith("SASL") else ""
    return shlex.join(words) + password
