"""The CRF against plain enumeration, and against pytorch-crf where both can do the same."""

import itertools

import pytest
import torch
from torch import Tensor

from model.crf import LinearChainCRF
from model.labels import LabelSet, allowed, allowed_starts

LABELS = LabelSet.of_types(("PER", "LOC"))
NUM_TAGS = len(LABELS.tags)


@pytest.fixture
def crf() -> LinearChainCRF:
    """A CRF in double precision with scores that matter."""
    torch.manual_seed(0)
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS)).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.normal_()
            parameter.requires_grad_(False)
    return crf


def path_score(crf: LinearChainCRF, emissions: Tensor, path: tuple[int, ...]) -> float:
    """The score of a path by the formula, -inf where it is illegal."""
    moves = allowed(LABELS)
    if not allowed_starts(LABELS)[path[0]] or any(not moves[i][j] for i, j in itertools.pairwise(path)):
        return -float("inf")
    total = crf.start[path[0]] + crf.end[path[-1]]
    total = total + sum(emissions[step, tag] for step, tag in enumerate(path))
    return float(total + sum(crf.transition[i, j] for i, j in itertools.pairwise(path)))


def all_paths(length: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(NUM_TAGS), repeat=length))


def test_likelihood_and_best_path_equal_enumeration(crf: LinearChainCRF) -> None:
    """Posts of 1 to 4 tokens in one padded batch: loss and Viterbi path as enumeration has them."""
    lengths = [4, 1, 3, 2]
    emissions = torch.randn(4, 4, NUM_TAGS, dtype=torch.float64)
    mask = torch.arange(4).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
    best = crf.decode(emissions, mask)
    tags = torch.zeros(4, 4, dtype=torch.int64)
    for row, path in enumerate(best):
        tags[row, : len(path)] = torch.tensor(path)
    losses = crf.negative_log_likelihood(emissions, tags, mask)
    for row, length in enumerate(lengths):
        scores = {path: path_score(crf, emissions[row], path) for path in all_paths(length)}
        assert tuple(best[row]) == max(scores, key=lambda path: scores[path])
        log_z = torch.tensor(list(scores.values()), dtype=torch.float64).logsumexp(0)
        assert abs(float(log_z) - scores[tuple(best[row])] - float(losses[row])) < 1e-9


@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_span_marginals_equal_enumeration(crf: LinearChainCRF, temperature: float) -> None:
    """The probability of every span of every type: the share of the paths that hold exactly it."""
    length = 4
    emissions = torch.randn(length, NUM_TAGS, dtype=torch.float64)
    paths = all_paths(length)
    scores = torch.tensor([path_score(crf, emissions, path) for path in paths], dtype=torch.float64)
    weights = dict(zip(paths, (scores / temperature).softmax(0).tolist(), strict=True))
    for type_ in LABELS.types:
        begin, inner = LABELS.index(f"B-{type_}"), LABELS.index(f"I-{type_}")
        for start, end in itertools.combinations(range(length + 1), 2):
            body = (begin, *[inner] * (end - start - 1))
            expected = sum(
                weight
                for path, weight in weights.items()
                if path[start:end] == body and (end == length or path[end] != inner)
            )
            (told,) = crf.span_marginals(emissions, [(start, end, begin, inner)], temperature)
            assert abs(told - expected) < 1e-9


def test_loss_and_path_equal_pytorch_crf() -> None:
    """Without constraints, loss and paths are those of pytorch-crf."""
    torchcrf = pytest.importorskip("torchcrf")
    torch.manual_seed(1)
    free = [[True] * NUM_TAGS] * NUM_TAGS
    ours = LinearChainCRF(free, [True] * NUM_TAGS)
    theirs = torchcrf.CRF(NUM_TAGS, batch_first=True)
    with torch.no_grad():
        theirs.start_transitions.copy_(ours.start)
        theirs.transitions.copy_(ours.transition)
        theirs.end_transitions.copy_(ours.end)
    emissions = torch.randn(16, 11, NUM_TAGS)
    tags = torch.randint(NUM_TAGS, (16, 11))
    mask = torch.arange(11).unsqueeze(0) < torch.randint(1, 12, (16, 1))
    loss = ours.negative_log_likelihood(emissions, tags, mask)
    assert torch.allclose(loss, -theirs(emissions, tags, mask, reduction="none"), atol=1e-4)
    assert ours.decode(emissions, mask) == theirs.decode(emissions, mask)


def test_no_illegal_path_whatever_the_emissions() -> None:
    """Emissions that beg for illegal transitions get legal paths all the same, and no NaN in the loss."""
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS))
    moves, starts = allowed(LABELS), allowed_starts(LABELS)
    emissions = torch.randn(64, 20, NUM_TAGS) * 100
    mask = torch.ones(64, 20, dtype=torch.bool)
    for path in crf.decode(emissions, mask):
        assert starts[path[0]]
        assert all(moves[i][j] for i, j in itertools.pairwise(path))
    loss = crf.negative_log_likelihood(emissions, torch.zeros(64, 20, dtype=torch.int64), mask)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in crf.parameters())


def test_half_precision_emissions_are_scored_in_full() -> None:
    """fp16 and bf16 emissions give a loss in fp32."""
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS))
    tags, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    for kind in (torch.float16, torch.bfloat16):
        assert crf.negative_log_likelihood(torch.randn(2, 3, NUM_TAGS).to(kind), tags, mask).dtype == torch.float32
