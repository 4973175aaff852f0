"""The only reader of `params.yaml`: one typed class per section; everything is checked before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import InputError
from pipeline.problems import described
from pipeline.yaml_text import parse_yaml

Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Sharpness = Annotated[float, Field(ge=0, le=1e6)]
MINE = "mine."
Mine = Annotated[str, Field(pattern=r"^mine\.[a-z]\w*$")]
"""A function of the user's own, see docs/sampler.md."""
Guided = Literal["gist", "marginpos", "percpos"]
Strategy = Literal[
    "fne", "hardest", "semi_hard", "random", "all", "hcl", "hardness", "decl", "glofnd", "oracle", "lg", Guided
]  # fmt: skip
Target = Literal["own", "same_image", "albef", "pseudo_positive", "xclr", "sinkhorn", "cusa"]
Loss = Literal["triplet", "hinge", "infonce", "sigmoid", "rince", "rcl"]


class Section(BaseModel):
    """A section of `params.yaml`: unknown keys are refused, and values cannot change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScenesParams(Section):
    """The generated pictures: number, size, difficulty (see `pipeline.data.scenes.scenes`)."""

    seed: Seed
    train: Count
    val: Count
    test: Count
    captions: Count
    size: Annotated[int, Field(ge=16, le=512)]
    min_shapes: Annotated[int, Field(ge=1, le=4)]
    max_shapes: Annotated[int, Field(ge=1, le=4)]
    colours: Annotated[int, Field(ge=2, le=8)]
    detail: Share

    @model_validator(mode="after")
    def _ordered(self) -> ScenesParams:
        if self.min_shapes > self.max_shapes:
            raise ValueError(f"min_shapes {self.min_shapes} is above max_shapes {self.max_shapes}")
        return self


class SplitParams(Section):
    """Shares of images for each split, if a dataset has no splits of its own."""

    val: Annotated[float, Field(gt=0, lt=0.5)]
    test: Annotated[float, Field(gt=0, lt=0.5)]
    seed: Seed


class NoiseParams(Section):
    """Training captions paired with other images: a share drawn here, or a published index."""

    ratio: Share
    kind: Literal["shuffle", "noun", "category", "nearest"]
    unit: Literal["caption", "image"]
    seed: Seed
    file: str | None

    @model_validator(mode="after")
    def _single(self) -> NoiseParams:
        if self.kind != "shuffle" and self.unit == "image":
            raise ValueError(f"unit image: kind {self.kind} swaps single captions; use unit caption")
        return self


class LimitsParams(Section):
    """Limits of an archive from outside, so that a hostile one cannot fill the memory or the disk."""

    members: Count
    member_mb: Count
    unpacked_gb: Positive
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class ColumnsParams(Section):
    """Names of a table's columns, where they are not to be found by name."""

    image: str | None
    caption: str | None
    split: str | None


class DataParams(Section):
    """The dataset, its folder, and what to do with broken files."""

    name: Literal["scenes", "flickr8k", "flickr30k", "mscoco", "cc120k", "folder", "hub"]
    root: str | None
    repository: str | None
    revision: str | None
    files: str | None
    columns: ColumnsParams
    mirror: str | None
    annotations: Literal["auto", "karpathy", "fne", "scan", "table", "coco", "shards", "flickr8k"]
    on_bad_image: Literal["fail", "skip"]
    limits: LimitsParams
    judgments: str | None
    split: SplitParams
    noise: NoiseParams
    scenes: ScenesParams

    @model_validator(mode="after")
    def _objects_are_known(self) -> DataParams:
        if self.noise.kind == "category" and self.name != "scenes":
            raise ValueError(f"noise.kind category: what is in the images of {self.name} is not known; use noun")
        return self

    @model_validator(mode="after")
    def _one_place(self) -> DataParams:
        if self.name == "hub" and self.repository is None:
            raise ValueError("name hub needs data.repository, such as lmms-lab/flickr30k")
        if self.root is not None and self.repository is not None:
            raise ValueError("root and repository are both named; images come from one of them")
        return self


class BaseParams(Section):
    """The small towers made here when `model.image` and `model.text` are null."""

    seed: Seed
    scenes: Count
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    lr: Positive
    temperature: Positive
    width: Annotated[int, Field(ge=16)]
    layers: Count
    heads: Count
    patch: Annotated[int, Field(ge=4)]

    @model_validator(mode="after")
    def _divides(self) -> BaseParams:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by heads {self.heads}")
        return self


class LoraParams(Section):
    """Low-rank updates of towers."""

    rank: Annotated[int, Field(ge=0)]
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: list[str]


