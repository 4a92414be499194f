"""The paper's tagger in its four variants (Lu et al., ACL 2018, sections 2.1, 2.3 and 2.4).

B posts, T tokens, C characters, K tags, R regions (49), D tower width, H hidden states of both directions.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from model.crf import LinearChainCRF
from model.labels import LabelSet, allowed, allowed_starts

Variant = Literal["blstm_crf", "global_image", "attention", "attention_gate"]
ImageState = Literal["both", "h0", "c0"]

NUM_REGIONS = 49
SALIENCE_SCALE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerConfig:
    """Sizes of the network, the paper's (section 4.1 and Table 2) by default."""

    variant: Variant = "attention_gate"
    word_size: int = 100
    char_embedding: int = 50
    char_hidden: int = 50
    hidden: int = 300
    visual_size: int = 100
    region_width: int = 1280
    dropout: float = 0.5
    image_state: ImageState = "both"

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise ValueError(f"variant must be one of {', '.join(get_args(Variant))}, not {self.variant!r}")
        if self.image_state not in get_args(ImageState):
            raise ValueError(f"image_state must be both, h0 or c0, not {self.image_state!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        for name in ("word_size", "char_embedding", "char_hidden", "hidden", "visual_size", "region_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")

    @property
    def uses_image(self) -> bool:
        """Whether the variant looks at the picture at all."""
        return self.variant != "blstm_crf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Encoded posts, padded with 0 on the right; every post has at least one token."""

    words: Tensor  # (B, T) int64
    characters: Tensor  # (B, T, C) int64
    lengths: Tensor  # (B,) int64, tokens, on the CPU
    character_lengths: Tensor  # (B, T) int64
    features: Tensor  # (B, R, D)
    has_image: Tensor  # (B,) bool

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; the lengths stay on the CPU, where packing wants them."""
        return Batch(
            words=self.words.to(device),
            characters=self.characters.to(device),
            lengths=self.lengths,
            character_lengths=self.character_lengths.to(device),
            features=self.features.to(device),
            has_image=self.has_image.to(device),
        )

    @property
    def mask(self) -> Tensor:
        """True at real tokens (B, T)."""
        steps = torch.arange(self.words.shape[1], device=self.words.device)
        real: Tensor = steps < self.lengths.to(self.words.device).unsqueeze(1)
        return real


class Output(NamedTuple):
    """What the network says of a batch."""

    emissions: Tensor  # (B, T, K)
    attention: Tensor | None  # (B, R)
    gate: Tensor | None  # (B, T, H), β_v


class CharacterEncoder(nn.Module):
    """Spells each word with a BLSTM: last forward and last backward state (Lample et al., 2016)."""

    def __init__(self, num_characters: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters, embedding, padding_idx=0)
        self.lstm = nn.LSTM(embedding, hidden, batch_first=True, bidirectional=True)

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:
        """Spellings (B, T, 2·hidden) of characters (B, T, C); those of padded tokens are zero."""
        real = lengths > 0
        embedded = self.embedding(characters[real])  # (N, C, E)
        packed = pack_padded_sequence(embedded, lengths[real].cpu(), batch_first=True, enforce_sorted=False)
        last = self.lstm(packed)[1][0]  # (2, N, hidden)
        out: Tensor = embedded.new_zeros(*real.shape, 2 * last.shape[2])
        out[real] = torch.cat([last[0], last[1]], dim=1).to(out)
        return out


class VisualAttention(nn.Module):
    """Section 2.3: regions weighed by their relatedness to the sentence."""

    def __init__(self, query: int, width: int, visual: int) -> None:
        super().__init__()
        self.text = nn.Linear(query, visual, bias=False)  # W_t
        self.regions = nn.Linear(width, visual, bias=False)  # W_v
        self.weigh = nn.Linear(visual, 1)  # W_a, b_a
        self.value = nn.Linear(width, visual)
        # A tower's features are activations, none below 0, and strongest at what it recognises. With
        # positive weights, small enough for the tanh, the attention begins there instead of anywhere.
        with torch.no_grad():
            self.regions.weight.abs_().mul_(SALIENCE_SCALE)
            self.weigh.weight.abs_()

    def forward(self, query: Tensor, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Context v_c (B, visual) and weights α (B, R), of Q (B, query) and V_r (B, R, D)."""
        both = torch.tanh(self.text(query)).unsqueeze(1) + torch.tanh(self.regions(regions))  # P_t ⊕ P_v
        weights = self.weigh(both).squeeze(2).softmax(dim=1)
        # The weights add up to one, so projecting the sum is projecting the regions, at 1/49 of the cost.
        context = self.value((weights.unsqueeze(1) @ regions).squeeze(1))
        return context, weights


class ModulationGate(nn.Module):
    """Section 2.4: how much of the picture goes into each word."""

    def __init__(self, hidden: int, visual: int) -> None:
        super().__init__()
        self.word = nn.Linear(hidden, 3 * hidden)  # W_v, W_w, W_m with the biases
        self.visual = nn.Linear(visual, 3 * hidden, bias=False)  # U_v, U_w, U_m

    def forward(self, states: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """w_m (B, T, H) and β_v (B, T, H), of h (B, T, H) and v_c (B, visual)."""
        mixed = self.word(states) + self.visual(context).unsqueeze(1)
        visual_gate, word_gate, modulation = mixed.chunk(3, dim=2)
        visual_gate = visual_gate.sigmoid()
        return word_gate.sigmoid() * states + visual_gate * modulation.tanh(), visual_gate


class NameTagger(nn.Module):
    """From encoded posts to emissions; its `crf` makes paths of them."""

    def __init__(self, config: TaggerConfig, labels: LabelSet, num_words: int, num_characters: int) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(num_words, config.word_size, padding_idx=0)
        self.characters = CharacterEncoder(num_characters, config.char_embedding, config.char_hidden)
        size = config.word_size + 2 * config.char_hidden
        self.blstm = nn.LSTM(size, config.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        if config.uses_image:
            self._build_visual(size)
        self.emit = nn.Linear(2 * config.hidden, len(labels.tags))
        self.crf = LinearChainCRF(allowed(labels), allowed_starts(labels))

    def _build_visual(self, size: int) -> None:
        config = self.config
        self.no_image = nn.Parameter(torch.zeros(config.visual_size))
        self.first_hidden = nn.Linear(config.visual_size, 2 * config.hidden)
        self.first_cell = nn.Linear(config.visual_size, 2 * config.hidden)
        if config.variant == "global_image":
            self.project = nn.Linear(config.region_width, config.visual_size)
            return
        self.query = nn.LSTM(size, config.hidden, batch_first=True)
        self.attend = VisualAttention(config.hidden, config.region_width, config.visual_size)
        if config.variant == "attention_gate":
            self.gate = ModulationGate(2 * config.hidden, config.visual_size)

    def forward(self, batch: Batch) -> Output:
        """Emissions, and where and how much the picture was looked at.

        Raises a ValueError on a post of no tokens.
        """
        states, attention, gate = self.read(batch)
        return Output(self.emit(states), attention, gate)

    def read(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What the emissions are made of (B, T, H), after dropout; the attention and the gate.

        Raises a ValueError on a post of no tokens.
        """
        if bool((batch.lengths < 1).any()):
            raise ValueError("every post of a batch needs at least one token")
        x = self.dropout(self.embed(batch.words, batch.characters, batch.character_lengths))
        context = attention = None
        if self.config.uses_image:
            context, attention = self._look(x, batch.lengths, batch.features)
            context = torch.where(batch.has_image.unsqueeze(1), context, self.no_image)
        states, gate = self._read(x, batch.lengths, context)
        return self.dropout(states), attention, gate

    def embed(self, words: Tensor, characters: Tensor, character_lengths: Tensor) -> Tensor:
        """The inputs (B, T, E) of words (B, T) with their characters (B, T, C) and how many these are (B, T)."""
        return torch.cat([self.words(words), self.characters(characters, character_lengths)], dim=2)

    def infer(self, x: Tensor, lengths: Tensor, seen: Tensor, features: Tensor) -> Output:
        """The emissions (B, T, K) of words that are embedded (B, T, E), outside of training.

        Only the posts `seen` (M,) have a picture's features (M, R, D); attention and gate are theirs alone. Looking
        at no picture would take a third of a batch's time. `lengths` and `seen` are on the CPU.
        """
        context = attention = None
        there = seen.to(x.device)
        if self.config.uses_image:
            context = self.no_image.repeat(len(x), 1)
            if len(seen):
                context[there], attention = self._look(x[there], lengths[seen], features)
        states, gate = self._read(x, lengths, context)
        return Output(self.emit(states), attention, None if gate is None or attention is None else gate[there])

    def loss(self, batch: Batch, tags: Tensor) -> Tensor:
        """Mean negative log-likelihood over the posts, of tags (B, T)."""
        losses = self.crf.negative_log_likelihood(self(batch).emissions, tags, batch.mask)
        return losses.mean()

    def _look(self, x: Tensor, lengths: Tensor, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """v_c (B, visual) and α (B, R)."""
        regions = features.to(x)
        if self.config.variant == "global_image":
            context: Tensor = self.project(regions.mean(dim=1))  # V_g
            return context, None
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        query = self.query(packed)[1][0][0]  # Q, equation 1: the state at the last real token
        context, attention = self.attend(query, regions)
        return context, attention

    def _read(self, x: Tensor, lengths: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the emissions are made of (B, T, H), and β_v."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        first = None if context is None else self._first_state(context)
        states, _ = pad_packed_sequence(self.blstm(packed, first)[0], batch_first=True, total_length=x.shape[1])
        if self.config.variant != "attention_gate" or context is None:
            return states, None
        gated: tuple[Tensor, Tensor] = self.gate(states, context)
        return gated

    def _first_state(self, context: Tensor) -> tuple[Tensor, Tensor]:
        shape = (len(context), 2, self.config.hidden)
        hidden = torch.tanh(self.first_hidden(context)).view(shape).transpose(0, 1).contiguous()
        cell = self.first_cell(context).view(shape).transpose(0, 1).contiguous()
        if self.config.image_state == "h0":
            cell = torch.zeros_like(cell)
        elif self.config.image_state == "c0":
            hidden = torch.zeros_like(hidden)
        return hidden, cell
