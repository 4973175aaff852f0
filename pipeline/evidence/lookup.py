"""What methods of training ask of frozen encoders about the pairs of a step, looked up by id.

Shapes: N images, M captions, V width of the vectors, b anchors, C candidates, n the most captions of an image.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.evidence.kinds import Vectors
from pipeline.evidence.listed import ListedPosterior
from pipeline.evidence.references import CaptionsByImage
from pipeline.evidence.table import (
    evidence_prior,
    open_evidence,
    read_listed,
    read_pictures,
    read_posterior,
    read_vectors,
)
from pipeline.params import COMPARED, GUIDED, Params
from pipeline.sampling.candidates import Candidates

USUAL_SHARE = 0.7  # of random pairs: LG's percentile
SAMPLED_IMAGES, SAMPLED_CAPTIONS = 256, 1024
NONE = -1.0  # the cosine with a slot of the memory that holds no pair


class KnownPairs:
    """`pipeline.sampling.candidates.Evidence`, of what stage `evidence` wrote.

    Args:
        caption_image_M: the image of each caption.
        listed: the posterior of unpaired pairs, for a guide by it.
        own_M: the posterior of each pair of the split, for the same.
        vectors: centred unit vectors of captions, and of images in the same space; for everything else.
        picture_NW: unit vectors of the images themselves, to compare them with each other.
    """

    def __init__(
        self,
        caption_image_M: Tensor,
        listed: ListedPosterior | None,
        own_M: Tensor | None,
        vectors: Vectors | None,
        picture_NW: Tensor | None = None,
    ) -> None:
        """Keep the tensors as they are, in half precision where they came so."""
        self.listed, self.own_M, self.vectors, self.picture_NW = listed, own_M, vectors, picture_NW
        images = int(caption_image_M.max()) + 1
        groups = CaptionsByImage(caption_image_M, images)
        place_n = torch.arange(int(groups.count_N.max()))
        there_Nn = place_n < groups.count_N[:, None]
        # an image with fewer captions repeats its first, which changes no maximum
        self.caption_Nn = groups.order_M[groups.first_N[:, None] + place_n.where(there_Nn, 0)]
        self.usual_agreement = 0.0 if vectors is None else self._usual_agreement()

    def to(self, device: torch.device) -> KnownPairs:
        """Move everything to a device, and return the same object."""
        self.listed = None if self.listed is None else self.listed.to(device)
        self.own_M = None if self.own_M is None else self.own_M.to(device)
        self.caption_Nn = self.caption_Nn.to(device)
        self.vectors = None if self.vectors is None else self.vectors.to(device)
        self.picture_NW = None if self.picture_NW is None else self.picture_NW.to(device)
        return self

    def guide(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """The posteriors of the candidates and of the own pairs, or the cosines of frozen vectors.

        A candidate that is not listed has -inf: the evidence is against it.
        """
        seen, anchors = candidates, candidates.anchors
        if self.listed is not None:
            assert self.own_M is not None
            anchor_b, ids_C = (anchors.image, seen.ids.caption) if seen.to_text else (anchors.caption, seen.ids.image)
            posterior_bC = self.listed(anchor_b, ids_C, to_text=seen.to_text)
            return posterior_bC.masked_fill(posterior_bC == 0, -torch.inf), self.own_M[anchors.caption]
        image_bV, caption_bV = self._images(anchors.image), self._captions(anchors.caption)
        own_b = (image_bV * caption_bV).sum(dim=1)
        if seen.to_text:
            return self._real(image_bV @ self._captions(seen.ids.caption).T, seen.ids.caption), own_b
        return self._real(caption_bV @ self._images(seen.ids.image).T, seen.ids.image), own_b

    def agreement(self, candidates: Candidates) -> Tensor:
        """The cosine of each pair's caption with the nearest caption of its image, (b, C)."""
        seen, anchors = candidates, candidates.anchors
        if seen.to_text:
            return self._real(self._nearest(anchors.image, seen.ids.caption), seen.ids.caption)
        return self._real(self._nearest(seen.ids.image, anchors.caption).T, seen.ids.image)

    def captions(self, candidates: Candidates) -> Tensor:
        """The cosine of the anchors' captions with the candidates', (b, C)."""
        of_bV, with_CV = self._captions(candidates.anchors.caption), self._captions(candidates.ids.caption)
        return self._real(of_bV @ with_CV.T, candidates.ids.caption)

    def pictures(self, candidates: Candidates) -> Tensor:
        """The cosine of the anchors' images with the candidates', (b, C)."""
        assert self.picture_NW is not None
        of_bW, with_CW = (
            self.picture_NW[ids.image.clamp(min=0)].float() for ids in (candidates.anchors, candidates.ids)
        )
        return self._real(of_bW @ with_CW.T, candidates.ids.image)

    def _nearest(self, image_I: Tensor, caption_K: Tensor) -> Tensor:
        """(I, K): one reference of every image at a time."""
        caption_KV = self._captions(caption_K)
        nearest_IK: Tensor | None = None
        for reference_I in self.caption_Nn[image_I.clamp(min=0)].unbind(dim=1):
            cosine_IK = self._captions(reference_I) @ caption_KV.T
            nearest_IK = cosine_IK if nearest_IK is None else torch.maximum(nearest_IK, cosine_IK)
        assert nearest_IK is not None
        return nearest_IK

    def _usual_agreement(self) -> float:
        """Of evenly spaced images and captions, which is of random pairs, since splits have no order."""
        images, captions = len(self.caption_Nn), len(self._vectors.caption_MV)
        image_I = torch.linspace(0, images - 1, min(images, SAMPLED_IMAGES)).long()
        caption_K = torch.linspace(0, captions - 1, min(captions, SAMPLED_CAPTIONS)).long()
        unpaired_IK = (self.caption_Nn[image_I][:, None, :] != caption_K[None, :, None]).all(dim=2)
        agreement = self._nearest(image_I, caption_K)[unpaired_IK]
        return float(agreement.quantile(USUAL_SHARE)) if len(agreement) else 0.0

    @property
    def _vectors(self) -> Vectors:
        assert self.vectors is not None
        return self.vectors

    def _captions(self, caption_K: Tensor) -> Tensor:
        return self._vectors.captions(caption_K.clamp(min=0))

    def _images(self, image_K: Tensor) -> Tensor:
        return self._vectors.images(image_K.clamp(min=0))

    @staticmethod
    def _real(cosine_bC: Tensor, ids_C: Tensor) -> Tensor:
        return cosine_bC.masked_fill(ids_C < 0, NONE)


