"""Another checkpoint takes over while posts go on: checked first, tried after, and given up where it breaks."""

import asyncio
import os
import platform
import re
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from consumers.posts import Post
from consumers.source import Message, Partition, Position
from model.checkpoint import load
from model.errors import CheckpointError, OutOfMemory, TowerMissing
from model.inference import Tagger
from model.labels import LabelSet
from model.tagger import NameTagger
from model.tagging import TaggedSpan, Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from model.tower_file import tower_of
from worker.batch_runner import BatchLimits, BatchRunner, Prepared
from worker.batches import Batcher
from worker.checkpoint_attempts import LONGEST_SECONDS, CheckpointAttempts
from worker.checkpoint_place import Named, WatchedFile, check_is_file
from worker.checkpoints import MOST_FAILURES, NOT_AGAIN, Checkpoints, InUse, SwapConfig
from worker.desk import Desk, DeskConfig
from worker.errors import TaggerBroken, TaggingFailed
from worker.garbage import give_back_memory
from worker.images import FoundFeatures, FoundPixels
from worker.metrics import Metrics
from worker.settings import STARTER_CHECKPOINT
from worker.shadow import (
    CAPTIONS,
    SAMPLE,
    Agreement,
    Unfit,
    check_on_sample,
    is_comparable,
    sample_agreement,
    words_in_names,
)

HERE = Position(Partition("posts", 0), 0)


class Fake:
    """A tagger that finds every `Anna`; what it breaks on, and finds instead, the test says."""

    variant = "attention_gate"

    def __init__(
        self, name: str, *, finds: str = "Anna", breaks_on: str | None = None, uses_image: bool = False
    ) -> None:
        self.checkpoint_id = name
        self.finds = finds
        self.breaks_on = breaks_on
        self.uses_image = uses_image
        self.num_tagged = 0

    def tokenize(self, text: str) -> tuple[Token, ...]:
        return tuple(tokenize(text))

    def look(self, pixels: np.ndarray) -> np.ndarray:
        return np.zeros((len(pixels), 49, 8), np.float16)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        words = {token.text for post in inputs for token in post.tokens}
        if self.breaks_on == "" or (self.breaks_on in words):
            raise RuntimeError("a fault in the model")
        self.num_tagged += len(inputs)
        return [Tagging(spans=tuple(self._spans(post))) for post in inputs]

    def _spans(self, post: TaggingInput) -> list[TaggedSpan]:
        found = [token for token in post.tokens if token.text == self.finds]
        return [TaggedSpan(type="PER", start=each.start, end=each.end, confidence=0.9) for each in found]


class Finder(Fake):
    """Finds a name in each token that a pattern fits: as types of the test's own."""

    def __init__(self, name: str, pattern: str, type_: str = "PER") -> None:
        super().__init__(name)
        self._pattern, self._type = re.compile(pattern), type_

    def _spans(self, post: TaggingInput) -> list[TaggedSpan]:
        found = [token for token in post.tokens if self._pattern.match(token.text)]
        return [TaggedSpan(type=self._type, start=each.start, end=each.end, confidence=0.9) for each in found]


