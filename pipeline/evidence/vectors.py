"""Vectors of captions, and of images in the captions' space: of frozen features, or of encoders that params.yaml names.

Shapes: N images, M captions, W and V widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.errors import InputError
from pipeline.evidence.captions import centred_captions
from pipeline.evidence.moments import Frame, mean_direction
from pipeline.evidence.regression import fit_ridge, out_of_fold_images
from pipeline.features.pixels import PixelSettings, encoded_images
from pipeline.features.precision import Precision, in_precision, precision_on
from pipeline.features.shards import SHARD_ROWS, all_features, write_shards
from pipeline.features.tokens import encoded_captions
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.loading import Source
from pipeline.models.normalisation import resize_by
from pipeline.models.pretrained import fetch_image, fetch_text
from pipeline.params import Params
from pipeline.progress import progress
from pipeline.runtime.processes import gather, local_span, own_device

FOLDS = 5


def write_vectors(
    folder: Path, splits: dict[str, Split], features: Path, images: Path, params: Params
) -> dict[str, Source]:
    """Write what the kinds of evidence need below `folder`; returns the source of each encoder that was named.

    Caption vectors, and image features mapped to them by a regression on the training pairs; each training image by one
    without that image. The training images' own features, standardised (see `read_pictures`). With kind `similarity`
    the encoder has one space for both: its vectors are only centred, each side by its own mean, which differ ("modality
    gap", Liang et al. 2022). `images` is the archive. Several processes share the shards: wait for the others before
    reading.

    Raises:
        InputError: when an encoder cannot be loaded, or stage `features` froze nothing.
    """
    sources = dict[str, Source]()
    if "text" in params.evidence.sides:
        captions = _captions(splits, features, params, sources)
        mean_V = mean_direction(captions["train"])
        for name, caption_MV in captions.items():
            write_rows(folder / name, "captions", caption_MV, partial(centred_captions, mean_V=mean_V))
    if "image" in params.evidence.sides:
        pictures = _images(splits, features, images, params, sources)
        if "similarity" in params.evidence.kinds:
            _check_widths(pictures["train"], captions["train"])
            image_mean_V = mean_direction(pictures["train"])
            for name, image_NV in pictures.items():
                write_rows(folder / name, "images", image_NV, partial(centred_captions, mean_V=image_mean_V))
            return sources
        caption_image_M = torch.tensor(splits["train"].caption_image, device=own_device())
        pairs = pictures["train"], captions["train"], caption_image_M
        ridge = fit_ridge(*pairs)
        write_rows(folder / "train", "images", out_of_fold_images(*pairs, folds=FOLDS, seed=params.evidence.seed))
        for name in pictures.keys() - {"train"}:
            write_rows(folder / name, "images", ridge.image(pictures[name]))
        write_rows(folder / "train", "pictures", pictures["train"], partial(_standardised, frame=ridge.frame))
    return sources


def _standardised(image_BW: Tensor, frame: Frame) -> Tensor:
    return normalize(frame.image(image_BW.float()), dim=1)


def _check_widths(image_NW: Tensor, caption_MV: Tensor) -> None:
    if image_NW.shape[1] != caption_MV.shape[1]:
        raise InputError(
            f"evidence.kinds: similarity: image vectors of width {image_NW.shape[1]} and caption vectors of width "
            f"{caption_MV.shape[1]} are in no common space; take regression, or a dual encoder"
        )


def _captions(
    splits: dict[str, Split], features: Path, params: Params, sources: dict[str, Source]
) -> dict[str, Tensor]:
    """Caption features (M, V) of each split on this process's device; a named encoder is added to `sources`."""
    if params.evidence.text is None:
        return {name: all_features(features / name, "captions").to(own_device()) for name in splits}
    backbone, tokenizer, sources["text"] = fetch_text(
        "evidence.text", params.evidence.text, params.evidence.text_revision
    )
    tower = in_precision(text_tower(backbone, "masked_mean").eval().to(own_device()), _precision(params))
    settings = params.model.model_copy(update={"pooling": "masked_mean"})
    encode = partial(encoded_captions, tower, own_device(), tokenizer, settings=settings)
    return {name: _encoded(encode, split.captions, f"{name} captions") for name, split in splits.items()}


def _images(
    splits: dict[str, Split], features: Path, images: Path, params: Params, sources: dict[str, Source]
) -> dict[str, Tensor]:
    """The same for image features (N, W)."""
    if params.evidence.image is None:
        return {name: all_features(features / name, "images").to(own_device()) for name in splits}
    backbone, mean, std, size, own_resize, sources["image"] = fetch_image(
        "evidence.image", params.evidence.image, params.evidence.image_revision
    )
    tower, archive = image_tower(backbone).eval().to(own_device()), ImageArchive(images)
    settings = PixelSettings(size, resize_by(params.model.resize, own_resize), mean, std)
    encode = partial(encoded_images, tower, own_device(), archive, settings=settings, precision=_precision(params))
    return {name: _encoded(encode, split.images, f"{name} images") for name, split in splits.items()}


def _precision(params: Params) -> Precision:
    return precision_on(own_device(), params.model.features_precision)


def _encoded(encode: Callable[[Sequence[str]], Tensor], rows: Sequence[str], label: str) -> Tensor:
    """All rows' vectors; several processes share them."""
    own = local_span(len(rows))
    part = own or range(1)  # a process without rows encodes one, to learn the width
    chunks = [part[start : start + SHARD_ROWS] for start in range(0, len(part), SHARD_ROWS)]
    parts = [
        encode(rows[chunk.start : chunk.stop])
        for chunk in progress(chunks, label=label, total=len(chunks), rows=SHARD_ROWS)
    ]
    return gather(torch.cat(parts)[: len(own)].to(own_device()), len(rows))


def write_rows(
    folder: Path, kind: str, row_NV: Tensor, change: Callable[[Tensor], Tensor] = lambda row_BV: row_BV
) -> None:
    """Write vectors (N, V), changed shard by shard, as float16; `kind` is "images" or "captions"."""

    def make(rows: range) -> dict[str, Tensor]:
        return {"feature": change(row_NV[rows.start : rows.stop]).half().cpu()}

    write_shards(folder, kind, len(row_NV), make, iter)
