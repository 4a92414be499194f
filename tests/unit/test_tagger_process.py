"""The tagger in a process of its own: the same answers in order, and no post pays for what becomes of it."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from model.checkpoint import Checkpoint, save
from model.errors import CheckpointError, OutOfMemory, TaggingError
from model.inference import Tagger
from model.tagging import Tagging, TaggingInput
from model.tokenizer import Token
from worker.batch_runner import BatchLimits, BatchRunner, Prepared, Tagged
from worker.errors import TaggerBroken, TaggerDied, TaggingFailed
from worker.metrics import Metrics
from worker.settings import STARTER_CHECKPOINT
from worker.tagger_process import TaggerProcess, close_process
from worker.tagger_wire import NUM_SLOTS, SLOT_BYTES, Failed, TaggerSpec

SPEC = TaggerSpec(path=STARTER_CHECKPOINT, threads=1)
TEXTS = ("Barack Obama lands in Berlin", "so happy about Modern Baseball !", "lol", "東京 with Tim Cook 👩‍👩‍👧", "")


@pytest.fixture(scope="module")
def tagger() -> TaggerProcess:
    """The shipped checkpoint in a process of its own, which tests may kill."""
    return TaggerProcess(SPEC)


@pytest.fixture(scope="module")
def here() -> Iterator[Tagger]:
    """The same in this process, with as many threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Tagger.load(STARTER_CHECKPOINT)
    torch.set_num_threads(threads)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(256, size=(count, 3, 224, 224), dtype=np.uint8)


def posts(tagger: TaggerProcess | Tagger, features: np.ndarray, count: int) -> list[TaggingInput]:
    """`count` posts, two of three with a picture."""
    return [
        TaggingInput(
            tokens=tagger.tokenize(TEXTS[number % len(TEXTS)]),
            features=features[number % len(features)] if number % 3 else None,
        )
        for number in range(count)
    ]


def names(taggings: list[Tagging]) -> list[list[tuple[str, int, int]]]:
    return [[(span.type, span.start, span.end) for span in tagging.spans] for tagging in taggings]


def is_alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(process_id: int, seconds: float = 10.0) -> bool:
    give_up_at = time.monotonic() + seconds
    while is_alive(process_id):
        if time.monotonic() > give_up_at:
            return False
        time.sleep(0.02)
    return True


def test_its_answers_are_those_of_a_tagger_in_this_process(tagger: TaggerProcess, here: Tagger) -> None:
    """Features to the bit, taggings but for the last digits, and all that is told of it."""
    told = ("checkpoint_id", "variant", "uses_image", "tower_digest", "feature_shape")
    assert [getattr(tagger, name) for name in told] == [getattr(here, name) for name in told]
    features = tagger.look(pictures(5))
    assert np.array_equal(features, here.look(pictures(5)))
    theirs, ours = (each.tag(posts(each, features, 40)) for each in (tagger, here))
    assert names(theirs) == names(ours)
    assert sum(map(len, names(ours))) > 20
    for one, other in zip(theirs, ours, strict=True):
        assert [span.confidence for span in one.spans] == pytest.approx([span.confidence for span in other.spans])
        for left, right in ((one.attention, other.attention), (one.gate, other.gate)):
            assert (left is None) == (right is None)
            assert left is None or left == pytest.approx(right, abs=1e-6)


def test_what_is_too_much_for_its_memory_goes_in_parts(tagger: TaggerProcess) -> None:
    """More pictures and posts than a slot holds: as many answers, each its own; a post too long for it fails alone."""
    per_slot = SLOT_BYTES // (2 * 49 * 1280)
    seen = tagger.look(pictures(3))
    assert np.array_equal(tagger.look(np.tile(pictures(3), (30, 1, 1, 1))), np.tile(seen, (30, 1, 1)))
    many = posts(tagger, seen, 4 * per_slot)
    assert names(tagger.tag(many)) == names([each for post in many for each in tagger.tag([post])])
    assert tagger.tag([]) == []
    endless = TaggingInput(tokens=(Token("a" * SLOT_BYTES, 0, SLOT_BYTES),))
    with pytest.raises(TaggingError, match="too many tokens for the tagger's process; set tagger_process to false"):
        tagger.tag([many[0], endless])
    assert tagger.begin_tag([endless]) is None


def test_the_next_batch_may_be_there_before_one_is_done(tagger: TaggerProcess) -> None:
    """As many as there are slots, answered in any order, also while others are asked; then there is room again."""
    features = tagger.look(pictures(2))
    batches = [posts(tagger, features, size) for size in (3, 20, 7)]
    expected = [names(tagger.tag(batch)) for batch in batches]
    for _ in range(3):
        begun = [tagger.begin_tag(batch) for batch in batches]
        assert [each is not None for each in begun] == [True] * NUM_SLOTS + [False]
        assert names(tagger.tag(batches[2])) == expected[2]
        for number in (1, 0):
            waiting = begun[number]
            assert waiting is not None
            assert names(waiting()) == expected[number]


