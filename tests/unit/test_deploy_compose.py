"""The compose file, and the scripts that its services run. tests/containers tries them for real."""

import asyncio
import re
import shlex
import socket
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from model import checkpoint
from model.tower_file import tower_file
from tests.unit.deploy_files import DEPLOY, REPOSITORY, compose, load, option, script, services
from worker.settings import STARTER_CHECKPOINT, Settings


def test_the_checkpoint_that_is_switched_is_the_one_that_is_watched() -> None:
    """The trainer writes where the worker looks, on the same volume, and the worker can't write there."""
    worker, trainer = services()["worker"], services()["trainer"]
    watched = worker["environment"]["NAMETAG_CHECKPOINTS__WATCH"]
    assert trainer["entrypoint"][-1] == watched
    assert "checkpoints:/checkpoints:ro" in worker["volumes"]
    assert "checkpoints:/checkpoints" in trainer["volumes"]
    assert trainer["profiles"] == ["train"]


def test_the_services_are_all_there_and_wait_for_one_another() -> None:
    """One command brings everything but the trainer; what is waited for to be healthy has a check of its health."""
    found = services()
    wanted = "kafka redis redis-deletes worker live samples prometheus grafana trainer"
    assert set(found) >= set(wanted.split())
    for service in found.values():
        for name, awaited in service.get("depends_on", {}).items():
            if awaited["condition"] == "service_healthy":
                assert found[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", ["kafka", "redis", "redis-deletes", "samples", "prometheus", "grafana"])
def test_what_keeps_running_has_a_healthcheck(name: str) -> None:
    """The engine can tell which one is ill; the worker's check is in its image."""
    assert services()[name]["healthcheck"]["test"]


@pytest.mark.parametrize("name", services())
def test_services_have_no_right_too_many(name: str) -> None:
    """No capability, no way to get one, no port but on loopback, and no file of the image's that can be written."""
    service = services()[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service.get("privileged")
    assert service.get("read_only") or service["image"].startswith("apache/kafka")


def test_what_compose_mounts_is_there() -> None:
    """Each file and folder of ours that a service is given exists, and each volume is declared."""
    declared = compose()["volumes"]
    for service in services().values():
        for volume in service.get("volumes", []):
            source = volume.split(":", 1)[0]
            if source.startswith("./deploy"):
                assert (REPOSITORY / source).exists(), source
            elif volume != "./data:/data:ro":
                assert source in declared


def test_the_topics_are_the_workers() -> None:
    """The topics that compose makes are those that a worker uses by default, and the samples go to the first."""
    made = set(re.findall(r"--topic (\S+)", services()["topics"]["command"][-1]))
    kafka = Settings().kafka
    assert made == {kafka.posts_topic, kafka.entities_topic, kafka.dead_letters_topic}
    sent = re.search(r'"--topic", default="(.+?)"', (DEPLOY / "sample_posts.py").read_text(encoding="utf-8"))
    assert sent and sent[1] == kafka.posts_topic


def test_the_addresses_inside_compose_match() -> None:
    """The broker's inner listener, both Redis, the pictures and the worker are asked for where they are."""
    found = services()
    variables = found["worker"]["environment"]
    inner = variables["NAMETAG_KAFKA__BOOTSTRAP_SERVERS"]
    assert f"INTERNAL://{inner}," in found["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert inner in found["samples"]["command"]
    assert variables["NAMETAG_REDIS__URL"] == "redis://redis:6379/0"
    assert variables["NAMETAG_REDIS__DELETES_URL"] == "redis://redis-deletes:6379/0"
    assert variables["NAMETAG_IMAGES__ALLOW_ORIGINS"] in found["samples"]["command"]


def test_marks_of_deletes_outlive_a_full_redis_and_a_restart() -> None:
    """Their Redis evicts nothing and writes to a volume, in the folder where its image begins; the cache evicts."""
    found = services()
    marks, cache = (shlex.split(found[name]["command"]) for name in ("redis-deletes", "redis"))
    assert option(marks, "maxmemory-policy") == "noeviction"
    assert option(cache, "maxmemory-policy") == "allkeys-lru"
    assert option(marks, "appendonly") == "yes"
    (volume,) = found["redis-deletes"]["volumes"]
    assert volume.split(":")[1:] == ["/data"]


def test_workers_can_be_several() -> None:
    """Nothing of the worker's is there once only, and Prometheus asks every address of its name."""
    assert not {"ports", "container_name", "hostname"} & set(services()["worker"])
    assert services()["worker"]["environment"].keys().isdisjoint({"NAMETAG_KAFKA__GROUP_INSTANCE_ID"})
    job, *_ = load(DEPLOY / "prometheus" / "prometheus.yml")["scrape_configs"]
    assert job["dns_sd_configs"][0] | {"names": ["worker"], "type": "A"} == job["dns_sd_configs"][0]


def test_visitors_are_led_to_the_first_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two workers the lower address has all connections; when it is gone, the other one; with none, they end."""
    forward = script("forward")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.read()
        writer.write(request + b" by " + writer.get_extra_info("sockname")[0].encode())
        writer.close()

    async def visit(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"a" * 100_000)
        writer.write_eof()
        answered = await reader.read()
        writer.close()
        return answered.lstrip(b"a")

    async def scenario() -> list[bytes]:
        later = await asyncio.start_server(answer, "127.0.0.10", 0)
        port = later.sockets[0].getsockname()[1]
        first = await asyncio.start_server(answer, "127.0.0.9", port)
        # Names that lead to several addresses of loopback aren't to be had, so only that look-up isn't real.
        found = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.10", "127.0.0.9")
        ]

        async def look_up(host: str, *_given: Any, **_options: Any) -> list[Any]:
            return found if host == "workers" else await real(host, *_given, **_options)

        loop = asyncio.get_running_loop()
        real = loop.getaddrinfo
        monkeypatch.setattr(loop, "getaddrinfo", look_up)
        front = await asyncio.start_server(partial(forward.forward, name="workers", port=port), "127.0.0.1", 0)
        at = front.sockets[0].getsockname()[1]
        answers = [await visit(at), await visit(at)]
        for server in (first, later):
            server.close()
            answers.append(await visit(at))
        front.close()
        return answers

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [b" by 127.0.0.9"] * 2 + [b" by 127.0.0.10", b""]


def test_sample_posts_have_new_ids_and_real_pictures() -> None:
    """Each round's ids are new, pictures are where they are served, and what can't be read is sent once."""
    samples = script("sample_posts")
    lines = [
        '{"id": "1", "text": "hi", "image_url": "http://images.example/a.jpg"}',
        '{"id": "2", "text": "no picture"}',
        '{"id": "3", "text": " "}',
        "no JSON",
    ]
    sent = list(islice(samples.messages(lines, "http://here:8000", "run"), 8))
    keys = [key for key, _ in sent]
    assert keys == [b"1-run-0", b"2-run-0", None, None, b"1-run-1", b"2-run-1", b"1-run-2", b"2-run-2"]
    assert b'"image_url": "http://here:8000/a.jpg"' in sent[0][1]


def test_a_trained_checkpoint_comes_with_its_tower(tmp_path: Path) -> None:
    """The switch puts checkpoint and learnt tower in place under the watched name, and takes the old tower away."""
    trained, current = tmp_path / "mine.safetensors", tmp_path / "checkpoints" / "current.safetensors"
    trained.write_bytes(STARTER_CHECKPOINT.read_bytes())
    digest = checkpoint.load(trained)[0].tower_digest
    tower_file(trained, digest).write_bytes(b"a tower")
    old = tower_file(current, "0" * 16)
    old.parent.mkdir()
    old.write_bytes(b"an old tower")
    script("train_and_switch").switch(trained, current)
    assert current.read_bytes() == trained.read_bytes()
    assert tower_file(current, digest).read_bytes() == b"a tower"
    assert {path.name for path in current.parent.iterdir()} == {current.name, tower_file(current, digest).name}


def test_a_training_that_fails_switches_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong settings end in a sentence and status 1, and the worker keeps what it has."""
    settings, current = tmp_path / "train.toml", tmp_path / "current.safetensors"
    settings.write_text('train = "a.txt"\nvalid = "b.txt"\nout = "c.safetensors"\nbatch_size = 0\n')
    assert script("train_and_switch").main(settings, current) == 1
    assert "batch_size" in capsys.readouterr().err
    assert not current.exists()
