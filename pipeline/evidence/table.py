"""The evidence of stage `evidence` as later stages read it: about any pair, by id, and how good it is.

`evidence.json`: the kinds, the fitted normals, their temperature and the estimated prior. Of each split `pairs`: the
trust in each pair that the split lists, and the unpaired pairs that the evidence supports; and, where a kind needs
them, centred unit vectors of captions and of images in the captions' space, float16, in shards.

Shapes: N images, M captions, K pairs, P listed pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Noise, read_noise
from pipeline.errors import InputError
from pipeline.evidence.kinds import DIRECT, WORDED, SplitEvidence, Vectors, is_large
from pipeline.evidence.listed import ListedPosterior
from pipeline.evidence.posterior import Posterior
from pipeline.evidence.words import WordCoverage, caption_terms, inverse_document_frequencies
from pipeline.features.shards import all_features
from pipeline.files import read_record, read_tensors
from pipeline.params import SamplerParams
from pipeline.retrieval.relevance import calibration_error, ranking_quality
from pipeline.runtime.processes import own_device

PUBLISHED_PRIOR = 10_000.0  # K of Li et al. 2023
LEAST_AUC = 0.7
"""Of the validation split's pairs against random ones: from evidence that tells them apart less well no K is estimated,
for it would suspect all of them."""
RECORD, PAIRS = "evidence.json", "pairs.safetensors"


def open_evidence(folder: Path, splits: dict[str, Split], name: str, kinds: Sequence[str]) -> SplitEvidence:
    """The evidence about the pairs of one split; captions are counted, and vectors read from `folder`."""
    split, device = splits[name], own_device()
    caption_image_M = torch.tensor(split.caption_image)
    worded = {}
    for kind in (kind for kind in kinds if kind in WORDED):
        terms = caption_terms(split.captions, WORDED[kind])
        worded[kind] = WordCoverage(terms, caption_image_M, _frequencies(splits["train"], WORDED[kind]))
    vectors = None
    if set(kinds) - set(WORDED):
        kept = torch.float16 if is_large(len(split.images), len(split.captions)) else torch.float32
        vectors = read_vectors(folder / name, kinds).to(device, kept)
    return SplitEvidence(kinds, caption_image_M.to(device), worded, vectors)


@lru_cache(maxsize=len(WORDED))  # the same for every split
def _frequencies(train: Split, every: int) -> dict[str, float]:
    terms = caption_terms(train.captions, every)
    return inverse_document_frequencies(terms, torch.tensor(train.caption_image))


def read_vectors(folder: Path, kinds: Sequence[str]) -> Vectors:
    """One split's vectors, from its folder; of images as well where one of the kinds compares them."""
    of_images = {*DIRECT, "pictures"} & set(kinds)
    return Vectors(all_features(folder, "captions"), all_features(folder, "images") if of_images else None)


def read_pictures(folder: Path, kinds: Sequence[str]) -> Tensor:
    """Unit vectors of the training images themselves (N, W), to compare them with each other, from the split's folder:
    standardised features, or the images' vectors where the encoder has one space for both sides (`similarity`).
    """
    return all_features(folder, "images" if "similarity" in kinds else "pictures")


def read_posterior(folder: Path) -> tuple[list[str], Posterior]:
    """The kinds of evidence, and the fitted posterior with the estimated prior.

    Raises:
        InputError: when stage evidence made none.
    """
    path = folder / RECORD
    record = read_record(path, "evidence")
    try:
        return record["kinds"], Posterior.from_numbers(record["posterior"])
    except (KeyError, TypeError):
        raise InputError(
            f"{path}: this data has no evidence of evidence.kinds {record.get('kinds')}; without a second caption for "
            "an image only regression exists: change evidence.kinds, or what needs it (pairs.weighting, sampler.guide)"
        ) from None


def used_kinds(record: Mapping[str, Any]) -> list[str]:
    """The kinds in `evidence.json` that the posterior uses: `fit_posterior` leaves out one that hardly any pair has, or
    that is not higher where pairs match.
    """
    means = record["posterior"]["positive"]["mean"]
    return [kind for kind, mean in zip(record["kinds"], means, strict=True) if mean is not None]


def has_evidence(folder: Path) -> bool:
    """Whether the data has any of the kinds of evidence."""
    return "posterior" in read_record(folder / RECORD, "evidence")


