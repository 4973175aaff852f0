"""Ten-image copies of every published layout, archives and faults included, and a server on 127.0.0.1 for them."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from pipeline.data.acquire.sources import FNE_JSON, Item
from pipeline.data.prepare import prepare
from pipeline.params import DataParams, NoiseParams, load_params

PARAMS = Path(__file__).parents[2] / "params.yaml"
LIMITS = load_params(PARAMS).data.limits
CLEAN = NoiseParams(ratio=0.0, kind="shuffle", unit="caption", seed=1, file=None)
GIT_HUB = "jbrownlee/Datasets/releases/download/Flickr8k"
KARPATHY_ZIP = "people/karpathy/deepimagesent/caption_datasets.zip"
FNE_FOLDER = FNE_JSON.rpartition("/")[2]
SPLIT_OF = ("train",) * 6 + ("val",) * 2 + ("test",) * 2
SCAN = {"train": "train", "val": "dev", "test": "test"}

Pictures = dict[str, tuple[str, list[str]]]  # member name: its split ("" before one is drawn) and its captions


@dataclass
class Copy:
    """What the stages are given of a data set, and what they must make of it."""

    name: str
    annotations: str
    expected: Pictures
    content: dict[str, bytes]
    root: Path | None = None
    served: Path | None = None
    repository: str | None = None
    has_truth: bool = False
    notes: list[str] = field(default_factory=list)


def unpin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a catalogue without digests: the copies are not the files that it states them of."""
    monkeypatch.setattr(Item, "sha256", property(lambda _: None))


def jpeg(number: int) -> bytes:
    """A small picture, another one for each number."""
    image = Image.new("RGB", (32 + number, 24), (number * 20 % 256, 128, 255 - number * 20 % 256))
    content = io.BytesIO()
    image.save(content, "JPEG")
    return content.getvalue()


def captions(number: int, count: int = 5) -> list[str]:
    """Captions as people write them: capitals, full stops, repeated words."""
    return [f"A dog and picture number {number}, written {time} times ." for time in range(count)]


def write_zip(path: Path, members: Mapping[str, bytes | str]) -> None:
    """An ordinary archive with these members, in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_files(folder: Path, files: Mapping[str, bytes | str]) -> None:
    """These files below `folder`."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def karpathy_json(pictures: Pictures, restval: str = "") -> str:
    """`dataset_*.json`: names of images in folders come apart into filepath and filename."""
    rows = []
    for number, (name, (split, texts)) in enumerate(pictures.items()):
        folder, _, base = name.rpartition("/")
        sentences = [{"raw": text, "tokens": text.lower().split(), "imgid": number} for text in texts]
        row = {"filename": base, "imgid": number, "split": "restval" if name == restval else split}
        rows.append(row | {"sentences": sentences} | ({"filepath": folder} if folder else {}))
    return json.dumps({"images": rows, "dataset": "copy"})


def fne_json(pictures: Pictures, prefix: str, folder: str = "") -> dict[str, str]:
    """FNE's three files by name; `folder` is put before every image, as FNE's Flickr30K files have it."""
    files = {}
    for split in ("train", "val", "test"):
        rows: list[dict[str, Any]] = []
        for number, (name, (of, texts)) in enumerate(pictures.items()):
            if of == split == "train":
                rows += [{"image": folder + name, "caption": text, "image_id": f"id_{number}"} for text in texts]
            elif of == split:
                rows.append({"image": folder + name, "caption": texts})
        files[f"{prefix}_{split}.json"] = json.dumps(rows)
    return files


def scan_text(pictures: Pictures, identity: Callable[[str, int], str]) -> dict[str, str]:
    """SCAN-style text: train ids once an image, val and test ids once a caption, as NPC publishes them."""
    files: dict[str, str] = {}
    for split, published in SCAN.items():
        ids, texts = [], []
        for number, (name, (of, written)) in enumerate(pictures.items()):
            if of == split:
                ids += [identity(name, number)] * (1 if split == "train" else len(written))
                texts += written
        files[f"{published}_ids.txt"] = "\n".join(ids) + "\n"
        files[f"{published}_caps.txt"] = "\n".join(texts) + "\n"
    return files


def ten(name: Callable[[int], str], count: int = 5) -> Pictures:
    """Ten pictures: six train, two val, two test."""
    return {name(number): (split, captions(number, count)) for number, split in enumerate(SPLIT_OF)}


