"""A broker with a listener of each kind, for what is told of TLS, logins and rights."""

from pathlib import Path
from typing import Any

from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from consumers.kafka_connection import KafkaConnection
from tests.certificates import Authority
from tests.native import give_up, native_services

SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"


class Guarded:
    """A broker with a listener of each kind; only those with a name and a right may do something.

    `tagger` has what a worker needs, `weak` may see the topics and no more. Nobody on the plain listener may do all.
    """

    LISTENERS = ("PLAINTEXT", "SECURE", "MUTUAL", "LOGIN", "SECURELOGIN", "LOST")

    def __init__(self, authority: Authority) -> None:
        services = native_services()
        self.authority = authority
        self.ports: dict[str, int] = {}
        outer = self

        class Variant(services.NativeKafka):  # type: ignore[misc,name-defined]
            def _prepare(self, folder: Path) -> None:
                super()._prepare(folder)
                free = [port for port in services._free_ports(9) if port != self._port]
                outer.ports = dict(zip(outer.LISTENERS, [self._port, *free], strict=False))
                with (folder / "server.properties").open("a") as file:
                    file.write("".join(f"{key}={value}\n" for key, value in outer._properties(folder).items()))

        self._broker = Variant()
        try:
            self._broker.start()
        except services.ServiceUnavailable as error:
            give_up(str(error))
        services.create_topics(self._broker.address)
        self._grant()

    def stop(self) -> None:
        self._broker.stop()

    def connection(self, listener: str, **fields: Any) -> KafkaConnection:
        return KafkaConnection(bootstrap_servers=(f"127.0.0.1:{self.ports[listener]}",), **fields)

    def allow_creation(self, user: str, prefix: str) -> None:
        """Of topics whose names begin so."""
        admin = KafkaAdminClient(bootstrap_servers=self._broker.address)
        try:
            admin.create_acls([_allow(user, ResourceType.TOPIC, prefix, ACLOperation.CREATE)])
        finally:
            admin.close()

    def _properties(self, folder: Path) -> dict[str, object]:
        before = (folder / "server.properties").read_text()
        (controller,) = [word for word in before.replace("\n", ",").split(",") if word.startswith("CONTROLLER://")]
        kinds = {"SECURE": "SSL", "MUTUAL": "SSL", "LOGIN": "SASL_PLAINTEXT", "SECURELOGIN": "SASL_SSL"}
        kinds |= {"LOST": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        own = [f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()]
        told = [each if not each.startswith("LOST") else "LOST://kafka.invalid:29092" for each in own]
        users = "".join(f' user_{name}="right-{name}"' for name in ("tagger", "weak"))
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required{users};"
        return {
            "listeners": ",".join([*own, controller]),
            "advertised.listeners": ",".join(told),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in kinds.items()),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256",
            "listener.name.login.plain.sasl.jaas.config": login,
            "listener.name.securelogin.plain.sasl.jaas.config": login,
            "listener.name.login.scram-sha-256.sasl.jaas.config": SCRAM,
            "listener.name.securelogin.scram-sha-256.sasl.jaas.config": SCRAM,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.authority.sign("broker").both,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.authority.certificate,
            "listener.name.mutual.ssl.client.auth": "required",
            "super.users": "User:ANONYMOUS",
            "allow.everyone.if.no.acl.found": "false",
        }

    def _grant(self) -> None:
        rights = {
            "tagger": [
                (ResourceType.TOPIC, "posts", ACLOperation.READ),
                (ResourceType.TOPIC, "entities", ACLOperation.WRITE),
                (ResourceType.TOPIC, "dead-letters", ACLOperation.WRITE),
                (ResourceType.GROUP, "nametag", ACLOperation.READ),
                (ResourceType.TRANSACTIONAL_ID, "nametag", ACLOperation.WRITE),
            ],
            "weak": [(ResourceType.TOPIC, name, ACLOperation.DESCRIBE) for name in ("posts", "entities")],
        }
        admin = KafkaAdminClient(bootstrap_servers=self._broker.address)
        try:
            admin.create_acls([_allow(user, *right) for user, granted in rights.items() for right in granted])
            scram = UserScramCredentialUpsertion("tagger", ScramMechanism.SCRAM_SHA_256, "right-tagger")
            admin.alter_user_scram_credentials([scram])
        finally:
            admin.close()


def _allow(user: str, kind: ResourceType, prefix: str, operation: ACLOperation) -> ACL:
    pattern = ResourcePattern(kind, prefix, pattern_type=ACLResourcePatternType.PREFIXED)
    return ACL(f"User:{user}", "*", operation, ACLPermissionType.ALLOW, pattern)
