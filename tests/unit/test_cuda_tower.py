"""The tower on a CUDA device; and of it, without one, sizes, names, settings and who is refused."""

import gc
import threading
import traceback
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from model.checkpoint import load
from model.cuda_tower import CudaTower, PaddedSizes, check_precision
from model.data import read_conll
from model.device_memory import free_device_memory, is_out_of_memory
from model.errors import DeviceError, OutOfMemory
from model.inference import Tagger, features_name
from model.tagging import TaggingInput
from model.tower import Tower, build_tower
from model.tower_file import tower_of
from worker.batch_runner import BatchLimits, BatchRunner, Prepared, Tagged
from worker.images import FoundPixels
from worker.metrics import Metrics
from worker.settings import STARTER_CHECKPOINT, Settings

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NUM_POSTS = 1000


def pictures(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=generator)


class Sizes:
    """Notes which sizes are captured; a captured one pads as a graph does, into one place for all parts."""

    def __init__(self, largest: int) -> None:
        self.captured: list[int] = []
        self._place = torch.zeros(largest, 2)
        self.see = PaddedSizes(self._see, self._capture, largest)

    def _see(self, given: Tensor) -> Tensor:
        return 10 * given

    def _capture(self, size: int) -> Callable[[Tensor], Tensor]:
        self.captured.append(size)

        def replay(given: Tensor) -> Tensor:
            assert len(given) <= size
            self._place[: len(given)] = given
            return self._see(self._place[:size])[: len(given)].clone()

        return replay


def test_each_part_is_padded_to_a_power_of_two_and_captured_when_it_comes_again() -> None:
    """Of whatever size it is, its pictures' own features come back; and each size is captured once."""
    sizes = Sizes(32)
    assert [sizes.see.padded(count) for count in (1, 2, 3, 5, 8, 9, 17, 32)] == [1, 2, 4, 8, 8, 16, 32, 32]
    for turn in range(3):
        for count in range(1, 33):
            given = torch.rand(count, 2)
            assert torch.equal(sizes.see(given), 10 * given)
        assert turn or 2 not in sizes.captured  # of 1 and 2 pictures there was one batch
    assert sorted(sizes.captured) == [1, 2, 4, 8, 16, 32]
    for wrong in (0, 33):
        with pytest.raises(ValueError, match=f"1 to 32 pictures go at once, not {wrong}"):
            sizes.see.padded(wrong)
    with pytest.raises(ValueError, match="power of two, not 24"):
        Sizes(24)


def test_features_in_bf16_have_a_name_of_their_own() -> None:
    """What is cached in one precision isn't read in the other; fp32's keep the checkpoint's name."""
    assert features_name("5a5d", "fp32") == "5a5d"
    assert features_name("5a5d", "bf16") == "5a5d-bf16"
    assert Tagger.load(STARTER_CHECKPOINT).tower_digest == load(STARTER_CHECKPOINT)[0].tower_digest


def test_bf16_is_refused_on_a_cpu() -> None:
    """With what to do; and fp32 is the default."""
    with pytest.raises(DeviceError, match=r"bf16 is for CUDA devices, and device is cpu; set it to fp32"):
        Tagger.load(STARTER_CHECKPOINT, tower_precision="bf16")
    with pytest.raises(DeviceError, match="no precision is called 'fp8'"):
        check_precision(torch.device("cpu"), "fp8")
    assert Settings().tower_precision == "fp32"


def test_what_cuda_says_when_it_has_no_memory_is_known() -> None:
    """Also where CUDA itself says so, of a graph or of page-locked memory."""
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be …"))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))
    free_device_memory()


