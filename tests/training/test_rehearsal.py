"""A GPU that is not there: fake tensors on `cuda` go through all that runs per step or per batch.

Operands on different devices raise, and so does reading a value, for which the host would wait for the GPU; a copy
that makes it wait is noted. Fake tensors have no backward pass on `cuda`, and transformers takes them for tracing: a
real step on the CPU, where reads are noted, covers both.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_map_only

from pipeline.bank.table import Bank
from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.features import make, shards
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import Inputs
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import MatchingModel
from pipeline.params import Params
from pipeline.runtime import processes
from pipeline.training import loop
from pipeline.training.health import means_of
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training
from pipeline.training.setup import learn_bias
from tests.features import test_make
from tests.training.making import (
    ENTRIES,
    LISTED,
    LOSSES,
    STRATEGIES,
    known_pairs,
    linear_towers,
    params_with,
    small_inputs,
    small_towers,
    tiny_training,
)
from tests.training.test_presets import PRESETS

pytestmark = pytest.mark.whole
archive, base, split = test_make.archive, test_make.base, test_make.split  # fixtures
GPU, ATEN = torch.device("cuda:0"), torch.ops.aten
NPC = {"pairs__weighting": "npc", "pairs__bank_epochs": 1}
CASES: list[dict[str, Any]] = [
    {},
    NPC | {"memory__size": 0, "sampler__strategy": "all", "loss__name": "infonce", "loss__temperature": "learned"},
    NPC | {"pairs__reweigh": "batch", "train__optimiser": "adamw", "train__weight_decay": 0.1},
    {"sampler__statistics": "running", "sampler__known_positives": "diagonal", "memory__prefill": "random"},
    {"train__warmup": "infonce", "train__accumulate": 2},
    {"evidence__kinds": ["words"], "sampler__posterior": "evidence", "sampler__drop": 0.8},
]
BOTH_FAMILIES = [("clip", CASES[0]), *(("vit_bert", case) for case in CASES)]
EVERY_STRATEGY = [
    ("linear", {"sampler__strategy": strategy, "loss__name": loss, "memory__size": memory})
    for strategy, loss, memory in itertools.product(STRATEGIES, LOSSES, (0, 7))
] + [("linear", changes) for changes in PRESETS.values()]


class FakeAccelerator:
    """accelerate's part in a step; the backward pass gives zeros."""

    device, autocast, unwrap_model, scaler = GPU, nullcontext, Mock(), None
    clip_grad_norm_ = staticmethod(torch.nn.utils.clip_grad_norm_)

    def prepare(self, model: nn.Module, optimiser: Any) -> tuple[nn.Module, Any]:
        self.model = model
        return model, optimiser

    def no_sync(self, _: nn.Module) -> Any:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        assert loss.shape == () and loss.device == GPU
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)


