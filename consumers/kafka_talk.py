"""A conversation with one broker over a socket of its own, a question at a time.

kafka-python's clients retry, and say the same of most failures; here each step fails by itself. The protocol's
messages and the ways of logging in are theirs.
"""

import socket
import ssl
import time
from types import TracebackType
from typing import Any, Self

import kafka.errors as errors
from kafka.net.sasl import SASL_MECHANISMS, get_sasl_mechanism
from kafka.protocol.broker_version_data import BrokerVersionData
from kafka.protocol.metadata import ApiVersionsRequest
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from consumers.checks import Trouble
from consumers.kafka_connection import KafkaConnection
from consumers.network_checks import SOCKET_SECONDS, Server, Trust, connect, open_tls, speaks_tls, wants_certificate

MAX_ANSWER_BYTES = 16 * 1024 * 1024


class HungUp(Exception):
    """Raised where the broker ends the conversation."""


class NoKafka(Exception):
    """Raised where what comes is no answer of a broker."""


def trust_of(connection: KafkaConnection) -> Trust:
    """Whose certificates the client trusts, and its own."""
    plain = "SASL_PLAINTEXT" if connection.security_protocol == "SASL_SSL" else "PLAINTEXT"
    return Trust(
        cafile=connection.ssl_cafile,
        certfile=connection.ssl_certfile,
        keyfile=connection.ssl_keyfile,
        no_tls_fix=f"name the broker's port that speaks TLS, or set kafka.security_protocol to {plain}",
    )


