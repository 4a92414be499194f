"""How the settings name the brokers, for every command that speaks to them."""

from urllib.parse import quote

from consumers.kafka_connection import KafkaConnection
from worker.settings import KafkaTable


def connection_of(kafka: KafkaTable) -> KafkaConnection:
    """The brokers' addresses and the credentials for them."""
    password = kafka.sasl_password
    return KafkaConnection(
        bootstrap_servers=tuple(part.strip() for part in kafka.bootstrap_servers.split(",") if part.strip()),
        security_protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        sasl_username=kafka.sasl_username,
        sasl_password=None if password is None else password.get_secret_value(),
        ssl_cafile=kafka.ssl_cafile,
        ssl_certfile=kafka.ssl_certfile,
        ssl_keyfile=kafka.ssl_keyfile,
    )


def transactional_id(kafka: KafkaTable) -> str | None:
    """None for a new one at each start. No two workers of different names have the same."""
    name = kafka.group_instance_id
    return f"{kafka.group_id}/{quote(name, safe='')}" if name else None
