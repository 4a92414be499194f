"""Sums over all paths of a linear chain, by the forward-backward algorithm.

B posts, T tokens, K tags; emissions (B, T, K), a left-aligned mask (B, T), and the scores of starts (K,),
transitions (K, K) and ends (K,), of which an illegal one is -1e4.

Two ways give the same. In log space every step is a logsumexp. Scaled (Rabiner, 1989, section V.A), a step
is a product of matrices: now and then the sums are divided by their total, whose logarithm is kept. That is several
times as fast, but what is smaller than the smallest double is lost; so it is taken only where the scores are close
enough to each other for that.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROOM = 600.0
"""In nats, what the sums of scaled steps may differ by: a double goes from e^-708 to e^709."""

MOST_STEPS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The scores of a batch, in double; `illegal` is what an illegal start or transition has."""

    emissions: Tensor
    mask: Tensor
    start: Tensor
    transition: Tensor
    end: Tensor
    illegal: float

    def num_steps(self) -> int:
        """How many steps may go by before sums are scaled; 0 where their room is too small even for one.

        With scores r nats apart, a step changes the total of its sums by r at most (and by the number of tags, for
        which `ROOM` leaves some); and each sum is within 2r of its total, for in IOB2 any tag follows any other after
        one step between.
        """
        with torch.no_grad():
            legal = self.transition[self.transition > self.illegal]
            edges = torch.cat([legal, self.start[self.start > self.illegal], self.end])
            apart = float((self.emissions.amax() - self.emissions.amin()) + (edges.amax() - edges.amin()))
        # Where a score is no number, log space will tell.
        return min(MOST_STEPS, max(0, int(ROOM / apart) - 2)) if 0 < apart < ROOM else 0


def log_partition(chain: Chain) -> Tensor:
    """The log-sum (B,) of all paths; it has gradients, once."""
    if not (num_steps := chain.num_steps()):
        return (_forward(chain)[:, -1] + chain.end).logsumexp(1)
    scores = (chain.emissions, chain.start, chain.transition, chain.end)
    log_z: Tensor = _LogPartition.apply(*scores, chain.mask, num_steps)
    return log_z


def log_sums(chain: Chain) -> tuple[Tensor, Tensor, Tensor]:
    """The log-sums of beginnings (B, T, K), of ways on (B, T, K) and of all paths (B,), without gradients.

    A beginning ends in a tag, its emission included; a way on follows a tag, its emission excluded. Of padded
    steps they say nothing.
    """
    if not (num_steps := chain.num_steps()):
        forward = _forward(chain)
        return forward, _backward(chain), (forward[:, -1] + chain.end).logsumexp(1)
    scaled = _Scaled(chain.emissions, chain.start, chain.transition, chain.end, chain.mask, num_steps)
    beginnings = scaled.beginnings.log() + scaled.log_scales
    ways_on = scaled.ways_on().log()
    # At each step all paths begin, emit and go on: that tells the scale of the ways on.
    ways_on += scaled.log_z - (beginnings + ways_on).logsumexp(1, keepdim=True)
    return beginnings.permute(2, 0, 1), ways_on.permute(2, 0, 1), scaled.log_z


