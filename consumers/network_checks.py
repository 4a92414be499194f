"""Whether a server can be had: its name, its port, its TLS, told apart."""

import errno
import ipaddress
import socket
import ssl
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from consumers.checks import Found, Trouble, ok

SOCKET_SECONDS = 3.0

_UNKNOWN_AUTHORITY = {2, 18, 19, 20, 21, 24}
_WRONG_NAME = {62, 63, 64}
_NOT_YET_VALID, _EXPIRED = 9, 10
"""OpenSSL's numbers of what is wrong with a certificate (X509_V_ERR_…)."""


@dataclass(frozen=True, slots=True)
class Server:
    """A host and a port, and the setting that names them."""

    host: str
    port: int
    setting: str

    @classmethod
    def parse(cls, text: str, default_port: int, setting: str) -> Self:
        """Of `host`, `host:port` or `[IPv6]:port`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or host.endswith(":") or (":" in host and not host.startswith("[")):
            return cls(text.strip("[]"), default_port, setting)
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text} in {setting} is no host:port")
        return cls(host.strip("[]"), int(port), setting)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def resolve(server: Server) -> Found:
    """Whether the host's name has an address."""
    with suppress(ValueError):
        ipaddress.ip_address(server.host)
        return ok(f"{server.host} is an address, no name")
    try:
        answers = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise Trouble(
                f"no name server tells who {server.host} is",
                "look at /etc/resolv.conf and the way to the name server it names",
            ) from None
        raise Trouble(f"the name {server.host} is not known", f"correct the name in {server.setting}") from None
    except UnicodeError:
        raise Trouble(f"{server.host} can't be a name", f"correct the name in {server.setting}") from None
    addresses = list(dict.fromkeys(str(answer[4][0]) for answer in answers))
    return ok(f"{server.host} is {', '.join(addresses[:4])}")


def connect(server: Server, seconds: float = SOCKET_SECONDS) -> socket.socket:
    """A connection whose every wait ends after `seconds`. Raises `Trouble`."""
    try:
        return socket.create_connection((server.host, server.port), timeout=seconds)
    except socket.gaierror:
        raise Trouble(f"the name {server.host} is not known", f"correct the name in {server.setting}") from None
    except TimeoutError:
        raise Trouble(
            f"{server} does not answer within {seconds:g} s",
            f"let connections to {server} through (firewall, security group), or correct {server.setting}",
        ) from None
    except OSError as error:
        if error.errno == errno.ECONNREFUSED:
            fix = f"start the server at {server}, or correct the port in {server.setting}"
            raise Trouble(f"nothing listens at {server}", fix) from None
        fix = f"mend the way from this machine to {server}, or correct {server.setting}"
        raise Trouble(f"{server} can't be reached ({error.strerror or type(error).__name__})", fix) from None


def take_connection(server: Server) -> Found:
    """Whether the port is open."""
    connect(server).close()
    return ok(f"{server} takes connections")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whose certificates are trusted, and our own. The names are those of the settings, for what is to be done."""

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    checks_name: bool = True
    checks_certificate: bool = True
    cafile_setting: str = "kafka.ssl_cafile"
    certfile_setting: str = "kafka.ssl_certfile"
    no_tls_fix: str = "name the port that speaks TLS"

    def context(self) -> ssl.SSLContext:
        """As the client makes it. Raises `Trouble` where a file can't be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.check_hostname = self.checks_name and self.checks_certificate
        if not self.checks_certificate:
            context.verify_mode = ssl.CERT_NONE
        try:
            if self.cafile:
                context.load_verify_locations(self.cafile)
            else:
                context.load_default_certs()
        except OSError as error:
            raise _unusable(self.cafile_setting, self.cafile, error) from None
        try:
            if self.certfile:
                # Never asks on the terminal for the password of a key that has one.
                context.load_cert_chain(self.certfile, self.keyfile, password=lambda: "")
        except OSError as error:
            raise _unusable(self.certfile_setting, self.certfile, error) from None
        return context


