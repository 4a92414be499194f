"""The network: its equations against NumPy, its variants at full size, and what must not leak."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from model.labels import LabelSet
from model.tagger import Batch, ModulationGate, NameTagger, TaggerConfig, Variant, VisualAttention
from model.vocabulary import Vocabulary

LABELS = LabelSet.of_types(("PER", "LOC", "ORG", "MISC"))
SENTENCES = [["Modern", "Baseball", "on", "stage"], ["lol"], ["in", "Paris"]]
VOCABULARY = Vocabulary.of(SENTENCES)
WIDTH = 1280


def network(variant: str, **sizes: int) -> NameTagger:
    torch.manual_seed(0)
    config = TaggerConfig(variant=variant, region_width=WIDTH, **sizes)  # type: ignore[arg-type]
    return NameTagger(config, LABELS, VOCABULARY.num_words, VOCABULARY.num_characters)


def batch(sentences: list[list[str]] | None = None) -> Batch:
    torch.manual_seed(1)
    sentences = SENTENCES if sentences is None else sentences
    features = [torch.randn(49, WIDTH).half(), *[None] * (len(sentences) - 1)]
    return VOCABULARY.encode(sentences, features, WIDTH)


@pytest.mark.parametrize("variant", get_args(Variant))
def test_each_variant_learns_at_full_size(variant: str) -> None:
    """Forward and backward with the paper's sizes: right shapes, a finite gradient for every parameter."""
    tagger = network(variant)
    output = tagger(batch())
    assert output.emissions.shape == (3, 4, 9)
    assert (output.attention is not None) == variant.startswith("attention")
    assert (output.gate is not None) == (variant == "attention_gate")
    tags = torch.zeros(3, 4, dtype=torch.int64)
    tagger.loss(batch(), tags).backward()
    for name, parameter in tagger.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert {name for name, _ in tagger.named_parameters() if name.startswith("crf.")} == {
        "crf.start",
        "crf.transition",
        "crf.end",
    }


@pytest.mark.parametrize("variant", get_args(Variant))
def test_padding_does_not_leak(variant: str) -> None:
    """A post alone and beside a longer one, with longer words, has the same emissions."""
    tagger = network(variant).eval()
    with torch.inference_mode():
        together = tagger(batch()).emissions[2, :2]
        alone = tagger(VOCABULARY.encode([SENTENCES[2]], [None], WIDTH)).emissions[0]
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_query_is_the_state_at_the_last_real_token() -> None:
    """Equation 1: Q of a post beside a longer one is that of the post alone: it doesn't see padding."""
    tagger = network("attention").eval()
    queries: list[torch.Tensor] = []
    tagger.attend.register_forward_pre_hook(lambda _module, inputs: queries.append(inputs[0]))
    with torch.inference_mode():
        tagger(VOCABULARY.encode(SENTENCES, [None] * 3, WIDTH))
        tagger(VOCABULARY.encode([SENTENCES[1]], [None], WIDTH))
    together, alone = queries
    assert torch.allclose(together[1], alone[0], atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_the_query_cancels_out_of_the_paper_s_attention() -> None:
    """W_a P_t is the same for every region, so by the letter of section 2.3 the softmax drops it."""
    torch.manual_seed(4)
    attention = VisualAttention(5, 7, 4).double()
    regions = torch.randn(1, 49, 7).double()
    one, other = (attention(torch.randn(1, 5).double(), regions)[1] for _ in range(2))
    assert torch.allclose(one, other, atol=1e-12)


def test_visual_attention_is_section_2_3() -> None:
    """P_t, P_v, α and v_c as the formulas say, in slow NumPy."""
    torch.manual_seed(2)
    attention = VisualAttention(5, 7, 4).double()
    query, regions = torch.randn(2, 5).double(), torch.randn(2, 49, 7).double()
    context, weights = attention(query, regions)
    state = {name: tensor.detach().numpy() for name, tensor in attention.state_dict().items()}
    for row in range(2):
        p_t = np.tanh(state["text.weight"] @ query[row].numpy())
        scores = []
        for region in regions[row].numpy():
            p_v = np.tanh(state["regions.weight"] @ region)
            scores.append(float((state["weigh.weight"] @ (p_t + p_v) + state["weigh.bias"])[0]))
        alpha = np.exp(scores) / np.exp(scores).sum()
        values = [state["value.weight"] @ region + state["value.bias"] for region in regions[row].numpy()]
        expected = sum(a * value for a, value in zip(alpha, values, strict=True))
        assert np.allclose(weights[row].detach().numpy(), alpha, atol=1e-12)
        assert np.allclose(context[row].detach().numpy(), expected, atol=1e-12)


def test_the_gate_is_section_2_4() -> None:
    """β_v, β_w, m and w_m as the formulas say, in slow NumPy."""
    torch.manual_seed(3)
    size, visual = 6, 4
    gate = ModulationGate(size, visual).double()
    states, context = torch.randn(2, 3, size).double(), torch.randn(2, visual).double()
    mixed, visual_gate = gate(states, context)
    w, u = gate.word.weight.detach().numpy(), gate.visual.weight.detach().numpy()
    b = gate.word.bias.detach().numpy()

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    for row, step in np.ndindex(2, 3):
        h, v_c = states[row, step].numpy(), context[row].numpy()
        linear = [w[k : k + size] @ h + u[k : k + size] @ v_c + b[k : k + size] for k in (0, size, 2 * size)]
        beta_v, beta_w, m = sigmoid(linear[0]), sigmoid(linear[1]), np.tanh(linear[2])
        assert np.allclose(visual_gate[row, step].detach().numpy(), beta_v, atol=1e-12)
        assert np.allclose(mixed[row, step].detach().numpy(), beta_w * h + beta_v * m, atol=1e-12)


def test_a_missing_picture_is_the_learned_null_vector() -> None:
    """Without a picture the features don't matter, and the null vector does."""
    tagger = network("attention_gate").eval()
    posts = batch()
    other = replace(posts, features=posts.features + 1.0)
    with torch.inference_mode():
        before, after = tagger(posts).emissions, tagger(other).emissions
        assert torch.equal(before[1:], after[1:])
        assert not torch.allclose(before[0], after[0])
        tagger.no_image += 1.0
        assert not torch.allclose(before[1:], tagger(posts).emissions[1:])


@pytest.mark.parametrize("field", [{"variant": "blstm"}, {"dropout": 1.0}, {"hidden": 0}, {"image_state": "h1"}])
def test_a_senseless_configuration_is_refused(field: dict[str, object]) -> None:
    """The refusal names the field."""
    with pytest.raises(ValueError, match=next(iter(field))):
        TaggerConfig(**field)  # type: ignore[arg-type]


def test_a_post_of_no_tokens_is_refused() -> None:
    """An empty row is an error with a reason, not a NaN."""
    posts = batch()
    with pytest.raises(ValueError, match="at least one token"):
        network("blstm_crf")(replace(posts, lengths=torch.tensor([4, 0, 2])))
