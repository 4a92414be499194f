"""What happens in a run of the fault harness; all of it follows from the seed and the run's number."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = (
    "in_join",
    "after_poll",
    "after_prepare",
    "in_tag",
    "before_produce",
    "after_produce",
    "before_commit",
    "after_commit",
)
"""Where a fault may strike, in the order of the pipeline. `in_join` is amid a rebalance, where zombies are made."""

SECONDS = {
    "worker_kill": (0.0, 2.0),
    "worker_zombie": (5.0, 8.0),
    "broker_kill": (0.0, 5.0),
    "broker_stop": (0.0, 5.0),
    "redis_kill": (0.5, 3.0),
    "redis_hang": (1.0, 4.0),
    "redis_late": (1.0, 4.0),
    "redis_wrong_reply": (1.0, 4.0),
    "image_host_down": (1.0, 4.0),
    "image_host_slow": (1.0, 4.0),
    "image_host_cut": (1.0, 4.0),
    "poison": (0.0, 0.0),
}
"""How long each fault lasts before it is healed: a zombie sleeps past its session, a broker comes back."""

FAULTS = tuple(SECONDS)
DELIVERIES = ("exactly_once", "at_least_once")
BROKER_FAULTS = ("broker_kill", "broker_stop")

SHUTDOWN = "worker_stop"
"""SIGTERM, so many seconds after a step at which something else goes amiss: no fault, but a shutdown all the same."""
AMID_SHUTDOWN = (None, "image_host_slow", "broker_stop", "redis_hang")
AMID_SHUTDOWN_SECONDS = 8.0
"""Longer than a shutdown may take."""

POSTS_A_BOUNCE = 250
SECONDS_A_BOUNCE = 8.0
"""How long the broker takes to be gone and to come back, with a moment's work in between."""

LAST_PASSAGE = {"in_join": 4, "after_poll": 12, "after_prepare": 80}
USUAL_LAST_PASSAGE = 15
"""Up to which passage of a step a fault may wait: a worker doesn't live for many batches here."""

MOST_WORKERS = 3
CHURN_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """A fault at the first worker's n-th passage of a step; `seconds` later it is healed."""

    fault: str
    step: str
    passage: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.fault}@{self.step}#{self.passage}({self.seconds:.1f}s)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A worker that joins, or one that is asked to leave, so long after the start."""

    at_seconds: float
    joins: bool
    place: float = 0.0
    """Which of those who are there leaves: 0 is the oldest, just below 1 the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run."""

    seed: int
    number: int
    delivery: str
    primary: Strike
    secondary: tuple[Strike, ...]
    num_workers: int
    moves: tuple[Move, ...]
    num_posts: int
    num_poisoned: int
    send_seconds: float
    transaction_seconds: int
    bounces: tuple[Strike, ...] = ()
    """What strikes the broker by the clock, one after another, each as soon as the last is healed."""

    @property
    def strikes(self) -> tuple[Strike, ...]:
        """All that strikes at a step; the poison comes in a post."""
        return tuple(strike for strike in (self.primary, *self.secondary) if strike.fault != "poison")

    @property
    def name(self) -> str:
        """What it is counted under."""
        if self.bounces:
            return f"{len(self.bounces)} broker bounces"
        if self.primary.fault != SHUTDOWN:
            return self.primary.fault
        return f"{SHUTDOWN} amid {', '.join(each.fault for each in self.secondary) or 'load'}"

    def __str__(self) -> str:
        strikes = " ".join(map(str, self.bounces or (self.primary, *self.secondary)))
        return f"seed {self.seed} run {self.number} {self.delivery} {strikes}"


def steps_of(fault: str) -> tuple[str, ...]:
    """The steps at which `fault` can strike."""
    return ("in_tag",) if fault == "poison" else STEPS


def all_pairs(faults: Sequence[str] = FAULTS) -> list[tuple[str, str]]:
    """Every fault with every step of its own."""
    return [(fault, step) for fault in faults for step in steps_of(fault)]


def num_runs_for_all(faults: Sequence[str] = FAULTS, deliveries: Sequence[str] = DELIVERIES) -> int:
    """After how many runs, from 0, every pair was met under every delivery."""
    return len(faults) * len(STEPS) * len(deliveries)


