"""What stage `evidence` makes; `pipeline.evidence.table` says what its files hold, and reads them.

Shapes: N images, M captions, W and V widths, K pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.data.splits.format import Split
from pipeline.data.splits.judgment_file import Judged
from pipeline.data.splits.truth_file import Noise
from pipeline.errors import InputError
from pipeline.evidence.alignment import fit_cca
from pipeline.evidence.alignment_file import write_alignment
from pipeline.evidence.judged import judged_trust
from pipeline.evidence.kinds import ABOUT_THE_PAIR, SplitEvidence
from pipeline.evidence.listed import listed_pairs
from pipeline.evidence.posterior import Posterior, estimated_prior, fit_posterior, separation
from pipeline.evidence.table import (
    LEAST_AUC,
    PAIRS,
    PUBLISHED_PRIOR,
    RECORD,
    open_evidence,
    pair_weights,
    quality_of,
    read_pictures,
    used_kinds,
)
from pipeline.evidence.trust import trust_by
from pipeline.evidence.weightings import weighting_trust
from pipeline.features.shards import all_features
from pipeline.files import read_tensors, sha256, write_json, write_tensors
from pipeline.params import BEFORE_TRAINING, Params
from pipeline.progress import progress
from pipeline.runtime.processes import process_index, wait_for_all

RANDOM_PAIRS = 1 << 19  # of the validation split, as negatives and for the prior


def make_evidence(
    folder: Path,
    splits: dict[str, Split],
    features: Path,
    params: Params,
    encoders: Mapping[str, Any],
    noise: Noise | None = None,
    judged: Judged | None = None,
) -> dict[str, Any]:
    """Fill `folder`, which holds what `write_vectors` wrote, and return the record that `evidence.json` holds.

    Several processes share the comparisons; the first one writes.

    `encoders`: what `write_vectors` returned. `noise`: the wrong training pairs, against which trust is judged.
    `judged`: training pairs that somebody judged, whose verdict counts in the alignment instead of the trust.
    """
    kinds = params.evidence.kinds
    opened = {name: open_evidence(folder, splits, name, kinds) for name in splits if kinds}
    record: dict[str, Any] = {"kinds": kinds, "encoders": encoders, "seen": _seen(opened["val"]) if kinds else {}}
    fitted = _fitted(opened["val"], params.evidence.seed) if kinds else None
    if fitted is not None:
        posterior, record["auc"] = fitted
        record["posterior"] = posterior.as_numbers()
        for name, evidence in opened.items():
            weights = {"trust_M": _trust(evidence, params.evidence.seed)}
            if name == "train" and params.pairs.weighting in BEFORE_TRAINING:
                weights["weight_M"] = _published_weight(evidence, folder / name, features / name, params)
            record[name] = write_pairs(folder / name / PAIRS, evidence, posterior, **weights)
            if name == "train" and (quality := quality_of(weights, noise)):
                record[name]["trust"] = quality
    wait_for_all()
    weighted = params.pairs.by_evidence and "posterior" in record
    if params.model.anchor == "cca":
        weight_M = pair_weights(read_tensors(folder / "train" / PAIRS, "evidence")) if weighted else None
        if judged is not None:
            weight_M = judged_trust(weight_M, judged, len(splits["train"].captions))
        image_NW, caption_MV = (all_features(features / "train", kind) for kind in ("images", "captions"))
        caption_image_M = torch.tensor(splits["train"].caption_image)
        alignment = fit_cca(image_NW, caption_MV, caption_image_M, weight_M=weight_M)
        if process_index() == 0:
            write_alignment(folder, alignment)
    if process_index() == 0:
        made = sorted(folder.rglob("*.safetensors"))
        record["sha256"] = {str(path.relative_to(folder)): sha256(path) for path in made}
        write_json(folder / RECORD, record)
    return record


def write_pairs(
    path: Path, evidence: SplitEvidence, posterior: Posterior, trust_M: Tensor, **weights: Tensor
) -> dict[str, Any]:
    """Write the trust in each pair of a split, published weights, and the listed unpaired pairs; returns their numbers,
    for the record.
    """
    pairs = listed_pairs(evidence, posterior, partial(progress, label=f"{path.parent.name} pairs"))
    if process_index() == 0:
        of_pairs = {name: row_M.float() for name, row_M in {"trust_M": trust_M, **weights}.items()}
        write_tensors(path, of_pairs | pairs)
    every = evidence.images * len(evidence.caption_image_M)
    return {"trust_mean": float(trust_M.mean()), "listed": len(pairs["image_P"]), "pairs": every}


def described(record: Mapping[str, Any]) -> list[str]:
    """What a person reads of `evidence.json`: how much the evidence says, and what there is none of."""
    if not record["kinds"]:
        return ["evidence.kinds is empty"]
    lines = [f"no {kind}: no image has a second caption" for kind, share in record["seen"].items() if share == 0]
    if "posterior" not in record:
        lines = lines or ["val.json has too few images to compare"]
        return [*lines, "no evidence: it suspects, drops and lists no pair"]
    used = used_kinds(record)
    lines += [
        f"{kind} left out of the posterior: not higher in val.json where pairs match"
        for kind in record["kinds"]
        if kind not in used and record["seen"][kind]
    ]
    if record["auc"] < LEAST_AUC:
        lines.append(
            f"warning: it hardly tells the pairs of val.json from random ones (AUC {record['auc']:.2f}, below "
            f"{LEAST_AUC}), so that no share of matches is estimated; K is {PUBLISHED_PRIOR:.0f}"
        )
    lines += [f"{side} encoder: {encoder['name']}" for side, encoder in record["encoders"].items()]
    train = record["train"]
    if "trust" in train:
        lines.append(f"AUC of the trust against the known noise {train['trust']['auc']:.3f}")
    bound = f"at least 1 in {record['posterior']['prior']:.0f} unpaired pairs matches; "
    return [
        f"evidence from {', '.join(used)}: {bound if record['auc'] >= LEAST_AUC else ''}"
        f"{train['listed']} of {train['pairs']} training pairs may match; mean trust {train['trust_mean']:.3f}",
        *lines,
    ]


def _fitted(evidence: SplitEvidence, seed: int) -> tuple[Posterior, float] | None:
    """The posterior, and how well it tells positives from negatives (AUC); K is FNE's if that is below `LEAST_AUC`.

    Positives: each caption against its own image's others; negatives: random unpaired pairs. None where there are not
    two of both: no image has a second caption, or there is one image.
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
    ratios = posterior.log_ratio(positive_KF), posterior.log_ratio(negative_KF)
    known = ((~part_KF.isnan()).any(1) for part_KF in (positive_KF, negative_KF))  # the others' ratio is 0
    auc = separation(*(ratio_K[known_K] for ratio_K, known_K in zip(ratios, known, strict=True)))
    unpaired = (evidence.images - 1) * len(evidence.caption_image_M)
    return replace(posterior, prior=PUBLISHED_PRIOR if auc < LEAST_AUC else estimated_prior(*ratios, unpaired)), auc


