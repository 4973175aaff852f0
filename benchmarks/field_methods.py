"""What the benchmark of docs/benchmark.md compares, as plain data: every method on one objective, towers and data.

A method is InfoNCE over the batch with what differs: its negatives (w), its targets (q), its loss, or the weight of its
pairs (t). It tries three values of one parameter of its own; one that has none tries three temperatures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Overrides = Mapping[str, Any]
BASELINE = "InfoNCE"
GROUPS = ("baseline", "w", "q", "loss", "t")
"""Which negatives count, what should match, another loss, how far a pair counts."""
TEMPERATURE = "loss.temperature"
TEMPERATURES = {"field-flickr8k": (0.01, 0.02, 0.05), "field-scenes": (0.05, 0.1, 0.2)}
"""What InfoNCE tries, and each method without a parameter of its own. In the middle: the others' temperature."""


@dataclass(frozen=True)
class Method:
    """A method: its group, what differs from InfoNCE, and the parameter that it tunes with its three values."""

    group: str
    overrides: Overrides
    tuned: tuple[str, tuple[Any, ...]] | None = None
    """None: the temperature, see `TEMPERATURES`."""

    def tries(self, study: str) -> tuple[str, tuple[Any, ...]]:
        """The parameter and its values in a study."""
        return self.tuned or (TEMPERATURE, TEMPERATURES[study])


def _w(strategy: str, name: str | None = None, *values: Any, **more: Any) -> Method:
    others = {key.replace("__", "."): value for key, value in more.items()}
    return Method("w", {"sampler.strategy": strategy} | others, (name, values) if name else None)


def _q(target: str, name: str | None = None, *values: Any, **more: Any) -> Method:
    others = {key.replace("__", "."): value for key, value in more.items()}
    return Method("q", {"targets.name": target} | others, (name, values) if name else None)


