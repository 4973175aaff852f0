"""On a GPU, training, encoding and ranking give what they give on the CPU, and no step makes the host wait."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor

from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.features import make
from pipeline.features.encoding import encode_split
from pipeline.models.pretrained import Pretrained
from pipeline.models.trainable import add_lora
from pipeline.params import LoraParams
from pipeline.retrieval.ranks import retrieval_ranks
from pipeline.training.loop import Training
from tests.features import test_make
from tests.training import test_precision, test_resume
from tests.training.making import (
    LOSSES,
    STRATEGIES,
    frozen_pairs,
    linear_heads,
    params_with,
    small_inputs,
    small_towers,
    tiny_training,
)
from tests.training.test_presets import PRESETS

pytestmark = pytest.mark.gpu
archive, base, split, fresh_state = test_make.archive, test_make.base, test_make.split, test_precision.fresh_state
EVIDENCE = {"sampler__posterior": "evidence", "sampler__drop": 0.5}
SETTINGS: dict[str, Any] = {"sampler__min_matches": 0, "train__epochs": 2, "train__batch_size": 6, "memory__size": 7}
NPC: dict[str, Any] = {
    "pairs__weighting": "npc",
    "pairs__bank_epochs": 1,
    "memory__size": 0,
    "sampler__strategy": "all",
    "loss__name": "infonce",
}


def opened(folder: Path, *, cpu: bool = False, family: str = "vit_bert", **changes: Any) -> Training:
    """A training of small towers."""
    AcceleratorState._reset_state(reset_partial_state=True)
    inputs = small_inputs(folder / "inputs")
    training = tiny_training(folder, params_with(**(SETTINGS | changes)), small_towers(family), inputs, cpu=cpu)
    assert training.device.type == ("cpu" if cpu else "cuda")
    return training


def trained(folder: Path, **changes: Any) -> Training:
    training = opened(folder, **changes)
    training.run()
    return training


@pytest.mark.parametrize(("strategy", "loss"), [*itertools.product(STRATEGIES, LOSSES)])
def test_each_strategy_and_loss_learns_what_it_learns_on_the_cpu(strategy: str, loss: str, tmp_path: Path) -> None:
    chosen = {"sampler__strategy": strategy, "loss__name": loss}
    ours, theirs = (trained(tmp_path / str(cpu), cpu=cpu, **chosen) for cpu in (False, True))
    assert_alike(ours, theirs)


@pytest.mark.parametrize("reweigh", ["sample", "batch"])
def test_npc_weighs_each_pair_as_on_the_cpu(reweigh: str, tmp_path: Path) -> None:
    chosen = NPC | {"pairs__reweigh": reweigh, "loss__temperature": "learned"}
    ours, theirs = (trained(tmp_path / str(cpu), cpu=cpu, **chosen) for cpu in (False, True))
    assert_alike(ours, theirs)
    assert ours.impact is not None and theirs.impact is not None
    torch.testing.assert_close(ours.impact.ratio_M.cpu(), theirs.impact.ratio_M, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_evidence_is_looked_up_as_on_the_cpu(strategy: str, tmp_path: Path) -> None:
    chosen = EVIDENCE | {"sampler__strategy": strategy}
    ours, theirs = (trained(tmp_path / str(cpu), cpu=cpu, **chosen) for cpu in (False, True))
    assert_alike(ours, theirs)
    dropped = [[row["sampler/dropped_share"] for row in one.at.history] for one in (ours, theirs)]
    assert dropped[0] == pytest.approx(dropped[1]) and sum(dropped[0]) > 0


# a rounding of 1e-7 moves a candidate over its threshold, and the loss by 1 %: on the CPU too
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "pseudo positive, sigmoid"])
def test_each_method_learns_what_it_learns_on_the_cpu(preset: str, tmp_path: Path) -> None:
    ours, theirs = (heads(tmp_path / str(cpu), PRESETS[preset], cpu=cpu) for cpu in (False, True))
    for training in (ours, theirs):
        training.run()
    assert_alike(ours, theirs)


@pytest.mark.parametrize("weighting", ["ncr", "crcl"])
def test_trust_is_learned_as_on_the_cpu(weighting: str, tmp_path: Path) -> None:
    of_trust = {"pairs__weighting": weighting, "loss__name": "infonce", "sampler__strategy": "all"}
    ours, theirs = (heads(tmp_path / str(cpu), of_trust | {"train__epochs": 3}, cpu=cpu) for cpu in (False, True))
    for training in (ours, theirs):
        training.run()
    assert_alike(ours, theirs)
    assert ours.learned is not None and theirs.learned is not None
    torch.testing.assert_close(ours.learned.trust_M.cpu(), theirs.learned.trust_M, rtol=1e-3, atol=1e-3)


def heads(folder: Path, changes: dict[str, Any], *, cpu: bool = False) -> Training:
    """A training of linear heads over frozen features."""
    AcceleratorState._reset_state(reset_partial_state=True)
    params = params_with(**(SETTINGS | {"train__warmup": "infonce"} | changes))
    torch.manual_seed(3)
    return tiny_training(folder, params, linear_heads(), frozen_pairs(folder / "inputs"), cpu=cpu)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_batch_in_parts_learns_what_the_whole_batch_learns(precision: str, tmp_path: Path) -> None:
    chosen = {"family": "clip", "loss__name": "infonce", "sampler__strategy": "all", "train__precision": precision}
    ours, theirs = (trained(tmp_path / str(part), train__part=part, **chosen) for part in (2, None))
    for found, expected in zip(ours.at.history, theirs.at.history, strict=True):
        assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=1e-3 if precision == "no" else 0.05)


def test_low_rank_updates_learn_what_they_learn_on_the_cpu(tmp_path: Path) -> None:
    ends = []
    for cpu in (False, True):
        AcceleratorState._reset_state(reset_partial_state=True)
        model, folder = small_towers("vit_bert"), tmp_path / str(cpu)
        for side, tower in (("image", model.image_tower), ("text", model.text_tower)):
            add_lora(tower, LoraParams(rank=2, alpha=4, dropout=0.0, targets=[]), f"model.{side}")
        training = tiny_training(folder, params_with(**SETTINGS), model, small_inputs(folder / "in"), cpu=cpu)
        training.run()
        ends.append(training)
    assert_alike(*ends)


def test_compiled_towers_learn_what_they_learn_uncompiled(tmp_path: Path) -> None:
    ours, theirs = (opened(tmp_path / str(compiled)) for compiled in (True, False))
    for tower in (ours.model.image_tower, ours.model.text_tower):
        tower.compile()
    for training in (theirs, ours):
        training.run()
    assert_alike(ours, theirs)


def test_accumulated_and_recomputed_gradients_are_those_of_the_cpu(tmp_path: Path) -> None:
    chosen = {"family": "clip", "train__accumulate": 2, "train__optimiser": "adamw", "train__weight_decay": 0.1}
    ours, theirs = (trained(tmp_path / str(cpu), cpu=cpu, **chosen) for cpu in (False, True))
    assert_alike(ours, theirs)


def assert_alike(ours: Training, theirs: Training) -> None:
    """The same history and weights, except for rounding."""
    for found, expected in zip(ours.at.history, theirs.at.history, strict=True):
        assert found.keys() == expected.keys()
        # a similarity near a threshold may count on one device and not on the other: recalls and shares are left out
        for name in {"train/loss", "pairs/weight_mean", "pairs/bank_loss", "similarity/collapse"} & found.keys():
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-4), name
    weights = [{name: value.cpu() for name, value in one.model.state_dict().items()} for one in (ours, theirs)]
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(("strategy", "loss"), [*itertools.product(STRATEGIES, LOSSES)])
def test_lower_precision_stays_near(strategy: str, loss: str, precision: str, tmp_path: Path) -> None:
    chosen = {"sampler__strategy": strategy, "loss__name": loss, "train__epochs": 1}
    ours = trained(tmp_path / "lower", train__precision=precision, **chosen)
    theirs = trained(tmp_path / "float32", **chosen)
    for found, expected in zip(ours.at.history, theirs.at.history, strict=True):
        assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=0.1, abs=0.02)
    assert ours.memory is not None and bool(ours.memory.filled.all())


@pytest.mark.parametrize("case", ["towers", "dropout", "workers", "pair weights, cosine"])
def test_killed_on_a_gpu_it_ends_with_the_same_bits(case: str, tmp_path: Path) -> None:
    clock = test_resume.Clock()
    whole = test_resume.open_run(case, tmp_path / "whole", clock, cpu=False)
    assert whole.device.type == "cuda"
    test_resume.run_until(whole, clock, None, 0.0)
    for last_step in (2, 7, None):
        torch.manual_seed(0)
        training = test_resume.open_run(case, tmp_path / "killed", clock, cpu=False)
        assert training.resume() == (last_step != 2)
        test_resume.run_until(training, clock, last_step, 1.0)
    test_resume.assert_same(test_resume.everything(training), test_resume.everything(whole))


@pytest.mark.parametrize("family", ["vit_bert", "clip"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(
    "chosen", [{}, {"loss__name": "infonce", "sampler__strategy": "all", "memory__size": 0}, NPC, EVIDENCE]
)
def test_no_step_makes_the_host_wait(chosen: dict[str, Any], precision: str, family: str, tmp_path: Path) -> None:
    assert_no_step_waits(opened(tmp_path, family=family, train__precision=precision, **chosen))


@pytest.mark.parametrize("preset", PRESETS)
def test_no_step_of_a_method_makes_the_host_wait(preset: str, tmp_path: Path) -> None:
    assert_no_step_waits(heads(tmp_path, PRESETS[preset]))


def assert_no_step_waits(training: Training) -> None:
    """Run it, and look at every step."""
    from benchmarks.measuring import host_waits

    waits: list[list[str]] = []
    step = training.step

    def watched(*arguments: Any, **named: Any) -> Any:
        logged: list[Any] = []
        waits.append(host_waits(lambda: logged.append(step(*arguments, **named))))
        return logged[0]

    training.step = watched  # type: ignore[method-assign]
    training.run()
    assert len(waits) == 4
    assert waits[1:] == [[]] * 3, "the first step also loads kernels"


def test_a_split_is_encoded_as_on_the_cpu(tmp_path: Path) -> None:
    found, expected = (
        encode_split(training.model, training.val_inputs, 5)
        for training in (opened(tmp_path / "gpu"), opened(tmp_path / "cpu", cpu=True))
    )
    assert found[0].is_cuda and found[1].is_cuda
    torch.testing.assert_close([part.cpu() for part in found], list(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "captions", "chunk"), [(5, 12, 2), (300, 1500, 64), (6000, 30000, None)])
def test_ranks_are_those_of_the_cpu_ties_included(images: int, captions: int, chunk: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    # small integers: every product is exact on every device, and many are equal
    image_ND, text_MD = (torch.randint(-1, 2, (count, 16), generator=generator).float() for count in (images, captions))
    of_M = torch.randperm(captions, generator=generator) % images
    found = retrieval_ranks(image_ND.cuda(), text_MD.cuda(), of_M, chunk)
    expected = retrieval_ranks(image_ND, text_MD, of_M)
    assert all(part.is_cuda for part in found)
    assert all(torch.equal(part.cpu(), other) for part, other in zip(found, expected, strict=True))


def test_frozen_features_are_those_of_the_cpu(
    base: Pretrained, archive: ImageArchive, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    made: list[dict[str, Tensor]] = []
    for device in ("cuda", "cpu"):
        monkeypatch.setattr(make, "own_device", lambda device=device: torch.device(device))
        make.make_features(tmp_path / device, {"train": split}, archive, base, test_make.model_params("heads"))
        shards = sorted((tmp_path / device).rglob("*.safetensors"))
        made.append({str(shard.relative_to(tmp_path / device)): load_file(shard)["feature"] for shard in shards})
    torch.testing.assert_close(*made, rtol=1e-4, atol=1e-5)
