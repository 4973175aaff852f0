"""Trainings of twelve pairs and linear layers, in milliseconds: what tests of the loop train."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.bank.table import Bank
from pipeline.data.splits.truth_file import read_truth
from pipeline.evidence.kinds import Vectors
from pipeline.evidence.listed import ListedPosterior
from pipeline.evidence.lookup import KnownPairs
from pipeline.features.inputs import Batch, Inputs
from pipeline.models.clip import image_tower, small_clip, text_tower
from pipeline.models.small import small_image_backbone, small_text_backbone
from pipeline.models.towers import MatchingModel, Tokens
from pipeline.params import GUIDED, IN_TRAINING, Params, load_params, parse_params
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training
from pipeline.training.setup import learn_bias, open_training
from pipeline.training.trust import LearnedTrust
from tests.features.making import frozen_inputs, prepared_inputs
from tests.paper import paper_content
from tests.stages.running import write_tiny_params

WIDTH, JOINT, WORDS = 5, 4, 9  # of a feature, of the joint space, of the vocabulary
GENERATOR = torch.Generator().manual_seed(0)
IMAGE_OF_M = torch.tensor([0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 5])
IMAGE_NW, TEXT_MW = torch.randn(6, WIDTH, generator=GENERATOR), torch.randn(12, WIDTH, generator=GENERATOR)
PIXELS_N3HW = torch.randint(256, (6, 3, 4, 4), dtype=torch.uint8, generator=GENERATOR)
WORDS_ML = torch.randint(1, WORDS, (12, 3), generator=GENERATOR)
LISTED = ListedPosterior(torch.tensor([0, 1, 4]), torch.tensor([2, 0, 9]), torch.tensor([0.9, 0.2, 0.7]), 6, 12)
"""Evidence that three unpaired pairs match."""
TRUTH_NM = torch.nn.functional.one_hot(IMAGE_OF_M, 6).T.bool() | (torch.arange(12) % 5 == torch.arange(6)[:, None])
"""Which pairs match: those of the split, and some others."""
STRATEGIES, LOSSES = ("fne", "hardest", "semi_hard", "random", "all"), ("triplet", "infonce")
"""Those of the papers; every other method is a preset, see test_presets."""
ENTRIES = (np.roll(np.arange(12), 3), np.roll(np.arange(12), 7))  # a bank: for the image, for the caption of each pair


def known_pairs(params: Params) -> KnownPairs | None:
    """What frozen encoders say of the twelve pairs, where the parameters ask."""
    if not params.needs_known_pairs:
        return None
    if params.sampler.strategy in GUIDED and params.sampler.guide == "posterior":
        return KnownPairs(IMAGE_OF_M, copy.deepcopy(LISTED), torch.linspace(0.1, 0.9, 12), None)
    vectors = (normalize(part, dim=1).half() for part in (TEXT_MW, IMAGE_NW))
    return KnownPairs(IMAGE_OF_M, None, None, Vectors(*vectors), normalize(IMAGE_NW, dim=1).half())


class WordMean(nn.Module):
    """The smallest text tower: the mean of a caption's word vectors."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(words, width)

    def forward(self, tokens: Tokens) -> Tensor:
        mask_BL1 = tokens.mask[:, :, None]
        return (self.table(tokens.ids) * mask_BL1).sum(dim=1) / mask_BL1.sum(dim=1)


def params_with(**changes: Any) -> Params:
    """The repository's params.yaml with other values by dotted name (dots as double underscores)."""
    content = paper_content()
    for name, value in changes.items():
        *sections, key = name.split("__")
        reduce(getitem, sections, content)[key] = value
    return parse_params(content)


def linear_heads(width: int = WIDTH, joint: int = JOINT, *, dropout: float = 0.0) -> MatchingModel:
    """A linear layer a side over frozen features; similarities are divided by 0.1."""
    heads = (nn.Sequential(nn.Dropout(dropout), nn.Linear(width, joint)) for _ in range(2))
    return MatchingModel(nn.Identity(), nn.Identity(), *heads, width=joint, temperature=0.1)


def linear_towers() -> MatchingModel:
    """A linear layer over pixels, and the mean of word vectors; the temperature is learned."""
    towers = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS_N3HW[0].numel(), JOINT)), WordMean(WORDS, JOINT)
    model = MatchingModel(*towers, nn.Identity(), nn.Identity(), width=JOINT)
    model.logit_scale = nn.Parameter(torch.tensor(2.0))
    return model