class Talk:
    """One connection to one broker; `introduce`, then `log_in` where it takes one, then `ask`."""

    def __init__(self, connection: KafkaConnection, server: Server, seconds: float = SOCKET_SECONDS) -> None:
        self._connection = connection
        self._trust = trust_of(connection)
        self._seconds = seconds
        self.server = server
        self.uses_tls = connection.security_protocol.endswith("SSL")
        self._socket: socket.socket = (
            open_tls(server, self._trust, seconds) if self.uses_tls else connect(server, seconds)
        )
        self._protocol = KafkaProtocol(client_id=connection.client_id, receive_message_max_bytes=MAX_ANSWER_BYTES)
        self._versions: BrokerVersionData | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    @property
    def version(self) -> tuple[int, ...]:
        """The broker's version, as far as its protocol tells it."""
        assert self._versions is not None, "introduce() comes first"
        return tuple(self._versions.broker_version)

    def introduce(self) -> None:
        """Ask what the broker can do, which it tells before any login. Raises `Trouble`."""
        try:
            answer = self._exchange(ApiVersionsRequest(), 0)
        except TimeoutError:
            raise Trouble(
                f"{self.server} takes the connection, and says nothing (a proxy without its broker?)",
                f"look at the log of {self.server}, or correct {self.server.setting}",
            ) from None
        except (HungUp, NoKafka) as error:
            raise self._not_understood(error) from None
        known = {each.api_key: (each.min_version, each.max_version) for each in answer.api_keys}
        self._versions = BrokerVersionData(api_versions=known)

    def ask(self, request: Any) -> Any:
        """The answer, in the newest version that both sides know.

        Raises `HungUp`, `NoKafka`, TimeoutError, and kafka-python's error for a request that the broker doesn't know.
        """
        assert self._versions is not None, "introduce() comes first"
        return self._exchange(request, self._versions.api_version(request))

    def mechanisms(self) -> list[str]:
        """The ways of logging in that the broker offers; none where it wants no login."""
        answer = self.ask(SaslHandshakeRequest(mechanism=self._connection.sasl_mechanism or "none"))
        return [] if answer.error_code == errors.IllegalSaslStateError.errno else sorted(answer.mechanisms)

    def log_in(self) -> None:
        """Log in by SASL. Raises `Trouble` with what is wrong."""
        mechanism = self._connection.sasl_mechanism or ""
        if mechanism not in SASL_MECHANISMS:
            known = ", ".join(sorted(SASL_MECHANISMS))
            raise Trouble(f"{mechanism} is no way to log in", f"set kafka.sasl_mechanism to one of {known}")
        offered = self.mechanisms()
        if not offered:
            without = "SSL" if self.uses_tls else "PLAINTEXT"
            raise Trouble(f"{self.server} takes no login", f"set kafka.security_protocol to {without}")
        if mechanism not in offered:
            raise Trouble(
                f"{self.server} offers {', '.join(offered)}, and not {mechanism}",
                f"set kafka.sasl_mechanism to {' or '.join(offered)}",
            )
        try:
            self._authenticate(mechanism)
        except (HungUp, errors.SaslAuthenticationFailedError):
            raise Trouble(
                f"{self.server} refuses the login of {self._connection.sasl_username} by {mechanism}",
                "correct kafka.sasl_username and kafka.sasl_password",
            ) from None

    def _authenticate(self, mechanism: str) -> None:
        options = self._connection.client_options()
        try:
            login = get_sasl_mechanism(mechanism)(host=self.server.host, **options)
        except (errors.KafkaConfigurationError, KeyError, AttributeError, AssertionError):
            raise Trouble(
                f"{mechanism} needs more than the settings have", "set kafka.sasl_username and kafka.sasl_password"
            ) from None
        while not login.is_done():
            answer = self.ask(SaslAuthenticateRequest(login.auth_bytes()))
            if answer.error_code != 0:
                raise errors.SaslAuthenticationFailedError
            try:
                login.receive(answer.auth_bytes)
            except (ValueError, KeyError):
                raise errors.SaslAuthenticationFailedError from None
        if not login.is_authenticated():
            raise errors.SaslAuthenticationFailedError

    def _exchange(self, request: Any, version: int) -> Any:
        request.API_VERSION = version
        self._protocol.send_request(request)
        end = time.monotonic() + self._seconds
        try:
            self._socket.settimeout(self._seconds)
            self._socket.sendall(self._protocol.send_bytes())
            while True:
                self._socket.settimeout(max(0.001, end - time.monotonic()))
                data = self._socket.recv(65536)
                if not data:
                    raise HungUp
                if answers := self._protocol.receive_bytes(data):
                    return answers[0][1]
        except ssl.SSLError as error:
            # In TLS 1.3 the server looks at our certificate after our side of the handshake is over.
            if "CERTIFICATE" in (error.reason or "") or "UNKNOWN_CA" in (error.reason or ""):
                raise wants_certificate(self.server, self._trust) from None
            raise HungUp from None
        except (ConnectionError, BrokenPipeError):
            raise HungUp from None
        except errors.KafkaError:
            raise NoKafka from None

    def _not_understood(self, error: HungUp | NoKafka) -> Trouble:
        """Why a first question has no answer: of the ways to get that wrong most are a wrong port."""
        if not self.uses_tls and speaks_tls(self.server):
            secured = "SASL_SSL" if self._connection.security_protocol.startswith("SASL") else "SSL"
            return Trouble(f"{self.server} speaks TLS", f"set kafka.security_protocol to {secured}")
        what = "hangs up on" if isinstance(error, HungUp) else "answers something else to"
        return Trouble(
            f"{self.server} {what} a question that every broker answers: no Kafka is spoken there",
            f"name a broker in {self.server.setting}",
        )


def speaks_plain_kafka(connection: KafkaConnection, server: Server) -> bool:
    """Whether a broker answers there without TLS."""
    plain = KafkaConnection(bootstrap_servers=connection.bootstrap_servers, client_id=connection.client_id)
    try:
        with Talk(plain, server, 1.0) as talk:
            answer = talk._exchange(ApiVersionsRequest(), 0)
            return bool(answer.api_keys)
    except (Trouble, HungUp, NoKafka, OSError):
        return False
