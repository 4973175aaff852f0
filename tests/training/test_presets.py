"""Every method that params.yaml can name trains, and what it makes of a batch reaches the loss."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from pipeline.data.splits.format import read_split
from pipeline.errors import InputError
from pipeline.evidence.lookup import KnownPairs
from pipeline.evidence.table import match_chance
from pipeline.features.shards import all_features
from pipeline.params import Loss, Strategy, Target
from pipeline.training.presets import given
from tests.stages.running import invoke, write_tiny_params
from tests.training.making import frozen_pairs, linear_heads, open_tiny_training, params_with, tiny_training, watched
from tests.training.test_objective import loss_of, objective, pairs, remembered

INFONCE: dict[str, Any] = {"loss__name": "infonce", "sampler__strategy": "all"}
ENCODERS: dict[str, Any] = {
    "evidence__kinds": ["captions", "regression"],
    "evidence__text": "text",
    "evidence__image": "image",
}
GUIDES = ("posterior", "regression")
SIGMOID: dict[str, Any] = {"loss__name": "sigmoid", "sampler__strategy": "all"}
PRESETS: dict[str, dict[str, Any]] = {
    "hcl": INFONCE | {"sampler__strategy": "hcl"},
    "hcl, debiased": INFONCE | {"sampler__strategy": "hcl", "loss__debias": 0.1},
    "hcl, drawn": {"sampler__strategy": "hcl"},
    "hardness": INFONCE | {"sampler__strategy": "hardness"},
    "decl": {"loss__name": "hinge_mean", "sampler__strategy": "decl", "sampler__annealing": 1.0, "sampler__fewest": 2},
    "glofnd": INFONCE | {"sampler__strategy": "glofnd", "sampler__false_share": 0.2},
    "glofnd, begun at the quantile": INFONCE
    | {"sampler__strategy": "glofnd", "sampler__false_share": 0.2, "sampler__threshold": "quantile"},
    "oracle": INFONCE | {"sampler__strategy": "oracle"},
    "gist": INFONCE | {"sampler__strategy": "gist", "evidence__kinds": ["words"]},
    "marginpos": INFONCE | ENCODERS | {"sampler__strategy": "marginpos", "sampler__guide": "regression"},
    "percpos, drawn": ENCODERS | {"sampler__strategy": "percpos", "sampler__guide": "regression"},
    "lg": INFONCE | ENCODERS | {"sampler__strategy": "lg"},
    "lg, drawn": ENCODERS | {"sampler__strategy": "lg"},
    "same image": INFONCE | {"targets__name": "same_image"},
    "same image, sigmoid": SIGMOID | {"targets__name": "same_image"},
    "albef": INFONCE | {"targets__name": "albef", "memory__size": 7},
    "pseudo positive, sigmoid": SIGMOID | {"targets__name": "pseudo_positive", "targets__weight": 0.1},
    "pseudo positive, fne": {"loss__name": "infonce", "targets__name": "pseudo_positive"},
    "xclr": INFONCE | ENCODERS | {"targets__name": "xclr"},
    "xclr, sigmoid, fne": ENCODERS | {"loss__name": "sigmoid", "targets__name": "xclr"},
    "sinkhorn": INFONCE | {"targets__name": "sinkhorn", "memory__size": 0, "targets__temperature": 1.0},
    "cusa": INFONCE | ENCODERS | {"targets__name": "cusa", "targets__temperature": 1.0},
    "sigmoid, fixed bias": SIGMOID | {"loss__bias": -3.0},
    "hinge": {"loss__name": "hinge", "sampler__strategy": "hardness"},
    "rince": INFONCE | {"loss__name": "rince", "loss__temperature": 0.5},
    "rcl": INFONCE | {"loss__name": "rcl"},
    "rcl, lg": ENCODERS | {"loss__name": "rcl", "sampler__strategy": "lg", "loss__penalty": "log"},
}
"""Changes of params.yaml, by what they are; test_rehearsal takes them too."""
WITH_MEMORY = [(preset, 7) for preset in PRESETS] + [
    (name, 0) for name, part in PRESETS.items() if "memory__size" not in part
]


def test_every_name_is_tried() -> None:
    for key, names in (("sampler__strategy", Strategy), ("targets__name", Target), ("loss__name", Loss)):
        tried = {part[key] for part in PRESETS.values() if key in part} | {"own", "triplet"}
        classic = {"fne", "hardest", "semi_hard", "random"}  # which test_combinations tries
        assert {*get_args(names)} - classic <= tried


@pytest.mark.parametrize(("preset", "memory"), WITH_MEMORY)
def test_losses_are_finite_and_both_sides_learn(preset: str, memory: int, tmp_path: Path) -> None:
    common = {"memory__size": memory, "train__epochs": 2, "train__batch_size": 6, "train__warmup": "infonce"}
    params = params_with(**(common | PRESETS[preset]))
    model = linear_heads()
    training = tiny_training(tmp_path, params, model, frozen_pairs(tmp_path / "inputs"))
    start = copy.deepcopy(model.state_dict())
    assert all(abs(row["train/loss"]) < torch.inf for row in training.run().history)
    changed = {name.split("_")[0] for name, value in model.state_dict().items() if not torch.equal(start[name], value)}
    learned = {"logit"} if params.loss.name == "sigmoid" and params.loss.bias == "learned" else set()
    assert changed == {"image", "text"} | learned
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_an_image_s_other_captions_are_pulled_and_pushed_in_the_denominator() -> None:
    """Two pairs of one image in the batch, and a caption of it in the memory."""
    batch, momentum, memory = pairs([1, 1, 2], 0, gradient=True), pairs([1, 1, 2], 1), remembered([1, 9], size=4)
    loss_b, _ = loss_of(objective(memory, loss="infonce", strategy="all", targets="same_image"), batch, momentum)
    candidate_CD = torch.cat([momentum.text, memory.text[:2]])
    logits_C = candidate_CD @ batch.image[0] / 0.05
    other_way = torch.cat([momentum.image, memory.image[:2]]) @ batch.text[0] / 0.05
    slow = sum(logits.logsumexp(0) - logits[[0, 1, 3]].mean() for logits in (logits_C, other_way)) / 2
    torch.testing.assert_close(loss_b[0], slow)


def test_decl_divides_by_all_that_it_takes() -> None:
    """At the first step it takes all: the mean hinge over the other three pairs, also those that keep the margin."""
    batch = pairs([1, 2, 3, 4], 0)
    loss_b, _ = loss_of(objective(loss="hinge_mean", strategy="decl", known_positives="identity"), batch)
    similarity_bb = batch.image @ batch.text.T
    slow = torch.zeros(4)
    for way_bb in (similarity_bb, similarity_bb.T):
        hinge_bb = (0.2 + way_bb - way_bb.diagonal()[:, None]).relu().fill_diagonal_(0)
        assert (hinge_bb == 0).sum() > 4
        slow += hinge_bb.sum(dim=1) / 3
    torch.testing.assert_close(loss_b, slow)


@pytest.mark.parametrize("name", ["infonce", "sigmoid"])
def test_a_target_of_the_own_pair_alone_is_no_target(name: str) -> None:
    batch = pairs([1, 2, 3], 0)
    plain, same = (
        loss_of(objective(loss=name, strategy="all", targets=target), batch)[0] for target in ("own", "same_image")
    )
    torch.testing.assert_close(same, plain)


def test_what_a_method_leaves_out_is_logged() -> None:
    truth_NM = torch.zeros(4, 200, dtype=torch.bool)
    truth_NM[[1, 2, 3, 1], [100, 101, 102, 101]] = True  # the second caption matches the first image too
    made = objective(strategy="oracle", loss="infonce", truth_NM=truth_NM)
    _, logged = loss_of(made, pairs([1, 2, 3], 0))
    assert logged["sampler/cut_down_share"].item() == pytest.approx(1 / 6)
    assert logged["sampler/false_negative_share"].item() == 0


def test_a_training_reads_what_stage_evidence_wrote(heads_clone: Path, tmp_path: Path) -> None:
    encoded = {"model__train": "heads", "evidence__kinds": ["captions", "regression"], "train__warmup_epochs": 0}
    write_tiny_params(heads_clone, **encoded)
    assert invoke("evidence").exit_code == 0
    soft = INFONCE | {"sampler__drop": None}
    asked = [{"sampler__strategy": name, "sampler__guide": guide} for name in ("gist", "percpos") for guide in GUIDES]
    asked += [{"sampler__strategy": "lg"}, soft | {"targets__name": "xclr"}, soft | {"targets__name": "cusa"}]
    asked.append(soft | {"targets__name": "cusa", "sampler__strategy": "gist", "sampler__guide": "posterior"})
    opened = [open_tiny_training(heads_clone, tmp_path, **encoded, **changes) for changes in asked]
    compared = opened[-1].objective.known
    assert isinstance(compared, KnownPairs) and compared.picture_NW is not None
    assert torch.equal(compared.picture_NW, all_features(heads_clone / "evidence/train", "pictures")), "not regressed"
    shared = {**encoded, "evidence__kinds": ["similarity"]}
    write_tiny_params(heads_clone, **shared)
    assert invoke("evidence").exit_code == 0
    opened.append(open_tiny_training(heads_clone, tmp_path, **shared, **soft, targets__name="cusa"))
    for training in opened:
        training.run()
        assert training.at.step > 0
    split = read_split(heads_clone / "data/split/train.json")
    by_posterior, by_regression = (training.objective.known for training in opened[:2])
    assert isinstance(by_posterior, KnownPairs) and isinstance(by_regression, KnownPairs)
    write_tiny_params(heads_clone, **encoded)
    assert invoke("evidence").exit_code == 0
    chance = match_chance(heads_clone / "evidence", heads_clone / "data/split", "train")
    assert chance is not None and by_posterior.own_M is not None and by_regression.vectors is not None
    expected_M = chance(torch.tensor(split.caption_image), torch.arange(len(split.captions)))
    torch.testing.assert_close(by_posterior.own_M.double(), expected_M)
    assert by_regression.vectors.caption_MV.shape[0] == len(split.captions)


def test_without_evidence_a_guide_says_what_to_change(heads_clone: Path, tmp_path: Path) -> None:
    """One caption an image: no kind that the data has."""
    record = heads_clone / "evidence/evidence.json"
    content = json.loads(record.read_text())
    del content["posterior"]
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match="this data has no evidence of"):
        open_tiny_training(heads_clone, tmp_path, model__train="heads", sampler__strategy="gist")


def test_thresholds_begin_at_the_quantile_for_an_epoch_and_then_learn(tmp_path: Path) -> None:
    settings = INFONCE | {"sampler__strategy": "glofnd", "sampler__false_share": 0.2, "memory__size": 0}
    settings |= {"train__epochs": 3, "train__batch_size": 6, "sampler__threshold": "quantile"}
    training = tiny_training(tmp_path, params_with(**settings), linear_heads(), frozen_pairs(tmp_path / "inputs"))
    captions, begun = given(training.thresholds)[1], list[bool]()
    watched(training, lambda: begun.append(bool(captions.square_N.any())))
    training.run()
    assert begun == [False, False, False, False, True, True]  # the first epoch warms up
    assert bool((captions.value_N < 1).all())
