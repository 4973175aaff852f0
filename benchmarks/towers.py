"""Towers: encoding frozen features, waiting for prepared images, averaging weights, and a GPU's mixed precision."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.measuring import Row, at_least, at_most, published, ratio, without_gpu
from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.features.inputs import Batch, Inputs, epoch_plan, training_batches
from pipeline.features.make import make_features
from pipeline.features.pixels import BATCH
from pipeline.models.build import make_model
from pipeline.models.momentum import momentum_copy, update_momentum
from pipeline.models.normalisation import HALF
from pipeline.models.pretrained import Pretrained
from pipeline.models.small import small_image_backbone, small_text_backbone, word_tokenizer
from pipeline.models.towers import ImageTower, MatchingModel, TextTower, Tokens
from pipeline.params import Params, load_params
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.impact import NegativeImpact
from pipeline.training.loop import Training

IMAGES, ENCODED, SIZE = 128, 32, 224
PHOTOGRAPH = (500, 375)  # of Flickr's
WORDS = tuple(f"word{number}" for number in range(500))
LARGE_BATCH, LARGE_SIZE = 32, 384
LAYERS = ((85e6, 577), (85e6, 30))  # weights of the layers, and tokens, of ViT-B/16-384 and of BERT-base


def rows() -> Iterator[Row]:
    """On photographs of Flickr's size and towers that take as long as real ones on a CPU."""
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        archive, split = _photographs(Path(folder))
        yield _features(Path(folder), archive, split)
        yield _waiting(Path(folder), archive, split)
    yield _momentum()
    yield from mixed_precision()


def _photographs(folder: Path) -> tuple[ImageArchive, Split]:
    """JPEGs whose detail compresses like a photograph's, a caption each."""
    from PIL import Image

    draw = np.random.default_rng(1)
    with zipfile.ZipFile(folder / "images.zip", "w") as images:
        for number in range(IMAGES):
            coarse = Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))
            content = io.BytesIO()
            coarse.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
            images.writestr(f"{number}.jpg", content.getvalue())
    captions = [" ".join(draw.choice(WORDS, 12)) for _ in range(IMAGES)]
    return ImageArchive(folder / "images.zip"), Split.of([(f"{n}.jpg", [text]) for n, text in enumerate(captions)])


def _base(width: int, layers: int) -> Pretrained:
    """An image tower of this shape, and a text tower that hardly counts."""
    tokenizer = word_tokenizer(WORDS)
    tokenizer.model_max_length = 32
    image = small_image_backbone(size=SIZE, patch=16, width=width, layers=layers, heads=6)
    text = small_text_backbone(vocabulary_size=len(tokenizer), width=width, layers=1, heads=6, positions=32)
    return Pretrained(image.eval(), text.eval(), tokenizer, mean=HALF, std=HALF, source={})


def _model_params(train: str) -> Any:
    return load_params().model.model_copy(update={"train": train, "image_size": SIZE})


def _features(folder: Path, archive: ImageArchive, split: Split) -> Row:
    base, made = _base(768, 12), iter(range(1000))  # ViT-B/16
    tower = ImageTower(base.image).eval()
    few = Split.of([(name, ["word1"]) for name in split.images[:ENCODED]])
    ready = torch.randn(ENCODED, 3, SIZE, SIZE)

    @torch.inference_mode()
    def bare() -> None:
        for part in ready.split(BATCH):
            tower(part)

    def stage() -> None:
        make_features(folder / f"features{next(made)}", {"train": few}, archive, base, _model_params("heads"))

    value, remark = ratio(bare, stage, 3)
    what = "features, from JPEG to shard (ViT-B/16, 224 pixels)"
    return at_least(what, "images/s over a bare forward loop on ready tensors", value, 0.9, f"bare {remark}")


def _waiting(folder: Path, archive: ImageArchive, split: Split) -> Row:
    base, model_params = _base(384, 6), _model_params("towers")
    make_features(folder / "prepared", {"train": split}, archive, base, model_params)
    inputs = Inputs(folder / "prepared/train", split, model_params, 0, augment=True)
    training = _training(published(), make_model(base, model_params), "no")
    training.prepared.train()
    plan = epoch_plan(IMAGES, 16, 1, 0)
    spans = [range(len(batch)) for batch in plan]
    batches = training_batches(inputs, plan, spans, seeds=(1, 0), start=0, workers=1)
    waits, whole = [], []
    begun = time.perf_counter()
    for batch in batches:
        waits.append(time.perf_counter() - begun)
        training.step(batch, warming_up=False)
        whole.append(time.perf_counter() - begun)
        begun = time.perf_counter()
    share = 100 * sum(waits[1:]) / sum(whole[1:])
    remark = f"step {statistics.median(whole):.2f} s, 16 photographs, FNE's augmentation, one worker process"
    return at_most("towers training on prepared images", "% of the step spent waiting for data", share, 5, remark)


