"""Closed-form alignments against their formulas written out, and on pairs whose truth was planted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.linalg import inv, sqrtm
from torch import Tensor

from pipeline.errors import InputError
from pipeline.evidence import moments, regression
from pipeline.evidence.alignment import Alignment, fit_cca
from pipeline.evidence.regression import fit_ridge, out_of_fold_images
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from tests.evidence.planted import Planted, planted

WEIGHTS = torch.Generator().manual_seed(7)


def similarities(alignment: Alignment, pairs: Planted) -> Tensor:
    """Cosines of all images and captions: unlike projections, they have no free signs."""
    return alignment.image(pairs.image_NW) @ alignment.text(pairs.caption_MV).T


def written_out(pairs: Planted, weight_M: Tensor) -> tuple[Any, Any, Any, Any, Any]:
    """x and y of each pair and Cxx, Cxy, Cyy, summed pair by pair."""
    x_MW = pairs.image_NW.numpy()[pairs.caption_image_M.numpy()]
    y_MV = np.array([caption / np.sqrt(sum(caption**2)) for caption in pairs.caption_MV.numpy()])
    p_M = weight_M.numpy() / weight_M.sum().item()
    x_mean_W, y_mean_V = (sum(p * row for p, row in zip(p_M, rows, strict=True)) for rows in (x_MW, y_MV))
    std_W = np.sqrt(sum(p * (row - x_mean_W) ** 2 for p, row in zip(p_M, x_MW, strict=True)))
    x_MW, y_MV = (x_MW - x_mean_W) / (std_W + 1e-3), y_MV - y_mean_V
    covariances = [
        sum(p * np.outer(a, b) for p, a, b in zip(p_M, *rows, strict=True))
        for rows in ((x_MW, x_MW), (x_MW, y_MV), (y_MV, y_MV))
    ]
    return x_MW, y_MV, *covariances


def unit(rows: Any) -> Any:
    return rows / np.sqrt((rows**2).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("weighted", [False, True])
def test_cca_is_its_formula(weighted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "CHUNK_ROWS", 7)
    pairs = planted(20, torch.arange(20) % 4 + 1, seed=3)
    weight_M = torch.rand(len(pairs.caption_MV), generator=WEIGHTS, dtype=torch.float64)
    x_MW, y_MV, xx, xy, yy = written_out(pairs, weight_M if weighted else torch.ones_like(weight_M))
    a = inv(sqrtm(xx + 2.0 * np.diag(xx).mean() * np.eye(16)))
    b = inv(sqrtm(yy + 0.3 * np.diag(yy).mean() * np.eye(16)))
    u, s, vt = np.linalg.svd(a @ xy @ b)
    expected_MM = unit(x_MW @ a @ u @ np.diag(s)) @ unit(y_MV @ b @ vt.T).T
    found = fit_cca(*pairs, image_ridge=2.0, text_ridge=0.3, weight_M=weight_M if weighted else None)
    assert similarities(found, pairs)[pairs.caption_image_M].numpy() == pytest.approx(expected_MM, abs=1e-8)


def test_ridge_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "CHUNK_ROWS", 7)
    monkeypatch.setattr(regression, "RIDGE", 0.7)
    pairs = planted(20, torch.arange(20) % 4 + 1, seed=3)
    x_MW, y_MV, xx, _, _ = written_out(pairs, torch.ones(len(pairs.caption_MV), dtype=torch.float64))
    xt = sum(np.outer(x, t) for x, t in zip(x_MW, unit(y_MV), strict=True)) / len(x_MW)
    expected_MM = unit(x_MW @ np.linalg.solve(xx + 0.7 * np.eye(16), xt)) @ unit(y_MV).T
    found = fit_ridge(*pairs)
    assert similarities(found, pairs)[pairs.caption_image_M].numpy() == pytest.approx(expected_MM, abs=1e-8)


def test_a_weight_is_how_often_a_pair_comes() -> None:
    pairs = planted(12, 3)
    weight_M = torch.randint(4, (36,), generator=WEIGHTS)
    weight_M[:3] = 0  # an image without any weight is as if it were not there
    image_NW = torch.cat([torch.full((1, 16), 1e3, dtype=torch.float64), pairs.image_NW[1:]])
    repeated = fit_cca(
        pairs.image_NW[1:],
        pairs.caption_MV.repeat_interleave(weight_M, dim=0),
        pairs.caption_image_M.repeat_interleave(weight_M) - 1,
    )
    weighted = fit_cca(image_NW, *pairs[1:], weight_M=weight_M.double())
    torch.testing.assert_close(similarities(weighted, pairs), similarities(repeated, pairs))


@pytest.mark.parametrize("fit", [fit_cca, fit_ridge])
def test_the_order_of_images_and_captions_does_not_matter(fit: Any) -> None:
    pairs = planted(15, torch.arange(15) % 3 + 1)
    image_N, caption_M = torch.randperm(15, generator=WEIGHTS), torch.randperm(30, generator=WEIGHTS)
    shuffled = fit(
        pairs.image_NW[image_N], pairs.caption_MV[caption_M], image_N.argsort()[pairs.caption_image_M[caption_M]]
    )
    torch.testing.assert_close(similarities(shuffled, pairs), similarities(fit(*pairs), pairs))


def test_cca_finds_the_captions_of_images_that_it_never_saw() -> None:
    pairs = planted(600, 2, noise=0.3)
    held_out = Planted(pairs.image_NW[500:], pairs.caption_MV[1000:], pairs.caption_image_M[1000:] - 500)
    found = fit_cca(pairs.image_NW[:500], pairs.caption_MV[:1000], pairs.caption_image_M[:1000])

    def rsum(alignment: Alignment) -> float:
        image_ND, text_MD = alignment.image(held_out.image_NW), alignment.text(held_out.caption_MV)
        return recalls(*retrieval_ranks(image_ND, text_MD, held_out.caption_image_M))["rsum"]

    wrong_M = pairs.caption_image_M[:1000][torch.randperm(1000, generator=WEIGHTS)]
    assert rsum(found) > 560
    assert rsum(fit_cca(pairs.image_NW[:500], pairs.caption_MV[:1000], wrong_M)) < 120


@pytest.mark.parametrize("fit", [fit_cca, fit_ridge])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_file_gives_the_same_unit_vectors_again(fit: Any, dtype: torch.dtype, tmp_path: Path) -> None:
    image_NW, caption_MV, caption_image_M = planted(10)
    image_NW, caption_MV = image_NW.to(dtype), caption_MV.to(dtype)
    alignment = fit(image_NW, caption_MV, caption_image_M)
    save_file(alignment.state_dict(), tmp_path / "alignment.safetensors")
    again = Alignment.from_state_dict(load_file(tmp_path / "alignment.safetensors"))
    for before, after in (
        (alignment.image(image_NW), again.image(image_NW)),
        (alignment.text(caption_MV), again.text(caption_MV)),
    ):
        assert torch.equal(before, after)
        assert before.dtype == torch.promote_types(dtype, torch.float32)
        torch.testing.assert_close(before.norm(dim=1), torch.ones(len(before), dtype=before.dtype))


def test_towers_that_say_the_same_of_everything_give_zeros() -> None:
    alignment = fit_cca(torch.ones(4, 3), torch.ones(4, 2), torch.arange(4))
    assert not alignment.image(torch.ones(4, 3)).any()
    assert not alignment.text(torch.ones(4, 2)).any()


@pytest.mark.parametrize("weight", [[1.0, -1.0], [1.0, torch.nan], [0.0, 0.0]])
def test_weights_that_are_none_are_refused(weight: list[float]) -> None:
    with pytest.raises(InputError, match="weights of pairs"):
        fit_cca(torch.eye(2), torch.eye(2), torch.arange(2), weight_M=torch.tensor(weight))


def test_an_image_out_of_fold_is_what_a_fit_without_it_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "RIDGE", 0.7)
    pairs = planted(9, torch.arange(9) % 3)  # three images have no caption
    x_MW, y_MV, *_ = written_out(pairs, torch.ones(len(pairs.caption_MV), dtype=torch.float64))
    found_NV = out_of_fold_images(*pairs, folds=100, seed=1)
    for image in range(9):
        own_M = pairs.caption_image_M.numpy() == image
        x, t = x_MW[~own_M], unit(y_MV[~own_M])
        map_WV = np.linalg.solve(x.T @ x / len(x) + 0.7 * np.eye(16), x.T @ t / len(x))
        if own_M.any():
            assert found_NV[image].numpy() == pytest.approx(unit(x_MW[own_M] @ map_WV)[0], abs=1e-8)
        else:
            assert bool(found_NV[image].isnan().all())


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_keep_a_regression_from_remembering(folds: int) -> None:
    pairs = planted(60, 1, width=80)
    wrong_MV = pairs.caption_MV[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    inside = fit_ridge(pairs.image_NW, wrong_MV, pairs.caption_image_M)
    outside_NV = out_of_fold_images(pairs.image_NW, wrong_MV, pairs.caption_image_M, folds=folds, seed=1)
    assert (inside.image(pairs.image_NW) * inside.text(wrong_MV)).sum(1).mean() > 0.4
    assert (outside_NV * inside.text(wrong_MV)).sum(1).mean() < 0.1


def test_one_image_cannot_be_out_of_fold() -> None:
    assert bool(
        out_of_fold_images(torch.rand(2, 3), torch.rand(2, 3), torch.ones(2).long(), folds=5, seed=1).isnan().all()
    )
