"""The unpaired pairs of a split that the evidence supports: found once, then looked up by id in each step.

Nearly all pairs of a random image and a random caption have evidence against them. Only the others are listed, so that
no table of all images and captions exists, and a look-up costs little.

Shapes: N images, M captions, P listed pairs, I images and J captions of a chunk, b anchors, C candidates, R the most
pairs of a row.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from pipeline.evidence.kinds import SplitEvidence
from pipeline.evidence.near import Block, near_blocks
from pipeline.evidence.posterior import Posterior
from pipeline.runtime.processes import gather, gather_uneven, local_span, process_count, process_index

LEAST_POSTERIOR = 0.01  # of a listed pair, with the estimated prior
MOST_PER_IMAGE = 512  # the best supported ones
MOST_PAIRS = 1 << 26  # of a split; of very many images each lists fewer
CHUNK_PAIRS = 1 << 20  # listed pairs whose exact log-ratios are computed at once
BLOCK_PAIRS, BLOCK_CAPTIONS = 1 << 20, 1 << 11  # compared at once: the tables of a block stay in a processor's cache


def listed_pairs(
    evidence: SplitEvidence, posterior: Posterior, track: Callable[[Sequence[Block]], Iterable[Block]] = iter
) -> dict[str, Tensor]:
    """`image_P`, `caption_P` (int32, by image, then by caption) and `log_ratio_P` (float32) of the listed pairs.

    Captions of the image itself are never listed. Of a split with more than `LARGEST_TABLE` pairs, an image is compared
    with the captions near its own (see `near_blocks`), where a kind of evidence has vectors. Several processes share
    the comparisons, and all return the same.
    """
    least = least_log_ratio(posterior)
    most = max(1, min(MOST_PER_IMAGE, MOST_PAIRS // evidence.images))
    pair_P2, ratio_P = torch.empty(0, 2, dtype=torch.int32), torch.empty(0)
    found, ratio, pending = [pair_P2], [ratio_P], 0
    for image_I, caption_J in track(blocks(evidence)[process_index() :: process_count()]):
        log_ratio_IJ = posterior.fast_log_ratio(evidence.block(image_I, caption_J))
        own_IJ = evidence.caption_image_M[caption_J][None, :] == image_I[:, None]
        row_P, column_P = (log_ratio_IJ >= least).logical_and_(~own_IJ).nonzero().unbind(1)
        found.append(torch.stack([image_I[row_P], caption_J[column_P]], dim=1).int().cpu())
        ratio.append(log_ratio_IJ[row_P, column_P].cpu())
        pending += len(row_P)
        if pending > 2 * most * evidence.images:
            pair_P2, ratio_P = _highest(torch.cat(found), torch.cat(ratio), most)
            found, ratio, pending = [pair_P2], [ratio_P], len(pair_P2)
    pair_P2, ratio_P = _highest(torch.cat(found), torch.cat(ratio), most)  # first here, which leaves less to gather
    pair_P2, _ = _highest(gather_uneven(pair_P2), gather_uneven(ratio_P), most)
    image_P, caption_P = pair_P2.long().unbind(1)
    order_P = (image_P * len(evidence.caption_image_M) + caption_P).argsort()
    image_P, caption_P = image_P[order_P], caption_P[order_P]
    own = local_span(len(image_P))
    parts = zip(*(side_P[own.start : own.stop].split(CHUNK_PAIRS) for side_P in (image_P, caption_P)), strict=True)
    own_P = torch.cat([posterior.log_ratio(evidence.of(*part)).float() for part in parts]).cpu()
    log_ratio_P = gather(own_P, len(image_P))
    return {"image_P": image_P.int(), "caption_P": caption_P.int(), "log_ratio_P": log_ratio_P}


def blocks(evidence: SplitEvidence) -> list[Block]:
    """Images and captions to be compared, `BLOCK_PAIRS` at a time; every pair, or those of near clusters."""
    if evidence.large and evidence.vectors is not None:
        return near_blocks(evidence, BLOCK_PAIRS)
    every_N, every_M = (
        torch.arange(count, device=evidence.caption_image_M.device)
        for count in (evidence.images, len(evidence.caption_image_M))
    )
    images = every_N.split(max(1, BLOCK_PAIRS // min(BLOCK_CAPTIONS, len(every_M))))
    return list(itertools.product(images, every_M.split(BLOCK_CAPTIONS)))


def _highest(pair_P2: Tensor, value_P: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The pairs with their values that are among the `most` highest of their image, the first column."""
    count_N = torch.bincount(pair_P2[:, 0])
    if not len(pair_P2) or count_N.max() <= most:
        return pair_P2, value_P
    order_P = pair_P2[:, 1].argsort(stable=True)  # of equal values those of the first captions, in whatever order found
    order_P = order_P[value_P[order_P].argsort(descending=True, stable=True)]
    order_P = order_P[pair_P2[order_P, 0].argsort(stable=True)]
    place_P = torch.arange(len(pair_P2)) - (count_N.cumsum(0) - count_N)[pair_P2[order_P, 0].long()]
    kept_P = order_P[place_P < most]
    return pair_P2[kept_P], value_P[kept_P]


