"""The loss of corpora that label by other rules, or not everything."""

import random
from itertools import product

import pytest
import torch

from model.batching import Encoder, Post, make_batches
from model.data import Sentence
from model.features import ImageFeatures
from model.guidelines import GuidelineLoss
from model.labels import LabelSet, repair
from model.tagger import NameTagger, TaggerConfig
from model.vocabulary import Vocabulary

LABELS = LabelSet.of_types(("PER", "MISC"))
SENTENCE = Sentence(("Ann", "reads", "Emma"), ("B-PER", "O", "O"), ("B-PER", "O", "O"), None)
VOCABULARY = Vocabulary.of([SENTENCE.tokens])


def _encoder() -> Encoder:
    return Encoder(
        LABELS,
        VOCABULARY,
        ImageFeatures(),
        region_width=1,
        pictures=None,
        rare=torch.zeros(VOCABULARY.num_words, dtype=torch.bool),
        unknown_dropout=0,
        word_dropout=0,
        modality_dropout=0,
    )


@pytest.fixture
def loss() -> GuidelineLoss:
    """A small network with two guidelines."""
    torch.manual_seed(0)
    config = TaggerConfig(variant="blstm_crf", word_size=4, hidden=4, char_hidden=2, dropout=0)
    network = NameTagger(config, LABELS, VOCABULARY.num_words, VOCABULARY.num_characters)
    return GuidelineLoss(network, LABELS, ("a", "b"))


def test_open_types(loss: GuidelineLoss) -> None:
    """Where MISC is open the likelihood is the sum over all ways to read each O as O or MISC."""
    encoder = _encoder()
    total = torch.zeros(())
    for rest in product(("O", "B-MISC", "I-MISC"), repeat=2):
        tags = ("B-PER", *rest)
        if repair(tags)[1] == 0:
            sentence = Sentence(SENTENCE.tokens, tags, tags, None)
            total = total + (-loss(encoder.encode([Post(sentence=sentence, guideline="a")]))).exp().squeeze()
    found = loss(encoder.encode([Post(sentence=SENTENCE, guideline="a", open_types=("MISC",))]))
    assert found.item() == pytest.approx(-total.log().item(), abs=1e-4)
    assert found.item() < loss(encoder.encode([Post(sentence=SENTENCE, guideline="a")])).item()


def test_each_guideline_has_its_own_outputs(loss: GuidelineLoss) -> None:
    """A batch of one guideline teaches the shared network and its own outputs, and not the other's."""
    loss(_encoder().encode([Post(sentence=SENTENCE, guideline="b")])).sum().backward()
    assert loss.network.emit.weight.grad is None
    assert all(weight.grad is not None for weight in loss.emits.parameters())
    assert loss.network.words.weight.grad is not None


def test_batches() -> None:
    """A batch holds posts of one guideline and of like length, and each post is in one batch."""
    posts = [
        Post(sentence=Sentence(("x",) * n, ("O",) * n, ("O",) * n, str(n)), guideline="ab"[n % 2]) for n in range(1, 31)
    ]
    batches = make_batches(posts, 4, random.Random(0))
    assert all(len({post.guideline for post in batch}) == 1 and len(batch) <= 4 for batch in batches)
    assert all(
        max(len(p.sentence.tokens) for p in batch) - min(len(p.sentence.tokens) for p in batch) <= 6
        for batch in batches
    )
    assert sorted(p.sentence.image_id for batch in batches for p in batch) == sorted(str(n) for n in range(1, 31))
    assert batches != make_batches(posts, 4, random.Random(1))
