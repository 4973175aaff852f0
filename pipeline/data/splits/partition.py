"""The work of stage `split`: from data/raw to FNE's JSON, the vocabulary, and the truth if it is known."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from pipeline.data.captions import clean_caption
from pipeline.data.images import ImageArchive
from pipeline.data.rows import Picture, read_pictures
from pipeline.data.splits.format import SPLITS, Split, write_split
from pipeline.data.splits.judgments import write_judgments
from pipeline.data.splits.noise import make_noise, noise_file, noisy, write_noise
from pipeline.data.splits.truth import scene_objects, write_truth
from pipeline.errors import InputError
from pipeline.files import read_record, write_text
from pipeline.params import NoiseParams, SplitParams
from pipeline.paths import ANNOTATIONS, IMAGES, PICTURES, SOURCE, VOCABULARY


def partition(
    raw: Path, params: SplitParams, noise: NoiseParams, folder: Path, judgments: str | None = None
) -> list[str]:
    """Fill `folder` with the three splits, vocabulary.txt, noise.json, the truth and a person's `judgments` of pairs;
    returns lines for the user.

    Raises:
        InputError: naming the file and the wrong row, or a split without an image.
    """
    index = noise_file(noise)
    source = read_record(raw / SOURCE.name, "download")
    files = {path.name: path for path in sorted((raw / ANNOTATIONS.name).iterdir())}
    pictures, drawn = completed(read_pictures(files.pop(PICTURES.name)), params, raw)
    packed = set(ImageArchive(raw / IMAGES.name).names)
    for picture in pictures:
        if picture.image not in packed:
            raise InputError(f"{raw / IMAGES.name}: holds no image {picture.image!r}; run stage download again")
    splits = {
        name: Split.of([(picture.image, picture.captions) for picture in pictures if picture.split == name])
        for name in SPLITS
    }
    for name, split in splits.items():
        if not split.images:
            raise InputError(f"{raw}: no image is left in split {name!r}; train, val and test need at least one each")
    objects_N = scene_objects(files, "train") if noise.kind == "category" else None
    shuffle = make_noise(splits["train"], noise, index, objects_N)
    written = splits if shuffle is None else splits | {"train": noisy(splits["train"], shuffle)}
    for name, split in written.items():
        write_split(folder / f"{name}.json", split, one_row_a_caption=name == "train")
    write_text(folder / VOCABULARY.name, _vocabulary(splits["train"].captions))
    lines = [f"{name}: {len(split.images)} images, {len(split.captions)} captions" for name, split in splits.items()]
    noise_line = write_noise(folder, splits["train"], noise, index, shuffle)
    return (
        drawn
        + lines
        + ([noise_line] if noise_line else [])
        + write_truth(source["layout"], files, splits, folder, None if shuffle is None else shuffle.permutation_M)
        + ([] if judgments is None else [write_judgments(judgments, written, folder)])
    )


def completed(pictures: Sequence[Picture], params: SplitParams, raw: Path) -> tuple[list[Picture], list[str]]:
    """Give every picture a split where the data set names none of the three, one, or train and another one.

    With one named, all three are drawn; with train and test, val is drawn from train; with train and val, val is the
    test split and another val is drawn from train. The second value says so.

    Raises:
        InputError: naming `raw`, for other splits, or too few images.
    """
    named = {picture.split for picture in pictures}
    if len(named) == 1:
        (split,) = named
        told = f"all images are named {split}; train, val and test are drawn from them" if split else ""
        return seeded_split(pictures, params, raw), [told] if told else []
    if named not in ({"train", "test"}, {"train", "val"}):
        return list(pictures), []
    told = "val is drawn from train"
    if "val" in named:
        pictures = [replace(picture, split="test") if picture.split == "val" else picture for picture in pictures]
        told = f"no image is named test: val is the test split, and {told}"
    train = sorted((item.image for item in pictures if item.split == "train"), key=partial(_digest, params.seed))
    val = set(train[: min(max(1, round(params.val * len(train))), len(train) - 1)])
    return [replace(item, split="val") if item.image in val else item for item in pictures], [told]


def seeded_split(pictures: Sequence[Picture], params: SplitParams, raw: Path) -> list[Picture]:
    """Give every picture a split, by the digest of its name and the seed; the order stays, the same on every machine.

    A new image changes the split of others only at the borders of the shares.

    Raises:
        InputError: naming `raw`, their source, for fewer than three images.
    """
    if len(pictures) < len(SPLITS):
        raise InputError(
            f"{raw}: {len(pictures)} images; at least {len(SPLITS)} are needed, one for each of train, val and test"
        )
    order = sorted((picture.image for picture in pictures), key=partial(_digest, params.seed))
    # with few images, the shares (at least one image each) must leave one for training
    test = min(max(1, round(params.test * len(order))), len(order) - 2)
    val = min(max(1, round(params.val * len(order))), len(order) - test - 1)
    split = dict.fromkeys(order[:test], "test") | dict.fromkeys(order[test : test + val], "val")
    return [replace(picture, split=split.get(picture.image, "train")) for picture in pictures]


def _digest(seed: int, image: str) -> bytes:
    return hashlib.sha256(f"{seed}:{image}".encode()).digest()


def _vocabulary(captions: Iterable[str]) -> str:
    """Sorted lines `word<TAB>count` of the words of the training captions."""
    words = Counter(word for caption in captions for word in clean_caption(caption).split())
    return "".join(f"{word}\t{count}\n" for word, count in sorted(words.items()))