def contents(pictures: Pictures) -> dict[str, bytes]:
    """An image for each picture."""
    return {name: jpeg(number) for number, name in enumerate(pictures)}


def flickr8k(folder: Path) -> Copy:
    """Both archives, with the image that is not there, one in no split, judgments, and macOS's shadows."""
    pictures = ten(lambda number: f"100{number}_abc.jpg")
    content = contents(pictures)
    unsplit, ghost = "1005_abc.jpg", "1005_abc.jpg.1"
    shadows = {f"__MACOSX/Flicker8k_Dataset/._{name}": b"shadow" for name in content}
    images = {f"Flicker8k_Dataset/{name}": data for name, data in content.items()}
    write_zip(folder / GIT_HUB / "Flickr8k_Dataset.zip", images | shadows)
    tokens = {name: texts for name, (_, texts) in pictures.items()} | {ghost: captions(99)}
    del pictures[unsplit]
    text = {
        "Flickr8k.token.txt": "".join(
            f"{name}#{number}\t{text}\n" for name, texts in tokens.items() for number, text in enumerate(texts)
        ),
        "CrowdFlowerAnnotations.txt": "1008_abc.jpg\t1009_abc.jpg#2\t0.666667\t2\t1\n"
        "1009_abc.jpg\t1009_abc.jpg#0\t1\t3\t0\n",
        "ExpertAnnotations.txt": "1009_abc.jpg\t1008_abc.jpg#4\t1\t4\t3\n",
        "readme.txt": "cite",
    }
    for split, published in SCAN.items():
        names = [name for name, (of, _) in pictures.items() if of == split]
        text[f"Flickr_8k.{published}Images.txt"] = "".join(f"{name}\n" for name in names)
    write_zip(folder / GIT_HUB / "Flickr8k_text.zip", text)
    notes = [f"dropped: 5 captions of images that are not there: {ghost}", "left out: 1 images that are in no split"]
    return Copy("flickr8k", "auto", pictures, content, served=folder, has_truth=True, notes=notes)


def flickr30k(folder: Path, annotations: str) -> Copy:
    """Images in the user's folder; Karpathy's archive or FNE's JSON served, SCAN's text in the folder."""
    pictures = ten(lambda number: f"3697{number}.jpg")
    content = contents(pictures)
    root, served = folder / "mine", folder / "served"
    write_files(root / "flickr30k-images", content)
    if annotations == "karpathy":
        karpathy = {"dataset_flickr30k.json": karpathy_json(pictures), "dataset_coco.json": "{}"}
        write_zip(served / KARPATHY_ZIP, karpathy)
    elif annotations == "fne":
        write_files(served / FNE_FOLDER, fne_json(pictures, "flickr30k", "flickr30k-images/"))
    else:
        names = {"image_name.txt": "".join(f"{name}\n" for name in pictures)}
        text = scan_text(pictures, lambda _, number: str(number)) | names
        write_files(root / "annotations/scan_split", text)
    return Copy("flickr30k", annotations, pictures, content, root, served)


def mscoco(folder: Path, annotations: str) -> Copy:
    """Two image archives; an image of restval, a test image with six captions, and one that nobody names."""
    parts = ("train",) * 5 + ("val",) * 5
    pictures = ten(lambda number: f"{parts[number]}2014/COCO_{parts[number]}2014_{number:012d}.jpg")
    restval, test = list(pictures)[5], list(pictures)[-1]
    pictures[test] = ("test", captions(9, 6))
    content = contents(pictures)
    for part in ("train", "val"):
        images = {name: data for name, data in content.items() if name.startswith(part)}
        extra = {f"{part}2014/COCO_{part}2014_{77:012d}.jpg": jpeg(77)} if part == "val" else {}
        write_zip(folder / f"zips/{part}2014.zip", {f"{part}2014/": b""} | images | extra)
    if annotations == "karpathy":
        write_zip(folder / KARPATHY_ZIP, {"dataset_coco.json": karpathy_json(pictures, restval)})
    else:
        write_files(folder / FNE_FOLDER, fne_json(pictures, "coco"))
    notes = ["left out: 1 images that no annotation names"]
    return Copy("mscoco", annotations, pictures, content, served=folder, notes=notes)


