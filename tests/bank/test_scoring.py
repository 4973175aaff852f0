"""The bank: every pair scored once in batches of like size, noisy pairs found, entries clean and of another image."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from torch.nn.functional import normalize

from pipeline.bank import scoring as made_here
from pipeline.bank.scoring import score_pairs
from pipeline.bank.table import COLUMNS, read_bank
from pipeline.data.splits.truth_file import read_noise
from pipeline.errors import InputError
from pipeline.models.towers import MatchingModel
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import load_params
from tests.features.making import frozen_inputs
from tests.stages.running import ROOT, invoke, run, run_in, write_tiny_params

pytestmark = pytest.mark.whole
NOISY = {
    "data__scenes__train": 60,
    "data__noise__ratio": 0.4,
    "pairs__weighting": "npc",
    "pairs__bank_epochs": 6,
    "pairs__batch_size": 50,
    "train__warmup_epochs": 0,
    "base__width": 32,
    "base__layers": 1,
}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(
        tmp_path_factory.mktemp("noisy"), "download", "split", "base", "features", "evidence", "bank", **NOISY
    )


@pytest.fixture
def here(noisy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in it; its parameters are the same again afterwards."""
    monkeypatch.chdir(noisy)
    yield noisy
    write_tiny_params(noisy, **NOISY)


def test_every_pair_is_scored_once_in_batches_that_differ_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def watched(image: torch.Tensor, text: torch.Tensor, image_id: torch.Tensor, temperature: float) -> torch.Tensor:
        seen.append(image_id.tolist())
        return pair_losses(image, text, image_id, temperature)

    monkeypatch.setattr(made_here, "pair_losses", watched)
    image_ND, text_MD = (normalize(torch.randn(rows, 4), dim=1) for rows in (23, 23))
    loss_M = score_pairs(image_ND, text_MD, torch.arange(23), 0.1, batch_size=8, seed=3)
    assert sorted(row for batch in seen for row in batch) == list(range(23))
    assert sorted(map(len, seen)) == [7, 8, 8]
    for batch in seen:
        rows = torch.tensor(batch)
        torch.testing.assert_close(loss_M[rows], pair_losses(image_ND[rows], text_MD[rows], rows, 0.1))


def test_the_bank_finds_noisy_pairs_and_names_clean_ones_of_other_images(noisy: Path) -> None:
    table = pandas.read_parquet(noisy / "bank/pairs.parquet")
    assert list(table.columns) == list(COLUMNS)
    assert table["caption"].tolist() == list(range(300))
    record = json.loads((noisy / "bank/bank.json").read_text())
    noise = read_noise(noisy / "data/split")
    assert noise is not None
    assert record["clean_auc"] > 0.6  # 0.5 is chance; these towers saw six epochs of sixty pictures
    assert record["clean"] == int(table["clean"].sum()) == int((table["clean_probability"] > 0.9).sum())
    assert record["mean"][0] < record["mean"][1]
    for name in ("image_entry", "text_entry"):
        entries = table.iloc[table[name]]
        assert bool(entries["clean"].all())
        assert bool((entries["image"].to_numpy() != table["image"].to_numpy()).all())
    assert (table.groupby("image")["image_entry"].nunique() == 1).all()


