"""A fixed handful of the fault harness's runs: `make faults` has the rest.

On services of the harness's own, since it kills them; the other tests' must live on.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster
from tests.faults.crew import Nest
from tests.faults.plan import Move, Strike, make_plan
from tests.faults.run import run_plan
from tests.native import native_services

SEED = 0
POSTS = 500

RUNS = (
    ("worker_kill", "exactly_once", 5),
    ("worker_kill", "at_least_once", 6),
    ("worker_zombie", "exactly_once", 3),
    ("broker_kill", "exactly_once", 4),
    ("broker_stop", "at_least_once", 2),
    ("redis_wrong_reply", "exactly_once", 2),
    ("image_host_cut", "exactly_once", 1),
    ("poison", "exactly_once", 0),
)
"""Fault, delivery and run number: each strikes at another step."""


@pytest.fixture(scope="module")
def stage() -> Iterator[tuple[Cluster, Nest]]:
    """The harness's own broker, Redis and image host, and where its workers come from."""
    services = native_services()
    try:
        services.kafka_jars()
        with Cluster() as cluster, Nest() as nest:
            yield cluster, nest
    except services.ServiceUnavailable as error:
        pytest.skip(f"the harness has to kill its services, so it needs them as processes: {error}")


@pytest.mark.parametrize(("fault", "delivery", "number"), RUNS)
def test_nothing_is_lost_and_under_exactly_once_nothing_doubled(
    fault: str, delivery: str, number: int, stage: tuple[Cluster, Nest], tmp_path: Path
) -> None:
    """Every post has its output, in order, whatever was struck; and who was asked to leave left in time."""
    plan = make_plan(SEED, number, num_posts=POSTS, faults=(fault,), deliveries=(delivery,))
    result = run_plan(plan, *stage, tmp_path / "run")
    assert not result.problems, f"{plan}\n" + "\n".join(result.problems)
    assert result.is_struck, f"the strike of {plan} found nobody at its step"


def test_a_zombie_that_fell_asleep_amid_a_join(stage: tuple[Cluster, Nest], tmp_path: Path) -> None:
    """The run in which it published old work under its new generation, and claimed what it had lost. The loss that the
    client told nobody of has a test of its own, of `KafkaSource`; this is the whole of it."""
    plan = replace(
        make_plan(SEED, 0, num_posts=POSTS, faults=("worker_zombie",), deliveries=("exactly_once",)),
        primary=Strike(fault="worker_zombie", step="in_join", passage=3, seconds=6.0),
        secondary=(Strike(fault="image_host_slow", step="after_poll", passage=1, seconds=4.0),),
        num_workers=1,
        moves=(Move(at_seconds=2.3, joins=True), Move(at_seconds=5.0, joins=True)),
        # Beyond the second one's joining, also where it takes its time to start: amid that the strike has to come.
        send_seconds=9.0,
        transaction_seconds=5,
    )
    result = run_plan(plan, *stage, tmp_path / "run")
    assert not result.problems, f"{plan}\n" + "\n".join(result.problems)
    assert result.is_struck, f"the strike of {plan} found nobody at its step"