def read_known(folder: Path, train: Split, params: Params, judged: Judged | None = None) -> KnownPairs:
    """What is known of the training split's pairs, as far as the parameters ask.

    Args:
        folder: of stage `evidence`.
        train: the split.
        params: whose `needs_known_pairs` is true.
        judged: pairs of the split that a person judged, for a guide by the posterior.

    Raises:
        InputError: when there is no evidence.
    """
    kinds, posterior = read_posterior(folder)
    caption_image_M = torch.tensor(train.caption_image)
    listed = own_M = vectors = picture_NW = None
    if params.sampler.strategy in GUIDED and params.sampler.guide == "posterior":
        prior = evidence_prior(params.sampler, folder)
        evidence = open_evidence(folder, {"train": train}, "train", kinds)
        log_ratio_M = posterior.log_ratio(evidence.of(caption_image_M, torch.arange(len(caption_image_M))))
        own_M = torch.sigmoid(log_ratio_M - math.log(prior - 1)).float()
        listed = read_listed(folder, "train", train, prior, judged)
    if listed is None or params.targets.name in COMPARED:
        vectors = read_vectors(folder / "train", kinds)
    if params.targets.name == "cusa":
        picture_NW = read_pictures(folder / "train", kinds)
    return KnownPairs(caption_image_M, listed, own_M, vectors, picture_NW)