@pytest.mark.slow
def test_a_batch_whose_process_dies_is_told_so_and_the_next_is_tagged(tagger: TaggerProcess) -> None:
    """Whoever waits hears how it died; the batch after that finds another process, and a post alone does at once."""
    features = tagger.look(pictures(2))
    batch = posts(tagger, features, 6)
    expected = names(tagger.tag(batch))
    begun = [tagger.begin_tag(batch) for _ in range(2)]
    os.kill(tagger.process_id, signal.SIGSEGV)
    for waiting in begun:
        assert waiting is not None
        try:
            assert names(waiting()) == expected  # it may have been done before
        except TaggerDied as error:
            assert "died of SIGSEGV" in str(error)
    assert names(tagger.tag(batch)) == expected
    os.kill(tagger.process_id, signal.SIGSEGV)
    assert names(tagger.tag(batch[:1])) == expected[:1]
    os.kill(tagger.process_id, signal.SIGSEGV)
    assert np.array_equal(tagger.look(pictures(2)[:1]), features[:1])


def test_a_process_that_is_killed_once_was_killed_by_chance(tagger: TaggerProcess) -> None:
    """The batch goes to another process as it is, and nothing is learnt of its size."""
    runner = BatchRunner(tagger, BatchLimits(), Metrics())
    many = [Prepared(tokens=tagger.tokenize("a b c d " * 10)) for _ in range(16)]
    tagger.tag([TaggingInput(tokens=many[0].tokens)])
    os.kill(tagger.process_id, signal.SIGSTOP)  # so that it dies amid the batch
    killing = threading.Timer(0.3, os.kill, (tagger.process_id, signal.SIGKILL))
    killing.start()
    results = runner.run(many)
    killing.join()
    assert all(isinstance(result, Tagged) for result in results)
    assert runner.limits == BatchLimits()


@pytest.mark.slow
def test_a_process_that_is_killed_twice_is_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of any device that has too little, the batch is halved, all posts are tagged, and later ones go by halves."""
    monkeypatch.setattr("worker.tagger_link.PROGRAM", (str(Path(__file__).with_name("deadly_child.py")),))
    tagger = TaggerProcess(SPEC)
    runner = BatchRunner(tagger, BatchLimits(), Metrics())
    results = runner.run([Prepared(tokens=tagger.tokenize("this starves")) for _ in range(16)])
    assert all(isinstance(result, Tagged) for result in results)
    assert runner.limits.max_padded_tokens == 16


def test_an_error_amid_an_answer_is_nobody_else_s(tagger: TaggerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after it may be cut anywhere, so it is not read: all that was begun fails, and is asked anew."""
    features = tagger.look(pictures(2))
    first, second = posts(tagger, features, 4), posts(tagger, features, 7)
    expected = [names(tagger.tag(batch)) for batch in (first, second)]
    for broken in ("worker.tagger_process.unpacked_taggings", "worker.tagger_link.pickle.load"):
        begun = [tagger.begin_tag(batch) for batch in (first, second)]
        with monkeypatch.context() as patch:
            patch.setattr(broken, Mock(side_effect=MemoryError("here")))
            with pytest.raises(MemoryError, match="here"):
                begun[0]()  # type: ignore[misc]
        with pytest.raises(TaggerDied):
            begun[1]()  # type: ignore[misc]
        assert names(tagger.tag(second)) == expected[1]
        again = [tagger.begin_tag(batch) for batch in (first, second)]
        assert [names(waiting()) for waiting in again if waiting] == expected


def test_a_process_that_hangs_is_ended_by_hand() -> None:
    """It hears of nothing, not of the worker's end either; and a batch that is under way then starts no other."""
    tagger = TaggerProcess(SPEC)
    post = [TaggingInput(tokens=tagger.tokenize("a post"))]
    assert len(tagger.tag(post)) == 1
    before = tagger.process_id
    os.kill(before, signal.SIGSTOP)
    closing = threading.Timer(0.3, close_process, (tagger,))
    closing.start()
    with pytest.raises(TaggerDied, match="closed"):
        tagger.tag(post)
    closing.join()
    assert ended(before)
    assert tagger.process_id == before
    assert tagger.begin_tag(post) is None
    close_process("a tagger without a process")


@pytest.mark.slow
def test_deaths_leave_nothing_behind(tagger: TaggerProcess) -> None:
    """Neither descriptors nor memory, and without Python's collector of cycles, which seldom comes."""
    post = [TaggingInput(tokens=tagger.tokenize("a post"))]
    tagger.tag(post)
    gc.collect()
    before = num_open()
    gc.disable()
    try:
        for _ in range(3):
            begun = tagger.begin_tag(post)
            os.kill(tagger.process_id, signal.SIGSEGV)
            with suppress(TaggerDied):
                begun()  # type: ignore[misc]
            del begun
            tagger.tag(post)
        assert num_open() <= before
    finally:
        gc.enable()


