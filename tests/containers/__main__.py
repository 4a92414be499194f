"""`python -m tests.containers`: build the images, start the compose file, and see whether it does what it says.

As root, on Debian, by hand (`make containers`): half an hour for the first time, with 20 GB of disk, since the images
are really built, with all of torch. Nothing is pulled: stand_ins.py makes what others' images are needed, on an engine
of its own. Grafana isn't among Debian's packages, and is left out.
"""

import argparse
import contextlib
import json
import re
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from model.practice import write_practice_set
from tests.containers.engine import Engine, TrialError
from tests.containers.stand_ins import make_stand_ins
from tests.containers.topics import read_events, send_delete

REPOSITORY = Path(__file__).parents[2]
COMPOSE = REPOSITORY / "docker-compose.yml"
DOCKERFILE = REPOSITORY / "deploy" / "nametag.Dockerfile"
TARGETS = {"cpu": "nametag-worker:cpu", "cuda": "nametag-worker:cuda", "trainer": "nametag-trainer"}
LASTING = ("kafka", "redis", "redis-deletes", "worker", "live", "samples", "prometheus")
USER = "10001"
ENOUGH_EVENTS = 25
# Not the usual ones, where somebody's worker or broker may be.
PORTS = {"KAFKA_PORT": "29092", "WORKER_PORT": "29464", "PROMETHEUS_PORT": "29090"}
KAFKA = f"127.0.0.1:{PORTS['KAFKA_PORT']}"
WORKER = f"http://127.0.0.1:{PORTS['WORKER_PORT']}"
PROMETHEUS = f"http://127.0.0.1:{PORTS['PROMETHEUS_PORT']}"

SMALL_TRAINING = """
train = "/data/set/train.txt"
valid = "/data/set/valid.txt"
images = "/data/set/images"
out = "/checkpoints/trained.safetensors"
tower = "efficientnet_lite0"
hidden = 32
word_size = 25
max_epochs = 2
"""


def main() -> int:
    """Run the trial; gives back 0, or 1 with the step that failed."""
    # So that a stop takes the engine down, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the engine keeps its images; used again the next time")
    parser.add_argument("--pip-options", default="", help="PIP_OPTIONS of the images")
    parser.add_argument("--full-training", action="store_true", help="train on the whole practice set, as without data")
    options = parser.parse_args()
    folder = options.folder.resolve()
    try:
        variables = dict(PORTS)
        if not options.full_training:
            variables["TRAINING_DATA"] = str(_small_training(folder / "training"))
        with Engine(folder, variables) as engine:
            _Trial(engine, folder).run(options.pip_options)
    except TrialError as error:
        print(f"FAILED {error}", file=sys.stderr)
        return 1
    return 0


def _small_training(folder: Path) -> Path:
    """Data and settings of somebody's own, which take seconds."""
    write_practice_set(folder / "set", num_train=200, num_valid=60)
    (folder / "train.toml").write_text(SMALL_TRAINING, encoding="utf-8")
    return folder


