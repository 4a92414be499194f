"""The fault harness's plans: the same from the same seed, and all that can happen does."""

from tests.faults.crew import SHUTDOWN_SECONDS
from tests.faults.plan import (
    AMID_SHUTDOWN,
    CHURN_SECONDS,
    DELIVERIES,
    FAULTS,
    SECONDS,
    SHUTDOWN,
    STEPS,
    all_pairs,
    make_plan,
    make_shutdown,
    num_runs_for_all,
)

SESSION_SECONDS = 3


def test_the_same_seed_gives_the_same_plan() -> None:
    """A run is repeated from its seed and number alone, whatever ran before it."""
    first = [make_plan(7, number) for number in range(40)]
    again = [make_plan(7, number) for number in reversed(range(40))][::-1]
    assert first == again
    assert make_plan(8, 3) != make_plan(7, 3)
    assert len({str(plan) for plan in first}) == 40


def test_every_fault_meets_every_step_under_either_delivery() -> None:
    """The walk through all pairs leaves none out, and comes to each fault once in twelve runs."""
    for seed in (0, 1, 5):
        plans = [make_plan(seed, number) for number in range(num_runs_for_all())]
        met = {(plan.primary.fault, plan.primary.step, plan.delivery) for plan in plans}
        assert met == {(*pair, delivery) for pair in all_pairs() for delivery in DELIVERIES}
        assert {plan.primary.fault for plan in plans[: len(FAULTS)]} == set(FAULTS)
    assert num_runs_for_all() <= 200


def test_one_kind_and_one_delivery() -> None:
    """What is asked for alone is what comes, at every step."""
    plans = [
        make_plan(0, number, faults=("redis_hang",), deliveries=("at_least_once",)) for number in range(len(STEPS))
    ]
    assert {plan.primary.step for plan in plans} == set(STEPS)
    assert {(plan.primary.fault, plan.delivery) for plan in plans} == {("redis_hang", "at_least_once")}


def test_a_shutdown_comes_amid_everything_at_every_step() -> None:
    """Under load alone, with a slow host, with the broker gone and with Redis hanging, for longer than it may take."""
    plans = [make_shutdown(0, number) for number in range(len(AMID_SHUTDOWN) * (len(STEPS) - 1))]
    assert {(plan.name, plan.primary.step) for plan in plans} == {
        (f"{SHUTDOWN} amid {trouble or 'load'}", step) for trouble in AMID_SHUTDOWN for step in STEPS[1:]
    }
    for plan in plans:
        for each in plan.secondary:
            assert (each.step, each.passage) == (plan.primary.step, plan.primary.passage)
            assert each.seconds > plan.primary.seconds + SHUTDOWN_SECONDS


def test_plans_stay_within_their_bounds() -> None:
    """A zombie outsleeps its session, somebody always works, and the churn outlasts the run."""
    assert SECONDS["worker_zombie"][0] > SESSION_SECONDS + 1
    for number in range(200):
        plan = make_plan(3, number)
        assert 1 <= plan.num_workers <= 3
        assert all(strike.passage >= 1 and strike.step in STEPS for strike in plan.strikes)
        assert all(strike.fault != "poison" for strike in plan.strikes)
        assert plan.moves[-1].at_seconds > CHURN_SECONDS - 5
        assert all(0 <= move.place < 1 for move in plan.moves)
        assert plan.num_poisoned >= 1