@pytest.mark.slow
def test_a_post_that_its_process_dies_of_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, and takes no other along; where the process dies of every post, the worker stops."""
    monkeypatch.setattr("worker.tagger_link.PROGRAM", (str(Path(__file__).with_name("deadly_child.py")),))
    tagger = TaggerProcess(SPEC)
    runner = BatchRunner(tagger, BatchLimits(), Metrics(), begin_tag=tagger.begin_tag)
    batch = [Prepared(tokens=tagger.tokenize(text)) for text in ("one", "this kills", "three")]
    after = [Prepared(tokens=tagger.tokenize("after"))]
    runner.expect(batch)
    runner.expect(after)
    results = runner.run(batch) + runner.run(after)
    assert [isinstance(result, TaggingFailed) for result in results] == [False, True, False, False]
    assert "died of SIGABRT" in str(results[1])
    monkeypatch.setattr("worker.tagger_link.PROGRAM", ("-c", "raise SystemExit(7)"))
    os.kill(tagger.process_id, signal.SIGSEGV)
    with pytest.raises(TaggerBroken, match="its process ended with 7"):
        runner.run(after)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_to_the_whole_group_are_the_worker_s_affair(tagger: TaggerProcess, number: signal.Signals) -> None:
    """A service's or a terminal's stop reaches all processes; posts under way are tagged all the same."""
    before = tagger.process_id
    tagger.tag(posts(tagger, np.zeros((1, *tagger.feature_shape), np.float16), 1))
    os.kill(before, number)
    assert len(tagger.tag(posts(tagger, np.zeros((1, *tagger.feature_shape), np.float16), 3))) == 3
    assert tagger.process_id == before


def test_another_checkpoint_in_its_place_is_not_taken_for_it(
    tmp_path: Path, small_checkpoint: Callable[..., Checkpoint]
) -> None:
    """The process that follows a death has the same tagger, or there is none: posts were prepared for that."""
    path = tmp_path / "one.safetensors"
    save(small_checkpoint("blstm_crf"), path)
    tagger = TaggerProcess(TaggerSpec(path=path, threads=1))
    post = TaggingInput(tokens=tagger.tokenize("a post"))
    assert len(tagger.tag([post])) == 1
    path.write_bytes(STARTER_CHECKPOINT.read_bytes())
    os.kill(tagger.process_id, signal.SIGSEGV)
    with pytest.raises(TaggerDied, match=r"one\.safetensors is \w+ now instead of \w+; restart the worker"):
        tagger.tag([post])


def test_a_checkpoint_that_can_t_be_used_is_refused_as_in_this_process(tmp_path: Path) -> None:
    """The same error with the same words."""
    path = tmp_path / "bad.safetensors"
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError) as expected:
        Tagger.load(path)
    with pytest.raises(CheckpointError) as found:
        TaggerProcess(TaggerSpec(path=path))
    assert str(found.value) == str(expected.value)
    with pytest.raises(CheckpointError, match="No such file") as none:
        TaggerProcess(TaggerSpec(path=tmp_path / "none"))
    assert isinstance(none.value.__cause__, FileNotFoundError)  # so that it is tried again, once a disk is back


def test_an_error_comes_as_itself_or_in_its_words() -> None:
    """Some can't be pickled, some not put together again."""

    class Local(Exception):
        """Known in this function alone."""

    assert isinstance(Failed.of(OutOfMemory("x")).error, OutOfMemory)
    assert str(Failed.of(Local("the words")).error) == "Local('the words')"
    assert "UnicodeDecodeError" in repr(Failed.of(UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad")).error)


def num_open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_its_process_ends_with_the_last_who_has_it() -> None:
    """And leaves no descriptor behind."""
    gc.collect()
    before = num_open()
    for _ in range(2):
        tagger = TaggerProcess(SPEC)
        process_id = tagger.process_id
        assert is_alive(process_id)
        del tagger
        gc.collect()
        assert ended(process_id)
    assert num_open() == before


PARENT = """
import os, sys, time
from pathlib import Path
from worker.tagger_process import TaggerProcess, close_process
from worker.tagger_wire import TaggerSpec
tagger = TaggerProcess(TaggerSpec(path=Path(sys.argv[1]), threads=1))
print(tagger.process_id, "torch" in sys.modules, flush=True)
time.sleep(60)
"""


def test_its_process_ends_with_the_worker_however_that_ends(tmp_path: Path) -> None:
    """A worker that is killed says nothing any more. What lies in its working directory is not imported."""
    (tmp_path / "torch.py").write_text("raise RuntimeError('not this one')")
    worker = subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT, str(STARTER_CHECKPOINT)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert worker.stdout is not None
    try:
        process_id, has_torch = worker.stdout.readline().split()
        assert has_torch == "False"
        assert is_alive(int(process_id))
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()
    assert ended(int(process_id))


def test_the_worker_itself_has_no_torch() -> None:
    """Its memory is needed once, and the tagger's process has it; nothing else may bring it in."""
    names = "sorted(set(sys.modules) & {'torch', 'torchvision', 'safetensors'})"
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, worker.service, worker.garbage, worker.replay; print({names})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "[]"
