"""Whether the brokers can be had: name, port, TLS, version and login of each, told apart."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import kafka.errors as errors
from kafka.protocol.metadata import MetadataRequest

from consumers.checks import Check, Checklist, Found, Trouble, ok
from consumers.kafka_cluster_checks import KafkaNeeds, check_cluster
from consumers.kafka_connection import KafkaConnection
from consumers.kafka_talk import HungUp, NoKafka, Talk, speaks_plain_kafka, trust_of
from consumers.network_checks import Server, resolve, shake_hands, take_connection

SETTING = "kafka.bootstrap_servers"
NEEDED_VERSION = (2, 5)
"""The first with transactions that carry the group's generation (KIP-447)."""


@dataclass(frozen=True, slots=True)
class _Reached:
    server: Server
    checks: list[Check]

    @property
    def is_well(self) -> bool:
        return all(check.cause is None for check in self.checks)


def check_kafka(
    connection: KafkaConnection,
    needs: KafkaNeeds,
    *,
    seconds: float,
    on_check: Callable[[Check], None] = lambda _check: None,
) -> list[Check]:
    """All that a worker needs of the brokers, within `seconds`. Nothing at the brokers is changed."""
    checklist = Checklist(seconds, on_check)
    try:
        servers = [Server.parse(each, 9092, SETTING) for each in connection.bootstrap_servers]
    except ValueError as error:
        checklist.add(Check("kafka.dns", "fail", str(error), f"correct {SETTING}", cause="kafka.dns"))
        return checklist.checks
    with ThreadPoolExecutor(min(len(servers), 32)) as pool:
        reached = list(pool.map(lambda server: _reach(connection, server, needs, seconds / 2), servers))
    well = next((each for each in reached if each.is_well), None)
    for each in reached:
        for check in each.checks:
            checklist.add(_milder(check) if well is not None else check)
    if well is None:
        last = next(check for check in reached[0].checks if check.cause is not None)
        checklist.add(Check("kafka.topics", "skipped", f"not tried, for {last.cause} failed", cause=last.cause))
        return checklist.checks
    check_cluster(connection, well.server, needs, checklist)
    return checklist.checks


def _milder(check: Check) -> Check:
    """A broker that can't be had is no more than a warning where another one can: the client takes that."""
    return replace(check, state="warn") if check.state == "fail" else check


def _reach(connection: KafkaConnection, server: Server, needs: KafkaNeeds, seconds: float) -> _Reached:
    checklist = Checklist(seconds)
    look = f"look at the log of {server}, and at what stands between"
    dns = checklist.do("kafka.dns", lambda: resolve(server), late="look at the way to the name server")
    tcp = checklist.do("kafka.tcp", lambda: take_connection(server), needs=(dns,), late=look)
    if connection.security_protocol.endswith("SSL"):
        tls = checklist.do("kafka.tls", lambda: _tls(connection, server), needs=(tcp,), late=look)
    else:
        tls = checklist.skip("kafka.tls", f"kafka.security_protocol is {connection.security_protocol}")
    version = checklist.do("kafka.version", lambda: _version(connection, server, needs), needs=(tcp, tls), late=look)
    checklist.do("kafka.login", lambda: _login(connection, server), needs=(version,), late=look)
    return _Reached(server, checklist.checks)


def _tls(connection: KafkaConnection, server: Server) -> Found:
    try:
        return shake_hands(server, trust_of(connection))
    except Trouble as trouble:
        if "no TLS" in trouble.found.seen and speaks_plain_kafka(connection, server):
            raise Trouble(f"{server} speaks Kafka without TLS", trouble.found.fix) from None
        raise


def _version(connection: KafkaConnection, server: Server, needs: KafkaNeeds) -> Found:
    with Talk(connection, server) as talk:
        talk.introduce()
        version = ".".join(map(str, talk.version))
        if talk.version < NEEDED_VERSION and needs.transactional_id is not None:
            return Found(
                "warn",
                f"{server} is a Kafka {version}, without the transactions of 2.5 (KIP-447)",
                "upgrade the brokers, or set kafka.delivery to at_least_once",
            )
        return ok(f"{server} is a Kafka of {version} or later")


def _login(connection: KafkaConnection, server: Server) -> Found:
    with Talk(connection, server) as talk:
        talk.introduce()
        if connection.security_protocol.startswith("SASL"):
            talk.log_in()
            return ok(f"{server} takes the login of {connection.sasl_username} by {connection.sasl_mechanism}")
        try:
            talk.ask(MetadataRequest(topics=[], allow_auto_topic_creation=False))
        except (HungUp, NoKafka):
            raise _wants_login(connection, server) from None
        return ok(f"{server} wants no login")


def _wants_login(connection: KafkaConnection, server: Server) -> Trouble:
    protocol = "SASL_SSL" if connection.security_protocol == "SSL" else "SASL_PLAINTEXT"
    try:
        with Talk(connection, server) as talk:
            talk.introduce()
            offered = talk.mechanisms()
    except (Trouble, HungUp, NoKafka, OSError, errors.KafkaError):
        offered = []
    if not offered:
        return Trouble(f"{server} hangs up on what a client asks", f"look at the log of {server}")
    return Trouble(
        f"{server} wants a login by {' or '.join(offered)}",
        f"set kafka.security_protocol to {protocol}, kafka.sasl_mechanism to {offered[0]}, and its name and password",
    )
