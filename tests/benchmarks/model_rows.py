"""Rows of the model and what stands before it, in this process: CRF, text half, tokenizer, decoding of pictures."""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
import torchcrf
from PIL import Image
from torch import Tensor

from model.crf import LinearChainCRF
from model.inference import Tagger
from model.labels import allowed, allowed_starts
from model.pixels import SIDE, read_pixels
from model.tagging import TaggingInput
from tests.benchmarks.bare import Playback
from tests.benchmarks.bench import Bench
from tests.benchmarks.rows import Measured, Pairs, Reach, by_turns, compare_rates, compare_times, row, seconds_of
from worker.batch_runner import Prepared

T = TypeVar("T")

CRF_BATCH = 256
NUM_CRF_BATCHES = 5
NUM_SINGLE = 100
NUM_BATCHED = 320


class _Crfs:
    """Our CRF and pytorch-crf's with the same scores, and a batch of 256 posts as long as real ones.

    Both are given emissions of a normal distribution, the same in all rounds.
    """

    def __init__(self, bench: Bench) -> None:
        labels = bench.tagger.labels
        num_tags = len(labels.tags)
        torch.manual_seed(0)
        self.ours = LinearChainCRF(allowed(labels), allowed_starts(labels))
        self.theirs = torchcrf.CRF(num_tags, batch_first=True)
        with torch.no_grad():
            self.theirs.start_transitions.copy_(self.ours.start)
            self.theirs.transitions.copy_(self.ours.transition)
            self.theirs.end_transitions.copy_(self.ours.end)
        lengths = torch.tensor([len(bench.tagger.tokenize(text)) for text in bench.posts.captions[:CRF_BATCH]])
        self.mask = torch.arange(int(lengths.max())).unsqueeze(0) < lengths.unsqueeze(1)  # (B, T)
        self.emissions = torch.randn(*self.mask.shape, num_tags)
        # Legal ones, or our loss would be of paths that it forbids.
        self.tags = torch.zeros(self.mask.shape, dtype=torch.int64)
        for number, path in enumerate(self.ours.decode(self.emissions, self.mask)):
            self.tags[number, : len(path)] = torch.tensor(path)

    def our_loss(self, emissions: Tensor) -> Tensor:
        """Of each post (B,)."""
        return self.ours.negative_log_likelihood(emissions, self.tags, self.mask)

    def their_loss(self, emissions: Tensor) -> Tensor:
        """Of each post (B,)."""
        loss: Tensor = -self.theirs(emissions, self.tags, mask=self.mask, reduction="none")
        return loss


@row("Viterbi of the CRF, batch 256", against="pytorch-crf", reach=Reach("≥", 4.0))
def crf_viterbi(bench: Bench) -> Measured:
    """Milliseconds a batch; pytorch-crf looks for the path without our constraints, which cost it nothing."""
    crfs = bench.keep(_Crfs)
    return _compare_crfs(
        bench,
        lambda: crfs.ours.decode(crfs.emissions, crfs.mask),
        lambda: _without_gradient(lambda: crfs.theirs.decode(crfs.emissions, mask=crfs.mask)),
    )


@row("loss of the CRF, batch 256", against="pytorch-crf", reach=Reach("≥", 4.0))
def crf_loss(bench: Bench) -> Measured:
    """Milliseconds a batch, of the loss alone, as an evaluation takes it."""
    crfs = bench.keep(_Crfs)
    return _compare_crfs(
        bench,
        lambda: _without_gradient(lambda: crfs.our_loss(crfs.emissions)),
        lambda: _without_gradient(lambda: crfs.their_loss(crfs.emissions)),
    )


@row("loss of the CRF and its gradient, batch 256", against="pytorch-crf")
def crf_gradient(bench: Bench) -> Measured:
    """Milliseconds a batch, forward and backward to the emissions, as a step of the training takes it."""
    crfs = bench.keep(_Crfs)
    return _compare_crfs(bench, lambda: _step(crfs, crfs.our_loss), lambda: _step(crfs, crfs.their_loss))


