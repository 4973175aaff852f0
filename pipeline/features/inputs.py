"""Batches of training pairs and evaluation inputs, from what stage `features` made."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.images import decode
from pipeline.data.splits.format import Split, read_split
from pipeline.errors import InputError
from pipeline.features.pixels import square_pixels
from pipeline.features.shards import MappedFeatures, PackedShards, feature_shards
from pipeline.features.tokens import fixed_length, padded
from pipeline.files import read_record
from pipeline.models.normalisation import Resize
from pipeline.models.towers import Tokens
from pipeline.params import ModelParams

if TYPE_CHECKING:
    from pipeline.models.build import ModelRecord

EntryRows = tuple[np.ndarray, np.ndarray]
"""For each of M training pairs: the caption rows of the clean pairs in NPC's bank for its image, for its caption."""
KEPT_BYTES = 1 << 29  # decoded pixels kept in memory, where a whole split fits


class Entries(NamedTuple):
    """The bank's clean pairs for b pairs: first those for their images, then those for their captions."""

    images: Tensor
    texts: Tensor | Tokens
    image_id: Tensor

    def to(self, device: torch.device) -> Entries:
        """The same on another device."""
        images, image_id = (part.to(device, non_blocking=True) for part in (self.images, self.image_id))
        return Entries(images, self.texts.to(device, non_blocking=True), image_id)

    def halves(self) -> tuple[Entries, Entries]:
        """The entries for the images, and those for the captions."""
        middle = len(self.image_id) // 2
        first, second = (self._part(part) for part in (slice(middle), slice(middle, None)))
        return first, second

    def _part(self, part: slice) -> Entries:
        texts = self.texts[part] if isinstance(self.texts, Tensor) else Tokens(*(each[part] for each in self.texts))
        return Entries(self.images[part], texts, self.image_id[part])


class Batch(NamedTuple):
    """This process's part of a global batch of pairs."""

    images: Tensor
    texts: Tensor | Tokens
    image_id: Tensor
    caption_id: Tensor
    first: int
    global_size: int
    entries: Entries | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        there = (part.to(device, non_blocking=True) for part in (self.images, self.image_id, self.caption_id))
        images, image_id, caption_id = there
        entries = None if self.entries is None else self.entries.to(device)
        texts = self.texts.to(device, non_blocking=True)
        return Batch(images, texts, image_id, caption_id, self.first, self.global_size, entries)


class Inputs:
    """One split's images and captions as the model takes them: pixels and tokens, or frozen features.

    Args:
        folder: the split's shards.
        split: which caption belongs to which image.
        model: section `model`: what is trained, sizes and pooling.
        pad: the tokenizer's padding id.
        augment: augment training images.
    """

    def __init__(self, folder: Path, split: Split, model: ModelParams, pad: int, *, augment: bool) -> None:
        """Open the shards without reading them."""
        self.frozen = model.train == "heads"
        self.caption_image = torch.tensor(split.caption_image)
        self.names = split.images
        self.pad = pad
        self.evaluation_length = fixed_length(model)
        self.size = model.image_size
        self.resize: Resize = "crop" if model.resize == "crop" else "square"
        self.augment = augment and not self.frozen
        self._pixels: dict[int, Tensor] = {}
        self._keep = not self.augment and len(split.images) * 3 * self.size**2 <= KEPT_BYTES
        self._images = feature_shards(folder, "images") if self.frozen else PackedShards(folder, "images")
        self._captions = feature_shards(folder, "captions") if self.frozen else PackedShards(folder, "captions")
        if len(self._images) != len(split.images) or len(self._captions) != len(split.captions):
            raise InputError(
                f"{folder}: holds {len(self._images)} images and {len(self._captions)} captions, the split "
                f"{len(split.images)} and {len(split.captions)}; run `dvc repro features` again"
            )

    @property
    def feature_widths(self) -> tuple[int, int] | None:
        """The images' and the captions' W; None where the towers are trained."""
        if not self.frozen:
            return None
        texts = self.texts([0], training=True)
        assert isinstance(texts, Tensor)
        return self.images([0]).shape[1], texts.shape[1]

    def images(self, indices: Sequence[int], seeds: Sequence[int] | None = None) -> Tensor:
        """Features (b, W), or pixels (b, 3, S, S) uint8, augmented by `seeds`."""
        if isinstance(self._images, (Tensor, MappedFeatures)):
            return self._images[torch.as_tensor(indices)].float()
        seed_of_each = [None] * len(indices) if seeds is None else seeds
        return torch.stack([self._image(index, seed) for index, seed in zip(indices, seed_of_each, strict=True)])

    def texts(self, indices: Sequence[int], *, training: bool, among: Sequence[int] | None = None) -> Tensor | Tokens:
        """Features (b, W), or tokens (b, L).

        `among`: the captions of all processes' batch: in training the longest of them sets L where padding is averaged.
        """
        if isinstance(self._captions, (Tensor, MappedFeatures)):
            return self._captions[torch.as_tensor(indices)].float()
        rows = [self._captions[index] for index in indices]
        length = self.evaluation_length
        if training and length is not None:
            length = max(len(self._captions[index]) for index in among or indices)
        return padded(rows, self.pad, length)

    def _image(self, index: int, seed: int | None) -> Tensor:
        if index in self._pixels:
            return self._pixels[index]
        assert isinstance(self._images, PackedShards)
        image = decode(self._images[index].numpy().tobytes(), self.names[index])
        if self.augment and seed is not None:
            from pipeline.features.augmentation import Augmentation

            return Augmentation(self.size)(image, seed)
        pixels = square_pixels(image, self.size, self.resize)
        if self._keep:
            self._pixels[index] = pixels
        return pixels