class Waits(TorchDispatchMode):
    """The modules of this project where the host waits for a GPU: it needs a value, or copies and waits for the end."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[str] = set()

    def __torch_dispatch__(self, function: Any, _types: Any, arguments: Any = (), named: Any = None) -> Any:
        named = named or {}
        waits = bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags))
        if function.overloadpacket in (ATEN.index, ATEN.index_put_):
            by_mask = any(index is not None and index.dtype == torch.bool for index in arguments[1])
            waits = by_mask or len({one.device for one in (*arguments, *arguments[1]) if isinstance(one, Tensor)}) > 1
        elif function.overloadpacket == ATEN._to_copy and not named.get("non_blocking"):
            waits = named.get("device", arguments[0].device) != arguments[0].device
        if waits:
            frame: Any = sys._getframe()
            while frame is not None and "/pipeline/" not in frame.f_code.co_filename:
                frame = frame.f_back
            self.places.add("elsewhere" if frame is None else Path(frame.f_code.co_filename).name)
        return function(*arguments, **named)

    def watch(self, training: Training) -> None:
        """From now on, look at every step."""
        step = training.step

        def watched(*arguments: Any, **named: Any) -> Any:
            with self:
                return step(*arguments, **named)

        training.step = watched  # type: ignore[method-assign]


def outside(function: Callable[..., Any], mode: FakeTensorMode) -> Callable[..., Any]:
    """`function` with real tensors, for it reads files; what it gives is fake and on the CPU."""

    def real(*arguments: Any, **named: Any) -> Any:
        with _disable_current_modes():
            found = function(*arguments, **named)
            found = list(found) if isinstance(found, Iterator) else found
        return tree_map_only(Tensor, mode.from_tensor, found)

    return real


def placed(module: nn.Module, device: torch.device | None = None, **_: Any) -> nn.Module:
    """Fake parameters and buffers in the place of a module's own: torch's own `to` cannot put them there."""
    if device is None:  # another layout of the memory alone
        return module
    for part in module.modules():
        for name, own in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            fake: Any = torch.empty(own.shape, dtype=own.dtype, device=device)
            is_parameter = isinstance(own, nn.Parameter)
            setattr(part, name, nn.Parameter(fake, requires_grad=own.requires_grad) if is_parameter else fake)
    return module


def zeros(_loss: Tensor, parameters: Sequence[Tensor], **_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.zeros_like(parameter) for parameter in parameters)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From here on every tensor that is made is fake."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    monkeypatch.setattr(nn.Module, "to", placed)
    monkeypatch.setattr(torch.autograd, "grad", zeros)
    for owner, name in ((loop, "training_batches"), (Inputs, "images"), (Inputs, "texts")):
        monkeypatch.setattr(owner, name, outside(getattr(owner, name), mode))
    with mode:
        yield


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return small_inputs(tmp_path)


@pytest.fixture
def listed() -> Any:
    """A copy: moving it to a device changes it."""
    return copy.deepcopy(LISTED)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> MatchingModel:
    return linear_towers() if request.param == "linear" else small_towers(request.param)


def settings(changes: dict[str, Any]) -> Params:
    common = {"train__epochs": 2, "train__batch_size": 5, "sampler__min_matches": 0, "memory__size": 7}
    return params_with(**(common | changes))


@pytest.mark.parametrize(("model", "changes"), EVERY_STRATEGY + BOTH_FAMILIES, indirect=["model"], ids=str)
def test_every_step_stays_on_the_gpu_and_waits_for_nothing(
    inputs: Inputs, model: MatchingModel, listed: Any, gpu: None, changes: dict[str, Any]
) -> None:
    params, impact = settings(changes), None
    learn_bias(model, params.loss)
    if params.pairs.weighting == "npc":
        impact = NegativeImpact(model.to(GPU), params, Bank(*ENTRIES, np.ones(12)), None, {})
    truth_NM, trust_M = torch.zeros(6, 12, dtype=torch.bool), torch.ones(12)
    parts: Any = (model, inputs, inputs, FakeAccelerator(), Mock(due=lambda: False), truth_NM, impact)
    evidence = {"listed": listed, "trust_M": trust_M} if params.sampler.posterior == "evidence" else {}
    with _disable_current_modes():
        known = known_pairs(params)
    training = Training(params, *parts, **evidence, known=known)
    training._save = training._record = Mock()  # type: ignore[method-assign]  # there the host waits
    waits = Waits()
    waits.watch(training)
    training.run()
    assert training.at.step == 6 and not waits.places
    assert all(value.device == GPU for step in training._steps for value in step.values())
    assert all(parameter.device == GPU for parameter in training.model.parameters())
    with pytest.raises(DataDependentOutputException):
        means_of(training._steps[3:])


@pytest.mark.parametrize("model", ["linear", "vit_bert", "clip"], indirect=True)
def test_a_split_is_encoded_on_the_gpu_without_reading_a_value(inputs: Inputs, model: MatchingModel, gpu: None) -> None:
    image_ND, text_MD = encode_split(model.to(GPU), inputs, 5)
    assert (image_ND.shape, text_MD.shape) == ((6, model.width), (12, model.width))
    assert image_ND.device == text_MD.device == GPU


def test_features_are_encoded_on_the_gpu(
    base: Pretrained, archive: ImageArchive, split: Split, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[torch.Size] = []
    monkeypatch.setattr(make, "own_device", lambda: GPU)
    monkeypatch.setattr(make, "_stored", lambda encode, _, rows: shapes.append(encode(rows).shape))
    monkeypatch.setattr(shards, "write_tensors", Mock())
    make.make_features(tmp_path, {"train": split}, archive, base, test_make.model_params("heads"))
    assert shapes == [(test_make.IMAGES, 16), (len(split.captions), 16)]


def test_rows_of_two_processes_are_gathered_on_the_gpu(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "process_count", lambda: 2)
    monkeypatch.setattr(processes.distributed, "all_gather", Mock())
    for rows in (torch.randn(3, 4, device=GPU), torch.arange(2, device=GPU)):
        found = processes.gather(rows, 5)
        assert found.shape == (5, *rows.shape[1:]) and found.device == GPU


@pytest.mark.parametrize(("model", "changes"), BOTH_FAMILIES, indirect=["model"], ids=str)
def test_a_real_step_reads_no_value_backward_pass_included(
    inputs: Inputs, model: MatchingModel, changes: dict[str, Any], tmp_path: Path
) -> None:
    training, waits = tiny_training(tmp_path, settings(changes), model, inputs), Waits()
    waits.watch(training)
    training.run()
    assert training.at.step == 6
    assert waits.places <= {"strategies.py"}, "which reads a value on a CPU only"


def test_what_waits_is_seen(gpu: None) -> None:
    there, here, place_1 = torch.ones(2, device=GPU), torch.ones(2), torch.zeros(1, dtype=torch.long, device=GPU)

    def assign(value: Any) -> None:
        there[place_1] = value

    def places(run: Callable[[], object]) -> set[str]:
        with Waits() as waits, suppress(DataDependentOutputException, DynamicOutputShapeException):
            run()
        return waits.places

    for run in (there[0].item, there.nonzero, lambda: assign(1.0), lambda: Tensor.to(here, GPU), there.cpu):
        assert places(run) == {"elsewhere"}
    for run in (lambda: assign(there[0]), lambda: Tensor.to(here, GPU, non_blocking=True), lambda: there.fill_(1)):
        assert not places(run)
