"""Stage `evaluate` with recalls against hubs: what it writes, and from which queries."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from pipeline.data.splits.format import read_split
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.files import read_tensors
from pipeline.models.build import load_trained
from pipeline.params import load_params
from pipeline.paths import EMBEDDINGS, FEATURES, LAST_METRICS, SPLIT, TRAINED
from pipeline.retrieval.hubness import hubness_report
from tests.stages.running import run, write_tiny_params


def test_the_bank_is_the_training_split_by_the_trained_model(heads_clone: Path) -> None:
    write_tiny_params(heads_clone, model__train="heads", evaluate__hubness=True, train__epochs=2)
    said = run("train", "evaluate")
    found = json.loads(Path("metrics.json").read_text())["test"]["hubness"]
    assert "hubness" not in json.loads(LAST_METRICS.read_text())
    assert f"dual softmax {found['dual_softmax']['rsum']:.1f}" in said
    inputs = open_inputs(load_params().model, FEATURES, SPLIT, "train")
    bank = encode_split(load_trained(TRAINED, inputs.feature_widths), inputs, 7, "train")
    test = read_tensors(EMBEDDINGS, "evaluate")
    owner_M = torch.tensor(read_split(SPLIT / "test.json").caption_image)
    assert found == hubness_report(test["image_ND"], test["text_MD"], owner_M, *bank)
