"""A throwaway authority and the certificates that it signs, by openssl."""

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_CONFIG = """\
[ca]
default_ca = all
[all]
database = index.txt
new_certs_dir = .
rand_serial = yes
default_md = sha256
unique_subject = no
copy_extensions = copy
policy = any
[any]
commonName = supplied
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """PEM files: a certificate, its key, and both in one file, as a broker wants them."""

    certificate: Path
    key: Path
    both: Path


class Authority:
    """Signs certificates in `folder`; `certificate` is what a client has to trust."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.certificate = folder / "ca.pem"
        (folder / "ca.cnf").write_text(_CONFIG)
        (folder / "index.txt").touch()
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=throwaway authority",
            "-keyout", "ca.key", "-out", "ca.pem",
        )  # fmt: skip

    def sign(self, name: str, *, names: str = "IP:127.0.0.1,DNS:localhost", from_day: int = -1, days: int = 3) -> Pair:
        """A certificate for `names`, valid from `from_day` on, counted from today, for `days`."""
        begin = datetime.now(UTC) + timedelta(days=from_day)
        request = self._folder / f"{name}.csr"
        pair = Pair(
            certificate=self._folder / f"{name}.pem",
            key=self._folder / f"{name}.key",
            both=self._folder / f"{name}.both",
        )
        self._openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-addext", f"subjectAltName={names}",
            "-keyout", str(pair.key), "-out", str(request),
        )  # fmt: skip
        self._openssl(
            "ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key",
            "-startdate", f"{begin:%Y%m%d%H%M%SZ}", "-enddate", f"{begin + timedelta(days=days):%Y%m%d%H%M%SZ}",
            "-in", str(request), "-out", str(pair.certificate),
        )  # fmt: skip
        pair.both.write_bytes(pair.key.read_bytes() + pair.certificate.read_bytes())
        return pair

    def _openssl(self, *words: str) -> None:
        done = subprocess.run(["openssl", *words], cwd=self._folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
