"""The loss of corpora that don't label alike: output weights by guideline, and open types.

Corpora disagree on what a name is. Read by one network but scored by weights of its own, each guideline
teaches the others what it knows of the language without its rules; the checkpoint keeps the weights of the
first. A type that a corpus doesn't label at all is left open: its O is read in every possible way, and the
likelihood is their sum (partial labels, Tsuboi et al., 2008).

B posts, T tokens, K tags.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from model.batching import LabelledBatch
from model.crf import ILLEGAL, LinearChainCRF
from model.labels import LabelSet, allowed, allowed_starts
from model.tagger import Batch, NameTagger
from model.tower import LearningTower


class GuidelineLoss(nn.Module):
    """The loss of a batch by its guideline's weights; `guidelines[0]` has the network's own.

    With a `tower` the pictures' features are those that it has by now, and it learns from the loss.
    """

    def __init__(
        self,
        network: NameTagger,
        labels: LabelSet,
        guidelines: Sequence[str],
        *,
        tower: LearningTower | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.tower = tower
        self._bf16 = bf16
        # Names of modules mustn't hold dots, so that a guideline goes by its number.
        self._numbers = {guideline: number for number, guideline in enumerate(guidelines)}
        others = range(1, len(guidelines))
        self.emits = nn.ModuleList(nn.Linear(2 * network.config.hidden, len(labels)) for _ in others)
        self.crfs = nn.ModuleList(LinearChainCRF(allowed(labels), allowed_starts(labels)) for _ in others)

    def forward(self, labelled: LabelledBatch) -> Tensor:
        """Negative log-likelihood of each post (B,)."""
        emit, crf = self._outputs(self._numbers[labelled.guideline])
        batch = labelled.batch
        with torch.autocast(batch.words.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            emissions = emit(self.network.read(self._looked_at(labelled))[0])  # (B, T, K)
        # Outside of autocast: in half precision a fifth of the paths would change.
        losses: Tensor = crf.negative_log_likelihood(emissions, labelled.tags, batch.mask)
        if labelled.possible is not None:
            losses = losses - _freedom(crf, emissions, labelled)
        return losses

    def _looked_at(self, labelled: LabelledBatch) -> Batch:
        batch = labelled.batch
        if self.tower is None or labelled.pixels is None:
            return batch
        features = torch.zeros_like(batch.features)
        features[batch.has_image] = self.tower(labelled.pixels).to(features)
        return replace(batch, features=features)

    def _outputs(self, number: int) -> tuple[nn.Linear, LinearChainCRF]:
        emit = self.network.emit if number == 0 else self.emits[number - 1]
        crf = self.network.crf if number == 0 else self.crfs[number - 1]
        assert isinstance(emit, nn.Linear) and isinstance(crf, LinearChainCRF)
        return emit, crf


def _freedom(crf: LinearChainCRF, emissions: Tensor, labelled: LabelledBatch) -> Tensor:
    """How much likelier the labels (B,) are when they may be read in every possible way, in log space.

    The negative log-likelihood of a path in the distribution over the possible paths alone is log Σ - score.
    """
    assert labelled.possible is not None
    confined = emissions.float().masked_fill(~labelled.possible, ILLEGAL)
    freedom: Tensor = crf.negative_log_likelihood(confined, labelled.tags, labelled.batch.mask)
    return freedom
