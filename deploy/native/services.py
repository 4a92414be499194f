"""Kafka and Redis as plain processes, for machines without a container engine.

`python deploy/native/services.py` starts both, makes the worker's topics, prints what to export and how
to send a post and read its event, and runs until Ctrl-C. Needs Java 17 or later and Maven (for the
broker's jars, once), `redis-server`, and `make env` for the topics.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

POM = Path(__file__).with_name("pom.xml")
REPOSITORY = Path(__file__).parents[2]
TOPICS = ("posts", "entities", "dead-letters")
NUM_PARTITIONS = 4
START_SECONDS = 60.0
STOP_SECONDS = 15.0


class ServiceUnavailable(Exception):
    """Raised when a service can't be started here; says what is missing."""


class NativeService:
    """One process on a free loopback port, its data and its log in a temporary folder."""

    name = "service"

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Start it and wait until it answers; gives its address. Raises `ServiceUnavailable`."""
        self._folder = Path(tempfile.mkdtemp(prefix=f"nametag-{self.name}-"))
        try:
            self._prepare(self._folder)
            self._launch(self._folder)
        except BaseException:
            self.stop()
            raise
        return self.address

    def stop(self) -> None:
        """End the process and remove its data."""
        self._end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def end(self) -> None:
        """End the process, and keep its data for `restart`."""
        self._end()

    def restart(self) -> None:
        """End the process and start it again on the same port and data."""
        assert self._folder is not None, "start() comes first"
        self._end()
        self._launch(self._folder)

    @property
    def pid(self) -> int:
        """The process, for whoever wants to hurt it."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """What a client is told."""
        raise NotImplementedError

    def _prepare(self, folder: Path) -> None:
        raise NotImplementedError

    def _command(self, folder: Path) -> list[str]:
        raise NotImplementedError

    def _is_ready(self, log: bytes) -> bool:
        raise NotImplementedError

    def _launch(self, folder: Path) -> None:
        path = folder / "log.txt"
        with path.open("wb") as log:
            # A session of its own: Ctrl-C reaches the caller only, who then stops us in order.
            self._process = subprocess.Popen(
                self._command(folder), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready(path.read_bytes()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = path.read_text(errors="replace")[-2000:]
                raise ServiceUnavailable(f"{self.name} did not start; its log ends with:\n{last}")
            time.sleep(0.05)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class NativeKafka(NativeService):
    """A single-node broker in KRaft mode; topics are never created by themselves."""

    name = "kafka"

    @property
    def address(self) -> str:
        """The bootstrap address."""
        return f"127.0.0.1:{self._port}"

    def _prepare(self, folder: Path) -> None:
        self._jars = kafka_jars()
        self._port, controller_port = _free_ports(2)
        properties = _broker_properties(folder, self._port, controller_port)
        (folder / "server.properties").write_text(properties)
        storage = [
            "kafka.tools.StorageTool",
            "format",
            "--standalone",
            "--cluster-id",
            uuid4().hex[:22],
        ]
        done = subprocess.run(
            [*self._java(), *storage, "--config", str(folder / "server.properties")],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ServiceUnavailable(f"kafka's storage can't be formatted:\n{done.stdout}{done.stderr}")

    def _command(self, folder: Path) -> list[str]:
        return [*self._java(), "kafka.Kafka", str(folder / "server.properties")]

    def _is_ready(self, log: bytes) -> bool:
        # The port opens before the broker is unfenced; only then can topics be created.
        return b"Kafka Server started" in log

    def _java(self) -> list[str]:
        # Compilation by C1 alone and a serial collector: the broker is up in half the time.
        options = ["-Xmx512m", "-Xms128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        options += ["-Dlog4j2.level=INFO"]
        return ["java", *options, "-cp", str(self._jars / "*")]


class NativeRedis(NativeService):
    """A Redis that keeps nothing on disk."""

    name = "redis"

    @property
    def address(self) -> str:
        """The URL of database 0."""
        return f"redis://127.0.0.1:{self._port}/0"

    def _prepare(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            raise ServiceUnavailable("redis-server isn't installed; install the package of that name")
        (self._port,) = _free_ports(1)

    def _command(self, folder: Path) -> list[str]:
        settings = {"port": str(self._port), "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        settings |= {"dir": str(folder), "daemonize": "no"}
        return [
            "redis-server",
            *(word for key, value in settings.items() for word in (f"--{key}", value)),
        ]

    def _is_ready(self, log: bytes) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._port), 1) as peer,
        ):
            peer.sendall(b"PING\r\n")
            return peer.recv(16).startswith(b"+PONG")
        return False


def kafka_jars() -> Path:
    """The folder of the broker's jars, which Maven fills once. Raises `ServiceUnavailable`."""
    match = re.search(r"<kafka\.version>(.+?)</kafka\.version>", POM.read_text())
    assert match, "pom.xml names the broker's version"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nametag"
    jars = cache / f"kafka-{match[1]}"
    if shutil.which("java") is None:
        raise ServiceUnavailable("java isn't installed; install Java 17 or later")
    if jars.is_dir():
        return jars
    if shutil.which("mvn") is None:
        raise ServiceUnavailable("mvn isn't installed; install Maven, which fetches the broker's jars")
    cache.mkdir(parents=True, exist_ok=True)
    # Renamed when complete: an interrupted download, or two at once, must not leave half a broker.
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        filling = Path(folder) / "jars"
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={filling}"]
        done = subprocess.run(
            ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", *options],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise ServiceUnavailable(f"Maven can't fetch the broker's jars:\n{done.stdout[-2000:]}")
        with contextlib.suppress(OSError):
            filling.rename(jars)
    return jars


def _broker_properties(folder: Path, port: int, controller_port: int) -> str:
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.listener.names": "CONTROLLER",
        "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller_port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": folder / "data",
        "auto.create.topics.enable": "false",
        "num.partitions": 4,
        "offsets.topic.num.partitions": 4,
        "offsets.topic.replication.factor": 1,
        "transaction.state.log.num.partitions": 4,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        "group.initial.rebalance.delay.ms": 0,
        "group.min.session.timeout.ms": 1000,
        # Everybody may do everything, until a test takes a right away.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def create_topics(address: str) -> None:
    """Make the worker's topics. Raises `ServiceUnavailable` where no Python has kafka-python."""
    code = f"""
from kafka.admin import KafkaAdminClient
admin = KafkaAdminClient(bootstrap_servers={address!r})
wanted = dict(num_partitions={NUM_PARTITIONS}, replication_factor=1)
admin.create_topics(dict.fromkeys({TOPICS!r}, wanted), wait_for_metadata=True)
admin.close()
"""
    # This file is run by any Python; the project's own has the client.
    done = subprocess.run([_project_python(), "-c", code], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServiceUnavailable(f"the topics can't be made ({last}); `make env` installs what is needed")


def _project_python() -> str:
    python = REPOSITORY / ".venv" / "bin" / "python"
    return str(python) if python.exists() else sys.executable


def instructions(kafka: str, redis: str) -> str:
    """Lines for a shell: what to export, and as comments what to try."""
    python = _project_python()
    client = f"-b {kafka} -t"
    post = """{"id": "1", "text": "so happy about Phoenix !"}"""
    return f"""\
export NAMETAG_KAFKA__BOOTSTRAP_SERVERS={kafka}
export NAMETAG_REDIS__URL={redis}
# With these in another shell, start a worker: {python} -m worker.cli worker
# Send a post:
#   echo '{post}' | {python} -m kafka.producer {client} posts
# Read the events, until Ctrl-C:
#   {python} -m kafka.consumer {client} entities -C auto_offset_reset=earliest -C isolation_level=read_committed
# Ctrl-C here ends both services and removes their data."""


def main() -> int:
    """Run both services until Ctrl-C or SIGTERM; gives back the exit status."""
    # Set before the processes start, so that no signal leaves them behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with contextlib.suppress(KeyboardInterrupt), NativeKafka() as kafka, NativeRedis() as redis:
            create_topics(kafka.address)
            print(instructions(kafka.address, redis.address), flush=True)
            signal.pause()
    except ServiceUnavailable as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