def _unusable(setting: str, path: str | None, error: OSError) -> Trouble:
    # An SSLError is an OSError, whose words are of OpenSSL's inside.
    reason = "no PEM file of that kind" if isinstance(error, ssl.SSLError) else error.strerror or "can't be read"
    return Trouble(f"{path} can't be used ({reason})", f"set {setting} to a PEM file that can be read")


def open_tls(server: Server, trust: Trust, seconds: float = SOCKET_SECONDS) -> ssl.SSLSocket:
    """A connection with TLS. Raises `Trouble` with the reason why there is none."""
    context = trust.context()
    plain = connect(server, seconds)
    try:
        return context.wrap_socket(plain, server_hostname=server.host.rstrip("."))
    except ssl.SSLCertVerificationError as error:
        plain.close()
        raise _bad_certificate(server, trust, error) from None
    except TimeoutError:
        plain.close()
        raise Trouble(f"{server} takes the connection, and says nothing to a TLS handshake", trust.no_tls_fix) from None
    except ssl.SSLError as error:
        plain.close()
        raise _no_handshake(server, trust, error) from None
    except (OSError, ValueError):
        plain.close()
        raise Trouble(f"{server} speaks no TLS: it hangs up on a handshake", trust.no_tls_fix) from None


def shake_hands(server: Server, trust: Trust) -> Found:
    """Whether TLS is spoken, and the certificate is trusted."""
    with open_tls(server, trust) as secured:
        return ok(f"{server} speaks {secured.version()}; its certificate is trusted")


def speaks_tls(server: Server) -> bool:
    """Whether the port speaks TLS at all, with whatever certificate."""
    try:
        open_tls(server, Trust(checks_certificate=False), seconds=1.0).close()
    except Trouble:
        return False
    return True


def _bad_certificate(server: Server, trust: Trust, error: ssl.SSLCertVerificationError) -> Trouble:
    code = error.verify_code
    if code == _EXPIRED:
        return Trouble(f"the certificate of {server} has expired", f"renew the certificate of {server}")
    if code == _NOT_YET_VALID:
        return Trouble(
            f"the certificate of {server} isn't valid yet", "set this machine's clock, or the certificate's begin"
        )
    if code in _WRONG_NAME:
        return Trouble(
            f"the certificate of {server} is not for the name {server.host}",
            f"use a name in {server.setting} that is on the certificate, or put {server.host} on it",
        )
    if code in _UNKNOWN_AUTHORITY:
        return Trouble(
            f"the certificate of {server} is from an authority that isn't trusted here",
            f"set {trust.cafile_setting} to the PEM file of the authority that signed it",
        )
    return Trouble(f"the certificate of {server} is refused ({error.verify_message})", f"renew that of {server}")


def _no_handshake(server: Server, trust: Trust, error: ssl.SSLError) -> Trouble:
    reason = error.reason or type(error).__name__
    if "ALERT" in reason and ("CERTIFICATE" in reason or "UNKNOWN_CA" in reason):
        return wants_certificate(server, trust)
    if ("PROTOCOL" in reason and "UNSUPPORTED" in reason) or ("VERSION" in reason and "ALERT" in reason):
        return Trouble(f"{server} speaks no TLS of 1.2 or later", f"have {server} speak TLS 1.2")
    if "ALERT" in reason:
        return Trouble(f"{server} refuses the TLS handshake ({reason})", f"look at the log of {server}")
    return Trouble(f"{server} speaks no TLS ({reason})", trust.no_tls_fix)


def wants_certificate(server: Server, trust: Trust) -> Trouble:
    """What is wrong where the server asks who we are."""
    return Trouble(
        f"{server} wants a certificate of ours that it trusts",
        f"set {trust.certfile_setting} and its key to a certificate that its authority signed",
    )