class _Scaled:
    """The scaled algorithm, on tensors (T, K, B): with posts side by side in memory it is several times as fast."""

    def __init__(
        self, emissions: Tensor, start: Tensor, transition: Tensor, end: Tensor, mask: Tensor, num_steps: int
    ) -> None:
        self._num_steps = num_steps
        emissions = emissions.permute(1, 2, 0).contiguous()
        peaks = emissions.amax(1, keepdim=True)  # (T, 1, B)
        self.mask = mask.T.unsqueeze(1)  # (T, 1, B)
        self.last = mask.sum(1).sub(1).view(1, 1, -1)  # (1, 1, B), the number of the last real step
        self.emitted = emissions.sub(peaks).exp_()
        self.moved = transition.exp()
        self.ended = end.exp().unsqueeze(1)  # (K, 1)
        self.beginnings, totals = self._begin(start.exp().unsqueeze(1))
        """The sums of all beginnings."""
        self.log_scales = totals.log_().add_(peaks).cumsum(0)
        """What a step's beginnings were divided by (T, 1, B), in log space."""
        ends = (self.at_last(self.beginnings) * self.ended).sum(0)
        self.log_z = self.at_last(self.log_scales).squeeze(0) + ends.log()
        """The log-sum (B,) of all paths."""

    def at_last(self, values: Tensor) -> Tensor:
        """What `values` (T, ?, B) have at the last real step of each post (?, B)."""
        return values.gather(0, self.last.expand(1, values.shape[1], -1)).squeeze(0)

    def ways_on(self) -> Tensor:
        """The sums of all ways on, on a scale of each step's own."""
        ways = self.ended.expand_as(self.emitted).contiguous()
        steps = ways.unbind()
        for step in range(len(steps) - 1, 0, -1):
            before = self.moved @ (steps[step] * self.emitted[step])
            if step % self._num_steps == 0:
                before /= before.sum(0, keepdim=True)
            # What is followed by padding is the end of its post.
            torch.where(self.mask[step], before, steps[step - 1], out=steps[step - 1])
        return ways

    def _begin(self, started: Tensor) -> tuple[Tensor, Tensor]:
        sums = torch.empty_like(self.emitted)
        totals = torch.ones_like(sums[:, :1])
        moved = self.moved.T.contiguous()
        reached = started
        for step, (emitted, here) in enumerate(zip(self.emitted.unbind(), sums.unbind(), strict=True)):
            torch.mul(emitted, reached, out=here)
            if step % self._num_steps == 0:
                torch.sum(here, 0, keepdim=True, out=totals[step])
                here /= totals[step]
            reached = moved @ here
        return sums, totals


class _LogPartition(torch.autograd.Function):
    """The log-sum (B,) of all paths; its gradients say how often a path emits, starts, moves and ends so."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, start: Tensor, transition: Tensor, end: Tensor, mask: Tensor, num_steps: int
    ) -> Tensor:
        ctx.scaled = _Scaled(emissions, start, transition, end, mask, num_steps)
        log_z: Tensor = ctx.scaled.log_z
        return log_z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weights: Tensor) -> tuple[Tensor | None, ...]:
        scaled: _Scaled = ctx.scaled
        beginnings, ways_on = scaled.beginnings, scaled.ways_on()
        weights = torch.where(scaled.mask, weights, 0.0)  # (T, 1, B)
        emits = beginnings * ways_on
        emits *= weights / emits.sum(1, keepdim=True)
        onward = scaled.emitted[1:] * ways_on[1:]
        paths = (scaled.moved.T @ beginnings[:-1]).mul_(onward).sum(1, keepdim=True)
        moves = (beginnings[:-1] * (weights[1:] / paths)) @ onward.transpose(1, 2)
        ends = scaled.at_last(emits).sum(1)
        return emits.permute(2, 0, 1), emits[0].sum(1), scaled.moved * moves.sum(0), ends, None, None


def _forward(chain: Chain) -> Tensor:
    """Log-sums (B, T, K) of all beginnings, in log space; a padded step repeats the one before."""
    scores = [chain.start + chain.emissions[:, 0]]
    for step in range(1, chain.emissions.shape[1]):
        following = (scores[-1].unsqueeze(2) + chain.transition).logsumexp(1) + chain.emissions[:, step]
        scores.append(torch.where(chain.mask[:, step].unsqueeze(1), following, scores[-1]))
    return torch.stack(scores, dim=1)


def _backward(chain: Chain) -> Tensor:
    """Log-sums (B, T, K) of all ways on, in log space."""
    scores = [chain.end.expand_as(chain.emissions[:, 0])]
    for step in range(chain.emissions.shape[1] - 1, 0, -1):
        onward = (chain.emissions[:, step] + scores[-1]).unsqueeze(1)
        following = (chain.transition + onward).logsumexp(2)
        scores.append(torch.where(chain.mask[:, step].unsqueeze(1), following, chain.end))
    return torch.stack(scores[::-1], dim=1)