def least_log_ratio(posterior: Posterior) -> float:
    """The log-likelihood ratio of `LEAST_POSTERIOR`."""
    return math.log(posterior.prior - 1) + math.log(LEAST_POSTERIOR / (1 - LEAST_POSTERIOR))


class ListedPosterior:
    """The posterior of any pair of a split by its ids: 0 for a pair that is not listed.

    Args:
        image_P: int, the images of the listed pairs.
        caption_P: int, their captions.
        posterior_P: float.
        images: N.
        captions: M.
    """

    def __init__(self, image_P: Tensor, caption_P: Tensor, posterior_P: Tensor, images: int, captions: int) -> None:
        """Sort the pairs once by image and once by caption."""
        self._by_image = _Rows(image_P, caption_P, posterior_P, images, captions)
        self._by_caption = _Rows(caption_P, image_P, posterior_P, captions, images)

    def to(self, device: torch.device) -> ListedPosterior:
        """Move the pairs to a device, and return the same object."""
        self._by_image.to(device)
        self._by_caption.to(device)
        return self

    def __call__(self, anchor_b: Tensor, candidate_C: Tensor, *, to_text: bool) -> Tensor:
        """posterior_bC, float32, without a wait for the device.

        Args:
            anchor_b: ids of images if `to_text`, else of captions.
            candidate_C: ids of captions if `to_text`, else of images, in any order; one may occur several times, and
                a negative id is no pair's.
            to_text: the direction.
        """
        return (self._by_image if to_text else self._by_caption).look_up(anchor_b, candidate_C)


class _Rows:
    """For each row id, the ids of the other side and the values, concatenated in the order of the rows."""

    def __init__(self, row_P: Tensor, other_P: Tensor, value_P: Tensor, rows: int, others: int) -> None:
        order_P = row_P.argsort(stable=True)
        count_N = torch.bincount(row_P, minlength=rows)
        self.column_M1 = row_P.new_zeros(others + 1, dtype=torch.long)  # all 0 between two look-ups, one at a time
        self.first_N1 = torch.cat([count_N.new_zeros(1), count_N.cumsum(0)])
        # one more at the end, so that there is always one to read
        self.other_P = torch.cat([other_P[order_P], other_P.new_zeros(1)])
        self.value_P = torch.cat([value_P[order_P].float(), value_P.new_zeros(1).float()])
        self.most = int(count_N.max()) if len(row_P) else 0

    def to(self, device: torch.device) -> None:
        self.column_M1, self.first_N1, self.other_P, self.value_P = (
            part.to(device) for part in (self.column_M1, self.first_N1, self.other_P, self.value_P)
        )

    def look_up(self, row_b: Tensor, other_C: Tensor) -> Tensor:
        count = len(other_C)
        place_bR = self.first_N1[row_b][:, None] + torch.arange(self.most, device=row_b.device)
        there_bR = place_bR < self.first_N1[row_b + 1][:, None]
        place_bR = place_bR.clamp_(max=len(self.other_P) - 1)
        # each id's column, from 1; ids that are no candidate, and all that is not there, share column 0. Of a repeated
        # id any column may win, and all its columns then read that one; id -1 has the last place to itself.
        other_C = other_C.clamp(min=-1)
        self.column_M1[other_C] = torch.arange(1, count + 1, device=row_b.device)
        column_bR = self.column_M1[self.other_P[place_bR]].where(there_bR, 0)
        value_bC = self.value_P.new_zeros(len(row_b), count + 1)
        value_bC.scatter_(1, column_bR, self.value_P[place_bR])
        found_bC = value_bC.index_select(1, self.column_M1[other_C])  # nine times as fast as `[:, …]` on a CPU
        self.column_M1[other_C] = self.column_M1.new_zeros(count)
        return found_bC
