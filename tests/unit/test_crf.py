"""The CRF against plain enumeration, and against pytorch-crf where both can do the same."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.crf import LinearChainCRF
from model.forward_backward import Chain
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


def test_marginals_of_a_batch_are_those_of_each_post(crf: LinearChainCRF) -> None:
    """Posts of several lengths, one without a span among them: padding changes no probability."""
    lengths = [6, 1, 3, 5]
    emissions = torch.randn(4, 6, NUM_TAGS, dtype=torch.float64)
    mask = torch.arange(6).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
    begin, inner = LABELS.index("B-LOC"), LABELS.index("I-LOC")
    spans = [[(0, 2, begin, inner), (4, 6, begin, inner)], [(0, 1, begin, inner)], [], [(1, 5, begin, inner)]]
    told = crf.batch_span_marginals(emissions, mask, spans, 1.3)
    for row, length in enumerate(lengths):
        alone = crf.span_marginals(emissions[row, :length], spans[row], 1.3)
        assert told[row] == pytest.approx(alone, abs=1e-12)


def test_marginals_of_padding_alone_are_none(crf: LinearChainCRF) -> None:
    """Nothing asked, nothing told; a span of two tokens can't go without an inner tag."""
    emissions = torch.randn(2, 3, NUM_TAGS, dtype=torch.float64)
    assert crf.batch_span_marginals(emissions, torch.ones(2, 3, dtype=torch.bool), [[], []]) == [[], []]
    with pytest.raises(ValueError, match="inner"):
        crf.span_marginals(emissions[0], [(0, 2, LABELS.index("B-PER"), None)])


def free_pair() -> tuple[LinearChainCRF, Any]:
    """Our CRF without constraints, in double, and pytorch-crf's with the same scores."""
    torchcrf = pytest.importorskip("torchcrf")
    torch.manual_seed(1)
    ours = LinearChainCRF([[True] * NUM_TAGS] * NUM_TAGS, [True] * NUM_TAGS).double()
    theirs = torchcrf.CRF(NUM_TAGS, batch_first=True).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
        theirs.start_transitions.copy_(ours.start)
        theirs.transitions.copy_(ours.transition)
        theirs.end_transitions.copy_(ours.end)
    return ours, theirs


def test_loss_and_path_equal_pytorch_crf() -> None:
    """Without constraints, loss and paths are those of pytorch-crf."""
    ours, theirs = free_pair()
    emissions = torch.randn(16, 11, NUM_TAGS, dtype=torch.float64)
    tags = torch.randint(NUM_TAGS, (16, 11))
    mask = torch.arange(11).unsqueeze(0) < torch.randint(1, 12, (16, 1))
    loss = ours.negative_log_likelihood(emissions, tags, mask)
    assert torch.allclose(loss, -theirs(emissions, tags, mask, reduction="none"), atol=1e-9, rtol=0)
    assert ours.decode(emissions, mask) == theirs.decode(emissions, mask)


def test_span_marginals_equal_pytorch_crf() -> None:
    """The probability of a span is the sum of those that pytorch-crf gives to the paths that hold it."""
    ours, theirs = free_pair()
    length = 4
    emissions = torch.randn(length, NUM_TAGS, dtype=torch.float64)
    paths = torch.tensor(all_paths(length))
    weights = theirs(emissions.expand(len(paths), -1, -1), paths, reduction="none").detach().exp()
    begin, inner = LABELS.index("B-PER"), LABELS.index("I-PER")
    for start, end in itertools.combinations(range(length + 1), 2):
        holds = paths[:, start] == begin
        for step in range(start + 1, end):
            holds &= paths[:, step] == inner
        if end < length:
            holds &= paths[:, end] != inner
        (told,) = ours.span_marginals(emissions, [(start, end, begin, inner)])
        assert abs(told - float(weights[holds].sum())) < 1e-9


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_no_illegal_transition_ever(data: st.DataObject) -> None:
    """Whatever the types, the learned scores, the emissions and the lengths: every path is strict IOB2."""
    labels = LabelSet.of_types(data.draw(st.lists(st.sampled_from("PQRST"), min_size=1, max_size=4, unique=True)))
    moves, starts = allowed(labels), allowed_starts(labels)
    crf = LinearChainCRF(moves, starts)
    torch.manual_seed(data.draw(st.integers(0, 2**32 - 1)))
    scale = data.draw(st.sampled_from([0.0, 1.0, 30.0, 400.0]))
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn_like(parameter) * data.draw(st.sampled_from([0.0, 1.0, 30.0])))
    lengths = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    emissions = torch.randn(len(lengths), max(lengths), len(labels)) * scale
    mask = torch.arange(max(lengths)).unsqueeze(0) < torch.tensor(lengths).unsqueeze(1)
    paths = crf.decode(emissions, mask)
    assert [len(path) for path in paths] == lengths
    for path in paths:
        assert starts[path[0]]
        assert all(moves[before][after] for before, after in itertools.pairwise(path))


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


@pytest.mark.parametrize("scale", [0.0, 1.0, 15.0, 60.0, 150.0])
@pytest.mark.parametrize("length", [1, 2, 40])
def test_scaled_sums_and_their_gradients_are_those_of_log_space(
    scale: float, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far scores lie apart: the loss, its gradients and the marginals, to the precision of a double."""
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS)).double()
    torch.manual_seed(int(scale) + length)
    emissions = torch.rand(8, length, NUM_TAGS, dtype=torch.float64) * scale
    mask = torch.arange(length).unsqueeze(0) < torch.randint(1, length + 1, (8, 1))
    tags = torch.zeros(8, length, dtype=torch.int64)
    weights = torch.rand(8, dtype=torch.float64)
    spans = [[(0, 1, 1, 2)] for _ in range(8)]

    def everything() -> list[Tensor]:
        leaf = emissions.clone().requires_grad_()
        losses = crf.negative_log_likelihood(leaf, tags, mask)
        told = torch.tensor(crf.batch_span_marginals(leaf.detach(), mask, spans, 1.3), dtype=torch.float64)
        return [losses, told, *torch.autograd.grad((losses * weights).sum(), [leaf, *crf.parameters()])]

    found = everything()
    monkeypatch.setattr(Chain, "num_steps", lambda _: 0)
    for ours, exact in zip(found, everything(), strict=True):
        assert torch.allclose(ours, exact, rtol=1e-9, atol=1e-9)


def test_sums_are_scaled_where_there_is_room() -> None:
    """Scores as trained networks give them are scaled every few steps, those far apart never."""
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS)).double()
    mask = torch.ones(1, 2, dtype=torch.bool)
    apart = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64).expand(1, 2, -1)
    steps = [crf._chain(apart * far, mask).num_steps() for far in (1, 30, 100, 190, 250, 1e4, float("nan"))]
    assert steps == [16, 16, 3, 1, 0, 0, 0]


def test_half_precision_emissions_are_scored_in_full() -> None:
    """fp16 and bf16 emissions give a loss in fp32."""
    crf = LinearChainCRF(allowed(LABELS), allowed_starts(LABELS))
    tags, mask = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    for kind in (torch.float16, torch.bfloat16):
        assert crf.negative_log_likelihood(torch.randn(2, 3, NUM_TAGS).to(kind), tags, mask).dtype == torch.float32