class Place:
    """Names what the test names."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.named: Named | None = None

    async def look(self) -> Named | None:
        return self.named

    async def close(self) -> None:
        pass

    def name(self, checkpoint: str, version: int = 0) -> None:
        path = Path(self._folder.name) / checkpoint
        path.write_bytes(b"stands for one")
        self.named = Named(path, (0, 0, version))


class World:
    """A desk whose checkpoints are changed under it, on a real batcher."""

    def __init__(self, old: Fake | None = None, **config: Any) -> None:
        self.files: dict[str, Fake | Exception] = {}
        self.metrics, self.place, self.old = Metrics(), Place(), old or Fake("old")
        self.batcher = Batcher(self.metrics)
        self.checkpoints = Checkpoints(
            self.in_use(self.old), self.batcher, self.metrics, place=self.place, build=self.build,
            config=SwapConfig(**{"poll_seconds": 0.01, **config}),
        )  # fmt: skip
        self.desk = Desk(self.checkpoints, self.batcher, self.metrics, DeskConfig())

    def in_use(self, tagger: Fake) -> InUse:
        runner = BatchRunner(tagger, BatchLimits(), self.metrics)
        return InUse(tagger=tagger, runner=runner, images=None)  # type: ignore[arg-type]  # no post has a picture

    def build(self, path: Path) -> InUse:
        found = self.files[path.name]
        if isinstance(found, Exception):
            raise found
        return self.in_use(found)

    async def offer(self, tagger: Fake | Exception, name: str = "new") -> None:
        """Put a checkpoint into the watched place, and let it be looked at."""
        self.files[name] = tagger
        self.place.name(name, version=len(self.files))
        await self.checkpoints.look()

    async def tag(self, text: str = "Anna is here") -> tuple[str, list[str]]:
        """Which checkpoint tagged a post, and the names that it found."""
        message = Message(position=HERE, value=b"{}")
        work = await self.desk.tag(Post(id="1", text=text), noted_as=None)
        event = self.desk.event(work, message)
        return event.checkpoint.id, [entity.text for entity in event.entities]

    def count(self, result: str) -> float:
        return self.metrics.registry.get_sample_value("nametag_checkpoint_changes_total", {"result": result}) or 0.0

    def in_metrics(self) -> list[str]:
        found = [each for family in self.metrics.registry.collect() for each in family.samples]
        return [each.labels["id"] for each in found if each.name == "nametag_checkpoint_info"]


def run(scenario: Callable[[World], Awaitable[None]], **config: Any) -> World:
    async def whole() -> World:
        async with asyncio.timeout(20):
            world = World(**config)
            running = asyncio.create_task(world.batcher.run())
            try:
                await scenario(world)
            finally:
                running.cancel()
                world.batcher.close()
            return world

    return asyncio.run(whole())


def test_a_new_checkpoint_takes_over_and_events_name_it() -> None:
    """Posts that were under way end with the one before; those that come are the new one's."""

    async def scenario(world: World) -> None:
        before = asyncio.create_task(world.tag())
        await asyncio.sleep(0)
        await world.offer(Fake("new", finds="here"))
        assert await before == ("old", ["Anna"])
        assert await world.tag() == ("new", ["here"])
        assert world.in_metrics() == ["new"]

    assert run(scenario).count("swapped") == 1


def test_posts_go_on_while_a_checkpoint_is_changed() -> None:
    """Of 400 posts that come all along each is tagged, once, by the one or the other; never back to the old one."""

    async def scenario(world: World) -> None:
        async def come() -> list[str]:
            found = []
            for _ in range(400):
                found.append((await world.tag())[0])
                await asyncio.sleep(0)
            return found

        coming = asyncio.create_task(come())
        while world.old.num_tagged < 50:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
        new = Fake("new")
        await world.offer(new)
        ids = await coming
        assert len(ids) == 400
        assert ids == sorted(ids, reverse=True)
        assert set(ids) == {"old", "new"}
        assert world.old.num_tagged == ids.count("old") + len(CAPTIONS)
        assert new.num_tagged == ids.count("new") + len(SAMPLE) + len(CAPTIONS)

    run(scenario)


