"""A linear-chain CRF with hard constraints, in fp32 always (Lafferty et al., 2001).

B posts, T tokens, K tags. Scores of a path y: start[y_1] + Σ emission_t[y_t] + Σ transition[y_t-1, y_t]
+ end[y_T]. An illegal start or transition has the score -1e4: small enough that no path takes it, and
no infinity that turns into NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

ILLEGAL = -1e4


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
        return self._log_partition(emissions, mask) - self._score(emissions, tags, mask)

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> list[list[int]]:
        """The best path of each post (Viterbi), as long as its mask."""
        emissions = self._full(emissions)
        start, transition = self._constrained(emissions)
        score = start + emissions[:, 0]  # (B, K)
        back = []
        for step in range(1, emissions.shape[1]):
            best, previous = (score.unsqueeze(2) + transition).max(dim=1)  # (B, K)
            active = mask[:, step].unsqueeze(1)
            score = torch.where(active, best + emissions[:, step], score)
            # A padded step points each tag back to itself, so that one loop serves all lengths.
            back.append(torch.where(active, previous, torch.arange(len(start), device=score.device)))
        tag = (score + self.end.to(score)).argmax(dim=1)  # (B,)
        path = [tag]
        for pointers in reversed(back):
            tag = pointers.gather(1, tag.unsqueeze(1)).squeeze(1)
            path.append(tag)
        lengths = mask.sum(dim=1).tolist()
        paths = torch.stack(path[::-1], dim=1).tolist()
        return [tags[:length] for tags, length in zip(paths, lengths, strict=True)]

    @torch.no_grad()
    def span_marginals(
        self,
        emissions: Tensor,
        spans: Sequence[tuple[int, int, int, int | None]],
        temperature: float = 1.0,
    ) -> list[float]:
        """The probability of each span (start, end, B tag, I tag) of one post with emissions (T, K).

        A span's probability is that of all paths with B at `start`, I up to `end`, and no I at `end`:
        constrained forward-backward, exact. All scores are divided by `temperature` first.
        """
        if not spans:
            return []
        emissions = self._full(emissions) / temperature
        start, transition = self._constrained(emissions)
        start = torch.where(self.start_illegal, start, start / temperature)
        transition = torch.where(self.transition_illegal, transition, transition / temperature)
        end = self.end.to(emissions) / temperature
        forward, backward = _forward(emissions, start, transition), _backward(emissions, transition, end)
        log_z = (forward[-1] + end).logsumexp(0)
        inside = torch.stack([_inside(emissions, transition, forward, backward, span) for span in spans])
        return [float(value) for value in (inside - log_z).exp().clamp(0, 1)]

    def _full(self, emissions: Tensor) -> Tensor:
        # Half precision changes a fifth of the paths; double is for tests against enumeration.
        return emissions if emissions.dtype == torch.float64 else emissions.float()

    def _constrained(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return (
            self.start.to(like).masked_fill(self.start_illegal, ILLEGAL),
            self.transition.to(like).masked_fill(self.transition_illegal, ILLEGAL),
        )

    def _log_partition(self, emissions: Tensor, mask: Tensor) -> Tensor:
        start, transition = self._constrained(emissions)
        score = start + emissions[:, 0]
        for step in range(1, emissions.shape[1]):
            following = (score.unsqueeze(2) + transition).logsumexp(dim=1) + emissions[:, step]
            score = torch.where(mask[:, step].unsqueeze(1), following, score)
        return (score + self.end.to(score)).logsumexp(dim=1)

    def _score(self, emissions: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        start, transition = self._constrained(emissions)
        weights = mask.to(emissions)
        emitted = (emissions.gather(2, tags.unsqueeze(2)).squeeze(2) * weights).sum(dim=1)
        moved = (transition[tags[:, :-1], tags[:, 1:]] * weights[:, 1:]).sum(dim=1)
        last = tags.gather(1, mask.sum(dim=1, keepdim=True) - 1).squeeze(1)
        return start[tags[:, 0]] + emitted + moved + self.end.to(emissions)[last]


def _forward(emissions: Tensor, start: Tensor, transition: Tensor) -> list[Tensor]:
    scores = [start + emissions[0]]
    for emission in emissions[1:]:
        scores.append((scores[-1].unsqueeze(1) + transition).logsumexp(0) + emission)
    return scores


def _backward(emissions: Tensor, transition: Tensor, end: Tensor) -> list[Tensor]:
    scores = [end]
    for emission in emissions.flip(0)[:-1]:
        scores.append((transition + emission + scores[-1]).logsumexp(1))
    return scores[::-1]


def _inside(
    emissions: Tensor,
    transition: Tensor,
    forward: list[Tensor],
    backward: list[Tensor],
    span: tuple[int, int, int, int | None],
) -> Tensor:
    start, end, begin, inner = span
    score, tag = forward[start][begin], begin
    for step in range(start + 1, end):
        if inner is None:
            raise ValueError("a span of several tokens needs a tag for the inner ones")
        score = score + transition[tag, inner] + emissions[step, inner]
        tag = inner
    if end == len(emissions):
        return score + backward[-1][tag]
    onward = transition[tag] + emissions[end] + backward[end]
    if inner is not None:
        onward = onward.masked_fill(torch.arange(len(onward), device=onward.device) == inner, ILLEGAL * 10)
    return score + onward.logsumexp(0)
