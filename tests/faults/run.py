"""One run: workers, posts and faults at their steps, until all has come out or the deadline passes."""

import json
import shutil
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.cluster import NUM_PARTITIONS, Cluster
from tests.faults.crew import SHUTDOWN_SECONDS, Crew, Nest, Worker
from tests.faults.oracle import OutputReader, Position, Sent, Verdict, judge, needed, uncommitted
from tests.faults.plan import SECONDS_A_BOUNCE, SHUTDOWN, Plan, Strike
from tests.faults.posts import Sender, make_posts

DEADLINE_SECONDS = 120.0
SESSION_SECONDS = 3
OUTPUTS_A_BOUNCE = 100
"""How much has to come out before the broker is bounced once more."""
WAKING_SECONDS = 0.5
"""How long a zombie that was woken at the end may try to publish before all are asked to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a run came to. `problems` is empty where every promise was kept."""

    plan: Plan
    verdict: Verdict
    problems: tuple[str, ...]
    struck: tuple[str, ...]
    is_struck: bool
    num_workers: int
    longest_silence: float
    longest_stop: float
    seconds: float
    folder: Path


@dataclass(slots=True)
class Strikes:
    """Answers the workers at their armed steps; each strike hits once, whoever comes first."""

    plan: Plan
    address: str
    cluster: Cluster
    crew: Crew | None = None
    hits: list[str] = field(default_factory=list)
    _left: list[Strike] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _listener: Any = None

    def __post_init__(self) -> None:
        self._left = list(self.plan.strikes)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def armed(self) -> dict[str, list[int]]:
        """The passages at which a worker has to ask, by step."""
        armed: dict[str, list[int]] = defaultdict(list)
        for strike in self.plan.strikes:
            armed[strike.step].append(strike.passage)
        return dict(armed)

    def is_primary_struck(self) -> bool:
        """Whether the run's own fault has hit; the poison always has."""
        return self.plan.primary.fault == "poison" or self.plan.primary not in self._left

    def close(self) -> None:
        """Strike no more; who asks from now on finds nobody, and goes on."""
        with self._lock:
            self._left = []
        self._listener.close()

    def _accept(self) -> None:
        try:
            while True:
                peer, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(peer,), daemon=True).start()
        except OSError:
            return  # closed

    def _answer(self, peer: socket.socket) -> None:
        with peer:
            asked = json.loads(peer.makefile().readline())
            with self._lock:
                strikes = [
                    each for each in self._left if (each.step, each.passage) == (asked["step"], asked["passage"])
                ]
                for strike in strikes:
                    self._left.remove(strike)
            for strike in strikes:
                if self._hit(strike, asked["number"]):
                    self.hits.append(f"{time.strftime('%H:%M:%S')} {strike} worker {asked['number']}")
            try:
                peer.sendall(b"on\n")
            except OSError:
                return  # it was killed

    def _hit(self, strike: Strike, number: int) -> bool:
        while self.crew is None:
            time.sleep(0.01)
        if strike.fault == "worker_kill":
            return self.crew.kill(number, strike.seconds)
        if strike.fault == SHUTDOWN:
            return self.crew.stop(number, strike.seconds)
        if strike.fault == "worker_zombie":
            return self.crew.put_to_sleep(number, strike.seconds)
        return self.cluster.strike(strike)


