"""`test` are the weights of the best validation, `last` those of the last epoch, each with its own statistics."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import torch
from safetensors.torch import load_file

from pipeline.data.splits.truth_file import read_truths
from pipeline.evaluation.judgment import Encoded, judge
from pipeline.evidence.table import match_chance
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.models.build import load_trained
from pipeline.params import flat, load_params
from pipeline.paths import EMBEDDINGS, EVALUATION, EVIDENCE, FEATURES, HISTORY, LAST, RUN, SPLIT, TRAINED
from pipeline.report.recall_table import read_metrics
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.retrieval.recall import recalls
from pipeline.training.record import read_run
from tests.stages.running import run, work_in, write_tiny_params


def encoded(folder: Path, split: str) -> Encoded:
    inputs = open_inputs(load_params().model, FEATURES, SPLIT, split)
    return Encoded(*encode_split(load_trained(folder, inputs.feature_widths), inputs, 7), inputs.caption_image)


def test_best_and_last_weights_are_kept_and_evaluated_each_with_its_own_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work_in(tmp_path, monkeypatch)
    vague = {"data__scenes__detail": 0.0, "data__scenes__test": 12}  # so that captions are true of other pictures too
    write_tiny_params(tmp_path, **vague, model__train="heads", train__epochs=8, train__batch_size=30, train__lr=0.06)
    run("download", "split", "base", "features", "evidence", "bank", "train")
    kept = read_run(RUN)
    rows = pandas.read_csv(HISTORY).dropna(subset="val/rsum").set_index("step")
    assert kept.best.step == int(rows["val/rsum"].argmax() + 1) * 2 < kept.last.step == 16, "two steps an epoch"
    for folder, moment in ((TRAINED, kept.best), (LAST, kept.last)):
        row = rows.loc[moment.step]
        val = encoded(folder, "val")
        found = recalls(*retrieval_ranks(val.image_ND, val.text_MD, val.caption_image_M))
        assert found["rsum"] == pytest.approx(row["val/rsum"])
        assert moment.epoch == row["epoch"]
        assert moment.statistics.positive.mean == pytest.approx(row["similarity/positive_mean"])

    # populations by which similar candidates match and, for the last weights, by which they do not
    content = json.loads(RUN.read_text())
    content["sampler"]["prior"] = 2.0
    populations = [{"mean": mean, "variance": 0.2, "count": 9.0} for mean in (0.5, 0.0)]
    for kind, (positive, negative) in (("best", populations), ("last", populations[::-1])):
        content[kind]["statistics"] = {"positive": positive, "negative": negative}
    RUN.write_text(json.dumps(content))
    run("evaluate")
    kept, metrics = read_run(RUN), read_metrics()
    for name, folder, moment in (("test", TRAINED, kept.best), ("last", LAST, kept.last)):
        chance = match_chance(EVIDENCE, SPLIT, "test") if name == "test" else None
        expected = judge(encoded(folder, "test"), 1, read_truths(SPLIT, "test"), moment, kept.sampler, chance).report
        assert flat(metrics[name]) == pytest.approx(flat(expected), rel=1e-4)
    assert metrics["test"]["rsum"] != metrics["last"]["rsum"]
    assert metrics["test"]["posterior"]["auc"] == pytest.approx(metrics["test"]["similarity"]["auc"])
    assert metrics["last"]["posterior"]["auc"] == pytest.approx(1 - metrics["last"]["similarity"]["auc"])
    best = encoded(TRAINED, "test")
    vectors = load_file(EVALUATION / EMBEDDINGS.name)
    torch.testing.assert_close(vectors, {"image_ND": best.image_ND, "text_MD": best.text_MD})


def test_where_validation_keeps_weights_of_the_warm_up_train_says_that_no_method_made_them(heads_clone: Path) -> None:
    write_tiny_params(heads_clone, model__train="heads", train__epochs=2, train__lr=1e-12)  # no later one is better
    said = run("train")
    assert "in epoch 1 of 2\nwarning: that is an epoch of the warm-up" in said
    for same in ({"train__warmup_epochs": 0}, {"sampler__strategy": "all", "memory__size": 0}):
        write_tiny_params(heads_clone, model__train="heads", train__epochs=2, train__lr=1e-12, **same)
        assert "warning" not in run("train")