def _momentum() -> Row:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(), add_pooling_layer=False)
    averaged, other = momentum_copy(model), momentum_copy(model)
    targets: list[Tensor] = list(other.parameters())
    sources: list[Tensor] = [parameter.detach() for parameter in model.parameters()]
    value, remark = ratio(
        lambda: update_momentum(averaged, model, 0.995), lambda: torch._foreach_lerp_(targets, sources, 0.005), 25
    )
    what = "momentum update (BERT-base)"
    return at_most(what, "over one multi-tensor pass", value, 1.2, remark)


def mixed_precision() -> Iterator[Row]:
    """Both towers of FNE's paper, on a GPU."""
    what = "towers training, ViT-B/16-384 + BERT-base, on a GPU"
    measures = "pairs/s, bf16 and fused attention over the plain float32 loop", "% of the GPU's own bf16 matrix rate"
    if not torch.cuda.is_available():
        yield without_gpu(what, measures[0], "≥ 3")
        yield without_gpu(what, measures[1], "")
        return
    device = torch.device("cuda")
    batch = _large_batch(device)
    seconds = {}
    for precision, attention in (("no", "eager"), ("bf16", "sdpa")):
        training = _training(published(), _large_model(attention), precision)
        training.prepared.train()
        seconds[precision] = timed_steps(training, batch, 15, 3)
        del training
        torch.cuda.empty_cache()
    remark = f"batch {LARGE_BATCH}: {LARGE_BATCH / seconds['bf16']:.0f} over {LARGE_BATCH / seconds['no']:.0f} pairs/s"
    yield at_least(what, measures[0], seconds["no"] / seconds["bf16"], 3, remark)
    # forward and backward of the trained towers, forward of the momentum towers: 6 + 2 operations a weight and token
    operations = 8 * LARGE_BATCH * sum(weights * count for weights, count in LAYERS)
    share = 100 * operations / seconds["bf16"] / _matrix_rate(device)
    yield Row(what, measures[1], share, "", None, "attention's own products left out")


def timed_steps(training: Training, batch: Batch, steps: int, warm: int) -> float:
    """The median of a step's seconds on a GPU, the first `warm` left out."""
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        training.step(batch, warming_up=False)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[warm:])


def _training(params: Params, model: MatchingModel, precision: str) -> Training:
    content = params.model_copy(update={"memory": params.memory.model_copy(update={"size": 1024})})
    return training_of(content, model, precision)


def training_of(params: Params, model: MatchingModel, precision: str, impact: NegativeImpact | None = None) -> Training:
    """A training of which only `step` is used; several in one process may differ in their precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    inputs, checkpoint = cast(Inputs, None), cast(Checkpoint, None)
    return Training(params, model, inputs, inputs, accelerator, checkpoint, impact=impact)


def _large_model(attention: str) -> MatchingModel:
    from transformers import BertConfig, BertModel, ViTConfig, ViTModel

    configs = ViTConfig(image_size=LARGE_SIZE), BertConfig()
    for config in configs:
        config._attn_implementation = attention
    image, text = ViTModel(configs[0], add_pooling_layer=False), BertModel(configs[1], add_pooling_layer=False)
    return MatchingModel(ImageTower(image), TextTower(text, "masked_mean"), nn.Identity(), nn.Identity(), width=768)


def _large_batch(device: torch.device) -> Batch:
    ids = torch.randint(1000, 20_000, (LARGE_BATCH, 30))
    pixels = torch.randint(0, 256, (LARGE_BATCH, 3, LARGE_SIZE, LARGE_SIZE), dtype=torch.uint8)
    place_B = torch.arange(LARGE_BATCH)
    return Batch(pixels, Tokens(ids, torch.ones_like(ids)), place_B, place_B, 0, LARGE_BATCH).to(device)


def _matrix_rate(device: torch.device) -> float:
    """Operations a second of a large bf16 product."""
    side = 8192
    one = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        one @ one
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(10):
        one @ one
    torch.cuda.synchronize()
    return 10 * 2 * side**3 / (time.perf_counter() - begun)