def test_entries_are_the_nearest_clean_pairs_of_other_images_and_the_surest_of_an_image_stands_for_it(
    tmp_path: Path,
) -> None:
    torch.manual_seed(3)
    owner = torch.arange(8).repeat_interleave(3)
    image_NW = torch.randn(8, 6)
    text_MW = image_NW[owner] + 0.3 * torch.randn(24, 6)
    text_MW[::4] = torch.randn(6, 6)  # every fourth caption is wrong
    inputs = frozen_inputs(tmp_path, image_NW, text_MW, owner.tolist())
    heads = (torch.nn.Linear(6, 6, bias=False) for _ in range(2))
    model = MatchingModel(torch.nn.Identity(), torch.nn.Identity(), *heads, width=6, temperature=0.2)
    for parameter in model.parameters():
        parameter.data.copy_(torch.eye(6))
    pairs = load_params(ROOT / "params.yaml").pairs.model_copy(update={"batch_size": 24, "clean_threshold": 0.5})
    table, _ = made_here.make_bank(model, inputs, pairs)
    image_ND, text_MD = normalize(image_NW, dim=1), normalize(text_MW, dim=1)
    expected_M = pair_losses(image_ND[owner], text_MD, owner, 0.2)
    assert table["loss"].tolist() == pytest.approx(expected_M.tolist(), rel=1e-5)
    clean = [row for row in range(24) if table["clean"][row]]
    assert clean and len({int(owner[row]) for row in clean}) > 4
    stood_for = 0
    for row in range(24):
        others = [other for other in clean if owner[other] != owner[row]]
        nearest = max(others, key=lambda other: float(image_ND[owner[row]] @ image_ND[owner[other]]))
        same = [other for other in others if owner[other] == owner[nearest]]
        assert table["image_entry"][row] == min(same, key=lambda other: float(expected_M[other]))
        assert table["text_entry"][row] == max(others, key=lambda other: float(text_MD[row] @ text_MD[other]))
        stood_for += table["image_entry"][row] != same[0]
    assert stood_for > 0, "otherwise the first would do as well as the one of the lowest loss"


def test_the_bank_is_the_same_again(here: Path) -> None:
    before = (here / "bank/pairs.parquet").read_bytes()
    run("bank")
    assert (here / "bank/pairs.parquet").read_bytes() == before


def test_where_no_pair_is_clean_the_error_says_what_to_change(here: Path) -> None:
    before = (here / "bank/pairs.parquet").read_bytes()
    write_tiny_params(here, **(NOISY | {"pairs__clean_threshold": math.nextafter(1.0, 0.0)}))
    result = invoke("bank")
    assert result.exit_code == 1
    assert "pairs.clean_threshold" in result.stderr and "no pair is clean" in result.stderr
    assert (here / "bank/pairs.parquet").read_bytes() == before


def test_without_weighting_the_bank_is_an_empty_table(towers_ready: Path) -> None:
    assert len(pandas.read_parquet(towers_ready / "bank/pairs.parquet")) == 0
    with pytest.raises(InputError, match=r"0 pairs, expected one for each of the 60 training captions"):
        read_bank(towers_ready / "bank", 60)


def test_a_published_bank_is_taken_over_and_trained_with(here: Path) -> None:
    images = {str(image): 5 * ((image + 1) % 60) for image in range(60)}
    texts = {str(row): (row + 50) % 300 for row in range(300)}
    for side, entries in (("img", images), ("txt", texts)):
        np.save(here / f"0.4_mbank_{side}_idx.npy", np.array(entries, dtype=object), allow_pickle=True)
    write_tiny_params(here, **(NOISY | {"pairs__file": "0.4_mbank_img_idx.npy"}))
    run("bank", "train")
    bank = read_bank(here / "bank", 300)
    assert bank.text_entry_M.tolist() == list(texts.values())
    assert bank.image_entry_M.tolist() == [images[str(row // 5)] for row in range(300)]
    weights = pandas.read_parquet(here / "train/pairs.parquet")
    assert bool(((weights["weight"] > 0) & (weights["weight"] <= 1)).all())


def test_a_published_bank_whose_twin_is_missing_is_refused(here: Path) -> None:
    np.save(here / "1_mbank_img_idx.npy", np.array({"0": 1}, dtype=object), allow_pickle=True)
    write_tiny_params(here, **(NOISY | {"pairs__file": "1_mbank_img_idx.npy"}))
    result = invoke("bank")
    assert result.exit_code == 1
    assert "1_mbank_txt_idx.npy" in result.stderr and "no such file" in result.stderr