EVIDENCE = {"sampler__posterior": "evidence", "sampler__prior": "estimated"}
ANCHOR = ("model.anchor_weight", (0.1, 0.3, 0.6))
MARGIN = ("loss.margin", (0.1, 0.2, 0.4))
METHODS: dict[str, Method] = {
    BASELINE: Method("baseline", {}),
    "InfoNCE, memory": Method("baseline", {"memory.size": 1024}),
    "InfoNCE over CCA": Method("baseline", {"model.anchor": "cca"}, ANCHOR),
    "CCA, nothing trained": Method("baseline", {"model.anchor": "cca", "train.epochs": 0, "train.warmup_epochs": 0}),
    "triplet, hardest": Method("baseline", {"loss.name": "triplet", "sampler.strategy": "hardest"}, MARGIN),
    "FNE": _w("fne", "loss.margin", 0.1, 0.2, 0.4, loss__name="triplet", memory__size=1024),
    "FNE, InfoNCE": _w("fne", "sampler.cutdown", 0.1, 0.2, 0.4),
    "FNE, evidence": _w("fne", "sampler.cutdown", 0.1, 0.2, 0.4, **EVIDENCE),
    "drop by evidence": _w("all", "sampler.drop", 0.01, 0.05, 0.2, **EVIDENCE),
    "HCL": _w("hcl", "sampler.beta", 0.25, 0.5, 1.0),
    "hardness": _w("hardness", "sampler.hardness", 2.0, 5.0, 9.0),
    "DECL": _w("decl", "sampler.annealing", 0.3, 3.0, 10.0, loss__name="hinge_mean"),
    "GloFND": _w("glofnd", "sampler.false_share", 0.0005, 0.001, 0.01),
    "GIST": _w("gist", sampler__guide="regression"),
    "GIST, posterior": _w("gist", sampler__guide="posterior"),
    "MarginPos": _w("marginpos", "sampler.guide_margin", 0.0, 0.05, 0.2, sampler__guide="regression"),
    "PercPos": _w("percpos", "sampler.guide_margin", 0.0, 0.05, 0.2, sampler__guide="regression"),
    "LG": _w("lg"),
    "DCL": _w("all", "loss.debias", 0.001, 0.01, 0.1),
    "oracle": _w("oracle"),
    "same image": _q("same_image"),
    "ALBEF": _q("albef", "targets.weight", 0.1, 0.2, 0.4, memory__size=1024),
    "pseudo-positives": _q("pseudo_positive", "targets.weight", 0.05, 0.1, 0.2, loss__name="sigmoid"),
    "X-CLR": _q("xclr", "targets.temperature", 0.05, 0.1, 0.2),
    "CUSA": _q("cusa", "targets.weight", 1.6, 3.2, 6.4, targets__temperature=1.0),
    "Sinkhorn targets": _q("sinkhorn", "targets.weight", 0.1, 0.3, 0.5, targets__temperature=1.0),
    "SigLIP": Method("loss", {"loss.name": "sigmoid"}, ("loss.temperature", (0.02, 0.05, 0.1))),
    "RINCE": Method("loss", {"loss.name": "rince"}, ("loss.exponent", (0.02, 0.05, 0.1))),
    "RCL": Method("loss", {"loss.name": "rcl"}, ("loss.penalty", ("log", "tan", "gce"))),
    **{
        name: Method("t", {"pairs.weighting": weighting})
        for name, weighting in {
            "trust by evidence": "evidence",
            "OSA": "osa",
            "OSA, monotone": "osa_monotone",
            "CLIP score": "clip_score",
            "negCLIPLoss": "negclip",
            "LEMoN": "lemon",
            "GSC, structure": "gsc",
            "NCR": "ncr",
            "CRCL": "crcl",
        }.items()
    },
    "trust by evidence over CCA": Method("t", {"pairs.weighting": "evidence", "model.anchor": "cca"}, ANCHOR),
    "NPC": Method("t", {"pairs.weighting": "npc", "pairs.bank_epochs": 1, "train.warmup_epochs": 0}),
}
SHARED: dict[str, Any] = {
    "sampler.strategy": "all",
    "sampler.posterior": "similarity",
    "sampler.prior": 10000.0,
    "sampler.drop": None,
    "memory.size": 0,
    "loss.name": "infonce",
    "loss.margin": 0.2,
    "train.warmup": "infonce",
    "train.warmup_epochs": 1,
}
TUNED: dict[str, dict[str, Any]] = {
    # chosen for InfoNCE over the batch by the study flickr8k
    "field-flickr8k": {
        "loss.temperature": 0.02,
        "train.lr": 0.001,
        "train.epochs": 10,
        "train.batch_size": 512,
        "model.dropout": 0.5,
    },
    # the best of fifteen by the validation of InfoNCE, detail 0.6, seed 11
    "field-scenes": {
        "loss.temperature": 0.1,
        "train.lr": 0.003,
        "train.epochs": 20,
        "train.batch_size": 128,
        "model.dropout": 0.0,
        "model.train": "heads",
        "data.scenes.val": 1000,
        "train.validations_per_epoch": 1,
    },
}
"""Found for InfoNCE, and the same for every method of a study."""
CLEAN, SHUFFLED, NOUN = "clean", "noise 0.4", "noise 0.4, same noun"
EASY, HARD = "detail 0.8", "detail 0.6"
CELLS: dict[str, dict[str, Overrides]] = {
    "field-flickr8k": {
        CLEAN: {},
        "noise 0.2": {"data.noise.ratio": 0.2},
        SHUFFLED: {"data.noise.ratio": 0.4},
        "noise 0.6": {"data.noise.ratio": 0.6},
        NOUN: {"data.noise.ratio": 0.4, "data.noise.kind": "noun"},
    },
    "field-scenes": {EASY: {"data.scenes.detail": 0.8}, HARD: {"data.scenes.detail": 0.6}},
}


def methods_of(study: str, cell: str) -> list[str]:
    """The methods of the broad table in a cell: those for wrong pairs where there is noise, the others elsewhere."""
    noisy = "noise" in cell
    groups = {"baseline", "t"} if noisy else set(GROUPS) - {"t"}
    if cell not in (CLEAN, SHUFFLED, NOUN, HARD):
        groups = {"baseline"}
    unknown = () if study == "field-scenes" else ("oracle",)  # needs the truth of every training pair
    return [name for name, method in METHODS.items() if method.group in groups and name not in unknown]
