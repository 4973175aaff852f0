"""Two charts of a split's vectors: a map, and precision by recall against the truth."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pipeline.report.curves import NARROW, Chart, new_figure
from pipeline.report.figures import LINE, NEGATIVE, POSITIVE, POSTERIOR, svg_uri
from pipeline.report.gallery import Embedded
from pipeline.retrieval.relevance import counts_by_threshold, ranking_quality

MOST_POINTS = 600  # of each side
MOST_STEPS = 300  # of a curve
COLOURS = (POSTERIOR, LINE, NEGATIVE)


def embedding_map(embedded: Embedded) -> Chart | None:
    """The first two principal axes of the images' vectors, each side centred: images, and captions by their success.

    A fixed projection, not a fitted layout: the same vectors give the same map. None for fewer than three images or
    vectors of one number, which have no two axes.
    """
    if len(embedded.image_ND) < 3 or embedded.image_ND.shape[1] < 2:
        return None
    image_ND = embedded.image_ND.double() - embedded.image_ND.double().mean(0)
    text_MD = embedded.text_MD.double() - embedded.text_MD.double().mean(0)
    _, size_D, axis_DD = torch.linalg.svd(image_ND, full_matrices=False)
    axis_2D = axis_DD[:2] * axis_DD[:2].sum(dim=1, keepdim=True).sign()  # the sign of an axis is arbitrary
    draw = torch.Generator().manual_seed(0)
    shown_n, shown_m = (torch.randperm(len(part), generator=draw)[:MOST_POINTS] for part in (image_ND, text_MD))
    figure = new_figure(NARROW)
    axes = figure.add_subplot()
    place_n2, place_m2 = image_ND[shown_n] @ axis_2D.T, text_MD[shown_m] @ axis_2D.T
    missed_m = embedded.ranks[1][shown_m] > 0
    for place_k2, colour, marker, label in (
        (place_n2, LINE, "s", "images"),
        (place_m2[~missed_m], POSITIVE, ".", "captions that find their image"),
        (place_m2[missed_m], NEGATIVE, ".", "captions that do not"),
    ):
        across_k, up_k = place_k2.T.numpy()
        axes.scatter(across_k, up_k, s=7, c=colour, marker=marker, linewidths=0, alpha=0.7, label=label)
    axes.set(xticks=[], yticks=[])
    figure.legend(loc="outside lower center", ncols=3, fontsize="x-small", frameon=False, markerscale=3)
    share = float((size_D[:2] ** 2).sum() / (size_D**2).sum().clamp(min=1e-30))
    said = f"The first two principal axes of the images' vectors, {share:.0%} of their variance; "
    said += f"{len(shown_n)} images and {len(shown_m)} captions."
    return Chart("Map of the embedding", said, svg_uri(figure))


def precision_recall(scores: Mapping[str, Tensor], true_P: Tensor) -> Chart | None:
    """Precision by recall of each score among labelled unpaired pairs; None if only one label occurs."""
    if not 0 < int(true_P.sum()) < len(true_P):
        return None
    figure = new_figure(NARROW)
    axes = figure.add_subplot()
    said = []
    for colour, (name, score_P) in zip(COLOURS, scores.items(), strict=False):
        found_T, taken_T = counts_by_threshold(score_P, true_P)
        shown = [*range(0, len(found_T), max(1, len(found_T) // MOST_STEPS)), -1]
        recall, precision = (found_T / found_T[-1])[shown].tolist(), (found_T / taken_T)[shown].tolist()
        axes.plot([0, *recall], [1, *precision], color=colour, label=name)
        said.append(f"{name} {ranking_quality(score_P, true_P)['ap']:.3f}")
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(fontsize="small", frameon=False)
    known = f"{int(true_P.sum())} of {len(true_P)} labelled unpaired pairs match. Average precision: {', '.join(said)}."
    return Chart("Which unpaired pairs match: precision by recall", known, svg_uri(figure))