def mscoco_npc(folder: Path) -> Copy:
    """NPC's tree: all images renamed into one folder, ids without leading zeros, noise and memory banks beside them."""
    pictures = ten(lambda number: f"COCO_2014_{number * 391:012d}.jpg")
    content = contents(pictures)
    write_files(folder / "images", content)
    text = scan_text(pictures, lambda name, _: str(int(name[10:22])))
    text["0.2_noise_train_caps.txt"] = text["train_caps.txt"]
    write_files(folder / "annotations/scan_split", text)
    write_files(folder / "annotations/memory_bank", {"0.2_mbank_img_idx.npy": b"", "0.2_mbank_txt_idx.npy": b""})
    return Copy("mscoco", "scan", pictures, content, folder)


def cc120k(folder: Path) -> Copy:
    """All in the user's folder; one caption an image."""
    pictures = ten(lambda number: f"{number}7.jpg", count=1)
    content = contents(pictures)
    write_files(folder / "images", content)
    write_files(folder / "annotations/scan_split", scan_text(pictures, lambda name, _: name.removesuffix(".jpg")))
    return Copy("cc120k", "scan", pictures, content, folder)


def own_folder(folder: Path, annotations: str) -> Copy:
    """Any folder of images with one of the four layouts; tables are written with and without splits."""
    pictures = ten(lambda number: f"holiday/day {number}.jpg")
    content = contents(pictures)
    write_files(folder / "images", content)
    if annotations == "karpathy":
        files = {"dataset.json": karpathy_json(pictures)}
    elif annotations == "fne":
        files = fne_json(pictures, "mine")
    elif annotations == "scan":
        files = scan_text(pictures, lambda name, _: name)
    elif annotations == "csv":
        rows = [f'"{name}","{text}",{of}\n' for name, (of, texts) in pictures.items() for text in texts]
        files = {"captions.csv": "image,caption,split\n" + "".join(rows)}
    else:
        rows = [f"{text}\t{name}\n" for name, (_, texts) in pictures.items() for text in texts]
        files = {"captions.tsv": "caption\timage\n" + "".join(rows)}
        pictures = {name: ("", texts) for name, (_, texts) in pictures.items()}
    write_files(folder, files)
    return Copy("folder", "auto", pictures, content, folder)


COPIES: dict[str, Callable[[Path], Copy]] = {
    "flickr8k": flickr8k,
    "flickr30k, Karpathy": partial(flickr30k, annotations="karpathy"),
    "flickr30k, FNE": partial(flickr30k, annotations="fne"),
    "flickr30k, SCAN": partial(flickr30k, annotations="scan"),
    "mscoco, Karpathy": partial(mscoco, annotations="karpathy"),
    "mscoco, FNE": partial(mscoco, annotations="fne"),
    "mscoco, NPC": mscoco_npc,
    "cc120k": cc120k,
    "folder, Karpathy": partial(own_folder, annotations="karpathy"),
    "folder, FNE": partial(own_folder, annotations="fne"),
    "folder, SCAN": partial(own_folder, annotations="scan"),
    "folder, CSV": partial(own_folder, annotations="csv"),
    "folder, TSV without splits": partial(own_folder, annotations="tsv"),
}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serve(folder: Path | None, handler: type[SimpleHTTPRequestHandler] = _Quiet) -> Iterator[str]:
    """Serve a folder; yields the address to set `data.mirror` to."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def write_params(folder: Path, **changes: Any) -> None:
    """The repository's params.yaml in `folder`, with other values by dotted name (dots as double underscores)."""
    round_trip = YAML()
    content = round_trip.load(PARAMS.read_text())
    for name, value in changes.items():
        section = content
        *path, key = name.split("__")
        for part in path:
            section = section[part]
        section[key] = value
    with open(folder / "params.yaml", "w") as handle:
        round_trip.dump(content, handle)


def prepare_raw(folder: Path) -> DataParams:
    """Fill `folder/raw` by the params.yaml in `folder`, as stage download does; returns its section `data`."""
    params = load_params(folder / "params.yaml").data
    (folder / "raw").mkdir()
    prepare(params, folder / "raw")
    return params


def write_copy_params(folder: Path, copy: Copy, mirror: str | None, **changes: Any) -> None:
    """The parameters that name this copy."""
    data = {"name": copy.name, "annotations": copy.annotations, "mirror": mirror, "repository": copy.repository}
    data["root"] = None if copy.root is None else str(copy.root)
    write_params(folder, **{f"data__{key}": value for key, value in data.items()} | changes)
