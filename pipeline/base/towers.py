"""The base towers that every ablation starts from: fetched, or small ones made here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pipeline.data.scenes.scenes import Scene, generate, generate_splits, vocabulary
from pipeline.errors import InputError
from pipeline.features.pixels import square_pixels
from pipeline.features.tokens import MOST_TOKENS, fixed_length, padded, tokenised
from pipeline.models import pretrained
from pipeline.models.clip import image_tower, small_clip, text_tower
from pipeline.models.normalisation import CLIP_MEAN, CLIP_STD, HALF
from pipeline.models.pretrained import Pretrained
from pipeline.models.small import small_image_backbone, small_text_backbone, word_tokenizer
from pipeline.models.towers import MatchingModel
from pipeline.objectives.negative_impact import pair_losses
from pipeline.params import ModelParams, Params
from pipeline.progress import progress
from pipeline.runtime.beside import BatchVectors, Beside, core_is_free
from pipeline.runtime.processes import own_device, use_threads

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RARE = 5  # a word with fewer occurrences in all captions is unknown, as usual for word vocabularies
FRAME = 2  # [CLS] and [SEP]
WARMUP_STEPS = 100


def make_base(params: Params, words: Sequence[tuple[str, int]]) -> Pretrained:
    """Fetch the towers of `model.image` and `model.text`, or make small ones.

    Small ones start from random weights; for generated scenes, they are trained with InfoNCE on other scenes, with
    another seed. `words` are the dataset's words and their counts.

    Raises:
        InputError: when a tower cannot be fetched.
    """
    model = params.model
    if model.family == "clip" and model.image is not None:
        return tried(pretrained.fetch_clip(model.image, revision=model.image_revision), model, words)
    if model.image is not None and model.text is not None:
        revisions = {"image_revision": model.image_revision, "text_revision": model.text_revision}
        return tried(pretrained.fetch(model.image, model.text, **revisions), model, words)
    base = params.base
    torch.manual_seed(base.seed)
    scenes = params.data.name == "scenes"
    known = [word for word, count in words if scenes or count >= RARE] + (vocabulary() if scenes else [])
    tokenizer = word_tokenizer(known)
    tokenizer.model_max_length = model.words + FRAME
    made = _small_towers(params, tokenizer)
    if scenes and base.epochs:
        _learn_scenes(made, params)
    return made


@torch.inference_mode()
def tried(fetched: Pretrained, model: ModelParams, words: Sequence[tuple[str, int]]) -> Pretrained:
    """The towers, after each has encoded once: an image of the size set, and a caption longer than any.

    Raises:
        InputError: when one cannot, or gives no vector of finite numbers.
    """
    pixels = torch.arange(3 * model.image_size**2, dtype=torch.float32).view(1, 3, model.image_size, model.image_size)
    caption = " ".join([word for word, _ in words] or ["a"]) + " a" * MOST_TOKENS
    unlimited = model.model_copy(update={"words": MOST_TOKENS})
    rows = tokenised(fetched.tokenizer, [caption], unlimited)
    tokens = padded(rows, fetched.tokenizer.pad_token_id, fixed_length(model))
    inputs: dict[str, tuple[Any, Any, str]] = {
        "image": (image_tower(fetched.image), pixels / pixels.numel(), f"an image of {model.image_size} pixels"),
        "text": (text_tower(fetched.text, model.pooling), tokens, f"a caption of {tokens.ids.shape[1]} tokens"),
    }
    for side, (tower, example, what) in inputs.items():
        key = "model.image" if side == "image" or model.text is None else "model.text"
        place = f"{key} = {fetched.source[side]['name']!r}: a {tower.backbone.config.model_type} does not encode {what}"
        try:
            feature_1W = tower.eval()(example)
        except Exception as error:  # models raise any type
            raise InputError(f"{place}: {' '.join(str(error).split())[:200]}") from error
        if feature_1W.ndim != 2 or not feature_1W.isfinite().all():
            raise InputError(f"{place} as one vector of finite numbers: shape {tuple(feature_1W.shape)}")
    return fetched


def _small_towers(params: Params, tokenizer: PreTrainedTokenizerFast) -> Pretrained:
    """Towers with random weights; a CLIP's logit scale is that of `base.temperature`."""
    model, base = params.model, params.base
    # the same normalisation as in training
    mean, std = (CLIP_MEAN, CLIP_STD) if model.normalisation == "clip" else (HALF, HALF)
    source = {side: {"name": "small, made here", "revision": None} for side in ("image", "text")}
    shape = {"width": base.width, "layers": base.layers, "heads": base.heads}
    vocabulary_size, positions = len(tokenizer), model.words + FRAME
    if model.family == "clip":
        special = tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id
        clip = small_clip(
            size=model.image_size,
            patch=base.patch,
            vocabulary_size=vocabulary_size,
            positions=positions,
            special=special,
            **shape,
        )
        scale = -math.log(base.temperature)
        return Pretrained(*clip, tokenizer, mean=mean, std=std, source=source, logit_scale=scale)
    image = small_image_backbone(size=model.image_size, patch=base.patch, **shape)
    text = small_text_backbone(vocabulary_size=vocabulary_size, positions=positions, **shape)
    return Pretrained(image, text, tokenizer, mean=mean, std=std, source=source)