def prior_of(prior: float | str, folder: Path) -> float:
    """K: `sampler.prior`; if that is "estimated", the estimate in `folder`, or FNE's where there is no evidence."""
    if prior == "estimated":
        return read_posterior(folder)[1].prior if has_evidence(folder) else PUBLISHED_PRIOR
    return float(prior)


def evidence_prior(sampler: SamplerParams, folder: Path) -> float:
    """K of the posterior from evidence: `sampler.prior`, or the estimate where that is of FNE's posterior."""
    return prior_of("estimated" if sampler.posterior == "similarity" else sampler.prior, folder)


def read_pairs(folder: Path, name: str, split: Split) -> dict[str, Tensor]:
    """`trust_M` of one split's pairs, and `image_P`, `caption_P` and `log_ratio_P` of the unpaired ones (see `PAIRS`).

    `weight_M` too, for the training split, where `pairs.weighting` is a published one: see `pair_weights`.

    Raises:
        InputError: when there is no evidence, or the file is missing, damaged, or of another split.
    """
    read_posterior(folder)
    path = folder / name / PAIRS
    pairs = read_tensors(path, "evidence")
    images, captions = len(split.images), len(split.captions)
    if len(pairs["trust_M"]) != captions or (pairs["image_P"] >= images).any():
        raise InputError(
            f"{path}: not of the {images} images and {captions} captions of {name}.json; run `dvc repro evidence`"
        )
    return pairs


def pair_weights(pairs: Mapping[str, Tensor]) -> Tensor:
    """What multiplies each pair's loss (M,): the published weight, where there is one, else the trust.

    Only the trust is the probability that a pair is right: the best pair of a batch has weight 0 by OSA.
    """
    return pairs.get("weight_M", pairs["trust_M"])


def read_listed(
    folder: Path, name: str, split: Split, prior: float | str, judged: Judged | None = None
) -> ListedPosterior:
    """The posterior of one split's pairs by id; `prior`: K, or "estimated". 0 everywhere where there is no evidence.

    0 as well for a pair that was `judged` not to match: the evidence is wrong about it.
    """
    images, captions = len(split.images), len(split.captions)
    if not has_evidence(folder):
        nothing = torch.empty(0, dtype=torch.long)
        return ListedPosterior(nothing, nothing, torch.empty(0), images, captions)
    pairs = read_pairs(folder, name, split)
    posterior_P = torch.sigmoid(pairs["log_ratio_P"].double() - math.log(prior_of(prior, folder) - 1)).float()
    if judged is not None:
        key_J = torch.from_numpy(judged.image_J * captions + judged.caption_J)[torch.from_numpy(~judged.match_J)]
        posterior_P[torch.isin(pairs["image_P"].long() * captions + pairs["caption_P"], key_J)] = 0
    return ListedPosterior(pairs["image_P"].long(), pairs["caption_P"].long(), posterior_P, images, captions)


def match_chance(folder: Path, split_folder: Path, name: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """The probability (K,) that images and captions of a split match, float64, with the estimated prior; None where
    stage evidence made nothing.
    """
    if not has_evidence(folder):
        return None
    kinds, posterior = read_posterior(folder)
    splits = {part: read_split(split_folder / f"{part}.json") for part in {"train", name}}
    evidence = open_evidence(folder, splits, name, kinds)
    return lambda image_K, caption_K: posterior.probability(evidence.of(image_K, caption_K))


def trust_quality(folder: Path, split_folder: Path) -> dict[str, float]:
    """How well a low weight names the wrong training pairs, as `quality_of`; empty where they are not known."""
    noise = read_noise(split_folder)
    if noise is None or not (folder / "train" / PAIRS).exists():
        return {}
    return quality_of(read_pairs(folder, "train", read_split(split_folder / "train.json")), noise)


def quality_of(pairs: Mapping[str, Tensor], noise: Noise | None) -> dict[str, float]:
    """`auc` and `ap` of the training pairs' weights, and `ece` of the trust where that is the weight; empty where the
    noise is not known, or has one kind of pairs.
    """
    if noise is None or not 0 < noise.wrong_M.sum() < len(noise.wrong_M):
        return {}
    wrong_M, chance_M = torch.from_numpy(noise.wrong_M), 1 - pair_weights(pairs).double()
    calibration = {} if "weight_M" in pairs else {"ece": calibration_error(chance_M, wrong_M)}
    return ranking_quality(chance_M, wrong_M) | calibration