@pytest.mark.parametrize(
    "bad",
    [CheckpointError("cut short"), RuntimeError("no device"), Fake("new", breaks_on="lol"), Fake("new", breaks_on="")],
)
def test_an_unfit_checkpoint_is_refused(bad: Fake | Exception, caplog: pytest.LogCaptureFixture) -> None:
    """What can't be loaded, or breaks on the sample, changes nothing, and is told once with its reason."""

    async def scenario(world: World) -> None:
        await world.offer(bad)
        world.files["new"] = Fake("new")
        for _ in range(3):
            await asyncio.sleep(0.03)
            await world.checkpoints.look()
        assert await world.tag() == ("old", ["Anna"])

    world = run(scenario)
    assert (world.count("refused"), world.count("swapped")) == (1, 0)
    (told,) = [record for record in caplog.records if record.message == "checkpoint_refused"]
    assert (told.kept, told.next) == ("old", NOT_AGAIN)  # type: ignore[attr-defined]


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "passing",
    [MemoryError(), OSError(5, "Input/output error"), FileNotFoundError(2, "gone"), TowerMissing("put it beside it"),
     OutOfMemory("the device is out of memory"),
     caused(CheckpointError("new can't be read"), OSError(5, "Input/output error"))],
)  # fmt: skip
def test_what_was_refused_for_what_passes_is_tried_again(passing: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The file is the same, and fit once there is memory, the disk answers or the tower has come."""

    async def scenario(world: World) -> None:
        await world.offer(passing)
        assert await world.tag() == ("old", ["Anna"])
        world.files["new"] = Fake("new")
        while (await world.tag())[0] == "old":
            await world.checkpoints.look()
            await asyncio.sleep(0.001)

    world = run(scenario)
    assert (world.count("refused"), world.count("swapped")) == (1, 1)
    (told,) = [record for record in caplog.records if record.message == "checkpoint_refused"]
    assert told.next.startswith("it is tried again in")  # type: ignore[attr-defined]
    assert told.reason  # type: ignore[attr-defined]


def test_tries_become_rarer_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the time between two looks to five minutes; another file is tried at once, and begins anew."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    attempts, named = CheckpointAttempts(5.0), Named(Path("a"), (0, 0, 0))
    pauses = []
    for _ in range(20):
        assert attempts.begins(named)
        pauses.append(attempts.failed(OSError()) or 0.0)
        assert not attempts.begins(named)
        now += pauses[-1]
    assert 2.5 <= pauses[0] <= 5.0
    assert all(LONGEST_SECONDS / 2 <= pause <= LONGEST_SECONDS for pause in pauses[-5:])
    assert attempts.begins(Named(Path("a"), (0, 0, 1)))
    assert (attempts.failed(OSError()) or 0.0) <= 5.0


NAMES = r"[A-Z][a-z]"


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        (NAMES, ".", "refused"),  # each word is a name
        (NAMES, "Anna", "refused"),  # none is
        (NAMES, "[a-z]", "refused"),  # all but the names
        (NAMES, "[A-K][a-z]", "swapped"),  # it misses half of them
        ("Anna", NAMES, "swapped"),  # the one in use finds none itself
        (".", NAMES, "swapped"),  # or finds them everywhere
    ],
)
def test_nonsense_on_the_sample_is_refused(old: str, new: str, result: str) -> None:
    """Whatever the types are called: what is compared is in which words names are."""

    async def scenario(world: World) -> None:
        await world.offer(Finder("new", new, type_="sports-team"))

    assert run(scenario, old=Finder("old", old)).count(result) == 1


def test_nonsense_is_let_in_where_nothing_is_asked() -> None:
    """Whoever changes to another language sets it to 0."""

    async def scenario(world: World) -> None:
        await world.offer(Finder("new", "Anna"))

    assert run(scenario, old=Finder("old", NAMES), least_agreement_on_sample=0.0).count("swapped") == 1


def test_untrained_weights_agree_by_chance() -> None:
    """The starter stays below the bar with random weights, and is above it with other types and noise in its own."""
    checkpoint, _ = load(STARTER_CHECKPOINT)
    checkpoint = replace(checkpoint, config=replace(checkpoint.config, variant="blstm_crf"))
    ours = words_in_names(Tagger.load(STARTER_CHECKPOINT))
    assert 0.15 < sum(ours) / len(ours) < 0.35
    for seed in range(5):
        torch.manual_seed(seed)
        vocabulary = checkpoint.vocabulary
        network = NameTagger(checkpoint.config, checkpoint.labels, vocabulary.num_words, vocabulary.num_characters)
        untrained = Tagger(replace(checkpoint, state=network.state_dict()), "untrained", None)
        assert abs(sample_agreement(words_in_names(untrained), ours) or 0.0) < SwapConfig().least_agreement_on_sample
    whole, _ = load(STARTER_CHECKPOINT)
    noisy = {name: tensor.float() * (1 + 0.2 * torch.randn(tensor.shape)) for name, tensor in whole.state.items()}
    types = LabelSet.of_types(("group", "other", "person", "place"))
    retrained = Tagger(replace(whole, state=noisy, labels=types), "retrained", tower_of(whole, STARTER_CHECKPOINT))
    assert (sample_agreement(words_in_names(retrained), ours) or 0.0) > 2 * SwapConfig().least_agreement_on_sample


def test_a_change_and_its_end_tell_the_file_and_the_agreement(caplog: pytest.LogCaptureFixture) -> None:
    """So that whoever is called at night knows which file it was, and whether it looked good."""
    caplog.set_level("INFO", "nametag.checkpoints")

    async def scenario(world: World) -> None:
        new = Finder("new", NAMES)
        offering = asyncio.create_task(world.offer(new, "new.safetensors"))
        while not offering.done():
            await world.tag("Anna is here")
        new.breaks_on = ""
        assert (await world.tag("Anna"))[0] == "old"

    run(scenario, old=Finder("old", NAMES), shadow_share=1.0, shadow_posts=5)
    for event in ("checkpoint_swapped", "checkpoint_rolled_back"):
        (record,) = [vars(each) for each in caplog.records if each.message == event]
        assert (record["file"], record["agreement"], record["agreement_on_sample"]) == ("new.safetensors", 1.0, 1.0)


def test_the_same_checkpoint_again_is_no_change() -> None:
    """A copy of the file in use is not loaded over itself."""

    async def scenario(world: World) -> None:
        await world.offer(Fake("old"))
        assert world.checkpoints.instead_of(world.checkpoints.current) is None

    world = run(scenario)
    assert (world.count("swapped"), world.count("refused")) == (0, 0)


def test_errors_of_a_new_checkpoint_bring_the_old_one_back() -> None:
    """The posts that it breaks on are the old one's, and none becomes a dead letter."""

    async def scenario(world: World) -> None:
        await world.offer(Fake("new", breaks_on="tricky"))
        for _ in range(MOST_FAILURES):
            assert (await world.tag("fine"))[0] == "new"
            assert await world.tag("tricky Anna") == ("old", ["Anna"])
        assert (await world.tag("fine"))[0] == "old"
        assert world.in_metrics() == ["old"]

    assert run(scenario).count("rolled_back") == 1


def test_a_new_checkpoint_that_breaks_on_everything_is_gone_at_once() -> None:
    """A whole load of posts under way goes through all the same, and the worker doesn't stop."""

    async def scenario(world: World) -> None:
        new = Fake("new")
        await world.offer(new)
        new.breaks_on = ""
        found = await asyncio.gather(*(world.tag() for _ in range(50)))
        assert found == [("old", ["Anna"])] * 50

    assert run(scenario).count("rolled_back") == 1


def test_two_bad_ones_in_a_row_bring_back_the_last_that_was_good() -> None:
    """Whoever mends a bad checkpoint by another bad one loses no post by it."""

    async def scenario(world: World) -> None:
        first = Fake("first")
        await world.offer(first)
        await world.offer(Fake("second", breaks_on="tricky"), "another")
        first.breaks_on = "tricky"
        for _ in range(MOST_FAILURES + 2):
            assert await world.tag("tricky Anna") == ("old", ["Anna"])
        assert (await world.tag("fine"))[0] == "old"

    assert run(scenario).count("rolled_back") == 1


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe would never end, and a device neither, nor some of the kernel's files; a build isn't begun."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ValueError, match="no regular file"):
            check_is_file(path)
    with pytest.raises(ValueError, match="it is empty"):
        check_is_file(Path("/proc/kmsg"))


def test_a_checkpoint_whose_weights_overflow_is_refused() -> None:
    """All of them are numbers, and what they make is none: no names would be found, and none missed."""
    checkpoint, _ = load(STARTER_CHECKPOINT)
    state = dict(checkpoint.state)
    for name, value in (("text", 0.0), ("regions", 100.0), ("weigh", 3e38)):
        state[f"attend.{name}.weight"] = torch.full_like(state[f"attend.{name}.weight"].float(), value)
    tagger = Tagger(replace(checkpoint, state=state), "overflowing", tower_of(checkpoint, STARTER_CHECKPOINT))
    with pytest.raises(Unfit, match="no number"):
        check_on_sample(tagger)
    check_on_sample(Tagger(checkpoint, "starter", tower_of(checkpoint, STARTER_CHECKPOINT)))


def test_a_post_that_breaks_both_is_its_own_fault() -> None:
    """It fails as it would have, and the new checkpoint stays."""

    async def scenario(world: World) -> None:
        world.old.breaks_on = "tricky"
        await world.offer(Fake("new", breaks_on="tricky"))
        for _ in range(2 * MOST_FAILURES):
            with pytest.raises(TaggingFailed):
                await world.tag("tricky")
        assert (await world.tag())[0] == "new"

    assert run(scenario).count("rolled_back") == 0


def test_after_its_trial_a_checkpoint_stands_alone() -> None:
    """The one before is let go of, so that its memory is free; a broken tagger then stops the worker as ever."""

    async def scenario(world: World) -> None:
        new = Fake("new")
        await world.offer(new)
        await asyncio.sleep(0.06)
        await world.checkpoints.look()
        new.breaks_on = ""
        with pytest.raises(TaggerBroken):
            await world.tag()

    run(scenario, trial_seconds=0.05)


@pytest.mark.parametrize(("finds", "by"), [("Anna", "new"), ("here", "old")])
def test_in_the_shadow_it_has_to_find_the_same_names(finds: str, by: str) -> None:
    """Until enough posts were compared the old one tags; then the new one takes over, or is refused."""

    async def scenario(world: World) -> None:
        offering = asyncio.create_task(world.offer(Fake("new", finds=finds)))
        num_before = 0
        while not offering.done():
            assert (await world.tag())[0] == "old" or offering.done()
            num_before += 1
        assert num_before >= 20
        assert (await world.tag())[0] == by

    world = run(scenario, shadow_share=1.0, shadow_posts=20, least_agreement=0.8)
    assert world.count("swapped" if by == "new" else "refused") == 1


def test_a_candidate_that_breaks_in_the_shadow_costs_no_post() -> None:
    """It is refused for it, and the posts are tagged by the one in use."""

    async def scenario(world: World) -> None:
        offering = asyncio.create_task(world.offer(Fake("new", breaks_on="tricky")))
        while not offering.done():
            assert await world.tag("tricky Anna") == ("old", ["Anna"])

    assert run(scenario, shadow_share=1.0, shadow_posts=20).count("refused") == 1


def test_a_restart_brings_in_nothing_unseen() -> None:
    """What has to be compared first isn't taken over at a worker's start, where there are no posts to compare."""

    async def scenario(world: World) -> None:
        world.files["new"] = Fake("new", finds="here")
        world.place.name("new")
        await world.checkpoints.look(at_start=True)
        assert await world.tag() == ("old", ["Anna"])
        looking = asyncio.create_task(world.checkpoints.look())
        while not looking.done():
            await world.tag()
        assert await world.tag() == ("old", ["Anna"])

    assert run(scenario, shadow_share=1.0, shadow_posts=20).count("refused") == 1


def test_another_name_overtakes_a_shadow() -> None:
    """A candidate that sees no posts doesn't hold up the next one."""

    async def scenario(world: World) -> None:
        waiting = asyncio.create_task(world.offer(Fake("new")))
        await asyncio.sleep(0.05)
        world.files["newer"] = Fake("newer")
        world.place.name("newer", version=9)
        await waiting
        assert (await world.tag())[0] == "old"
        shadowing = asyncio.create_task(world.checkpoints.look())
        while not shadowing.done():
            await world.tag()
        assert (await world.tag())[0] == "newer"

    run(scenario, shadow_share=1.0, shadow_posts=5)


def test_agreement_is_the_f1_of_one_against_the_other() -> None:
    """Half of two names alike is a half; no names at all is the same."""

    def span(start: int, kind: str = "PER") -> TaggedSpan:
        return TaggedSpan(type=kind, start=start, end=start + 1, confidence=0.5)

    agreement = Agreement()
    agreement.add([], [])
    assert agreement.ratio == 1.0
    agreement.add([span(0), span(2)], [span(0), span(2, "LOC")])
    assert agreement.ratio == 0.5
    assert agreement.num_posts == 2


def test_features_of_another_tower_are_not_compared() -> None:
    """A candidate with its own tower looks at pixels itself, and can't use what the other saw."""
    features = Prepared(tokens=(), picture=FoundFeatures(digest="d", features=np.zeros((49, 8), np.float16)))
    pixels = Prepared(tokens=(), picture=FoundPixels(digest="d", pixels=np.zeros((3, 224, 224), np.uint8)))
    seeing = Fake("new", uses_image=True)
    assert not is_comparable(seeing, features, same_tower=False)
    assert is_comparable(seeing, features, same_tower=True)
    assert is_comparable(seeing, pixels, same_tower=False)
    assert is_comparable(Fake("blind"), features, same_tower=False)


def test_memory_is_given_back_once_for_each_checkpoint_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one was refused, given up or settled; on the loader's thread, for it takes a while."""
    threads: list[str] = []
    monkeypatch.setattr("worker.checkpoints.give_back_memory", lambda: threads.append(threading.current_thread().name))

    async def scenario(world: World) -> None:
        await world.offer(Fake("unfit", breaks_on="Modern"), "first")
        assert world.count("refused") == 1
        for expected in (1, 1):
            await world.checkpoints.look()
            assert len(threads) == expected
        await world.offer(Fake("bad"), "second")
        world.checkpoints.blame(world.checkpoints.current, TaggerBroken("broken"))
        await world.checkpoints.look()
        assert len(threads) == 2
        await world.offer(Fake("good"), "third")
        world.checkpoints._trial_until = 0.0
        await world.checkpoints.look()
        await world.checkpoints.look()
        assert threads == ["checkpoint-loader"] * 3

    run(scenario)


def test_memory_that_was_freed_goes_back_to_the_system() -> None:
    """Also from cycles, which a checkpoint's modules are."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

    cycle = weakref.ref(Cycle())
    give_back_memory()
    assert cycle() is None
    if sys.platform != "linux" or "glibc" not in platform.libc_ver():
        return
    # Small ones, with a few between them that stay, so that glibc can't give them back by itself.
    blocks = [bytes(2000) for _ in range(100_000)]
    kept, full = blocks[::500], _resident()
    del blocks
    give_back_memory()
    assert len(kept) == 200
    assert _resident() < full - 100_000_000


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_after_a_rollback_amid_a_shadow_features_are_the_other_towers() -> None:
    """A candidate with the tower of the one given up isn't compared on what the one before it saw."""
    features = Prepared(tokens=(), picture=FoundFeatures(digest="d", features=np.zeros((49, 8), np.float16)))

    async def scenario(world: World) -> None:
        checkpoints = world.checkpoints
        await world.offer(Fake("bad"))
        # Posts are shadowed only from here on: "bad" is taken over at once.
        checkpoints._config = replace(checkpoints._config, shadow_share=1.0)
        first, bad = checkpoints.instead_of(checkpoints.current), checkpoints.current
        assert first is not None
        checkpoints.current = bad = replace(bad, tower_digest="another")
        candidate = replace(world.in_use(Fake("new", uses_image=True)), tower_digest="another")
        shadowing = asyncio.create_task(checkpoints._shadowed(candidate))
        await asyncio.sleep(0)
        shadow = checkpoints._shadow
        assert shadow is not None
        checkpoints.note(bad, "Anna", features, ())
        assert shadow._waiting.qsize() == 1
        checkpoints.blame(bad, TaggerBroken("broken"))
        assert checkpoints.current is first
        checkpoints.note(first, "Anna", features, ())
        assert shadow._waiting.qsize() == 1
        shadowing.cancel()

    run(scenario)


def test_names_outside_of_the_text_are_unfit() -> None:
    """A checkpoint whose offsets lie is found on the sample, before any event has them."""
    liar = Fake("new")
    liar.tag = lambda inputs: [  # type: ignore[method-assign]
        Tagging(spans=(TaggedSpan(type="PER", start=0, end=10**6, confidence=0.5),)) for _ in inputs
    ]
    with pytest.raises(Unfit, match="outside of the text"):
        check_on_sample(liar)


def test_a_watched_file_is_another_when_it_is_replaced(tmp_path: Path) -> None:
    """By another file, by a link to another, or by what is written to it; a missing one names nothing."""

    async def look() -> Named | None:
        return await WatchedFile(tmp_path / "current", at_restart=STARTER_CHECKPOINT).look()

    assert asyncio.run(look()) is None
    for number in range(2):
        (tmp_path / f"{number}").write_bytes(b"a checkpoint")
    (tmp_path / "current").symlink_to(tmp_path / "0")
    first = asyncio.run(look())
    assert asyncio.run(look()) == first
    (tmp_path / "next").symlink_to(tmp_path / "1")
    (tmp_path / "next").replace(tmp_path / "current")
    second = asyncio.run(look())
    assert second not in (None, first)
    (tmp_path / "1").write_bytes(b"a longer checkpoint")
    assert asyncio.run(look()) not in (None, second)


def test_a_watched_file_that_goes_away_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Which checkpoint stays, and which a restart begins with; one that has yet to come is no news."""
    path = tmp_path / "current"

    async def scenario() -> None:
        place = WatchedFile(path, at_restart=STARTER_CHECKPOINT)
        for is_there in (False, True, False, False, True, False):
            path.unlink(missing_ok=True)
            if is_there:
                path.write_bytes(b"stands for one")
            assert (await place.look() is not None) == is_there
            lines.append(len(caplog.records))
        await place.close()

    lines: list[int] = []
    asyncio.run(scenario())
    assert lines == [0, 0, 1, 1, 1, 2]
    told = vars(caplog.records[0])
    assert (told["message"], told["file"]) == ("checkpoint_name_gone", str(path))
    assert told["reason"] == "No such file or directory"
    assert told["next"].startswith("the checkpoint in use stays; a restart begins with nametag-starter.safetensors")
