"""The real services that the tests run against, and where their data stands.

An address in NAMETAG_TEST_KAFKA or NAMETAG_TEST_REDIS comes first, then a container, then a plain
process. Where none can be had the tests are skipped, in CI they fail.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.native import give_up, native_services

REPOSITORY = Path(__file__).parents[1]
KAFKA_IMAGE = "apache/kafka:4.1.1"
REDIS_IMAGE = "redis:7"
NUM_PARTITIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Fresh topics of one test, each with `num_partitions` partitions."""

    posts: str
    entities: str
    dead_letters: str
    num_partitions: int = NUM_PARTITIONS


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """The bootstrap address of a broker."""
    with _service("NAMETAG_TEST_KAFKA", _kafka_container, "NativeKafka") as address:
        yield address


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis."""
    with _service("NAMETAG_TEST_REDIS", _redis_container, "NativeRedis") as address:
        yield address


@pytest.fixture
def own_broker() -> Iterator[Any]:
    """A broker that may be stopped, with the topics `posts`, `entities` and `dead-letters`."""
    services = native_services()
    try:
        broker = services.NativeKafka()
        broker.start()
    except services.ServiceUnavailable as error:
        give_up(str(error))
    try:
        services.create_topics(broker.address)
        yield broker
    finally:
        broker.stop()


@pytest.fixture
def topics(kafka_bootstrap: str) -> Topics:
    """Topics that no other test has seen."""
    from kafka.admin import KafkaAdminClient

    run = uuid4().hex[:8]
    fresh = Topics(posts=f"posts-{run}", entities=f"entities-{run}", dead_letters=f"dead-{run}")
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    try:
        wanted = {"num_partitions": NUM_PARTITIONS, "replication_factor": 1}
        names = (fresh.posts, fresh.entities, fresh.dead_letters)
        admin.create_topics(dict.fromkeys(names, wanted), wait_for_metadata=True)
    finally:
        admin.close()
    return fresh


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the data sets, which stands beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data sets aren't here: no folder shared/data beside the repository")
    return folder


class _NotHere(Exception):
    """Raised when one way to a service isn't open on this machine."""


@contextlib.contextmanager
def _service(variable: str, container: Callable[[], Any], native: str) -> Iterator[str]:
    if address := os.environ.get(variable):
        yield address
        return
    with contextlib.ExitStack() as stack:
        try:
            address = _start_container(stack, container)
        except _NotHere as no_container:
            services = native_services()
            try:
                address = stack.enter_context(getattr(services, native)()).address
            except services.ServiceUnavailable as no_process:
                give_up(f"{variable} isn't set; {no_container}; {no_process}")
        yield address


def _start_container(stack: contextlib.ExitStack, container: Callable[[], Any]) -> str:
    _check_engine(KAFKA_IMAGE if container is _kafka_container else REDIS_IMAGE)
    started = stack.enter_context(container())
    if container is _kafka_container:
        return str(started.get_bootstrap_server())
    return f"redis://{started.get_container_host_ip()}:{started.get_exposed_port(6379)}/0"


def _kafka_container() -> Any:
    from testcontainers.kafka import KafkaContainer

    # The class's default is an old image with ZooKeeper.
    return KafkaContainer(KAFKA_IMAGE).with_kraft()


def _redis_container() -> Any:
    from testcontainers.redis import RedisContainer

    return RedisContainer(REDIS_IMAGE)


def _check_engine(image: str) -> None:
    """Raise `_NotHere` quickly: testcontainers itself would wait and retry."""
    try:
        import docker  # type: ignore[import-untyped]  # it has no types
        from docker.errors import DockerException, ImageNotFound  # type: ignore[import-untyped]  # likewise
    except ImportError as error:
        raise _NotHere("testcontainers isn't installed") from error
    try:
        client = docker.from_env(timeout=3)
        client.ping()
    except (DockerException, OSError) as error:
        raise _NotHere("no container engine answers") from error
    try:
        client.images.get(image)
    except ImageNotFound:
        try:
            docker.from_env(timeout=120).images.pull(image)
        except (DockerException, OSError) as error:
            raise _NotHere(f"the image {image} can't be pulled") from error
