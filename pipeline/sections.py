"""The sections of `params.yaml`, one typed class each, with what must hold inside of each."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
Loss = Literal["triplet", "hinge", "hinge_mean", "infonce", "sigmoid", "rince", "rcl"]


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
    annotations: Literal["auto", "karpathy", "fne", "scan", "table", "coco", "shards", "sidecar", "flickr8k"]
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
    alpha: Count
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
    resize: Literal["auto", "square", "crop"]
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
COMPARED = ("xclr", "cusa")
"""Targets that compare candidates by frozen vectors."""
OF_THE_IMAGE = ("same_image", "albef", "cusa")
"""Targets that name the image's other captions."""
ONE_TARGET = ("triplet", "hinge", "hinge_mean", "rince", "rcl")
"""Losses that know no other target than the own pair."""

ENCODED = {
    "captions": ("text",),
    "regression": ("text", "image"),
    "similarity": ("text", "image"),
    "pictures": ("text", "image"),
}
"""The encoders that kinds of evidence compare with."""


NO_RESULT = ("tracking.", "launch.", "train.workers", "evaluate.batch_size", "data.mirror")
"""Parameters (or sections) that change no result: runs that differ only in these are the same."""
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
    milestones: list[Count]
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
    # what MLflow refuses in a model's name
    model: Annotated[str, Field(min_length=1, pattern=r"""^[^/:.%"']+$""")] | None
    system_metrics: bool


class LaunchParams(Section):
    """The number of processes; it does not change the result."""

    processes: Count
