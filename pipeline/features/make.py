"""What stage `features` makes: the work on images and captions that is done once, before training.

`model.train: heads`: the frozen towers' outputs. `model.train: towers`: images prepared for random crops, and
captions cleaned and tokenised.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split
from pipeline.errors import InputError
from pipeline.features.pixels import PixelSettings, encoded_images
from pipeline.features.precision import Precision, in_precision, precision_on
from pipeline.features.shards import SHARD_ROWS, pack, write_shards
from pipeline.features.tokens import MOST_TOKENS, encoded_captions, tokenised
from pipeline.files import sha256
from pipeline.models.clip import image_tower, text_tower
from pipeline.models.pretrained import Pretrained
from pipeline.params import ModelParams
from pipeline.progress import progress
from pipeline.runtime.processes import own_device, process_index, wait_for_all

JPEG_QUALITY = 95
DTYPES = {"float32": torch.float32, "float16": torch.float16}
WIDEST = 2048  # numbers in a row of features, of the widest towers in use


def make_features(
    folder: Path, splits: dict[str, Split], archive: ImageArchive, base: Pretrained, model: ModelParams
) -> dict[str, Any]:
    """Fill `folder/{train,val,test}` with shards and return the manifest that `features.json` holds.

    Existing shards are kept: the caller must give the same folder only for the same inputs.
    Several processes share the work; only the first one's manifest holds the digests.

    Raises:
        InputError: when the disk has too little space, an image does not decode, or a feature is too large for float16.
    """
    mean, std = base.normalisation(model.normalisation)
    precision: Precision = "float32"
    resize = base.resize_by(model.resize)
    _check_room(folder, splits, archive, model)
    if model.train == "heads":
        device = own_device()
        precision = precision_on(device, model.features_precision)
        image = image_tower(base.image).eval().to(device)
        text = in_precision(text_tower(base.text, model.pooling).eval().to(device), precision)
        pixels = PixelSettings(model.image_size, resize, mean, std)
        encode_images = partial(encoded_images, image, device, archive, settings=pixels, precision=precision)
        encode_captions = partial(encoded_captions, text, device, base.tokenizer, settings=model)
        make_image = partial(_stored, encode_images, model.features_dtype)
        make_text = partial(_stored, encode_captions, model.features_dtype)
    else:
        make_image = partial(_prepared, archive, size=model.image_size)
        make_text = partial(_tokens, base=base, model=model)
    for name, split in splits.items():
        _write_rows(folder / name, "images", split.images, make_image, name)
        _write_rows(folder / name, "captions", split.captions, make_text, name)
    wait_for_all()
    made = sorted(folder.rglob("*.safetensors")) if process_index() == 0 else []
    return {
        "train": model.train,
        "features_dtype": model.features_dtype,
        "features_precision": model.features_precision,
        "computed_in": precision,
        "image_size": model.image_size,
        "resize": resize,
        "words": model.words,
        "captions": model.captions,
        "pad": base.tokenizer.pad_token_id,
        "mean": list(mean),
        "std": list(std),
        "rows": {
            name: {"images": len(split.images), "captions": len(split.captions)} for name, split in splits.items()
        },
        "sha256": {str(path.relative_to(folder)): sha256(path) for path in made},
    }


def _write_rows(
    folder: Path, kind: str, rows: Sequence[str], make: Callable[[Sequence[str]], dict[str, Tensor]], name: str
) -> None:
    def track(numbers: range) -> Iterable[int]:
        return progress(numbers, label=f"{name} {kind}", rows=SHARD_ROWS)

    write_shards(folder, kind, len(rows), lambda span: make(rows[span.start : span.stop]), track)


def _stored(encode: Callable[[Sequence[str]], Tensor], dtype: str, rows: Sequence[str]) -> dict[str, Tensor]:
    feature_NW = encode(rows)
    stored_NW = feature_NW.to(DTYPES[dtype])
    if not stored_NW.isfinite().all():
        raise InputError(
            f"model.features_dtype = {dtype!r}: a feature of {feature_NW.abs().max():g} does not fit; take float32"
        )
    return {"feature": stored_NW}


def _tokens(captions: Sequence[str], *, base: Pretrained, model: ModelParams) -> dict[str, Tensor]:
    return pack(tokenised(base.tokenizer, captions, model))


def _prepared(archive: ImageArchive, names: Sequence[str], *, size: int) -> dict[str, Tensor]:
    with ThreadPoolExecutor() as pool:
        rows = pool.map(lambda name: _prepared_bytes(archive, name, size), names)
        return pack([torch.frombuffer(bytearray(row), dtype=torch.uint8) for row in rows])


def _prepared_bytes(archive: ImageArchive, name: str, size: int) -> bytes:
    """The image as stored, or downscaled (same aspect) if its shorter side exceeds twice the training size."""
    from PIL.Image import Resampling

    image = archive.decode(name)
    shorter = min(image.size)
    if shorter <= 2 * size:
        return archive.read(name)
    scale = 2 * size / shorter
    smaller = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _check_room(folder: Path, splits: dict[str, Split], archive: ImageArchive, model: ModelParams) -> None:
    """Require an upper bound: prepared images never exceed the archive, and a token takes 4 bytes."""
    images, captions = (sum(len(getattr(split, kind)) for split in splits.values()) for kind in ("images", "captions"))
    if model.train == "heads":
        needed = (images + captions) * DTYPES[model.features_dtype].itemsize * WIDEST
    else:
        needed = sum(size for _, size, _ in archive.contents) + captions * 4 * MOST_TOKENS
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(f"{folder}: {free / 1e9:.1f} GB free, up to {needed / 1e9:.1f} GB needed for features")
