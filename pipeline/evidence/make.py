"""What stage `evidence` makes, and how later stages read it.

`evidence.json`: the kinds, the fitted normals, their temperature and the estimated prior. Of each split `pairs`: the
trust in each pair that the split lists, and the unpaired pairs that the evidence supports; and, where a kind needs
them, centred unit vectors of captions and of images in the captions' space, float16, in shards.

Shapes: N images, M captions, W and V widths, K pairs, P listed pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.splits.format import Split, read_split
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.evidence.alignment import fit_cca
from pipeline.evidence.alignment_file import write_alignment
from pipeline.evidence.kinds import ABOUT_THE_PAIR, WORDED, SplitEvidence, Vectors
from pipeline.evidence.listed import ListedPosterior, listed_pairs
from pipeline.evidence.posterior import Posterior, estimated_prior, fit_posterior
from pipeline.evidence.trust import mixture_posterior, random_images
from pipeline.evidence.words import WordCoverage, caption_terms, inverse_document_frequencies
from pipeline.features.shards import all_features
from pipeline.files import read_record, read_tensors, sha256, write_json, write_tensors
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.retrieval.relevance import calibration_error, ranking_quality
from pipeline.runtime.processes import own_device

RANDOM_PAIRS = 1 << 19  # of the validation split, as negatives and for the prior
PUBLISHED_PRIOR = 10_000.0  # K of Li et al. 2023
RECORD, PAIRS = "evidence.json", "pairs.safetensors"


def make_evidence(
    folder: Path, splits: dict[str, Split], features: Path, params: Params, encoders: Mapping[str, Any]
) -> dict[str, Any]:
    """Fill `folder`, which holds what `write_vectors` wrote, and return the record that `evidence.json` holds.

    `encoders`: what `write_vectors` returned.
    """
    kinds = params.evidence.kinds
    opened = {name: open_evidence(folder, splits, name, kinds) for name in splits if kinds}
    record: dict[str, Any] = {"kinds": kinds, "encoders": encoders, "seen": _seen(opened["val"]) if kinds else {}}
    posterior = _fitted(opened["val"], params.evidence.seed) if kinds else None
    if posterior is not None:
        record["posterior"] = posterior.as_numbers()
        for name, evidence in opened.items():
            trust_M = _trust(evidence, params.evidence.seed)
            pairs = listed_pairs(evidence, posterior, partial(progress, label=f"{name} pairs"))
            record[name] = {
                "trust_mean": float(trust_M.mean()),
                "listed": len(pairs["image_P"]),
                "pairs": len(splits[name].images) * len(splits[name].captions),
            }
            write_tensors(folder / name / PAIRS, {"trust_M": trust_M.float(), **pairs})
    weighted = params.pairs.weighting == "evidence" and "posterior" in record
    if params.model.anchor == "cca":
        weight_M = read_tensors(folder / "train" / PAIRS, "evidence")["trust_M"] if weighted else None
        image_NW, caption_MV = (all_features(features / "train", kind) for kind in ("images", "captions"))
        caption_image_M = torch.tensor(splits["train"].caption_image)
        write_alignment(folder, fit_cca(image_NW, caption_MV, caption_image_M, weight_M=weight_M))
    made = sorted(folder.rglob("*.safetensors"))
    record["sha256"] = {str(path.relative_to(folder)): sha256(path) for path in made}
    write_json(folder / RECORD, record)
    return record


def described(record: Mapping[str, Any]) -> list[str]:
    """What a person reads of `evidence.json`: how much the evidence says, and what there is none of."""
    if not record["kinds"]:
        return ["evidence.kinds is empty"]
    lines = [f"no {kind}: no image has a second caption" for kind, share in record["seen"].items() if share == 0]
    if "posterior" not in record:
        lines = lines or ["val.json has too few images to compare"]
        return [*lines, "no evidence: sampler.posterior evidence will suspect and drop no candidate"]
    lines += [f"{side} encoder: {encoder['name']}" for side, encoder in record["encoders"].items()]
    train = record["train"]
    return [
        f"evidence from {', '.join(record['kinds'])}: at least 1 in {record['posterior']['prior']:.0f} unpaired pairs "
        f"matches; {train['listed']} of {train['pairs']} training pairs may; mean trust {train['trust_mean']:.3f}",
        *lines,
    ]


def open_evidence(folder: Path, splits: dict[str, Split], name: str, kinds: Sequence[str]) -> SplitEvidence:
    """The evidence about the pairs of one split; captions are counted, and vectors read from `folder`."""
    split, device = splits[name], own_device()
    caption_image_M = torch.tensor(split.caption_image)
    worded = {}
    for kind in (kind for kind in kinds if kind in WORDED):
        train, every = splits["train"], WORDED[kind]
        idf = inverse_document_frequencies(caption_terms(train.captions, every), torch.tensor(train.caption_image))
        worded[kind] = WordCoverage(caption_terms(split.captions, every), caption_image_M, idf)
    vectors = None
    if set(kinds) - set(WORDED):
        caption_MV = all_features(folder / name, "captions").float().to(device)
        image_NV = None
        if {"regression", "pictures"} & set(kinds):
            image_NV = all_features(folder / name, "images").float().to(device)
        vectors = Vectors(caption_MV, image_NV)
    return SplitEvidence(kinds, caption_image_M.to(device), worded, vectors)


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
            "an image only regression exists: change evidence.kinds, or use no pairs.weighting evidence"
        ) from None


def has_evidence(folder: Path) -> bool:
    """Whether the data has any of the kinds of evidence."""
    return "posterior" in read_record(folder / RECORD, "evidence")


def prior_of(prior: float | str, folder: Path) -> float:
    """K: `sampler.prior`; if that is "estimated", the estimate in `folder`, or FNE's where there is no evidence."""
    if prior == "estimated":
        return read_posterior(folder)[1].prior if has_evidence(folder) else PUBLISHED_PRIOR
    return float(prior)


