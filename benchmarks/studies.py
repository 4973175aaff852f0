"""The studies of docs/results.md, as plain data: what is compared, on what, and what is tuned.

A study has two phases:

1. tune: every method is trained with the same number of settings from the study's grid, with one seed that is not used
   again. The setting with the best validation (sum of the six recalls) is chosen. The test split is not evaluated.
2. final: the chosen setting of each method, and its variants, with five seeds. Where the study makes its base towers,
   each seed makes its own. Every test result in docs/results.md comes from this phase.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.field_methods import CELLS, METHODS, SHARED, TUNED, methods_of

Overrides = Mapping[str, Any]
"""Values of params.yaml by dotted name."""
TUNE_SEEDS = (11,)
FINAL_SEEDS = (1, 2, 3, 4, 5)
GRID_SEED = 1  # draws the settings of a grid that are tried


@dataclass(frozen=True)
class Study:
    """One table of docs/results.md for each case."""

    title: str
    methods: Mapping[str, Overrides]
    """Each is tuned on its own. The first is the baseline of the paired differences."""
    recipe: str | None = None
    """Applied to params.yaml first."""
    settings: Overrides = field(default_factory=dict)
    """The same for all methods."""
    cases: Mapping[str, Overrides] = field(default_factory=lambda: {"": {}})
    """The data that all methods are compared on. Methods are tuned in each case anew."""
    variants: Mapping[str, Mapping[str, Overrides]] = field(default_factory=dict)
    """By method: what is changed in its chosen setting, in the final phase only. All methods: `""`."""
    grid: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Tuned parameters. `scale` is the loss's own: its temperature or its margin."""
    points: int = 1
    """How many settings of the grid each method tries: the same ones for all methods."""
    own: Mapping[str, tuple[str, Sequence[Any]]] = field(default_factory=dict)
    """By method: the parameter that it alone tunes, and its values, instead of the grid."""
    broad: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By case: the methods that are compared there unless others are named. All: a case that is not here."""
    per_seed: Sequence[str] = ()
    """Parameters that have the seed's value in the final phase, in addition to `seed`."""


SCALES = {
    "infonce": ("loss.temperature", (0.02, 0.05, 0.1)),
    "triplet": ("loss.margin", (0.1, 0.2, 0.4)),
}
SCALE = ("small", "middle", "large")


def grid_points(study: Study, loss: str) -> list[dict[str, Any]]:
    """The settings that a method with this loss tries; the same draws for both losses."""
    name, values = SCALES[loss]
    axes = {
        (name if axis == "scale" else axis): (values if axis == "scale" else tuple(choices))
        for axis, choices in study.grid.items()
    }
    product = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    drawn = random.Random(GRID_SEED).sample(range(len(product)), min(study.points, len(product)))
    return [product[number] for number in sorted(drawn)]


def points_of(study: Study, method: str, loss: str) -> list[dict[str, Any]]:
    """The settings that a method tries: of its own parameter, else of the grid."""
    if method in study.own:
        name, values = study.own[method]
        return [{name: value} for value in values]
    return grid_points(study, loss)


def variants_of(study: Study, method: str) -> dict[str, Overrides]:
    """A method's variants in the final phase by name; `""` is the method itself."""
    return {"": {}, **study.variants.get("", {}), **study.variants.get(method, {})}


TRIPLET = {"loss.name": "triplet", "train.warmup": "triplet"}
INFONCE = {"loss.name": "infonce", "train.warmup": "infonce"}
HARDEST, FNE = {"sampler.strategy": "hardest"}, {"sampler.strategy": "fne"}
ALL, RANDOM = {"sampler.strategy": "all"}, {"sampler.strategy": "random"}
NO_CUTDOWN = {"sampler.cutdown": 2.0}  # no similarity is below μ+ - 2
NO_POSTERIOR = {"sampler.suspect": 1.0}  # no posterior is above 1
EVIDENCE = {"sampler.posterior": "evidence", "sampler.prior": "estimated"}
# the estimated prior is a lower bound: on the scenes no pair is above 0.5, of those above 0.01 two in five match
DROPS = {f"drop above {value}": EVIDENCE | {"sampler.drop": value} for value in (0.1, 0.01)}
ANCHOR = {"model.anchor": "cca"}
NPC = {"pairs.weighting": "npc", "pairs.bank_epochs": 1}
TRUST = {"pairs.weighting": "evidence"}

PAPER: dict[str, Any] = {"sampler.posterior": "similarity", "sampler.prior": 10000.0, "sampler.drop": None}
HEADS: dict[str, Any] = {
    "model.anchor": "none",
    "evidence.kinds": ["captions", "regression", "pictures"],
    "model.standardise": True,
    "model.features_dtype": "float16",
    "train.optimiser": "adamw",
    "train.weight_decay": 1.0,
    "train.schedule": "cosine",
    "train.ema": 0.98,
}
HEADS_GRID = {
    "scale": SCALE,
    "train.lr": (0.0005, 0.001, 0.002),
    "model.dropout": (0.0, 0.5),
    "train.batch_size": (128, 512),
    "train.epochs": (5, 10),
}

