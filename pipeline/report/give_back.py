"""Write cleaned data in the formats that other tools read; each writer returns the names of its files."""

from __future__ import annotations

import io
import itertools
import json
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.captions import one_line
from pipeline.data.images import is_image
from pipeline.data.splits.format import SPLITS, Split, write_split
from pipeline.errors import InputError
from pipeline.files import atomic_path, write_json, write_text
from pipeline.report.cleaned import Cleaned

SHARD_PAIRS = 10_000  # of a webdataset's tar
SEED = 1  # of the negatives of triplets

ReadImage = Callable[[str], bytes]


def write_pairs(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """`captions.csv`: image, caption, split where there are several, and weight; this project's own table."""
    table = data.pairs[["image", "caption", "split", "weight"]]
    if set(table["split"]) - set(SPLITS):
        table = table.drop(columns="split")
    write_text(folder / "captions.csv", table.to_csv(index=False))
    return ["captions.csv"]


def write_eccv(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """Every matching image of a caption and the other way round, as ECCV Caption's JSON; `ids.json` names the ids.

    `eccv_caption.Metrics(extra_file_dir=FOLDER)` reads both tables.
    """
    both = [(image, text, image) for image, text in _rows(data.pairs, "image", "caption")]
    both += _rows(data.matches, "image", "caption", "written_for")
    images = {name: number for number, name in enumerate(dict.fromkeys(image for image, *_ in both))}
    # an id for each text of each picture: the same words may be written for two pictures
    captions = {text: number for number, text in enumerate(dict.fromkeys((owner, text) for _, text, owner in both))}
    i2t, t2i = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for image, text, owner in dict.fromkeys(both):
        i2t[str(images[image])].append(captions[owner, text])
        t2i[str(captions[owner, text])].append(images[image])
    write_json(folder / "pm_image_to_caption.json", i2t)
    write_json(folder / "pm_caption_to_image.json", t2i)
    named = [{"caption": text, "image": owner} for owner, text in captions]
    write_json(folder / "ids.json", {"images": list(images), "captions": named})
    return ["pm_image_to_caption.json", "pm_caption_to_image.json", "ids.json"]


def write_ignore(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """`ignore.jsonl`: images and captions that no trainer should use as negatives, each with its posterior."""
    rows = data.matches[["split", "image", "caption", "posterior"]]
    write_text(folder / "ignore.jsonl", rows.to_json(orient="records", lines=True, force_ascii=False))
    return ["ignore.jsonl"]


def write_triplets(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """`train.jsonl` and one for each other split, for sentence-transformers: anchor and positive are captions of one
    picture, the negative of another one of the same split. Neither the negative matches the anchor's picture, nor the
    anchor a picture that the negative was written for.

    A caption that a person judged not to match the anchor's picture is a hard negative and comes first. Any other one
    that is listed with it is no negative, however small its posterior: the prior is a lower bound, so that many listed
    pairs match.

    Raises:
        InputError: when no picture has a second caption.
    """
    draw = random.Random(SEED)
    names = []
    for split, pairs in data.pairs.groupby("split", sort=False):
        matches, others = (table[table["split"] == split] for table in (data.matches, data.others))
        rows = _triplets(pairs, matches, others, draw)
        if rows:
            names.append(f"{_split_name(split)}.jsonl")
            write_text(folder / names[-1], "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
    if not names:
        raise InputError("sentence-transformers: no picture has two captions for a triplet; take --format ignore")
    return names


def _triplets(pairs: Any, matches: Any, others: Any, draw: random.Random) -> list[dict[str, str]]:
    """Those of one split, from its part of each table of `Cleaned`."""
    wrong = others["answer"] == "no"
    captions, hard = _by_image(pairs), _by_image(others[wrong])
    may_match = defaultdict[str, set[str]](set)  # an image's own captions, and all others that may describe it
    for table in (pairs, matches, others[~wrong]):
        for image, text in _rows(table, "image", "caption"):
            may_match[image].add(text)
    owners = defaultdict[str, list[str]](list)
    every = _rows(pairs, "image", "caption")
    for image, text in every:
        owners[text].append(image)
    rows = []
    for image, own in captions.items():
        for anchor, positive in zip(own, own[1:] + own[:1], strict=True):
            if anchor == positive:
                continue
            drawn = (draw.choice(every)[1] for _ in range(100))
            for negative in itertools.chain(hard[image], drawn):
                if negative in may_match[image] or any(anchor in may_match[owner] for owner in owners[negative]):
                    continue
                rows.append({"anchor": anchor, "positive": positive, "negative": negative})
                hard[image] = [text for text in hard[image] if text != negative]
                break
    return rows


def write_open_clip(data: Cleaned, folder: Path, read: ReadImage) -> list[str]:
    """`train.csv` with `filepath` and `title`, between tabs as open_clip expects, and the pictures it names.

    Paths are relative to the folder, so train there. A line break in a caption is a space: not every reader of such
    tables takes it.
    """
    import pandas

    (folder / "images").mkdir()
    paths = {}
    for number, name in enumerate(dict.fromkeys(data.pairs["image"])):
        content = read(name)
        paths[name] = f"images/{number:09d}{_suffix(name, content)}"
        (folder / paths[name]).write_bytes(content)
    names = []
    for split, part in data.pairs.groupby("split", sort=False):
        table = pandas.DataFrame({"filepath": part["image"].map(paths), "title": part["caption"].map(one_line)})
        names.append(f"{_split_name(split)}.csv")
        write_text(folder / names[-1], table.to_csv(index=False, sep="\t"))
    return names


def write_webdataset(data: Cleaned, folder: Path, read: ReadImage) -> list[str]:
    """Tars of `SHARD_PAIRS` pairs, each a picture, its caption in `.txt` and its name and weight in `.json`.

    A line break in a caption is a space: this project's reader takes each line of a `.txt` for a caption.
    """
    names = []
    for split, part in data.pairs.groupby("split", sort=False):
        for number, start in enumerate(range(0, len(part), SHARD_PAIRS)):
            names.append(f"{split}-{number:05d}.tar")
            rows = _rows(part.iloc[start : start + SHARD_PAIRS], "image", "caption", "weight")
            with atomic_path(folder / names[-1]) as path, tarfile.open(path, "w") as tar:
                for place, (image, caption, weight) in enumerate(rows, start):
                    about = json.dumps({"image": image, "weight": weight}, ensure_ascii=False)
                    picture = read(image)
                    for suffix, content in (
                        (_suffix(image, picture), picture),
                        (".txt", one_line(caption).encode()),
                        (".json", about.encode()),
                    ):
                        member = tarfile.TarInfo(f"{place:09d}{suffix}")
                        member.size = len(content)
                        tar.addfile(member, io.BytesIO(content))
    return names


def write_karpathy(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """`dataset.json` in Karpathy's layout; `matching` has the images of other pictures' captions that match too."""
    also = defaultdict[Any, list[str]](list)
    for split, owner, text, image in _rows(data.matches, "split", "written_for", "caption", "image"):
        also[split, owner, text].append(image)
    pictures: list[dict[str, Any]] = []
    for split, image, captions in _pictures(data):
        sentences = [{"raw": text, "matching": also[split, image, text]} for text in captions]
        pictures.append({"filename": image, "split": _split_name(split), "sentences": sentences})
    write_json(folder / "dataset.json", {"dataset": data.facts["title"], "images": pictures})
    return ["dataset.json"]


def write_fne(data: Cleaned, folder: Path, _: ReadImage) -> list[str]:
    """`train.json`, `val.json` and `test.json` in FNE's layout, which is read only with all three.

    Raises:
        InputError: when a split has no pair.
    """
    if missing := [name for name in SPLITS if name not in set(data.pairs["split"])]:
        raise InputError(
            f"fne: train.json, val.json and test.json are read together, and no pair is of {', '.join(missing)}; take "
            "--format karpathy or pairs"
        )
    names = []
    parts = defaultdict[str, list[tuple[str, list[str]]]](list)
    for split, image, captions in _pictures(data):
        parts[split].append((image, captions))
    for split, pictures in parts.items():
        names.append(f"{split}.json")
        write_split(folder / names[-1], Split.of(pictures), one_row_a_caption=split == "train")
    return names


FORMATS: Mapping[str, Callable[[Cleaned, Path, ReadImage], list[str]]] = {
    "pairs": write_pairs,
    "eccv": write_eccv,
    "ignore": write_ignore,
    "sentence-transformers": write_triplets,
    "open_clip": write_open_clip,
    "webdataset": write_webdataset,
    "karpathy": write_karpathy,
    "fne": write_fne,
}
WITH_IMAGES = ("open_clip", "webdataset")


def _suffix(name: str, content: bytes) -> str:
    """Of a picture, by which readers choose a decoder; from its content where its name has none, as in parquet."""
    from PIL import Image

    if is_image(name):
        return Path(name).suffix.lower()
    kind = str(Image.open(io.BytesIO(content)).format).lower()
    return ".jpg" if kind in ("jpeg", "mpo") else f".{kind}"


def _split_name(split: object) -> str:
    """`train` for the one part of data whose splits mean nothing."""
    return str(split) if split in SPLITS else "train"


def _rows(table: Any, *columns: str) -> list[Any]:
    return list(map(tuple, table[list(columns)].to_numpy().tolist()))


def _by_image(table: Any) -> defaultdict[str, list[str]]:
    found = defaultdict[str, list[str]](list)
    for image, text in _rows(table, "image", "caption"):
        found[image].append(text)
    return found


def _pictures(data: Cleaned) -> Iterator[tuple[str, str, list[str]]]:
    """Split, name and captions of each picture that has a caption left."""
    for (split, image), part in data.pairs.groupby(["split", "image"], sort=False):
        yield str(split), str(image), part["caption"].tolist()
