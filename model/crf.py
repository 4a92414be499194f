"""A linear-chain CRF with hard constraints, never in less than fp32 (Lafferty et al., 2001).

B posts, T tokens, K tags. Scores of a path y: start[y_1] + Σ emission_t[y_t] + Σ transition[y_t-1, y_t]
+ end[y_T]. An illegal start or transition has the score -1e4: small enough that no path takes it, and
no infinity that turns into NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.forward_backward import Chain, log_partition, log_sums

ILLEGAL = -1e4

TagSpan = tuple[int, int, int, int | None]
"""A span over tags: start, end (excluded), the number of its B tag and of its I tag."""


class LinearChainCRF(nn.Module):
    """Start, transition and end scores over K tags; `allowed[i][j]` says whether j may follow i."""

    start_illegal: Tensor
    transition_illegal: Tensor

    def __init__(self, allowed: Sequence[Sequence[bool]], allowed_starts: Sequence[bool]) -> None:
        super().__init__()
        num_tags = len(allowed_starts)
        self.start = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))
        self.transition = nn.Parameter(torch.empty(num_tags, num_tags).uniform_(-0.1, 0.1))
        self.end = nn.Parameter(torch.empty(num_tags).uniform_(-0.1, 0.1))
        self.register_buffer("start_illegal", ~torch.tensor(allowed_starts), persistent=False)
        self.register_buffer("transition_illegal", ~torch.tensor(allowed), persistent=False)

    def negative_log_likelihood(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Loss of each post (B,), from emissions (B, T, K), tags (B, T) and mask (B, T), left-aligned."""
        emissions = self._full(emissions)
        log_z = log_partition(self._chain(emissions.double(), mask))
        return log_z.to(emissions) - self._score(emissions, tags, mask)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """The best path of each post (Viterbi), as long as its mask."""
        emissions = self._full(emissions)
        start, transition = self._constrained(emissions)
        # With the posts side by side in memory, and looked back at along the best path alone, it takes a third.
        columns = emissions.permute(1, 2, 0).contiguous()  # (T, K, B)
        score = start.unsqueeze(1) + columns[0]
        scores = [score]
        for emitted in columns[1:].unbind():
            score = (score.unsqueeze(1) + transition.unsqueeze(2)).amax(0) + emitted
            scores.append(score)
        last = mask.sum(1) - 1  # (B,)
        ended = torch.stack(scores).gather(0, last.expand(1, len(start), -1)).squeeze(0)
        final = tag = (ended + self.end.to(ended).unsqueeze(1)).max(0).indices  # (B,)
        path = [tag]
        for step in range(len(scores) - 2, -1, -1):
            before = (scores[step] + transition.index_select(1, tag)).max(0).indices
            tag = torch.where(last == step, final, before)
            path.append(tag)
        paths = torch.stack(path[::-1], dim=1).tolist()
        return [tags[: end + 1] for tags, end in zip(paths, last.tolist(), strict=True)]

    @torch.no_grad()
    def span_marginals(self, emissions: Tensor, spans: Sequence[TagSpan], temperature: float = 1.0) -> list[float]:
        """The probability of each span of one post with emissions (T, K).

        A span's probability is that of all paths with B at `start`, I up to `end`, and no I at `end`:
        constrained forward-backward, exact. All scores are divided by `temperature` first.
        """
        if not spans:
            return []
        mask = torch.ones(1, len(emissions), dtype=torch.bool, device=emissions.device)
        return self.batch_span_marginals(emissions.unsqueeze(0), mask, [spans], temperature)[0]

    @torch.no_grad()
    def batch_span_marginals(
        self, emissions: Tensor, mask: Tensor, spans: Sequence[Sequence[TagSpan]], temperature: float = 1.0
    ) -> list[list[float]]:
        """`span_marginals` of many posts at once: emissions (B, T, K), mask (B, T), the spans of each post."""
        asked = [(row, *span) for row, of_post in enumerate(spans) for span in of_post]
        if not asked:
            return [[] for _ in spans]
        # In double: a span's inner scores are a difference of two running sums.
        chain = self._chain(emissions.double() / temperature, mask, temperature)
        forward, backward, log_z = log_sums(chain)
        inside = _inside(chain, forward, backward, asked)
        rows = torch.tensor([row for row, *_ in asked], device=emissions.device)
        told = iter((inside - log_z[rows]).exp().clamp(0, 1).tolist())
        return [[next(told) for _ in of_post] for of_post in spans]

    def _full(self, emissions: Tensor) -> Tensor:
        # Half precision changes a fifth of the paths; double is for tests against enumeration.
        return emissions if emissions.dtype == torch.float64 else emissions.float()

    def _constrained(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.start.to(like).masked_fill(self.start_illegal, ILLEGAL),
            self.transition.to(like).masked_fill(self.transition_illegal, ILLEGAL),
        )

    def _chain(self, emissions: Tensor, mask: Tensor, temperature: float = 1.0) -> Chain:
        """All scores of a batch in the precision of `emissions`; those that are learnt divided by `temperature`."""
        start, transition = self._constrained(emissions)
        return Chain(
            emissions=emissions,
            mask=mask,
            start=torch.where(self.start_illegal, start, start / temperature),
            transition=torch.where(self.transition_illegal, transition, transition / temperature),
            end=self.end.to(emissions) / temperature,
            illegal=ILLEGAL,
        )

    def _score(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        start, transition = self._constrained(emissions)
        weights = mask.to(emissions)
        emitted = (emissions.gather(2, tags.unsqueeze(2)).squeeze(2) * weights).sum(dim=1)
        moved = (transition[tags[:, :-1], tags[:, 1:]] * weights[:, 1:]).sum(dim=1)
        last = tags.gather(1, mask.sum(dim=1, keepdim=True) - 1).squeeze(1)
        return start[tags[:, 0]] + emitted + moved + self.end.to(emissions)[last]


def _inside(
    chain: Chain, forward: Tensor, backward: Tensor, asked: Sequence[tuple[int, int, int, int, int | None]]
) -> Tensor:
    """Log-sums (S,) of all paths with each span (row, start, end, B tag, I tag)."""
    if any(inner is None and end - start > 1 for _, start, end, _, inner in asked):
        raise ValueError("a span of several tokens needs a tag for the inner ones")
    emissions, transition = chain.emissions, chain.transition
    table = [[-1 if number is None else number for number in span] for span in asked]
    row, start, end, begin, inner = torch.tensor(table, device=emissions.device).unbind(1)
    running = emissions.cumsum(1)
    inner_sum = (
        transition[begin, inner]
        + (end - start - 2) * transition[inner, inner]
        + running[row, end - 1, inner]
        - running[row, start, inner]
    )
    several = end - start > 1
    score = forward[row, start, begin] + torch.where(several, inner_sum, 0.0)
    last = torch.where(several, inner, begin)
    # Where a span ends with its post there is no next token, and the backward sum is the end score.
    following = end.clamp(max=emissions.shape[1] - 1)
    onward = transition[last] + emissions[row, following] + backward[row, following]  # (S, K)
    tags = torch.arange(onward.shape[1], device=onward.device)
    onward = onward.masked_fill(tags == inner.unsqueeze(1), ILLEGAL * 10).logsumexp(1)
    return score + torch.where(end == chain.mask.sum(dim=1)[row], backward[row, end - 1, last], onward)