class ModelParams(Section):
    """The towers, and which parts are trained."""

    family: Literal["vit_bert", "clip"]
    image: str | None
    text: str | None
    image_revision: str | None
    text_revision: str | None
    weights: str | None
    train: Literal["towers", "heads"]
    features_dtype: Literal["float32", "float16"]
    features_precision: Literal["auto", "float32", "bf16"]
    image_size: Annotated[int, Field(ge=16, le=1024)]
    resize: Literal["square", "crop"]
    words: Annotated[int, Field(ge=1, le=200)]
    captions: Literal["cleaned", "raw"]
    normalisation: Literal["model", "clip"]
    width: Annotated[int, Field(ge=2)] | None
    pooling: Literal["masked_mean", "mean_all"]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    standardise: bool
    dropout: Annotated[float, Field(ge=0, lt=1)]
    anchor: Literal["none", "cca"]
    anchor_weight: Positive
    lora: LoraParams

    @model_validator(mode="after")
    def _heads_only(self) -> ModelParams:
        if self.train == "heads" and self.lora.rank:
            raise ValueError(f"lora.rank {self.lora.rank}: train heads trains no tower; use train towers, or rank 0")
        for name in ("standardise", "dropout", "anchor"):
            value = getattr(self, name)
            if self.train == "towers" and value not in (False, 0, "none"):
                raise ValueError(f"{name} {value}: train towers has no heads over frozen features; use train heads")
        return self


GUIDED = get_args(Guided)
WHOLE = ("all", "hcl", "hardness", "lg")
"""Strategies that leave no candidate out."""
SPARSE = ("own", "same_image", "pseudo_positive", "cusa")
"""Targets that name a few candidates, which then count in the denominator; the others name all."""
OF_THE_IMAGE = ("same_image", "albef", "cusa")
"""Targets that name the image's other captions."""
ONE_TARGET = ("triplet", "hinge", "rince", "rcl")
"""Losses that know no other target than the own pair."""

ENCODED = {
    "captions": ("text",),
    "regression": ("text", "image"),
    "similarity": ("text", "image"),
    "pictures": ("text", "image"),
}
"""The encoders that kinds of evidence compare with."""


BEFORE_TRAINING = ("osa", "osa_monotone", "clip_score", "negclip", "lemon", "gsc")
"""Values of `pairs.weighting` that are computed from frozen vectors, see `pipeline.evidence.weightings`."""
IN_TRAINING = ("ncr", "crcl")
"""Those that training computes, see `pipeline.training.trust`."""


class EvidenceParams(Section):
    """What is known about pairs before training, from captions and frozen encoders."""

    kinds: list[Literal["words", "phrases", "captions", "regression", "similarity", "pictures"]]
    text: str | None
    image: str | None
    text_revision: str | None
    image_revision: str | None
    seed: Seed

    @model_validator(mode="after")
    def _once(self) -> EvidenceParams:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds: {', '.join(self.kinds)}: one is named twice")
        if {"regression", "similarity"} <= set(self.kinds):
            raise ValueError(
                "kinds: regression and similarity: images are mapped to the captions' space, or there already; name one"
            )
        for side in ("text", "image"):
            if getattr(self, side) is not None and side not in self.sides:
                kinds = ", ".join(kind for kind, needed in ENCODED.items() if side in needed)
                raise ValueError(f"{side} {getattr(self, side)}: no kind in `kinds` uses it; add one of {kinds}")
        return self

    @property
    def sides(self) -> list[str]:
        """The encoders that the kinds need: `text` and `image`, or fewer."""
        return [side for side in ("text", "image") if any(side in ENCODED.get(kind, ()) for kind in self.kinds)]


class MemoryParams(Section):
    """The momentum memory; size 0: candidates are the batch only."""

    size: Annotated[int, Field(ge=0)]
    prefill: Literal["empty", "random"]


class SamplerParams(Section):
    """Which candidates become negatives, and their weights."""

    strategy: Strategy | Mine
    cutdown: Annotated[float, Field(ge=0, le=2)]
    alpha: Sharpness
    suspect_alpha: Sharpness | None
    posterior: Literal["similarity", "evidence"]
    prior: Annotated[float, Field(gt=1, allow_inf_nan=False)] | Literal["estimated"]
    suspect: Share
    drop: Share | None
    min_matches: Annotated[int, Field(ge=0)]
    statistics: Literal["exact", "running"]
    known_positives: Literal["identity", "diagonal"]
    beta: Annotated[float, Field(ge=0, le=100)]
    hardness: Annotated[float, Field(ge=-80, le=80)]
    annealing: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    fewest: Count
    false_share: Share
    threshold: Literal["one", "quantile"]
    guide: Literal["posterior", "regression"]
    guide_margin: Share