def small_towers(family: str) -> MatchingModel:
    """Transformers of one layer over pictures of four pixels; the same weights at every call."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"width": 16, "layers": 1, "heads": 2}
    image: nn.Module
    text: nn.Module
    if family == "clip":
        image, text = small_clip(
            size=4, patch=2, vocabulary_size=WORDS, positions=4, special=(0, 1, int(WORDS_ML[:, -1].max())), **shape
        )
    else:
        image = small_image_backbone(size=4, patch=2, **shape)
        text = small_text_backbone(vocabulary_size=WORDS, positions=4, **shape)
    towers = image_tower(image), text_tower(text, "masked_mean")
    return MatchingModel(*towers, nn.Identity(), nn.Identity(), width=16, temperature=0.1)


def small_inputs(folder: Path) -> Inputs:
    """The twelve pairs, with captions of one to three words."""
    rows = [row[: 1 + number % 3] for number, row in enumerate(WORDS_ML.tolist())]
    return prepared_inputs(folder, PIXELS_N3HW, rows, IMAGE_OF_M.tolist())


def frozen_pairs(folder: Path) -> Inputs:
    """The twelve pairs as frozen features."""
    return frozen_inputs(folder, IMAGE_NW, TEXT_MW, IMAGE_OF_M.tolist())


def prepared_pairs(folder: Path, *, augment: bool = False) -> Inputs:
    """The twelve pairs as pictures and token ids."""
    return prepared_inputs(folder, PIXELS_N3HW, WORDS_ML.tolist(), IMAGE_OF_M.tolist(), augment=augment)


def own_captions(folder: Path, images: int) -> Inputs:
    """`images` images, all different, with one caption each that has the very same features."""
    return frozen_inputs(folder, torch.eye(images), torch.eye(images), range(images))


def tiny_training(
    folder: Path,
    params: Params,
    model: MatchingModel,
    inputs: Inputs,
    clock: Callable[[], float] = time.monotonic,
    on_record: Callable[[list[dict[str, Any]]], None] = lambda history: None,
    *,
    cpu: bool = True,
    trust_M: Tensor | None = None,
) -> Training:
    """A training, on the CPU unless asked otherwise, that validates on what it trains on."""
    impact = None
    accelerator = Accelerator(cpu=cpu, mixed_precision=params.train.precision)
    learn_bias(model, params.loss)
    model = model.to(accelerator.device)
    learned = None
    if params.pairs.weighting in IN_TRAINING:
        learned = LearnedTrust(params.pairs.weighting, len(inputs.caption_image), 1, None, accelerator.device)
    if params.pairs.weighting == "npc":
        impact = NegativeImpact(model, params, Bank(*ENTRIES, np.ones(12)), None, {})
    parts = (model, inputs, inputs, accelerator, Checkpoint(folder, clock))
    listed = LISTED if params.sampler.posterior == "evidence" else None
    truth_NM = TRUTH_NM if params.sampler.strategy == "oracle" else None
    asked: dict[str, Any] = {"listed": listed, "trust_M": trust_M, "learned": learned, "known": known_pairs(params)}
    return Training(params, *parts, truth_NM, impact, on_record, **asked)


def watched(training: Training, after: Callable[[], None] = lambda: None) -> list[Batch]:
    """The batches that the training sees; `after` is called behind each step."""
    step, seen = training.step, []

    def steps(batch: Batch, **how: Any) -> Any:
        seen.append(batch)
        logged = step(batch, **how)
        after()
        return logged

    training.step = steps  # type: ignore[method-assign]
    return seen


def open_tiny_training(ready: Path, folder: Path, **changes: Any) -> Training:
    """A training of tiny towers as stage `train` opens it, over what earlier stages have made in `ready`."""
    return open_tiny(ready, folder, **changes)[0]


def open_tiny(ready: Path, folder: Path, **changes: Any) -> tuple[Training, Callable[[Path], None]]:
    """The same, and what saves its model."""
    write_tiny_params(folder, **({"train__batch_size": 16, "train__lr": 0.01} | changes))
    parts = (ready / "features", ready / "data/split", ready / "models/base")
    truth = read_truth(ready / "data/split", "train")
    params = load_params(folder / "params.yaml")
    folders = (ready / "bank", ready / "evidence")
    return open_training(params, *parts, truth, Checkpoint(folder), lambda history: None, *folders)