STUDIES = {
    **{
        name: Study(
            title=title,
            recipe=recipe,
            settings=HEADS | SHARED | TUNED[name],
            cases=CELLS[name],
            methods={method: each.overrides for method, each in METHODS.items()},
            own={method: each.tries(name) for method, each in METHODS.items()},
            broad={cell: methods_of(name, cell) for cell in CELLS[name]},
        )
        for name, title, recipe in (
            ("field-flickr8k", "The field: Flickr8k", "flickr8k-infonce"),
            ("field-scenes", "The field: generated scenes", None),
        )
    },
    "scenes": Study(
        title="Generated scenes",
        settings=PAPER | {"memory.size": 1024, "data.scenes.val": 1000, "base.epochs": 3},
        cases={"default": {}, "2.8 times as many false negatives": {"data.scenes.detail": 0.6}},
        methods={
            "InfoNCE, all": ALL | INFONCE,
            "InfoNCE, FNE": FNE | INFONCE,
            "triplet, hardest": HARDEST | TRIPLET,
            "triplet, FNE": FNE | TRIPLET,
            "triplet, FNE without cut-down": FNE | TRIPLET | NO_CUTDOWN,
        },
        variants={
            "": {"drop above 0.01": DROPS["drop above 0.01"]},
            "InfoNCE, FNE": {"posterior by evidence": EVIDENCE, "no posterior": NO_POSTERIOR},
            "triplet, FNE": {"posterior by evidence": EVIDENCE, "no posterior": NO_POSTERIOR, **DROPS},
            "triplet, FNE without cut-down": {"no posterior": NO_POSTERIOR},
        },
        grid={"scale": SCALE, "train.lr": (0.000025, 0.00005, 0.0001, 0.0002)},
        points=4,
        per_seed=("base.seed",),
    ),
    "scenes-equal": Study(
        title="Generated scenes: FNE and the hardest negatives, equal settings",
        settings=PAPER | {"memory.size": 1024, "data.scenes.val": 1000, "base.epochs": 3, "loss.margin": 0.2},
        cases={f"learning rate {rate}": {"train.lr": float(rate)} for rate in ("2.5e-5", "1e-4")},
        methods={"triplet, hardest": HARDEST | TRIPLET, "triplet, FNE": FNE | TRIPLET},
        per_seed=("base.seed",),
    ),
    "flickr8k": Study(
        title="Flickr8k, heads over frozen towers",
        recipe="flickr8k-fne",
        settings=HEADS,
        methods={
            "InfoNCE, batch": ALL | INFONCE | {"memory.size": 0},
            "InfoNCE, memory": ALL | INFONCE,
            "triplet, hardest": HARDEST | {"loss.name": "triplet"},
            "triplet, FNE": FNE | {"loss.name": "triplet"},
        },
        variants={
            "": {
                "anchor": ANCHOR,
                **DROPS,
                **{f"anchor, {name}": ANCHOR | drop for name, drop in DROPS.items()},
            },
            "triplet, FNE": {
                "posterior by evidence": EVIDENCE,
                "anchor, posterior by evidence": ANCHOR | EVIDENCE,
            },
        },
        grid=HEADS_GRID,
        points=12,
    ),
    "flickr8k-noise": Study(
        title="Flickr8k with wrong pairs, heads over frozen towers",
        recipe="flickr8k-infonce",
        settings=HEADS
        | {
            # what the study flickr8k chose for InfoNCE over the batch, without noise: not tuned again
            "memory.size": 0,
            "loss.temperature": 0.02,
            "train.lr": 0.001,
            "train.batch_size": 512,
            "train.epochs": 10,
            "model.dropout": 0.5,
        },
        cases={f"noise {ratio}": {"data.noise.ratio": ratio} for ratio in (0.2, 0.4, 0.6)},
        methods={"InfoNCE": {}, "weighted by trust": TRUST, "NPC": NPC},
        variants={"InfoNCE": {"anchor": ANCHOR}, "weighted by trust": {"anchor": ANCHOR}},
    ),
    "cutdown": Study(
        title="Generated scenes: the cut-down threshold",
        settings=PAPER | {"memory.size": 1024, "data.scenes.val": 1000},
        methods={
            f"cutdown {value}": FNE | TRIPLET | {"sampler.cutdown": value} for value in (0.05, 0.1, 0.2, 0.3, 0.4, 2.0)
        },
        per_seed=("base.seed",),
    ),
    "scenes-noise": Study(
        title="Generated scenes with wrong pairs: CLIP and NPC",
        recipe="scenes-clip",
        settings={"data.scenes.val": 1000},
        cases={f"noise {ratio}": {"data.noise.ratio": ratio} for ratio in (0.0, 0.2, 0.4, 0.6)},
        methods={"CLIP": {"pairs.weighting": "none"}, "NPC": {"pairs.weighting": "npc"}},
        per_seed=("base.seed",),
    ),
}
