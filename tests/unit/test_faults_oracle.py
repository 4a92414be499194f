"""The fault harness's oracle finds fault with made-up outputs: one that can't would prove nothing."""

from dataclasses import replace

import pytest

from tests.faults.oracle import Output, Sent, Verdict, judge

SENT = (
    Sent(position=(0, 0), id="a", text="one", url="http://host/1.jpg"),
    Sent(position=(0, 1), id="b", text="two"),
    Sent(position=(0, 2), id="c", reason="not_json", value=b"three"),
    Sent(position=(1, 0), id="d", text="four", url="http://host/2.jpg"),
)
RIGHT = (
    Output(topic="e", partition=0, position=(0, 0), id="a", text="one", url="http://host/1.jpg", digest="p1"),
    Output(topic="e", partition=0, position=(0, 1), id="b", text="two"),
    Output(topic="e", partition=0, position=(1, 0), id="d", text="four", url="http://host/2.jpg", digest="p2"),
    Output(topic="d", partition=0, position=(0, 2), reason="not_json", value=b"three"),
)


def test_what_is_right_passes() -> None:
    """An output each and in order, under either delivery."""
    verdict = judge(SENT, RIGHT)
    assert verdict == Verdict()
    assert not verdict.faults("exactly_once")
    assert not verdict.faults("at_least_once")


@pytest.mark.parametrize("missing", range(4))
def test_a_lost_post_is_found(missing: int) -> None:
    """Each of the four, the dead letter as well."""
    verdict = judge(SENT, RIGHT[:missing] + RIGHT[missing + 1 :])
    assert len(verdict.lost) == 1
    assert "lost" in verdict.faults("exactly_once")
    assert "lost" in verdict.faults("at_least_once")


@pytest.mark.parametrize("twice", range(4))
def test_a_doubled_post_is_found(twice: int) -> None:
    """Counted for each output too many; only exactly once promises that there is none."""
    verdict = judge(SENT, (*RIGHT, RIGHT[twice], RIGHT[twice]))
    assert len(verdict.doubled) == 2
    assert not verdict.lost and not verdict.disordered and not verdict.foreign
    assert set(verdict.faults("exactly_once")) == {"doubled"}
    assert not verdict.faults("at_least_once")


def test_a_post_out_of_order_is_found() -> None:
    """Within a partition out, the posts of a partition in keep their order."""
    verdict = judge(SENT, (RIGHT[1], RIGHT[0], *RIGHT[2:]))
    assert verdict.disordered == ("e[0] has [0]@0 after @1",)
    assert set(verdict.faults("at_least_once")) == {"out of order"}


def test_order_is_each_partitions_own() -> None:
    """Other partitions, in or out, may be ahead; a repeat is doubled, not out of order."""
    ahead = replace(RIGHT[1], partition=1)
    assert not judge(SENT, (ahead, RIGHT[0], *RIGHT[2:])).disordered
    assert not judge(SENT, (*RIGHT, RIGHT[0])).disordered


@pytest.mark.parametrize(
    "change",
    [
        {"position": (2, 7)},
        {"id": "b"},
        {"text": "two"},
        {"url": "http://host/2.jpg"},
        {"url": None},
        {"reason": "tagging_failed"},
    ],
)
def test_a_foreign_event_is_found(change: dict[str, object]) -> None:
    """Of a post that wasn't sent, or with another post's words, picture or fate."""
    changed = replace(RIGHT[0], **change)  # type: ignore[arg-type] # as the parameters say
    verdict = judge(SENT, (changed, *RIGHT[1:]))
    assert verdict.foreign
    assert "foreign" in verdict.faults("at_least_once")


@pytest.mark.parametrize("change", [{"reason": None}, {"reason": "empty"}, {"value": b"other"}])
def test_a_foreign_dead_letter_is_found(change: dict[str, object]) -> None:
    """An event in its place, another reason, or other bytes."""
    changed = replace(RIGHT[3], **change)  # type: ignore[arg-type] # as the parameters say
    assert judge(SENT, (*RIGHT[:3], changed)).foreign


def test_another_keys_picture_is_found() -> None:
    """One URL with two pictures, or two URLs with one: Redis's wrong reply was believed."""
    posts = (*SENT, Sent(position=(1, 1), id="e", text="five", url="http://host/1.jpg"))
    fifth = Output(topic="e", partition=0, position=(1, 1), id="e", text="five", url="http://host/1.jpg", digest="p2")
    assert "was seen as" in judge(posts, (*RIGHT, fifth)).foreign[0]
    swapped = replace(RIGHT[2], digest="p1")
    assert judge(SENT, (*RIGHT[:2], swapped, RIGHT[3])).foreign == ("2 different pictures were seen as p1",)


DELETES = (*SENT, Sent(position=(0, 3), id="b", deletes=True))
TOMBSTONE = Output(topic="e", partition=0, position=(0, 3), id="b", is_tombstone=True)


def test_a_deleted_post_may_have_an_event_or_none() -> None:
    """Before its tombstone; twice under at least once, as long as a tombstone comes last."""
    assert judge(DELETES, (*RIGHT, TOMBSTONE)) == judge(DELETES, (RIGHT[0], *RIGHT[2:], TOMBSTONE)) == Verdict()
    again = judge(DELETES, (*RIGHT, TOMBSTONE, RIGHT[1], TOMBSTONE))
    assert not again.faults("at_least_once") and set(again.faults("exactly_once")) == {"doubled"}


def test_a_post_that_outlives_its_delete_is_found() -> None:
    """An event after the tombstone, no tombstone, or a tombstone that nobody asked for."""
    undead = judge(DELETES, (RIGHT[0], *RIGHT[2:], TOMBSTONE, RIGHT[1]))
    assert "undead" in undead.faults("at_least_once")
    assert len(judge(DELETES, RIGHT).lost) == 1
    assert len(judge(SENT, (*RIGHT[:3], replace(RIGHT[3], is_tombstone=True))).foreign) == 1
    assert len(judge(DELETES, (*RIGHT, replace(TOMBSTONE, is_tombstone=False))).foreign) == 1
