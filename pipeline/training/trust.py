"""Trust in training pairs that the training itself learns: NCR's and CRCL's.

Shapes: b pairs on this process, B the global batch, D width, M training pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.evidence.judged import judged_trust
from pipeline.objectives.clean_pairs import clean_probability
from pipeline.retrieval.relevance import ranking_quality

if TYPE_CHECKING:
    import pandas

    from pipeline.data.splits.judgment_file import Judged
    from pipeline.data.splits.truth_file import Noise

KEPT = 0.8  # CRCL's: of the label so far
LEAST = 0.1  # CRCL's: a smaller label counts as 0


@torch.no_grad()
def own_probability(image_BD: Tensor, text_BD: Tensor, image_id_B: Tensor, temperature: float | Tensor) -> Tensor:
    """The softmax probability (B,) of each own pair within its batch, the mean of both directions.

    Args:
        image_BD: unit vectors.
        text_BD: unit vectors of the same pairs.
        image_id_B: other pairs of the same image are left out.
        temperature: similarities are divided by it.
    """
    others_BB = image_id_B[:, None] != image_id_B[None, :]
    others_BB.fill_diagonal_(True)
    logit_BB = (image_BD.float() @ text_BD.float().T / temperature).masked_fill(~others_BB, -torch.inf)
    return (logit_BB.softmax(1).diagonal() + logit_BB.softmax(0).diagonal()) / 2


class LearnedTrust:
    """The trust in each pair, from what the training has seen of it so far; 1 at first.

    - `ncr` (Huang et al. 2021): at the start of each epoch, the posterior of the component with the lower mean in a
      mixture of two normals, fitted to each pair's loss in the epoch before. NCR does this for two networks, each
      with the other's posterior, with a pass over all pairs of its own.
    - `crcl` (Qin et al. 2023): `y ← 0.8 y + 0.2 p` at each step after the warm-up, p the probability of the own pair
      (`own_probability`); the trust is y, and 0 where y is below 0.1. CRCL also has a complementary loss and restarts.

    Args:
        weighting: one of `pipeline.params.IN_TRAINING`.
        pairs: M.
        seed: of NCR's mixture.
        noise: which pairs are known to be wrong, to measure how well the trust finds them.
        device: of the model.
        judged: pairs that a person judged, whose verdict is their trust.
    """

    def __init__(
        self,
        weighting: str,
        pairs: int,
        seed: int,
        noise: Noise | None,
        device: torch.device,
        judged: Judged | None = None,
    ) -> None:
        """Trust every pair."""
        self.weighting, self.seed = weighting, seed
        self.wrong_M = None if noise is None else torch.from_numpy(noise.wrong_M)
        self.label_M = torch.ones(pairs, device=device)
        self.loss_M = torch.full_like(self.label_M, torch.nan)
        """Of this epoch; NaN where a pair has not been seen."""
        self.judged_M = None if judged is None else judged_trust(torch.full_like(self.loss_M, torch.nan), judged, pairs)

    def begin_epoch(self) -> None:
        """Fit NCR's mixture to the epoch that has ended."""
        seen_M = self.loss_M.isfinite()
        if self.weighting == "ncr" and int(seen_M.sum()) > 1:
            found_M = clean_probability(self.loss_M[seen_M], self.seed).clean_probability_M
            self.label_M[seen_M] = found_M.to(self.label_M)
        self.loss_M.fill_(torch.nan)

    def update(self, caption_id_B: Tensor, loss_B: Tensor, probability_B: Tensor, *, warming_up: bool) -> None:
        """Take what a step has seen of its pairs: their losses and `own_probability`."""
        self.loss_M[caption_id_B] = loss_B.to(self.loss_M)
        if self.weighting == "crcl" and not warming_up:
            kept_B = KEPT * self.label_M[caption_id_B]
            self.label_M[caption_id_B] = kept_B + (1 - KEPT) * probability_B.to(self.label_M)

    @property
    def trust_M(self) -> Tensor:
        """In [0, 1]."""
        trust_M = self.label_M.where(self.label_M >= LEAST, 0) if self.weighting == "crcl" else self.label_M
        return trust_M if self.judged_M is None else trust_M.where(self.judged_M.isnan(), self.judged_M)

    def summary(self) -> dict[str, float]:
        """How well a low trust separates wrong pairs from right ones, where they are known."""
        if self.wrong_M is None or not 0 < int(self.wrong_M.sum()) < len(self.wrong_M):
            return {}
        return {"pairs/weight_auc": ranking_quality(-self.trust_M.cpu(), self.wrong_M)["auc"]}

    def table(self, caption_image_M: Tensor) -> pandas.DataFrame:
        """One row per training pair: caption, image, its last weight."""
        import pandas

        columns = {"image": caption_image_M.numpy(), "weight": self.trust_M.cpu().numpy()}
        return pandas.DataFrame({"caption": range(len(caption_image_M)), **columns})

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on."""
        return {"label": self.label_M, "loss": self.loss_M}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.label_M.copy_(state["label"])
        self.loss_M.copy_(state["loss"])