def read_pairs(folder: Path, name: str, split: Split) -> dict[str, Tensor]:
    """`trust_M` of one split's pairs, and `image_P`, `caption_P` and `log_ratio_P` of the unpaired ones (see `PAIRS`).

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


def read_listed(folder: Path, name: str, split: Split, prior: float | str) -> ListedPosterior:
    """The posterior of one split's pairs by id; `prior`: K, or "estimated". 0 everywhere where there is no evidence."""
    images, captions = len(split.images), len(split.captions)
    if not has_evidence(folder):
        nothing = torch.empty(0, dtype=torch.long)
        return ListedPosterior(nothing, nothing, torch.empty(0), images, captions)
    pairs = read_pairs(folder, name, split)
    posterior_P = torch.sigmoid(pairs["log_ratio_P"].double() - math.log(prior_of(prior, folder) - 1)).float()
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
    """How well a low trust names the wrong training pairs: `auc`, `ap`, `ece`; empty where they are not known."""
    noise = read_noise(split_folder)
    if noise is None or not (folder / "train" / PAIRS).exists() or not 0 < noise.wrong_M.sum() < len(noise.wrong_M):
        return {}
    wrong_M, chance_M = (
        torch.from_numpy(noise.wrong_M),
        1 - read_pairs(folder, "train", read_split(split_folder / "train.json"))["trust_M"].double(),
    )
    return ranking_quality(chance_M, wrong_M) | {"ece": calibration_error(chance_M, wrong_M)}


def _fitted(evidence: SplitEvidence, seed: int) -> Posterior | None:
    """Positives: each caption against its own image's others; negatives: random unpaired pairs. None where there are
    not two of both: no image has a second caption, or there is one image.
    """
    positive_KF = evidence.of(evidence.caption_image_M, torch.arange(len(evidence.caption_image_M)))
    generator = torch.Generator().manual_seed(seed)
    image_K = torch.randint(evidence.images, (RANDOM_PAIRS,), generator=generator)
    caption_K = torch.randint(len(evidence.caption_image_M), (RANDOM_PAIRS,), generator=generator)
    unpaired_K = evidence.caption_image_M.cpu()[caption_K] != image_K
    negative_KF = evidence.of(image_K[unpaired_K], caption_K[unpaired_K])
    try:
        posterior = fit_posterior(positive_KF, negative_KF, prior=2)
    except InputError:
        return None
    ratios = (posterior.log_ratio(part_KF) for part_KF in (positive_KF, negative_KF))
    return replace(posterior, prior=estimated_prior(*ratios))


def _trust(evidence: SplitEvidence, seed: int) -> Tensor:
    """The probability that each pair is right (M,), see `pair_trust`; all 1 where a split has one image, or no kind is
    about the pair.
    """
    caption_image_M = evidence.caption_image_M
    every_M = torch.arange(len(caption_image_M), device=caption_image_M.device)
    if evidence.images < 2 or not set(evidence.kinds) & set(ABOUT_THE_PAIR):
        return torch.ones(len(caption_image_M))
    other_N = random_images(caption_image_M, evidence.images, seed)
    own_MF, random_MF = (
        evidence.of(image_M, every_M, ABOUT_THE_PAIR) for image_M in (caption_image_M, other_N[caption_image_M])
    )
    return mixture_posterior(own_MF, random_MF)


def _seen(evidence: SplitEvidence) -> dict[str, float]:
    """The share of the pairs that have each kind of evidence: 0 for siblings where each image has one caption."""
    every_M = torch.arange(len(evidence.caption_image_M))
    seen_F = (~evidence.of(evidence.caption_image_M, every_M).isnan()).double().mean(0)
    return dict(zip(evidence.kinds, seen_F.tolist(), strict=True))
