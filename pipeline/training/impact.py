"""NPC's step: weight each pair of a batch by how much it harms the clean pairs that the bank lists for it.

Shapes: b pairs on this process, B the global batch, M training pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from pipeline.features.inputs import Batch, Entries
from pipeline.models.towers import LARGEST_LOGIT_SCALE, MatchingModel
from pipeline.objectives.negative_impact import impact_ratio, impact_weights, pair_losses
from pipeline.params import Params
from pipeline.retrieval.relevance import ranking_quality
from pipeline.runtime.processes import gather, weight_of_rows
from pipeline.training.siamese import Siamese

if TYPE_CHECKING:
    import pandas

    from pipeline.bank.table import Bank
    from pipeline.data.splits.truth_file import Noise

DECILES = (0.1, 0.5, 0.9)


class Impact(NamedTuple):
    """A step's weights and its bank's losses, each (b,), and the loss to train on, 0-dimensional."""

    ratio: Tensor
    weight: Tensor
    bank_loss: Tensor
    loss: Tensor


class NegativeImpact:
    """Computes the pairs' weights, and keeps each pair's last weight.

    Args:
        model: the trained model.
        params: sections pairs, loss and train.
        bank: the clean pairs (entries) of each pair.
        noise: which pairs are known to be wrong, to measure how well the weights find them.
        bank_metrics: metrics of the bank, logged with the weights.
    """

    def __init__(
        self,
        model: MatchingModel,
        params: Params,
        bank: Bank,
        noise: Noise | None,
        bank_metrics: Mapping[str, float],
    ) -> None:
        """Start with empty moments and no weight."""
        self.model, self.bank, self.bank_metrics = model, bank, bank_metrics
        self.pairs = params.pairs
        self.siamese = Siamese(model, params.train, params.pairs.siamese_gradient)
        self.wrong_M = None if noise is None else torch.from_numpy(noise.wrong_M)
        device = next(model.parameters()).device
        self.weight_M = torch.full((len(bank.text_entry_M),), torch.nan, device=device)
        self.ratio_M = self.weight_M.clone()

    def __call__(self, loss_b: Tensor, batch: Batch, lr: float) -> Impact:
        """The loss of this process's part: the weighted pairs' loss plus their entries' loss.

        Args:
            loss_b: each pair's loss, with gradient; the siamese model steps on its unweighted mean.
            batch: with entries.
            lr: this step's learning rate.
        """
        assert batch.entries is not None
        share = weight_of_rows(batch.global_size) / batch.global_size  # processes average their gradients
        plain = loss_b.sum() * share
        gradients = torch.autograd.grad(plain, self.siamese.parameters, retain_graph=True, allow_unused=True)
        self.model.eval()  # dropout noise is larger than the change that the ratios measure
        halves = batch.entries._replace(images=self.model.normalise(batch.entries.images)).halves()
        with torch.no_grad():
            moved = self.siamese.step(gradients, lr)
            after = [self._losses(moved, half, batch) for half in halves]
        del moved, gradients  # frees memory before the bank's loss keeps activations
        before = [self._losses({}, half, batch) for half in halves]
        self.model.train()
        ratio_b = impact_ratio(before[0].detach(), after[0], before[1].detach(), after[1])
        weight_b = impact_weights(ratio_b)
        self._remember(batch, ratio_b, weight_b)
        bank_b = before[0] + before[1]
        if self.pairs.reweigh == "sample":
            weighted = (weight_b * loss_b).sum()
        else:
            weighted = gather(weight_b, batch.global_size).mean() * loss_b.sum()
        return Impact(ratio_b, weight_b, bank_b.detach(), (weighted + self.pairs.bank_loss * bank_b.sum()) * share)

    def _losses(self, weights: dict[str, Tensor], entries: Entries, batch: Batch) -> Tensor:
        """Losses (b,) of the entries for one side, within those of the global batch.

        Always in float32: one step changes the losses by less than bfloat16 can resolve. Measured on the recipe
        scenes-npc, bf16, at the published learning rate of 2e-7: the ratio's correlation with float64's is 0.05 when
        entries are encoded in bfloat16, and 0.998 in float32.

        One side at a time: both at once double the activations, and the C library then requests new memory from the
        system at every step.
        """
        image_bD, text_bD = functional_call(self.model, weights, (entries.images, entries.texts))
        moved = weights.get("logit_scale")  # bounded as the model's own is after its step
        temperature = self.model.temperature if moved is None else (-moved.clamp(max=LARGEST_LOGIT_SCALE)).exp()
        everyone, differentiable = batch.global_size, torch.is_grad_enabled()
        loss_B = pair_losses(
            gather(image_bD, everyone, differentiable=differentiable),
            gather(text_bD, everyone, differentiable=differentiable),
            gather(entries.image_id, everyone),
            temperature,
        )
        return loss_B[batch.first : batch.first + len(batch.caption_id)]

    def _remember(self, batch: Batch, ratio_b: Tensor, weight_b: Tensor) -> None:
        caption_id_B = gather(batch.caption_id, batch.global_size)
        self.weight_M[caption_id_B] = gather(weight_b, batch.global_size)
        self.ratio_M[caption_id_B] = gather(ratio_b, batch.global_size)

    def summary(self) -> dict[str, float]:
        """The distribution of the pairs' last weights and, where wrong pairs are known, how well they are found."""
        weight_M, ratio_M = self.weight_M.cpu(), self.ratio_M.cpu()
        seen_M = weight_M.isfinite() & ratio_M.isfinite()
        if not seen_M.any():
            return {}
        deciles = weight_M[seen_M].quantile(torch.tensor(DECILES))
        found = {
            f"pairs/weight_p{100 * share:.0f}": float(value) for share, value in zip(DECILES, deciles, strict=True)
        }
        found |= self.bank_metrics
        found["pairs/trusted_share"] = float((weight_M[seen_M] == 1).float().mean())
        if self.wrong_M is not None and 0 < int(self.wrong_M[seen_M].sum()) < int(seen_M.sum()):
            for name, value_M in (("weight", weight_M), ("ratio", ratio_M)):
                found[f"pairs/{name}_auc"] = ranking_quality(-value_M[seen_M], self.wrong_M[seen_M])["auc"]
        return found

    def table(self, caption_image_M: Tensor) -> pandas.DataFrame:
        """One row per training pair: caption, image, its last weight and ratio, its clean probability."""
        import pandas

        return pandas.DataFrame(
            {
                "caption": range(len(caption_image_M)),
                "image": caption_image_M.numpy(),
                "weight": self.weight_M.cpu().numpy(),
                "ratio": self.ratio_M.cpu().numpy(),
                "clean_probability": self.bank.clean_probability_M,
            }
        )

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on, and the weights so far."""
        return {"siamese": self.siamese.state_dict(), "weight": self.weight_M, "ratio": self.ratio_M}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.siamese.load_state_dict(state["siamese"])
        self.weight_M.copy_(state["weight"])
        self.ratio_M.copy_(state["ratio"])