def make_plan(
    seed: int,
    number: int,
    *,
    num_posts: int = 1000,
    faults: Sequence[str] = FAULTS,
    deliveries: Sequence[str] = DELIVERIES,
) -> Plan:
    """The plan of run `number`. Twelve runs in a row meet each fault once, each time at another step."""
    chance = random.Random(f"{seed}/{number}")
    round_number, place = divmod(number, len(faults))
    fault = faults[place]
    delivery_number, step_number = divmod(round_number + place + seed, len(STEPS))
    step = steps_of(fault)[step_number % len(steps_of(fault))]
    return Plan(
        seed=seed,
        number=number,
        delivery=deliveries[(delivery_number + place) % len(deliveries)],
        primary=_strike(chance, fault, step),
        secondary=tuple(_secondary(chance) for _ in range(chance.choice((0, 1, 1, 2)))),
        num_workers=chance.randint(1, MOST_WORKERS),
        moves=_moves(chance),
        num_posts=num_posts,
        num_poisoned=max(1, num_posts // (50 if fault == "poison" else 500)),
        send_seconds=chance.uniform(3.0, 5.0),
        transaction_seconds=chance.choice((3, 5)),
    )


def make_shutdown(seed: int, number: int, *, num_posts: int = 1000, deliveries: Sequence[str] = DELIVERIES[:1]) -> Plan:
    """The plan of run `number` of those in which a worker is asked to leave under load, at each step in turn."""
    chance = random.Random(f"shutdown {seed}/{number}")
    trouble = AMID_SHUTDOWN[number % len(AMID_SHUTDOWN)]
    step = STEPS[1:][number // len(AMID_SHUTDOWN) % len(STEPS[1:])]
    passage = chance.randint(1, LAST_PASSAGE.get(step, USUAL_LAST_PASSAGE) // 2)
    amid = Strike(fault=trouble, step=step, passage=passage, seconds=AMID_SHUTDOWN_SECONDS) if trouble else None
    return Plan(
        seed=seed,
        number=number,
        delivery=deliveries[number % len(deliveries)],
        primary=Strike(fault=SHUTDOWN, step=step, passage=passage, seconds=chance.uniform(0.0, 2.0)),
        secondary=(amid,) if amid else (),
        num_workers=chance.randint(1, 2),
        moves=(),
        num_posts=num_posts,
        num_poisoned=1,
        send_seconds=1.0,
        transaction_seconds=3,
    )


def make_bounces(seed: int, number: int, *, count: int, deliveries: Sequence[str] = DELIVERIES[:1]) -> Plan:
    """The plan of a run in which nothing but the broker goes, by turns killed and stopped, `count` times in a row."""
    chance = random.Random(f"bounces {seed}/{number}")
    bounces = tuple(
        Strike(fault=BROKER_FAULTS[turn % 2], step="by the clock", passage=turn + 1, seconds=chance.uniform(0.0, 2.0))
        for turn in range(count)
    )
    return Plan(
        seed=seed,
        number=number,
        delivery=deliveries[number % len(deliveries)],
        primary=Strike(fault="poison", step="in_tag", passage=1, seconds=0.0),
        secondary=(),
        num_workers=2,
        moves=(),
        num_posts=count * POSTS_A_BOUNCE,
        num_poisoned=count,
        send_seconds=count * SECONDS_A_BOUNCE,
        transaction_seconds=5,
        bounces=bounces,
    )


def _strike(chance: random.Random, fault: str, step: str) -> Strike:
    last = LAST_PASSAGE.get(step, USUAL_LAST_PASSAGE)
    return Strike(fault=fault, step=step, passage=chance.randint(1, last), seconds=chance.uniform(*SECONDS[fault]))


def _secondary(chance: random.Random) -> Strike:
    fault = chance.choice([fault for fault in FAULTS if fault != "poison"])
    return _strike(chance, fault, chance.choice(steps_of(fault)))


def _moves(chance: random.Random) -> tuple[Move, ...]:
    moves = []
    at_seconds = 0.0
    while (at_seconds := at_seconds + chance.uniform(1.5, 5.0)) < CHURN_SECONDS:
        moves.append(Move(at_seconds=at_seconds, joins=chance.random() < 0.5, place=chance.random()))
    return tuple(moves)