def open_inputs(
    model: ModelParams,
    features: Path,
    split_folder: Path,
    name: str,
    *,
    augment: bool = False,
    trained: ModelRecord | None = None,
) -> Inputs:
    """One split's inputs.

    Args:
        model: section `model` of params.yaml.
        features: what stage `features` made.
        split_folder: what stage `split` made.
        name: the split's.
        augment: augment training images.
        trained: the record of a trained model, if the inputs are for it: what it says replaces `model`.

    Raises:
        InputError: when `features` was made for other parameters.
    """
    path = features / "features.json"
    manifest = read_record(path, "features")
    own = {} if trained is None else trained.model_dump(include=set(ModelParams.model_fields))
    model = model.model_copy(update=own)
    for key in ("train", "image_size", "resize", "words", "captions", "features_dtype", "features_precision"):
        wanted = getattr(model, key)
        if manifest.get(key) != wanted and (key, wanted) != ("resize", "auto"):
            made = f"{path}: made for model.{key} {manifest.get(key)}"
            if key in own and key in manifest:
                back = "set it back in params.yaml and run `dvc repro features`"
                raise InputError(f"{made}, models/trained for {wanted}; {back}, or train")
            raise InputError(f"{made}, params.yaml says {wanted}; run `dvc repro features`")
    pad = manifest.get("pad")
    if not isinstance(pad, int):
        raise InputError(f"{path}: pad = {pad!r}, expected the tokenizer's padding id; run `dvc repro features`")
    model = model.model_copy(update={"resize": manifest["resize"]})  # what auto stands for
    return Inputs(features / name, read_split(split_folder / f"{name}.json"), model, pad, augment=augment)


class _PlannedBatches(Dataset[Batch]):
    """Item i is batch i of an epoch; a worker process makes whole batches."""

    def __init__(
        self,
        inputs: Inputs,
        plan: Sequence[np.ndarray],
        spans: Sequence[range],
        seeds: tuple[int, int],
        entries: EntryRows | None,
    ) -> None:
        self.inputs, self.plan, self.spans, self.seeds, self.entries = inputs, plan, spans, seeds, entries

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        span = self.spans[number]
        captions = self.plan[number][span.start : span.stop]
        images = self.inputs.caption_image[torch.from_numpy(captions)]
        # one seed per position in the global batch: the same augmentation on any number of processes
        words = np.random.SeedSequence([*self.seeds, number]).generate_state(span.stop)
        return Batch(
            self.inputs.images(images.tolist(), words[span.start :].tolist()),
            self.inputs.texts(captions.tolist(), training=True, among=self.plan[number].tolist()),
            images,
            torch.from_numpy(captions),
            span.start,
            len(self.plan[number]),
            None if self.entries is None else self._entries(self.entries, captions, self.plan[number]),
        )

    def _entries(self, entries: EntryRows, captions: np.ndarray, among: np.ndarray) -> Entries:
        """The entries, not augmented."""
        pairs, every = (np.concatenate([rows_M[chosen] for rows_M in entries]) for chosen in (captions, among))
        images = self.inputs.caption_image[torch.from_numpy(pairs)]
        texts = self.inputs.texts(pairs.tolist(), training=True, among=every.tolist())
        return Entries(self.inputs.images(images.tolist()), texts, images)


def epoch_plan(captions: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Every caption once, in seeded random order, in global batches; the last may be smaller."""
    order = np.random.default_rng([seed, epoch]).permutation(captions)
    return [order[start : start + batch_size] for start in range(0, captions, batch_size)]


def training_batches(
    inputs: Inputs,
    plan: Sequence[np.ndarray],
    spans: Sequence[range],
    *,
    seeds: tuple[int, int],
    start: int,
    workers: int,
    entries: EntryRows | None = None,
) -> Iterator[Batch]:
    """The batches of `plan` from number `start` on, the same for any number of workers.

    Args:
        inputs: the training split.
        plan: caption numbers of each global batch.
        spans: the part of each that this process takes.
        seeds: of this epoch's augmentation: the training's seed and the epoch.
        start: first batch, above 0 after a resume in the middle of an epoch.
        workers: processes that prepare batches; 0: none.
        entries: also load each pair's clean entries: those for its image, and for its caption.
    """
    loader = DataLoader(
        _PlannedBatches(inputs, plan, spans, seeds, entries),
        batch_size=None,
        sampler=range(start, len(plan)),
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # must not advance the global generator, whose state a resume restores
        worker_init_fn=_begin_worker,
    )
    return iter(loader)


def _begin_worker(_worker: int) -> None:
    torch.set_num_threads(1)
    Thread(target=_end_with_the_training, daemon=True).start()


def _end_with_the_training() -> None:
    """End a worker whose training was killed: torch's own check takes 5 s, and can miss an early kill."""
    training = multiprocessing.parent_process()
    if training is not None:
        training.join()
        os._exit(1)