def _trust(evidence: SplitEvidence, seed: int) -> Tensor:
    """The probability that each pair is right (M,), by the kinds that are about the pair; all 1 without such a kind."""
    every_M = torch.arange(len(evidence.caption_image_M), device=evidence.caption_image_M.device)
    if not set(evidence.kinds) & set(ABOUT_THE_PAIR):
        return torch.ones(len(every_M))
    return trust_by(
        lambda image_M: evidence.of(image_M, every_M, ABOUT_THE_PAIR), evidence.caption_image_M, evidence.images, seed
    )


def _published_weight(evidence: SplitEvidence, folder: Path, features: Path, params: Params) -> Tensor:
    """The training pairs' weights by `pairs.weighting`, from the vectors in `folder`.

    Frozen towers of a CLIP share a space, so that their own vectors are compared; images of others are mapped to the
    captions' space.
    """
    assert evidence.vectors is not None and evidence.vectors.image_NV is not None
    caption_MV, image_NV = evidence.vectors.caption_MV, evidence.vectors.image_NV
    settings, asked = params.model, params.evidence
    if settings.family == "clip" and settings.train == "heads" and asked.image is None and asked.text is None:
        kept = (normalize(all_features(features, kind).float(), dim=1) for kind in ("images", "captions"))
        image_NV, caption_MV = (part.to(caption_MV.device) for part in kept)
    frozen_NW = None
    if params.pairs.weighting == "gsc":
        frozen_NW = read_pictures(folder, evidence.kinds).float().to(caption_MV.device)
    return weighting_trust(
        params.pairs.weighting, image_NV, caption_MV, evidence.caption_image_M, frozen_NW, params.evidence.seed
    )


def _seen(evidence: SplitEvidence) -> dict[str, float]:
    """The share of the pairs that have each kind of evidence: 0 for siblings where each image has one caption."""
    every_M = torch.arange(len(evidence.caption_image_M))
    seen_F = (~evidence.of(evidence.caption_image_M, every_M).isnan()).double().mean(0)
    return dict(zip(evidence.kinds, seen_F.tolist(), strict=True))