def base_scenes(params: Params) -> list[Scene]:
    """The scenes to train the small towers on: a separate stream, without any scene of a split (apart from jitter).

    Raises:
        InputError: when the splits use all scenes.
    """
    taken = {scene.description for split in generate_splits(params.data.scenes).values() for scene in split}
    return generate(params.data.scenes, params.base.seed, params.base.scenes, stream="base", avoid=taken)


def _learn_scenes(made: Pretrained, params: Params) -> None:
    """Train with InfoNCE over the batch on `base_scenes`; other captions of the same image are left out."""
    base = params.base
    scenes = base_scenes(params)
    size = params.data.scenes.size
    pixels_N = torch.stack([square_pixels(scene.image(size), params.model.image_size) for scene in scenes])
    captions = [caption for scene in scenes for caption in scene.captions]
    image_M = torch.tensor([index for index, scene in enumerate(scenes) for _ in scene.captions])
    tokens = tokenised(made.tokenizer, captions, params.model)
    towers = image_tower(made.image), text_tower(made.text, params.model.pooling)
    identity, device = torch.nn.Identity(), own_device()
    model = MatchingModel(*towers, identity, identity, width=base.width, mean=made.mean, std=made.std)
    model.to(device).train()
    use_threads(sum(parameter.numel() for parameter in model.parameters()))
    beside = Beside(free=core_is_free(device))
    optimiser = torch.optim.Adam(model.parameters(), lr=base.lr)
    plan = [order for epoch in range(base.epochs) for order in _epoch(len(captions), base.batch_size, base.seed, epoch)]
    for step, captions_B in enumerate(progress(plan, label="base towers", rows=base.batch_size)):
        for group in optimiser.param_groups:
            group["lr"] = base.lr * rate_factor(step, len(plan))
        image_B = image_M[captions_B]
        texts = padded([tokens[int(row)] for row in captions_B], made.tokenizer.pad_token_id, None)
        encoded_texts = beside.start(model.encode_text, texts.to(device))
        encoded_images = model.encode_image(pixels_N[image_B].to(device))
        vectors = BatchVectors((encoded_images, encoded_texts()), beside)
        loss = 2 * pair_losses(vectors.image_bD, vectors.text_bD, image_B.to(device), base.temperature).mean()
        optimiser.zero_grad()
        loss.backward()
        vectors.backward()
        optimiser.step()
    model.cpu()


def rate_factor(step: int, steps: int) -> float:
    """Linear up to 1 in `WARMUP_STEPS` (without it the small towers learn half as much), then half a cosine to 0."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (1 + math.cos(math.pi * step / steps)) / 2


def _epoch(captions: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    order = torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(captions))
    return list(order.split(batch_size))