def _compare_crfs(bench: Bench, ours: Callable[[], object], theirs: Callable[[], object]) -> Measured:
    def mean_seconds(act: Callable[[], object]) -> float:
        return seconds_of(lambda: [act() for _ in range(NUM_CRF_BATCHES)]) / NUM_CRF_BATCHES

    ours()
    theirs()
    return _compare_milliseconds(by_turns(lambda: mean_seconds(ours), lambda: mean_seconds(theirs), bench.quick_rounds))


def _step(crfs: _Crfs, loss: Callable[[Tensor], Tensor]) -> None:
    emissions = crfs.emissions.clone().requires_grad_()
    loss(emissions).sum().backward()


def _without_gradient(act: Callable[[], T]) -> T:
    with torch.no_grad():
        return act()


@row("one post, text half, p50 ms", reach=Reach("≤", 8.0))
def text_one(bench: Bench) -> Measured:
    """Milliseconds from a caption to its names, alone and without a picture; the median over other captions a round."""
    captions, tagger = bench.posts.captions, bench.tagger
    middles = []
    for number in range(bench.quick_rounds):
        chosen = [captions[(number * NUM_SINGLE + place) % len(captions)] for place in range(NUM_SINGLE)]
        _tag_one(tagger, chosen[0])
        middles.append(1000 * median(seconds_of(partial(_tag_one, tagger, text)) for text in chosen))
    return Measured(figures=middles, unit="ms")


def _tag_one(tagger: Tagger, text: str) -> None:
    tagger.tag([TaggingInput(tokens=tagger.tokenize(text))])


@row("text half at batch 32, posts/s", reach=Reach("≥", 600.0))
def text_batch(bench: Bench) -> Measured:
    """Captions in the batches that the worker makes of them, cut into tokens as well; without pictures."""
    captions, tagger = bench.posts.captions, bench.tagger
    rates = []
    for number in range(bench.quick_rounds):
        chosen = [captions[(number * NUM_BATCHED + place) % len(captions)] for place in range(NUM_BATCHED)]
        cutting = seconds_of(lambda texts=chosen: [tagger.tokenize(text) for text in texts])
        playback = Playback(tagger, [Prepared(tokens=tagger.tokenize(text)) for text in chosen])
        rates.append(NUM_BATCHED / (cutting + seconds_of(playback.run)))
    return Measured(figures=rates, unit="posts/s")


@row("tokenizer, posts/s", against="NLTK's TweetTokenizer", reach=Reach("≥", 3.0))
def tokenizer(bench: Bench) -> Measured:
    """One pass over all captions, each a different post, in a process that hasn't cut a post before.

    So whatever our tokenizer remembers of words is empty when a round begins, and words that come again within the pass
    are all it gains by; TweetTokenizer remembers nothing. Regular expressions are compiled before, on both sides.
    """
    captions = bench.posts.captions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captions.json"
        path.write_text(json.dumps(captions))

        def rate(whose: str) -> float:
            command = [sys.executable, "-m", "tests.benchmarks.tokenizer_pass", whose, str(path)]
            told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            return len(captions) / float(told.stdout)

        pairs = by_turns(lambda: rate("ours"), lambda: rate("nltk"), bench.rounds + 2)
    return compare_rates(pairs, "posts/s")


@row("decoding of a 1200×800 JPEG to 224²", against="Pillow's open, convert and resize", reach=Reach("≥", 2.0))
def decoding(bench: Bench) -> Measured:
    """Milliseconds a photo, mean of them all; both resize bilinearly, and end with an array."""
    large = [_large(photo) for photo in bench.posts.photos]
    pairs = by_turns(
        lambda: seconds_of(lambda: [read_pixels(data) for data in large]) / len(large),
        lambda: seconds_of(lambda: [_plain_pixels(data) for data in large]) / len(large),
        bench.rounds + 2,
    )
    return _compare_milliseconds(pairs)


def _large(photo: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        image.convert("RGB").resize((1200, 800), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def _plain_pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def _compare_milliseconds(pairs: Pairs) -> Measured:
    return compare_times([(1000 * figure, 1000 * baseline) for figure, baseline in pairs], "ms")