class Ahead:
    """A tagger whose tower looks ahead, and notes the order of all that it is asked; on the CPU."""

    checkpoint_id, variant, uses_image = "x", "attention", True

    def __init__(self, *, fails: bool = False) -> None:
        self.asked: list[str] = []
        self._fails = fails

    def begin_look(self, given: list[np.ndarray]) -> Callable[[], np.ndarray]:
        self.asked.append(f"begin {[int(each[0, 0, 0]) for each in given]}")
        if self._fails:
            raise OutOfMemory("the device is out of memory")
        return lambda: self._features(np.stack(given))

    def look(self, given: np.ndarray) -> np.ndarray:
        self.asked.append("look")
        return self._features(given)

    def tag(self, inputs: list[TaggingInput]) -> list[object]:
        self.asked.append(f"tag {[int(post.features[0, 0]) for post in inputs if post.features is not None]}")
        return [None] * len(inputs)

    def _features(self, given: np.ndarray) -> np.ndarray:
        return np.tile(given[:, 0, 0, 0].astype(np.float16).reshape(-1, 1, 1), (1, 49, 2))


def shown(*numbers: int) -> list[Prepared]:
    return [
        Prepared(tokens=(), picture=FoundPixels(digest=str(n), pixels=np.full((3, 4, 4), n, np.uint8))) for n in numbers
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_the_tower_has_the_next_batch_before_one_is_tagged(fails: bool) -> None:
    """Each picture is looked at once, and its own features are tagged; where it can't begin, it's looked at in time."""
    tagger = Ahead(fails=fails)
    runner = BatchRunner(tagger, BatchLimits(), Metrics(), begin_look=tagger.begin_look)  # type: ignore[arg-type]
    batches = [shown(1, 2), shown(2, 3), shown(4)]
    runner.expect(batches[0])
    runner.expect(batches[1])
    results = runner.run(batches[0])
    runner.expect(batches[2])
    results += runner.run(batches[1]) + runner.run(batches[2])
    found = [each.new_features for each in results if isinstance(each, Tagged)]
    assert [None if each is None else int(each[0, 0]) for each in found] == [1, 2, None, 3, 4]
    if not fails:
        assert tagger.asked == ["begin [1, 2]", "begin [3]", "tag [1, 2]", "begin [4]", "tag [2, 3]", "tag [4]"]
    else:
        assert [each for each in tagger.asked if "begin" not in each] == [
            "look", "tag [1, 2]", "look", "tag [2, 3]", "look", "tag [4]",
        ]  # fmt: skip


@pytest.fixture(scope="module")
def eager() -> Tower:
    """The small tower in fp32, as CPUs have it."""
    return build_tower("efficientnet_lite0").fold()


@needs_cuda
def test_any_number_of_pictures_is_seen_as_on_a_cpu(eager: Tower) -> None:
    """Uncaptured, captured and replayed; what came back before isn't overwritten."""
    tower = CudaTower(build_tower("efficientnet_lite0"), torch.device("cuda"), largest=8)
    given = pictures(33)
    expected = eager(given).float()
    kept = [(count, tower.look(given[-count:])) for _ in range(3) for count in range(1, 34)]
    for count, features in kept:
        assert features.shape == (count, 49, 1280)
        assert features.dtype == torch.float16
        assert features.device.type == "cpu"
        assert torch.allclose(features.float(), expected[-count:], rtol=2**-9, atol=2e-3 * float(expected.max()))


@needs_cuda
def test_looks_that_are_begun_together_come_back_as_their_own(eager: Tower) -> None:
    """Eight at once, of several parts each, before the first is waited for."""
    tower = CudaTower(build_tower("efficientnet_lite0"), torch.device("cuda"), largest=4)
    many = [pictures(10, seed) for seed in range(8)]
    for each in many[:2]:
        tower.look(each)
    looks = [tower.begin(list(each)) for each in many]
    for each, look in zip(many, looks, strict=True):
        expected = eager(each).float()
        assert torch.allclose(look.features().float(), expected, rtol=2**-9, atol=2e-3 * float(expected.max()))


@needs_cuda
def test_two_towers_and_four_threads_are_apart() -> None:
    """Two threads on each of two towers: each sees what its tower sees alone, captures and frees amid the others'."""
    towers = [CudaTower(build_tower("resnet18", None), torch.device("cuda"), largest=8) for _ in range(2)]
    given = pictures(20)
    alone = [tower.look(given).float() for tower in towers]
    assert not torch.equal(*alone)
    wrong: list[object] = []

    def look(number: int) -> None:
        try:
            for turn in range(20):
                seen = towers[number % 2].look(given[: 20 - turn % 5]).float()
                expected = alone[number % 2][: len(seen)]
                if not torch.allclose(seen, expected, rtol=2**-8, atol=2e-3 * float(expected.max())):
                    wrong.append((number, turn))
                free_device_memory()
        except Exception:
            wrong.append(traceback.format_exc())

    threads = [threading.Thread(target=look, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong, wrong[0]


@needs_cuda
def test_a_dropped_tower_gives_its_memory_back() -> None:
    """Weights and graphs, on the device; what other tests of this process left stays."""

    def look() -> None:
        tower = CudaTower(build_tower("resnet50", None), torch.device("cuda"))
        for _ in range(3):
            tower.look(pictures(32))

    look()
    reserved = []
    for _ in range(2):
        gc.collect()
        free_device_memory()
        reserved.append(torch.cuda.memory_reserved())
        look()
    assert reserved[1] <= reserved[0] + 2**21


@needs_cuda
def test_memory_that_runs_out_amid_a_capture_is_told_as_such() -> None:
    """So that the worker makes smaller batches; and the tower sees again when there is room."""
    tower = CudaTower(build_tower("resnet50", None), torch.device("cuda"))
    given = pictures(32)
    expected = tower.look(given).float()
    free_device_memory()
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**25) / total)
    try:
        with pytest.raises(RuntimeError) as caught:
            tower.look(given)
        assert is_out_of_memory(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    for _ in range(2):
        assert torch.allclose(tower.look(given).float(), expected, rtol=2**-8, atol=2e-3 * float(expected.max()))


@needs_cuda
def test_fp32_changes_no_tag_of_a_thousand_and_bf16_few(shared_data: Path) -> None:
    """Real captions and photos, against a CPU's tags. What bf16 changes is below a twentieth of the posts."""
    from model.pixels import read_pixels

    sentences = read_conll(shared_data / "mner" / "twitter2015" / "train.txt").sentences[:NUM_POSTS]
    captions = [" ".join(sentence.tokens) for sentence in sentences]
    files = sorted((shared_data / "mner" / "tweet_images_subset" / "images").glob("*.jpg"))
    pixels = torch.from_numpy(np.stack([read_pixels(file.read_bytes()) for file in files]))
    on_cpu, in_fp32 = Tagger.load(STARTER_CHECKPOINT), Tagger.load(STARTER_CHECKPOINT, "cuda")
    in_bf16 = Tagger.load(STARTER_CHECKPOINT, "cuda", tower_precision="bf16")
    expected = names(on_cpu, captions, pixels)
    assert sum(map(len, expected)) > NUM_POSTS / 10
    assert names(in_fp32, captions, pixels) == expected
    changed = sum(one != other for one, other in zip(names(in_bf16, captions, pixels), expected, strict=True))
    print(f"bf16 changes the tags of {changed} of {NUM_POSTS} posts")
    assert changed < NUM_POSTS / 20
    assert in_bf16.tower_digest == f"{on_cpu.tower_digest}-bf16"


@needs_cuda
def test_a_checkpoint_s_tower_is_still_held_against_its_digest() -> None:
    """The name of bf16's features is for the cache alone."""
    checkpoint, identity = load(STARTER_CHECKPOINT)
    tower = tower_of(checkpoint, STARTER_CHECKPOINT)
    assert tower.digest == checkpoint.tower_digest
    tagger = Tagger(checkpoint, identity, tower, "cuda", tower_precision="bf16")
    assert np.isfinite(tagger.look(pictures(1).numpy())).all()


def names(tagger: Tagger, captions: list[str], pixels: Tensor) -> list[list[tuple[str, int, int]]]:
    features = [each for part in pixels.split(16) for each in tagger.look(part.numpy())]
    posts = [
        TaggingInput(tokens=tagger.tokenize(caption), features=seen)
        for caption, seen in zip(captions, islice(cycle(features), len(captions)), strict=True)
    ]
    taggings = [tagging for start in range(0, len(posts), 50) for tagging in tagger.tag(posts[start : start + 50])]
    return [[(span.type, span.start, span.end) for span in tagging.spans] for tagging in taggings]
