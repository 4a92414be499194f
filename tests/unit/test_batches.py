"""Batches: full under load, of like length, and a bad post doesn't take the others along."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.inference import Tagging, TaggingInput
from model.tokenizer import Token, tokenize
from worker.batches import Batcher, BatchLimits, Prepared, Tagged
from worker.errors import TaggerBroken, TaggingFailed
from worker.images import FoundPixels
from worker.metrics import Metrics

BAD = "breaks"


class BrittleTagger:
    """A tagger that counts its work, and breaks on a caption with the word `breaks`."""

    checkpoint_id = "c"
    variant = "attention_gate"
    uses_image = True

    def __init__(self, *, broken: bool = False) -> None:
        self.batches: list[int] = []
        self.num_looked = 0
        self.broken = broken

    def tokenize(self, text: str) -> tuple[Token, ...]:
        return tuple(tokenize(text))

    def look(self, pixels: torch.Tensor) -> torch.Tensor:
        self.num_looked += len(pixels)
        return torch.zeros(len(pixels), 49, 8, dtype=torch.float16)

    def tag(self, inputs: Sequence[TaggingInput]) -> list[Tagging]:
        self.batches.append(len(inputs))
        if self.broken or any(token.text == BAD for post in inputs for token in post.tokens):
            raise RuntimeError("a fault in the model")
        return [Tagging(spans=(), attention=None) for _ in inputs]


def prepared(text: str, picture: FoundPixels | None = None) -> Prepared:
    return Prepared(tokens=tuple(tokenize(text)), picture=picture)


def pixels(digest: str) -> FoundPixels:
    return FoundPixels(digest=digest, pixels=np.zeros((3, 224, 224), np.uint8))


@given(st.sets(st.integers(0, 19), max_size=6))
def test_halving_finds_exactly_the_bad_posts(bad: set[int]) -> None:
    """Every bad post fails, every other is tagged, whichever they are."""
    batcher = Batcher(BrittleTagger(), BatchLimits(), Metrics())
    posts = [prepared(BAD if number in bad else "fine") for number in range(20)]
    results = batcher.run_batch(posts)
    assert {n for n, result in enumerate(results) if isinstance(result, TaggingFailed)} == bad
    assert len(results) == 20


def test_a_broken_tagger_is_no_bad_post() -> None:
    """Where the model fails on a harmless post too, the worker stops instead of burying the topic."""
    batcher = Batcher(BrittleTagger(broken=True), BatchLimits(), Metrics())
    with pytest.raises(TaggerBroken):
        batcher.run_batch([prepared("fine"), prepared("fine")])


def test_one_look_at_a_picture_that_many_posts_share() -> None:
    """The tower sees a picture once a batch, and its features go home with one post only."""
    tagger = BrittleTagger()
    batcher = Batcher(tagger, BatchLimits(), Metrics())
    results = batcher.run_batch([prepared("a", pixels("x")), prepared("b", pixels("x")), prepared("c")])
    assert tagger.num_looked == 1
    features = [result.new_features is not None for result in results if isinstance(result, Tagged)]
    assert features == [True, False, False]


def test_batches_fill_under_load_and_keep_the_limits() -> None:
    """Posts that wait together leave together: no batch over the limits, none of one post."""
    tagger = BrittleTagger()

    async def scenario() -> None:
        limits = BatchLimits(max_posts=8, max_padded_tokens=80)
        batcher = Batcher(tagger, limits, Metrics())
        waiting = [asyncio.create_task(batcher.tag(prepared("word " * (1 + n % 10)))) for n in range(64)]
        await asyncio.sleep(0)
        runner = asyncio.create_task(batcher.run())
        await asyncio.gather(*waiting)
        runner.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert sum(tagger.batches) == 64
    assert max(tagger.batches) <= 8
    assert len(tagger.batches) <= 12


def test_one_long_post_goes_alone() -> None:
    """A post beyond the limit of tokens is tagged all the same, by itself."""
    tagger = BrittleTagger()

    async def scenario() -> None:
        batcher = Batcher(tagger, BatchLimits(max_padded_tokens=10), Metrics())
        runner = asyncio.create_task(batcher.run())
        await asyncio.wait_for(batcher.tag(prepared("word " * 50)), 5)
        runner.cancel()
        batcher.close()

    asyncio.run(scenario())
    assert tagger.batches == [1]
