"""A simulated fleet: what deploy/SCALING.md says of bursts, lost zones and cold caches, by costs that never change."""

import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.simulation.charts import chart
from tests.simulation.costs import Costs
from tests.simulation.fleet import Events, Fetching, Fleet, simulate
from tests.simulation.popularity import PictureCache, Popularity
from tests.simulation.scenarios import AT, SCENARIOS, Outcome, outcome
from tests.simulation.sizing import size_for
from tests.simulation.trace import Trace

COSTS = Costs(batch=0.011, post=0.002, loop=0.0025, tower=0.06, decode=0.01, publish=0.07)
"""About those measured on 2026-11-26; fixed, so that another machine's figures don't change what is tested."""
RATE = 600.0
SECONDS = 900.0
DEPLOY = Path(__file__).parents[2] / "deploy"


@cache
def run(name: str, *, rate: float = RATE, seconds: float = SECONDS, seed: int = 1) -> tuple[Trace, Outcome]:
    """What happens to a fleet of the size for `rate`."""
    trace = simulate(size_for(rate, COSTS).fleet(COSTS), SCENARIOS[name], seconds=seconds, seed=seed)
    assert trace.arrived == trace.done + trace.left
    return trace, outcome(trace, rate)


def fleet_of(share: float, *, rate: float = RATE) -> Fleet:
    """A fleet that can do `share` of the rate, its caches warm."""
    size = size_for(rate, COSTS)
    workers = round(share * rate / size.warm)
    return replace(size.fleet(COSTS, workers=workers), partitions=2 * workers)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("seed", [1, 2])
def test_posts_are_done_or_wait(name: str, seed: int) -> None:
    """Whatever happens, each post that came is published, on the topic, or under way: none twice, none lost."""
    trace, _ = run(name, seconds=500.0, seed=seed)
    assert trace.arrived == trace.done + trace.waiting + trace.under_way
    assert trace.arrived > 0.9 * RATE * 500