class _Trial:
    def __init__(self, engine: Engine, folder: Path) -> None:
        self._engine = engine
        self._folder = folder
        self._services: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"]
        override = folder / "override.yml"
        # One thread, for two that have to share their cores wait for one another.
        changes = {"grafana": {"profiles": ["not here"]}, "trainer": {"environment": {"OMP_NUM_THREADS": "1"}}}
        override.write_text(yaml.safe_dump({"services": changes}), encoding="utf-8")
        self._files = [COMPOSE, override]

    def run(self, pip_options: str) -> None:
        images = {name: service["image"] for name, service in self._services.items()}
        images["python"] = "python:3.12-slim"
        with step("the stand-ins are made"):
            make_stand_ins(self._engine, self._folder, images)
        for target, image in TARGETS.items():
            with step(f"{image} is built"):
                self._build(target, image, pip_options)
            size = int(self._engine.docker("image", "inspect", "--format", "{{.Size}}", image))
            print(f"     {image}: {size / 1e9:.2f} GB")
            self._look_at(image)
        try:
            with step("compose up, and all are healthy"):
                self._compose("up", "--detach", "--no-build", timeout=300)
                wait_for("health", lambda: all(self._health(name) == "healthy" for name in LASTING), 240)
            self._look_at_running()
            self._look_at_events()
            self._look_at_metrics()
            self._look_at_deletes()
            self._train()
            self._scale()
            self._stop()
        except TrialError:
            for name in (*LASTING, "trainer"):
                with contextlib.suppress(TrialError):
                    print(f"--- {name}\n{self._engine.docker('logs', '--tail', '20', self._container(name))}")
            raise
        finally:
            self._compose("--profile", "train", "down", "--volumes", "--timeout", "45", timeout=200)

    def _compose(self, *arguments: str, timeout: float = 120) -> str:
        return self._engine.compose(self._files, *arguments, timeout=timeout)

    def _container(self, service: str) -> str:
        names = self._compose("--profile", "train", "ps", "--quiet", service).split()
        if not names:
            raise TrialError(f"{service} isn't there")
        return names[0]

    def _inspect(self, service: str, what: str) -> str:
        return self._engine.docker("inspect", "--format", "{{" + what + "}}", self._container(service)).strip()

    def _health(self, service: str) -> str:
        return self._inspect(service, ".State.Health.Status")

    def _build(self, target: str, image: str, pip_options: str) -> None:
        build = ["build", "--file", str(DOCKERFILE), "--target", target, "--tag", image]
        self._engine.docker(*build, "--build-arg", f"PIP_OPTIONS={pip_options}", str(REPOSITORY), timeout=1800)

    def _look_at(self, image: str) -> None:
        """Its user, and that it has no secret, no pip and none of the repository's other files."""
        run = ["run", "--rm", "--network", "none", "--cap-drop", "ALL", "--entrypoint"]
        with step(f"{image} runs as user {USER}, with no folder to write but its own"):
            expect(self._engine.docker(*run, "id", image, "-u").strip(), USER)
            # Folders of root's alone are none that it could look into.
            find = "find / -xdev -writable -type d 2>/dev/null || true"
            found = self._engine.docker(*run, "sh", image, "-c", find)
            expect(set(found.split()) - {"/tmp", "/var/tmp", "/var/lock", "/run/lock", "/checkpoints"}, set())
        with step(f"{image} has the command, and nothing of the builder's"):
            expect(self._engine.docker(*run, "nametag", image, "--version").split()[0], "nametag")
            code = "import importlib.util as u; print([n for n in ('pip', 'pytest', 'triton') if u.find_spec(n)])"
            expect(self._engine.docker(*run, "/venv/bin/python", image, "-c", code).strip(), "[]")
            code = "from worker.tracing import Tracing; Tracing.by_otlp().close()"
            expect(self._engine.docker(*run, "/venv/bin/python", image, "-c", code), "")
            variables = self._engine.docker("image", "inspect", "--format", "{{json .Config.Env}}", image)
            expect(re.findall(r"(?i)password|token|secret|pip_options", variables), [])

    def _look_at_running(self) -> None:
        worker = self._container("worker")
        with step("the worker is not root, and can't write its files nor the trainer's"):
            expect(self._engine.docker("exec", worker, "id", "-u").strip(), USER)
            for folder in ("/", "/venv", "/checkpoints"):
                code = f"touch {folder}/x 2>&1 || true"
                expect("Read-only file system" in self._engine.docker("exec", worker, "sh", "-c", code), True)
            status = self._engine.docker("exec", worker, "grep", "-E", "^(CapEff|NoNewPrivs)", "/proc/1/status")
            expect(status.split(), ["CapEff:", "0" * 16, "NoNewPrivs:", "1"])

    def _look_at_events(self) -> None:
        with step(f"{ENOUGH_EVENTS} sample posts become events, with their pictures"):
            events = read_events(KAFKA, ENOUGH_EVENTS, 120)
            used = sum(event["image"]["status"] == "used" for event in events)
            named = sum(bool(event["entities"]) for event in events)
        print(f"     of {len(events)} events {named} have names and {used} a picture that was used")
        expect(used > 0 and named > 0, True)

    def _look_at_metrics(self) -> None:
        with step("the worker is ready, and Prometheus has its lag and the rules"):
            expect(ask(f"{WORKER}/readyz"), "ready\n")
            expect("<html" in ask(f"{WORKER}/live"), True)
            wait_for("scrape", lambda: query('up{job="nametag"}') == ["1"], 60)
            wait_for("lag", lambda: len(query("sum(nametag_partition_processable_lag)")) == 1, 60)
            rules = json.loads(ask(f"{PROMETHEUS}/api/v1/rules"))["data"]["groups"]
            expect(len(rules) > 0, True)
        with step("Redis keeps the pictures, and the next round finds them"):
            hits = r'nametag_cache_events_total{event="hit"} ([\d.]+)'
            wait_for("a hit", lambda: any(map(float, re.findall(hits, ask(f"{WORKER}/metrics")))), 90)
        memory = self._engine.docker(
            "stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *map(self._container, LASTING)
        )
        print("     " + "\n     ".join(memory.splitlines()))

    def _look_at_deletes(self) -> None:
        with step("a delete's mark is in the Redis of its own, and still there when that one starts anew"):
            send_delete(KAFKA, "1")
            wait_for("the mark", lambda: self._num_marks("redis-deletes") == 1, 30)
            expect(self._num_marks("redis"), 0)
            self._compose("restart", "redis-deletes")
            wait_for("health", lambda: self._health("redis-deletes") == "healthy", 60)
            expect(self._num_marks("redis-deletes"), 1)

    def _num_marks(self, service: str) -> int:
        scan = ("redis-cli", "--scan", "--pattern", "nametag:deleted:*")
        return len(self._engine.docker("exec", self._container(service), *scan).split())

    def _train(self) -> None:
        before = checkpoint()
        with step("the trainer trains, and ends well"):
            self._compose("--profile", "train", "up", "--detach", "--no-build", "trainer")
            wait_for("training", lambda: self._inspect("trainer", ".State.Running") == "false", 900)
            expect(self._inspect("trainer", ".State.ExitCode"), "0")
        print("     " + self._engine.docker("logs", "--tail", "1", self._container("trainer")).strip())
        with step("the worker takes the new checkpoint over by itself"):
            wait_for("another checkpoint", lambda: checkpoint() != before, 60)
        print(f"     {before} -> {checkpoint()}")
        expect(self._inspect("worker", ".RestartCount"), "0")

    def _scale(self) -> None:
        with step("of two workers Prometheus finds both, and the page is one's"):
            self._compose("up", "--detach", "--no-build", "--no-recreate", "--scale", "worker=2", "worker")
            wait_for("two workers", lambda: query('up{job="nametag"}') == ["1", "1"], 120)
            expect("<html" in ask(f"{WORKER}/live"), True)

    def _stop(self) -> None:
        for name in ("worker", "samples"):
            with step(f"SIGTERM ends {name} well"):
                self._compose("stop", name)
                expect(self._inspect(name, ".State.ExitCode"), "0")


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Tell what was tried, and how long it took."""
    start = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"FAIL {what} ({time.monotonic() - start:.1f} s)", flush=True)
        raise
    print(f"ok   {what} ({time.monotonic() - start:.1f} s)", flush=True)


def expect(found: object, wanted: object) -> None:
    if found != wanted:
        raise TrialError(f"found {found!r} instead of {wanted!r}")


def wait_for(what: str, holds: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TrialError(f"{what}: not within {seconds:.0f} s")
        time.sleep(1)


def ask(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError) as error:
        raise TrialError(f"{url}: {error}") from error


def query(expression: str) -> list[str]:
    """The values that Prometheus has for it now."""
    answer = json.loads(ask(f"{PROMETHEUS}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"))
    return [each["value"][1] for each in answer["data"]["result"]]


def checkpoint() -> str:
    """The id of the one in use."""
    found = re.findall(r'nametag_checkpoint_info\{id="(\w+)".*\} 1\.0', ask(f"{WORKER}/metrics"))
    return ",".join(found)


if __name__ == "__main__":
    sys.exit(main())
