"""What the workers lean on: a broker, a Redis behind its proxy, and a host of pictures; each can be struck."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self
from uuid import uuid4

from kafka.admin import KafkaAdminClient

from tests.faults.image_host import ImageHost, example_pictures
from tests.faults.plan import Strike
from tests.faults.redis_proxy import RedisProxy
from tests.native import native_services

NUM_PARTITIONS = 4

QUICK_BROKER = {
    # How soon a dead worker's transaction is ended after its time, and a dead broker's session.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
    "broker.session.timeout.ms": 2000,
    "broker.heartbeat.interval.ms": 500,
}


class Cluster:
    """One of each, for all runs. `strike` hits at once and returns; what heals is done later by a timer."""

    def __init__(self) -> None:
        services = native_services()
        self._kafka = _quick_kafka(services)
        self._redis = services.NativeRedis()
        self._lock = threading.Lock()
        self._troubled: set[str] = set()
        self._healing: list[threading.Thread] = []
        self._errors: list[BaseException] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._kafka)
            stack.enter_context(self._redis)
            self.image_host = ImageHost(example_pictures())
            stack.callback(self.image_host.close)
            self._proxy = RedisProxy(int(self._redis.address.rpartition(":")[2].partition("/")[0]))
            stack.callback(self._proxy.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for thread in self._healing:
            thread.join()
        self._stack.close()

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return str(self._kafka.address)

    @property
    def redis_url(self) -> str:
        """The address of the proxy in front of Redis."""
        return self._proxy.url

    @property
    def broker_is_up(self) -> bool:
        """Whether a worker that starts now can be expected to find the broker."""
        return "broker" not in self._troubled

    def strike(self, strike: Strike) -> bool:
        """Hit, where the same thing isn't in trouble already. Workers are struck elsewhere."""
        thing = strike.fault.rpartition("_")[0] if strike.fault.startswith("image_host") else strike.fault.split("_")[0]
        hit, heal = self._acts(strike.fault)
        with self._lock:
            if thing in self._troubled:
                return False
            self._troubled.add(thing)
        hit()
        thread = threading.Thread(target=self._heal_later, args=(thing, strike.seconds, heal))
        self._healing.append(thread)
        thread.start()
        return True

    def settle(self) -> None:
        """Wait until all is healed. Raises what went wrong with that."""
        for thread in self._healing:
            thread.join()
        self._healing.clear()
        if self._errors:
            raise self._errors.pop()

    def make_topics(self) -> dict[str, str]:
        """Fresh topics, by their settings' names."""
        run = uuid4().hex[:8]
        topics = {name: f"{name}-{run}" for name in ("posts", "entities", "dead_letters")}
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            wanted = {"num_partitions": NUM_PARTITIONS, "replication_factor": 1}
            admin.create_topics(dict.fromkeys(topics.values(), wanted), wait_for_metadata=True)
        finally:
            admin.close()
        return topics

    def drop_topics(self, topics: dict[str, str]) -> None:
        """Remove them, so that the broker isn't slowed down by the runs before."""
        admin = KafkaAdminClient(bootstrap_servers=self.bootstrap)
        try:
            admin.delete_topics(list(topics.values()))
        finally:
            admin.close()

    def _acts(self, fault: str) -> tuple[Callable[[], None], Callable[[], None]]:
        """What hits, and what heals."""
        if fault in ("broker_kill", "broker_stop"):
            number = signal.SIGKILL if fault == "broker_kill" else signal.SIGTERM
            return lambda: os.kill(self._kafka.pid, number), self._kafka.restart
        if fault == "redis_kill":
            return lambda: os.kill(self._redis.pid, signal.SIGKILL), self._redis.restart
        if fault.startswith("redis_"):
            mode = fault.removeprefix("redis_")
            return lambda: setattr(self._proxy, "mode", mode), lambda: setattr(self._proxy, "mode", "normal")
        mode = fault.removeprefix("image_host_")
        return lambda: self.image_host.set_mode(mode), lambda: self.image_host.set_mode("normal")

    def _heal_later(self, thing: str, seconds: float, heal: Callable[[], None]) -> None:
        time.sleep(seconds)
        try:
            heal()
        except BaseException as error:
            # The thread's border: settle() raises it where the run sees it.
            self._errors.append(error)
        with self._lock:
            self._troubled.discard(thing)


def _quick_kafka(services: ModuleType) -> Any:
    class QuickKafka(services.NativeKafka):  # type: ignore[misc] # a module loaded by its path has no types
        def _prepare(self, folder: Path) -> None:
            super()._prepare(folder)
            with (folder / "server.properties").open("a") as file:
                file.writelines(f"{name}={value}\n" for name, value in QUICK_BROKER.items())

    return QuickKafka()