def test_the_same_seed_is_the_same_run() -> None:
    """All chance hangs on the seed: the same gives the same posts and latencies, another one others."""
    (one, _), (same, _), (other, _) = (run("zone", seconds=400.0, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(one.lag, same.lag)
    assert np.array_equal(one.p99, same.p99, equal_nan=True)
    assert not np.array_equal(one.lag, other.lag)


def test_the_sized_fleet_keeps_up() -> None:
    """In the steady state half of the posts are events within a second, 99 % within five, and no lag builds up."""
    trace, told = run("steady")
    assert told.usual_p50 < 1
    assert told.usual_p99 < 5
    assert trace.lag[-1] < 2 * RATE


def test_a_burst_is_worked_off() -> None:
    """Three times the posts for five minutes make a lag; ten minutes later it is gone, and the latency with it."""
    trace, told = run("burst")
    assert told.most_lag > 60 * RATE
    assert 300 < trace.seconds[trace.lag.argmax()] <= 610
    assert told.drained is not None
    assert 300 < told.drained < 900
    assert told.last_p99 < 2 * told.usual_p99


def test_the_burst_makes_the_lag_that_arithmetic_says() -> None:
    """The most that waits is the posts above the fleet's capacity, times the burst's seconds."""
    size = size_for(RATE, COSTS)
    capacity = size.workers * size.warm
    _, told = run("burst")
    assert told.most_lag == pytest.approx((3 * RATE - capacity) * 300, rel=0.15)


def test_a_lost_zone_is_borne() -> None:
    """A third of the workers gone: their posts wait for the session, and after three minutes none does."""
    trace, told = run("zone")
    fleet = size_for(RATE, COSTS).fleet(COSTS)
    assert told.most_lag > 0.25 * RATE * fleet.session_seconds
    assert fleet.session_seconds * 0.8 < told.worst_p99 < 2 * fleet.session_seconds
    assert told.drained is not None
    assert told.drained < 180
    assert told.last_p99 < 5
    assert trace.lag[-1] < 2 * RATE


def test_the_session_timeout_is_what_a_lost_zone_costs() -> None:
    """A session of ten seconds makes the worst latency a fraction of that of 45."""
    size = size_for(RATE, COSTS)
    worst = []
    for session in (10.0, 45.0):
        fleet = replace(size.fleet(COSTS), session_seconds=session)
        worst.append(outcome(simulate(fleet, SCENARIOS["zone"], seconds=600, seed=1), RATE).worst_p99)
    assert worst[0] < worst[1] / 2


def test_a_fleet_without_a_spare_zone_fails_when_one_is_lost() -> None:
    """Workers for the load alone: with two thirds of them the lag grows to the end."""
    fleet = fleet_of(1.2)
    trace = simulate(fleet, SCENARIOS["zone"], seconds=SECONDS, seed=1)
    assert outcome(trace, RATE).drained is None
    assert trace.lag[-1] > 1.5 * trace.lag[len(trace.lag) // 2]


def test_too_few_workers_fall_behind_without_end() -> None:
    """At four fifths of what is needed the lag grows by a fifth of the posts, second by second."""
    trace = simulate(fleet_of(0.8), Events(), seconds=SECONDS, seed=1)
    growth = np.polyfit(trace.seconds[20:], trace.lag[20:], 1)[0]
    assert growth == pytest.approx(0.2 * RATE, rel=0.25)
    assert trace.p99[-1] > 100


def test_a_cold_cache_brings_the_tower_back() -> None:
    """With nothing known all pictures are fetched and looked at; the fleet bears it, busier, and hits come again."""
    trace, told = run("cold")
    usual, least, last = told.hit_ratio
    assert least < 0.15 < usual
    assert least < last < usual
    assert trace.new_pictures[31] > 1.9 * trace.new_pictures[20]
    assert trace.busy[31] > trace.busy[20] + 0.1
    assert told.drained is not None
    assert told.last_p99 < 10


def test_a_cold_cache_on_a_fleet_for_the_warm_one_falls_behind() -> None:
    """Workers that suffice while pictures are known don't when none is: the lag grows until enough is known again."""
    trace = simulate(fleet_of(1.3), SCENARIOS["cold"], seconds=SECONDS, seed=1)
    told = outcome(trace, RATE)
    assert trace.lag[20] < 5 * RATE
    assert told.most_lag > 20 * RATE


def test_popular_pictures_are_known_first() -> None:
    """The first tenth of the usual hits is back long before a tenth of the time that the last takes."""
    cache = PictureCache(Popularity(), RATE)
    usual, times = cache.hit_ratio, []
    cache.clear()
    for second in range(0, 200_000, 60):
        cache.show(RATE * 0.315 * 60, 60)
        for share in (0.25, 0.5, 0.9):
            if cache.hit_ratio > share * usual and len(times) < (0.25, 0.5, 0.9).index(share) + 1:
                times.append(second)
    quarter, half, most = times
    assert quarter < half / 3 < most / 9


def test_a_fresh_picture_is_never_known() -> None:
    """No cache hits what nobody has shown before."""
    assert PictureCache(Popularity(fresh_share=1.0), RATE).hit_ratio == 0
    assert PictureCache(Popularity(), RATE).hit_ratio < 1 - Popularity().fresh_share


def test_slow_hosts_cost_pictures_and_no_posts() -> None:
    """Where fetches need more turns than there are, pictures come late; posts go on without them, six seconds later."""
    fleet = replace(size_for(RATE, COSTS).fleet(COSTS), fetching=Fetching(median_seconds=2.0))
    trace = simulate(fleet, Events(), seconds=300, seed=1)
    assert trace.late[10:].min() > 0.2 * trace.new_pictures[10:].max()
    assert trace.lag[-1] < 15 * RATE
    assert 5 < np.median(trace.p50[10:]) < 10


def test_a_small_room_is_a_limit_of_its_own() -> None:
    """A worker as fast as a GPU is held up by its room: slow pictures keep what came after them under way."""
    fast = Costs(batch=0.002, post=0.00002, loop=0.0001, tower=0.0005, decode=0.01, publish=0.01)
    fleet = Fleet(
        rate=4000, workers=1, partitions=4, costs=fast, zones=1, fetching=Fetching(turns=512, decode_processes=64)
    )
    small, large = (
        simulate(replace(fleet, room_posts=posts), Events(), seconds=200, seed=1) for posts in (1024, 32_768)
    )
    assert small.lag[-1] > 20 * 4000
    assert large.lag[-1] < 10 * 4000


def test_partitions_divide_with_and_without_a_zone() -> None:
    """Each worker has as many partitions as any other, before a zone is lost and after."""
    for rate in (300.0, 6000.0, 60_000.0):
        size = size_for(rate, COSTS)
        assert size.workers % 3 == 0
        assert size.partitions % size.workers == 0
        assert size.partitions % (size.workers * 2 // 3) == 0


def test_the_measured_costs_are_those_of_one_worker() -> None:
    """What the benchmark left makes costs that add up to the processor time of a post in the real worker."""
    costs = Costs.measured()
    assert min(costs.post, costs.tower, costs.decode, costs.publish) > 0
    assert 0.001 < costs.post_seconds(0.0) < 0.1


def test_a_worker_does_what_its_slower_process_does() -> None:
    """Tagger and loop have a core each; all of their work is paid for."""
    tagging = COSTS.batch / 32 + COSTS.post
    quick = replace(COSTS, loop=tagging / 2)
    assert quick.post_seconds(0.1) == pytest.approx(tagging + 0.1 * COSTS.tower)
    slow = replace(COSTS, loop=5 * tagging)
    assert slow.post_seconds(0.0) == pytest.approx(5 * tagging)
    assert slow.work_seconds(0.1) == pytest.approx(6 * tagging + 0.1 * (COSTS.tower + COSTS.decode))
    assert size_for(RATE, slow).workers > size_for(RATE, quick).workers


def test_charts_are_small_and_whole() -> None:
    """Each chart in deploy/scaling is XML of less than 40 kB, and a new one is, too."""
    trace, _ = run("zone", seconds=400.0)
    charts = [path.read_text(encoding="utf-8") for path in (DEPLOY / "scaling").glob("*.svg")]
    assert len(charts) == 6
    for text in [*charts, chart("a & b", trace)]:
        ElementTree.fromstring(text)
        assert len(text.encode()) < 40_000


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("rate", [6000.0, 60_000.0])
def test_six_and_sixty_thousand(name: str, rate: float) -> None:
    """Thirty minutes of either rate, whatever happens: all posts accounted for, worked off, in a minute of one core."""
    start = time.process_time()
    trace, told = run(name, rate=rate, seconds=1800.0)
    assert time.process_time() - start < 60
    assert told.drained is not None
    assert told.last_p99 < 10
    assert trace.lag[-1] < 4 * rate
    assert trace.seconds[-1] > AT
