"""`test` are the weights of the best validation, `last` those of the last epoch, each with its own statistics."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.splits.truth_file import read_truths
from pipeline.evaluation.judgment import Encoded, judge
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.models.build import load_trained
from pipeline.params import flat, load_params
from pipeline.paths import EMBEDDINGS, EVALUATION, FEATURES, HISTORY, LAST, METRICS, RUN, SPLIT, TRAINED
from pipeline.training.record import read_run
from tests.stages.running import run, work_in, write_tiny_params


def encoded(folder: Path, split: str) -> Encoded:
    inputs = open_inputs(load_params().model, FEATURES, SPLIT, split, pad=0)
    return Encoded(*encode_split(load_trained(folder, inputs.feature_widths), inputs, 7), inputs.caption_image)


def rsum(split: Encoded) -> float:
    """Written out: how often an own caption, and the own image, is among the best K."""
    similarity_NM = split.image_ND @ split.text_MD.T
    own_NM = torch.arange(len(split.image_ND))[:, None] == split.caption_image_M

    def recall(similarity_QI: Tensor, own_QI: Tensor, depth: int) -> float:
        best_QK = similarity_QI.topk(min(depth, similarity_QI.shape[1])).indices
        return 100 * own_QI.gather(1, best_QK).any(dim=1).float().mean().item()

    ways = ((similarity_NM, own_NM), (similarity_NM.T, own_NM.T))
    return sum(recall(*way, depth) for way in ways for depth in (1, 5, 10))


def test_best_and_last_weights_are_kept_and_evaluated_each_with_its_own_statistics(
    heads_ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(heads_ready, tmp_path / "clone")
    work_in(tmp_path / "clone", monkeypatch)
    write_tiny_params(Path(), model__train="heads", train__epochs=8, train__batch_size=30, train__lr=0.05)
    run("train")
    kept = read_run(RUN)
    rows = pandas.read_csv(HISTORY).dropna(subset="val/rsum").set_index("step")
    assert kept.best.step == rows["val/rsum"].idxmax() < kept.last.step == rows.index[-1]
    for folder, moment in ((TRAINED, kept.best), (LAST, kept.last)):
        row = rows.loc[moment.step]
        assert rsum(encoded(folder, "val")) == pytest.approx(row["val/rsum"])
        assert moment.epoch == row["epoch"]
        assert moment.statistics.positive.mean == pytest.approx(row["similarity/positive_mean"])

    # statistics by which a similar candidate is no match: an evaluation that takes the wrong ones shows
    content = json.loads(RUN.read_text())
    last = content["last"]["statistics"]
    last["positive"], last["negative"] = last["negative"], last["positive"]
    RUN.write_text(json.dumps(content))
    kept = read_run(RUN)
    run("evaluate")
    metrics = json.loads(METRICS.read_text())
    for name, folder, moment in (("test", TRAINED, kept.best), ("last", LAST, kept.last)):
        split = encoded(folder, "test")
        expected = judge(split, 1, read_truths(SPLIT, "test"), moment, kept.sampler).report
        assert flat(metrics[name]) == pytest.approx(flat(expected), rel=1e-4)
        assert metrics[name]["rsum"] == pytest.approx(rsum(split))
    assert metrics["test"]["rsum"] != metrics["last"]["rsum"]
    assert metrics["last"]["posterior"] != pytest.approx(metrics["last"]["similarity"])
    best = encoded(TRAINED, "test")
    vectors = load_file(EVALUATION / EMBEDDINGS.name)
    torch.testing.assert_close(vectors, {"image_ND": best.image_ND, "text_MD": best.text_MD})
