"""`nametag doctor`: what is wrong, told before a worker starts, check by check, each with one thing to do."""

import logging
import queue
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.text import Text

from consumers.checks import Check
from consumers.kafka_cluster_checks import KafkaNeeds
from consumers.kafka_connection import KafkaConnection
from model.captions import harmless
from worker.errors import SettingsError
from worker.kafka_settings import connection_of, transactional_id
from worker.settings import KafkaTable, Settings
from worker.settings_loading import load_settings

SERVICE_SECONDS = 30.0
MODEL_SECONDS = 75.0
SLACK_SECONDS = 5.0

COLOURS = {"ok": "color(34)", "warn": "color(172)", "fail": "bold color(203)", "skipped": "color(246)"}

Tell = Callable[[Check], None]


def examine(config: Path | None, tell: Tell) -> list[Check]:
    """Do all checks; each is told when it is done, those of one service together. Ends within two minutes."""
    with _quiet():
        try:
            settings = load_settings(config)
            connection = _connection(settings)
        except SettingsError as error:
            fix = "correct that; `nametag init -` tells what each setting takes"
            wrong = Check("settings", "fail", str(error), fix, cause="settings")
            skipped = [
                Check(name, "skipped", "not tried, for settings failed")
                for name in ("kafka", "redis", "server", "tracing", "checkpoint", "device")
            ]
            checks = [wrong, *skipped]
            for check in checks:
                tell(check)
            return checks
        first = Check("settings", "ok", f"{config or 'defaults and variables'}: all of them make sense")
        tell(first)
        return [first, *_examine_services(settings, connection, tell)]


def print_check(check: Check, console: Console) -> None:
    """A line: state, name, what was seen, and what to do."""
    line = Text(f"{check.state:7} ", style=COLOURS[check.state])
    line.append(f"{check.name:18}", style="bold" if check.state == "fail" else "default")
    line.append(f" {harmless(check.seen)}", style="default")
    if check.fix:
        line.append(" → ", style=COLOURS[check.state])
        line.append(harmless(check.fix), style="bold")
    console.print(line, soft_wrap=True)


def summary(checks: list[Check]) -> str:
    """One sentence: how it stands."""
    failed = dict.fromkeys(check.name for check in checks if check.state == "fail")
    warned = sum(check.state == "warn" for check in checks)
    told = f"not ready: {', '.join(failed)}" if failed else "ready"
    return f"{told} ({warned} to look at)" if warned else told


def as_objects(checks: list[Check]) -> dict[str, object]:
    """For programs: the schema of `--json`."""
    return {
        "ok": all(check.state != "fail" for check in checks),
        "checks": [
            {"name": check.name, "state": check.state, "seen": check.seen, "fix": check.fix or None} for check in checks
        ],
    }


def needs_of(kafka: KafkaTable) -> KafkaNeeds:
    """What a worker with these settings asks of the cluster."""
    return KafkaNeeds(
        posts_topic=kafka.posts_topic,
        entities_topic=kafka.entities_topic,
        dead_letters_topic=kafka.dead_letters_topic,
        group_id=kafka.group_id,
        # Where each start has a new one, any other of the kind tells as much.
        transactional_id=(transactional_id(kafka) or f"nametag-{uuid4().hex}")
        if kafka.delivery == "exactly_once"
        else None,
        session_timeout_ms=round(kafka.session_timeout_seconds * 1000),
        transaction_timeout_ms=round(kafka.transaction_seconds * 1000),
    )


def _connection(settings: Settings) -> KafkaConnection:
    try:
        return connection_of(settings.kafka)
    except ValueError as error:
        raise SettingsError(f"the settings are wrong: kafka.{error}") from None


def _examine_services(settings: Settings, connection: KafkaConnection, tell: Tell) -> list[Check]:
    """All of them at the same time, each told in its turn."""
    from consumers.kafka_checks import check_kafka
    from worker.model_checks import check_model
    from worker.redis_checks import check_redis
    from worker.server_checks import check_server
    from worker.tracing_checks import check_tracing

    parts: tuple[tuple[float, Callable[[Tell], object]], ...] = (
        (
            SERVICE_SECONDS,
            lambda on: check_kafka(connection, needs_of(settings.kafka), seconds=SERVICE_SECONDS, on_check=on),
        ),
        (
            SERVICE_SECONDS,
            lambda on: check_redis(
                settings.redis, watch_key=settings.checkpoints.watch_key, seconds=SERVICE_SECONDS, on_check=on
            ),
        ),
        (SERVICE_SECONDS, lambda on: check_server(settings.server, seconds=SERVICE_SECONDS, on_check=on)),
        (SERVICE_SECONDS, lambda on: check_tracing(settings.trace, seconds=SERVICE_SECONDS, on_check=on)),
        (MODEL_SECONDS, lambda on: check_model(settings, seconds=MODEL_SECONDS, on_check=on)),
    )
    running = [_Part(act, seconds) for seconds, act in parts]
    checks: list[Check] = []
    for part in running:
        for check in part.told():
            checks.append(check)
            tell(check)
    return checks


class _Part:
    """Checks in a thread of their own, which is left behind where it doesn't end in time."""

    def __init__(self, act: Callable[[Tell], object], seconds: float) -> None:
        self._end = time.monotonic() + seconds + SLACK_SECONDS
        self._checks: queue.SimpleQueue[Check | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, args=(act,), daemon=True).start()

    def told(self) -> Iterator[Check]:
        """The checks, as they are done."""
        while True:
            try:
                check = self._checks.get(timeout=max(0.0, self._end - time.monotonic()))
            except queue.Empty:
                yield Check("doctor", "fail", "a check did not end in time", "try again, and tell who made nametag")
                return
            if check is None:
                return
            yield check

    def _run(self, act: Callable[[Tell], object]) -> None:
        try:
            act(self._checks.put)
        except Exception as error:
            # No more than its kind: its words may quote a password.
            self._checks.put(
                Check("doctor", "fail", f"a check broke off ({type(error).__name__})", "tell who made nametag")
            )
        finally:
            self._checks.put(None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what libraries log and warn of to themselves: it is told as a check, and may quote a login."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