class TargetsParams(Section):
    """What an anchor should match: its own pair, and more."""

    name: Target | Mine
    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    temperature: Positive


class LossParams(Section):
    """The loss, given the negatives and the targets."""

    name: Loss | Mine
    margin: Annotated[float, Field(ge=0, le=2)]
    temperature: Positive | Literal["learned"]
    bias: Finite | Literal["learned"]
    debias: Annotated[float, Field(gt=0, lt=1)] | None
    exponent: Annotated[float, Field(gt=0, le=1)]
    density: Positive
    penalty: Literal["log", "tan", "abs", "exp", "gce"]


class PairsParams(Section):
    """The weighting of training pairs."""

    weighting: Literal[
        "none", "npc", "evidence", "osa", "osa_monotone", "clip_score", "negclip", "lemon", "gsc", "ncr", "crcl"
    ]
    clean_threshold: Annotated[float, Field(ge=0, lt=1)]
    bank_loss: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    exclude_self: bool
    bank_epochs: Annotated[int, Field(ge=0)]
    bank_lr: Positive
    batch_size: Annotated[int, Field(ge=2)]
    seed: Seed
    reweigh: Literal["sample", "batch"]
    siamese_gradient: Positive
    file: str | None

    @property
    def by_evidence(self) -> bool:
        """Whether each pair's weight is the trust that stage `evidence` computes."""
        return self.weighting == "evidence" or self.weighting in BEFORE_TRAINING


class FreezeParams(Section):
    """What is not trained of each tower."""

    image: Literal["none", "all"] | Annotated[int, Field(ge=0)]
    text: Literal["none", "all"] | Annotated[int, Field(ge=0)]


class TrainParams(Section):
    """Epochs, optimiser, learning rate and batch size."""

    epochs: Annotated[int, Field(ge=0)]
    warmup_epochs: Annotated[int, Field(ge=0)]
    warmup: Literal["triplet", "infonce"]
    batch_size: Count
    accumulate: Count
    part: Count | None
    freeze: FreezeParams
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    patience: Count | None
    compile: bool
    gradient_checkpointing: bool
    optimiser: Literal["adam", "adamw"]
    lr: Positive
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
    eps: Positive
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    schedule: Literal["steps", "cosine"]
    schedule_counts: Literal["steps", "samples"]
    warmup_steps: Annotated[int, Field(ge=0)]
    milestones: list[Annotated[int, Field(ge=1)]]
    clip: Positive
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    augment: Literal["none", "fne"]
    precision: Literal["no", "bf16", "fp16"]
    validations_per_epoch: Count
    workers: Annotated[int, Field(ge=0)]


class EvaluateParams(Section):
    """How the trained model is evaluated; does not change training."""

    batch_size: Count
    folds: Count
    truth: Literal["auto", "none"]
    hubness: bool
    bootstrap: Annotated[int, Field(ge=0)]
    seed: Seed


class AuditParams(Section):
    """How much the report shows."""

    queries: Annotated[int, Field(ge=1, le=100)]
    false_negatives: Annotated[int, Field(ge=1, le=10_000)]
    noisy_pairs: Annotated[int, Field(ge=1, le=10_000)]
    split: Literal["all", "test", "train"]
    thumbnail: Annotated[int, Field(ge=16, le=1024)]


class TrackingParams(Section):
    """The MLflow experiment."""

    experiment: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")]
    model: Annotated[str, Field(min_length=1, pattern=r"^[^/:]+$")] | None
    system_metrics: bool


class LaunchParams(Section):
    """The number of processes; it does not change the result."""

    processes: Count


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
            if self.model.text is not None:
                raise ValueError("model.text: a CLIP holds both towers: name it in model.image, and leave this null")
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
                "regression to evidence.kinds"
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
        return self.sampler.strategy in (*GUIDED, "lg") or self.targets.name in ("xclr", "cusa")

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
            raise ValueError("targets.name cusa: compares images by a frozen encoder; add regression to evidence.kinds")

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
                f"train.warmup_epochs {self.train.warmup_epochs}: pairs are weighed after the warm-up, and of "
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
        content = parse_yaml(path.read_text(encoding="utf-8"), path)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"{path}: not found; run from the repository's root") from None
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not readable as YAML: {error}") from None
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
