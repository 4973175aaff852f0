"""The only reader of `params.yaml`: its sections together, checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError, model_validator

from pipeline.errors import InputError
from pipeline.problems import described
from pipeline.sections import (
    BEFORE_TRAINING,
    COMPARED,
    GUIDED,
    IN_TRAINING,
    MINE,
    OF_THE_IMAGE,
    ONE_TARGET,
    SPARSE,
    WHOLE,
    AuditParams,
    BaseParams,
    ColumnsParams,
    DataParams,
    EvaluateParams,
    EvidenceParams,
    LaunchParams,
    LimitsParams,
    LoraParams,
    Loss,
    LossParams,
    MemoryParams,
    ModelParams,
    NoiseParams,
    PairsParams,
    SamplerParams,
    ScenesParams,
    Section,
    Seed,
    SplitParams,
    Strategy,
    Target,
    TargetsParams,
    TrackingParams,
    TrainParams,
)
from pipeline.yaml_text import parse_yaml

__all__ = [
    "BEFORE_TRAINING",
    "COMPARED",
    "GUIDED",
    "IN_TRAINING",
    "MINE",
    "AuditParams",
    "ColumnsParams",
    "DataParams",
    "LimitsParams",
    "LoraParams",
    "Loss",
    "LossParams",
    "ModelParams",
    "NoiseParams",
    "PairsParams",
    "Params",
    "SamplerParams",
    "ScenesParams",
    "SplitParams",
    "Strategy",
    "Target",
    "TargetsParams",
    "TrainParams",
    "dotted",
    "flat",
    "load_params",
    "parse_params",
    "read_params",
]


class Params(Section):
    """All of `params.yaml`."""

    seed: Seed
    data: DataParams
    base: BaseParams
    model: ModelParams
    evidence: EvidenceParams
    memory: MemoryParams
    sampler: SamplerParams
    targets: TargetsParams
    loss: LossParams
    pairs: PairsParams
    train: TrainParams
    evaluate: EvaluateParams
    audit: AuditParams
    tracking: TrackingParams
    launch: LaunchParams

    @model_validator(mode="after")
    def _fits_together(self) -> Params:
        if self.model.family == "clip":
            for name in ("text", "text_revision"):
                if getattr(self.model, name) is not None:
                    raise ValueError(
                        f"model.{name}: a CLIP holds both towers: name it in model.image, and leave this null"
                    )
        elif (self.model.image is None) != (self.model.text is None):
            missing = "image" if self.model.image is None else "text"
            raise ValueError(
                f"model.{missing} is null but the other tower is named: name both (a hub name or a local path), "
                "or neither to have small towers made here"
            )
        if self.model.image is None and self.model.image_size % self.base.patch:
            raise ValueError(
                f"model.image_size {self.model.image_size} does not divide by base.patch {self.base.patch}"
            )
        if self.model.family == "clip" and self.model.pooling == "mean_all":
            raise ValueError("model.pooling mean_all: a CLIP's towers pool by themselves; leave it at masked_mean")
        if self.train.epochs == 0 and self.model.anchor == "none" and self.model.width is not None:
            raise ValueError(
                f"model.width {self.model.width}: adds projections with random weights, which train.epochs 0 does not "
                "train; leave it null"
            )
        if self.train.epochs == 0 and self._unmatched and self.model.anchor == "none":
            raise ValueError(
                "train.epochs 0: these towers match nothing before they are trained; use model.anchor cca (with "
                "model.train heads), towers that match already, or 1 epoch or more"
            )
        if self.pairs.weighting == "npc":
            self._npc_makes_sense()
        self._evidence_is_there()
        self._targets_are_used()
        self._presets_have_what_they_take()
        self._trains_towers()
        if self.train.augment != "none" and self.model.train == "heads":
            raise ValueError(
                f"train.augment {self.train.augment}: model.train heads reads features that were computed once, from "
                "images as they are; use none"
            )
        if self.train.batch_size == 1 and (self.memory.size == 0 or self.train.warmup_epochs >= self.train.epochs):
            raise ValueError(
                "train.batch_size 1: a pair alone has no negative, so that epochs without the memory learn nothing; "
                "use 2 or more, or a memory.size above 0 and fewer train.warmup_epochs than train.epochs"
            )
        return self

    def _trains_towers(self) -> None:
        """Refuse options of towers where none is trained, and of NPC's step, which takes the whole batch at once."""
        train = self.train
        asked = {
            "gradient_checkpointing true": train.gradient_checkpointing,
            "compile true": train.compile,
            f"layer_decay {train.layer_decay}": train.layer_decay < 1,
            **{f"freeze.{side} {value}": value not in ("none", 0) for side, value in train.freeze},
        }
        first = next((name for name, on in asked.items() if on), None)
        if first and self.model.train == "heads":
            raise ValueError(f"train.{first}: model.train heads trains no tower")
        if self.pairs.weighting == "npc":
            for name, on in (
                (f"part {train.part}", train.part),
                (f"layer_decay {train.layer_decay}", train.layer_decay < 1),
            ):
                if on:
                    raise ValueError(
                        f"train.{name}: pairs.weighting npc takes one gradient of the whole batch; leave it out"
                    )

    def _evidence_is_there(self) -> None:
        """Refuse to use evidence that is not made, and kinds that have no encoder."""
        asked = [
            f"{name} evidence"
            for name, value in (
                ("sampler.posterior", self.sampler.posterior),
                ("pairs.weighting", self.pairs.weighting),
            )
            if value == "evidence"
        ]
        if asked and not self.evidence.kinds:
            raise ValueError(f"{asked[0]}: evidence.kinds is empty; name a kind, for example [words]")
        if self.pairs.weighting == "evidence" and self.evidence.kinds == ["pictures"]:
            raise ValueError("pairs.weighting evidence: evidence.kinds [pictures] says nothing of the pair itself")
        if self.pairs.weighting in BEFORE_TRAINING and "image" not in self.evidence.sides:
            raise ValueError(
                f"pairs.weighting {self.pairs.weighting}: compares frozen vectors of images and captions; add "
                "regression or similarity to evidence.kinds"
            )
        if self.sampler.prior == "estimated" and self.sampler.posterior != "evidence":
            raise ValueError(
                "sampler.prior estimated: needs sampler.posterior evidence; use a number, for example 10000"
            )
        missing = [f"evidence.{side}" for side in self.evidence.sides if getattr(self.evidence, side) is None]
        if missing and self.model.train != "heads":
            raise ValueError(
                f"{' and '.join(missing)}: null, and model.train towers freezes no features: name an encoder for "
                f"evidence.kinds {', '.join(self.evidence.kinds)}; words and phrases need none"
            )

    @property
    def needs_known_pairs(self) -> bool:
        """Whether a strategy or a target asks what stage `evidence` knows of single pairs."""
        return self.sampler.strategy in (*GUIDED, "lg") or self.targets.name in COMPARED

    def _targets_are_used(self) -> None:
        """Refuse targets that the loss does not read, and targets that something takes from it."""
        targets, loss, sampler = self.targets.name, self.loss.name, self.sampler
        if targets == "own":
            return
        named = f"targets.name {targets}"
        if loss in ONE_TARGET:
            raise ValueError(f"{named}: loss.name {loss} compares with the own pair only; use infonce or sigmoid")
        if self.loss.debias is not None:
            raise ValueError(f"{named}: loss.debias {self.loss.debias} corrects for one target, the own pair; use null")
        if targets in OF_THE_IMAGE and sampler.known_positives == "diagonal":
            raise ValueError(
                f"{named}: sampler.known_positives diagonal makes the same captions negatives; use identity"
            )
        if targets == "albef" and self.memory.size == 0:
            raise ValueError(f"{named}: memory.size 0 has no momentum towers to learn from; use a size above 0")
        if targets == "sinkhorn" and self.memory.size > 0:
            raise ValueError(f"{named}: memory.size {self.memory.size}: the plan is one of a batch; use 0")
        if targets in ("albef", "sinkhorn") and self.targets.weight > 1:
            raise ValueError(f"{named}: targets.weight {self.targets.weight} is a share of the target; use 1 or less")
        if targets not in SPARSE and loss == "infonce" and not targets.startswith(MINE):
            self._nothing_is_left_out(named)

    def _nothing_is_left_out(self, named: str) -> None:
        """Refuse to take candidates from a denominator that a target may name."""
        why = "leaves candidates out of the denominator that the target names, whose similarity would rise without end"
        if self.sampler.drop is not None:
            raise ValueError(f"{named}: sampler.drop {self.sampler.drop} {why}; use null, or loss.name sigmoid")
        if self.sampler.strategy not in WHOLE and not self.sampler.strategy.startswith(MINE):
            raise ValueError(
                f"{named}: sampler.strategy {self.sampler.strategy} {why}; use one of {', '.join(WHOLE)}, or loss.name "
                "sigmoid"
            )

    def _presets_have_what_they_take(self) -> None:
        """Refuse a strategy, a target or a correction without its input."""
        strategy, kinds = self.sampler.strategy, self.evidence.kinds
        if self.loss.debias is not None and self.loss.name != "infonce":
            raise ValueError(
                f"loss.debias {self.loss.debias}: corrects loss.name infonce; with {self.loss.name} use null"
            )
        if strategy in ("semi_hard", "lg") and self.loss.margin == 0:
            raise ValueError(f"sampler.strategy {strategy} needs loss.margin above 0: it picks inside the margin")
        if strategy in GUIDED and self.sampler.guide == "posterior" and not kinds:
            raise ValueError(f"sampler.strategy {strategy}: evidence.kinds is empty; name a kind, for example [words]")
        if strategy in GUIDED and self.sampler.guide == "regression" and "regression" not in kinds:
            raise ValueError("sampler.guide regression: evidence.kinds lacks regression")
        if (strategy == "lg" or self.targets.name == "xclr") and "text" not in self.evidence.sides:
            name = "sampler.strategy lg" if strategy == "lg" else "targets.name xclr"
            raise ValueError(f"{name}: compares captions by a frozen encoder; add captions to evidence.kinds")
        if self.targets.name == "cusa" and "image" not in self.evidence.sides:
            raise ValueError(
                "targets.name cusa: compares images by a frozen encoder; add regression or similarity to evidence.kinds"
            )

    @property
    def _unmatched(self) -> bool:
        """Whether heads start from random weights, or the base towers have them."""
        return (self.model.train == "heads" and self.model.family != "clip") or (
            self.model.image is None and (self.data.name != "scenes" or self.base.epochs == 0)
        )

    def _npc_makes_sense(self) -> None:
        """Refuse combinations that cannot give meaningful results."""
        if self._unmatched and self.pairs.bank_epochs == 0 and self.pairs.file is None:
            raise ValueError(
                "pairs.bank_epochs 0: these towers match nothing before they are trained, so their losses cannot tell "
                "a clean pair; let them learn for 1 epoch or more before they judge"
            )
        if self.train.precision == "fp16":
            raise ValueError(
                "train.precision fp16: pairs.weighting npc takes gradients that fp16 would scale; use bf16 or no"
            )
        if self.train.warmup_epochs >= self.train.epochs:
            raise ValueError(
                f"train.warmup_epochs {self.train.warmup_epochs}: pairs are weighted after the warm-up, and of "
                f"{self.train.epochs} epochs none is left"
            )


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check `params.yaml`.

    Raises:
        InputError: naming the file, the key, its value, the allowed values and, for an unknown key, the nearest valid
            name.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: not found; run from the repository's root") from None
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
    return read_params(text, path)


def read_params(text: str, path: Path | str) -> Params:
    """Check the text of a `params.yaml`; raises as `load_params`."""
    content = parse_yaml(text, path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found {type(content).__name__}, expected sections: {', '.join(Params.model_fields)}")
    return parse_params(content, path)


def parse_params(content: dict[str, Any], path: Path | str = "params.yaml") -> Params:
    """Check already parsed content; raises as `load_params`."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise InputError("\n".join(f"{path}: {problem}" for problem in described(error, Params))) from None


def dotted(params: BaseModel) -> dict[str, Any]:
    """All values by dotted name, as `dvc exp run -S` and MLflow name them: `{"sampler.cutdown": 0.2, …}`."""
    return flat(params.model_dump())


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections by dotted name."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found