def run_plan(plan: Plan, cluster: Cluster, nest: Nest, folder: Path, *, keep: bool = False) -> Result:
    """Run `plan`; its logs stay in `folder` where something was wrong, or where `keep` says so."""
    began = time.monotonic()
    folder.mkdir(parents=True)
    topics = cluster.make_topics()
    strikes = Strikes(plan, str(folder / "steps.socket"), cluster)
    variables = _variables(plan, cluster, topics)

    def start() -> Worker:
        return nest.start(folder / "worker", variables=variables, armed=strikes.armed, socket=strikes.address)

    crew = strikes.crew = Crew(plan, start)
    reader = OutputReader(
        bootstrap=cluster.bootstrap,
        entities=topics["entities"],
        dead_letters=topics["dead_letters"],
        num_partitions=NUM_PARTITIONS,
    )
    sender = Sender(
        plan,
        make_posts(plan, topics["posts"], cluster.image_host.origin, cluster.image_host.num_pictures),
        cluster.bootstrap,
        topics["posts"],
    )
    problems: list[str] = []
    bouncer = threading.Thread(target=_bounce, args=(plan, cluster, reader, strikes.hits), daemon=True)
    bouncer.start()
    try:
        deadline = began + DEADLINE_SECONDS + 2 * len(plan.bounces) * SECONDS_A_BOUNCE
        missing: set[Position] | None = None
        while missing != set() and time.monotonic() < deadline:
            crew.tend(can_join=cluster.broker_is_up)
            reader.poll()
            if missing is None and sender.is_done:
                missing = set(needed(sender.sent()))
            if missing:
                missing -= reader.seen
        bouncer.join(1)
        if bouncer.is_alive():
            problems.append("the workers were not back between two bounces")
        sent = sender.sent()
        is_struck = strikes.is_primary_struck()
        strikes.close()
        cluster.settle()
        crew.settle()
        time.sleep(WAKING_SECONDS)
    finally:
        crew.settle()
        crew.dismiss(nest.wait_ended)
    if not reader.read_to_end(30):
        problems.append("the outputs' end was not reached within 30 s: a transaction is still open")
    verdict = judge(sent, reader.outputs)
    reader.close()
    problems += _told(plan, verdict)
    if not verdict.lost:
        problems += uncommitted(
            cluster.bootstrap, variables["NAMETAG_KAFKA__GROUP_ID"], topics["posts"], _ends(sent), 5
        )
    problems += [problem for worker in crew.workers if (problem := worker.problem())]
    cluster.drop_topics(topics)
    result = Result(
        plan=plan,
        verdict=verdict,
        problems=tuple(problems),
        struck=tuple(strikes.hits),
        is_struck=is_struck,
        num_workers=len(crew.workers),
        longest_silence=reader.longest_silence,
        longest_stop=max(worker.stop_seconds for worker in crew.workers),
        seconds=time.monotonic() - began,
        folder=folder,
    )
    if problems or keep:
        _write_findings(result)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _bounce(plan: Plan, cluster: Cluster, reader: OutputReader, hits: list[str]) -> None:
    num_seen = 0
    for strike in plan.bounces:
        # Only after some work was done since the last: that the workers are back is the point.
        while len(reader.seen) < min(num_seen + OUTPUTS_A_BOUNCE, plan.num_posts):
            time.sleep(0.05)
        num_seen = len(reader.seen)
        if cluster.strike(strike):
            hits.append(f"{time.strftime('%H:%M:%S')} {strike}")


def _variables(plan: Plan, cluster: Cluster, topics: dict[str, str]) -> dict[str, str]:
    return {
        "NAMETAG_THREADS": "1",
        # Workers are forks with everything imported; a process of the tagger's would take seconds at each start.
        "NAMETAG_TAGGER_PROCESS": "false",
        "NAMETAG_MAX_IN_FLIGHT_POSTS": "64",
        "NAMETAG_FLUSH_SECONDS": "0.02",
        "NAMETAG_SHUTDOWN_SECONDS": str(SHUTDOWN_SECONDS),
        "NAMETAG_SERVER__PORT": "0",
        "NAMETAG_REDIS__URL": cluster.redis_url,
        "NAMETAG_IMAGES__ALLOW_ORIGINS": json.dumps([cluster.image_host.origin]),
        "NAMETAG_IMAGES__TOTAL_SECONDS": "1.5",
        "NAMETAG_KAFKA__BOOTSTRAP_SERVERS": cluster.bootstrap,
        "NAMETAG_KAFKA__GROUP_ID": f"group-{topics['posts']}",
        "NAMETAG_KAFKA__DELIVERY": plan.delivery,
        "NAMETAG_KAFKA__SESSION_TIMEOUT_SECONDS": str(SESSION_SECONDS),
        "NAMETAG_KAFKA__TRANSACTION_SECONDS": str(plan.transaction_seconds),
        **{f"NAMETAG_KAFKA__{name.upper()}_TOPIC": topic for name, topic in topics.items()},
    }


def _ends(sent: list[Sent]) -> dict[int, int]:
    ends: dict[int, int] = {}
    for message in sent:
        number, offset = message.position
        ends[number] = max(offset + 1, ends.get(number, 0))
    return ends


def _told(plan: Plan, verdict: Verdict) -> list[str]:
    found = verdict.faults(plan.delivery)
    return [f"{len(sentences)} {name}: {'; '.join(sentences[:20])}" for name, sentences in found.items()]


def _write_findings(result: Result) -> None:
    """The plan and the findings, beside the workers' logs."""
    told = [str(result.plan), repr(result.plan), *result.struck, *result.problems]
    for name in ("lost", "doubled", "foreign", "disordered"):
        told += [f"{name}: {sentence}" for sentence in getattr(result.verdict, name)]
    (result.folder / "findings.txt").write_text("\n".join(told) + "\n", encoding="utf-8")
