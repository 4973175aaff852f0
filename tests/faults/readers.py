"""Every reader of a file that others wrote: a small whole example, and how it is read to the end."""

from __future__ import annotations

import atexit
import base64
import functools
import json
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.data.acquire.layouts import Files, ImageFiles, files_in_archive
from pipeline.data.acquire.scan import Scan
from pipeline.data.acquire.sources import SOURCES
from pipeline.data.archives import check_archive
from pipeline.data.images import check_image, decode
from pipeline.data.splits.annotations import read_annotations
from pipeline.data.splits.format import SPLITS, Split, read_split, write_split
from pipeline.data.splits.noise import make_noise, noisy
from pipeline.data.splits.partition import completed
from pipeline.data.splits.truth import write_truth
from pipeline.data.splits.truth_file import read_truths
from pipeline.errors import InputError
from pipeline.models.pretrained import fetch
from pipeline.params import load_params
from tests.data.published import LIMITS, PARAMS, Pictures, fne_json, jpeg, karpathy_json, scan_text
from tests.models.test_pretrained import write_towers

DEFAULTS = load_params(PARAMS)


@dataclass(frozen=True)
class Reader:
    """Its name, the files of a whole example, how they are read, and on how many mutations it is tried by default."""

    name: str
    files: dict[str, bytes]
    read: Callable[[Path], object]
    fast: int = 60


def _encoded(files: dict[str, str]) -> dict[str, bytes]:
    return {name: text.encode() for name, text in files.items()}


def _few(each: int = 2) -> Pictures:
    return {
        f"{number}.jpg": (split, [f"A dog number {number} runs {time} times ." for time in range(each)])
        for number, split in enumerate(("train", "train", "val", "test"))
    }


def _layout(layout: str, source: str) -> Callable[[Path], object]:
    """Read, split, write as later stages read it, and read that."""

    def read(folder: Path) -> object:
        files: Files = {path.name: path for path in sorted(folder.iterdir())}
        annotations = read_annotations(layout, files, SOURCES[source])
        pictures, _ = completed(annotations.pictures, DEFAULTS.data.split, folder)
        splits = {
            name: Split.of([(picture.image, picture.captions) for picture in pictures if picture.split == name])
            for name in SPLITS
        }
        written = folder / "written"
        for name, split in splits.items():
            write_split(written / f"{name}.json", split, one_row_a_caption=name == "train")
            assert read_split(written / f"{name}.json") == split
        write_truth(layout, files, splits, written)
        return read_truths(written, "test")

    return read


def _shards(folder: Path) -> object:
    """Scan them, and read every image at its place."""
    images = ImageFiles(str)
    shards = {path.name: path for path in sorted(folder.iterdir()) if not path.name.endswith(".jsonl")}
    found = Scan(shards, DEFAULTS.data, images).annotations()
    assert all(isinstance(image.read(), bytes) for image in images.images)
    return found


def _parquet() -> bytes:
    rows = [
        {"image": {"bytes": jpeg(number), "path": name}, "caption": texts, "split": split}
        for number, (name, (split, texts)) in enumerate(_few().items())
    ]
    content = BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), content, row_group_size=2)
    return content.getvalue()


def _tar() -> bytes:
    content = BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, (_, texts) in _few().items():
            for kind, data in (("jpg", jpeg(1)), ("txt", "\n".join(texts).encode()), ("json", b'{"caption": "a"}')):
                member = tarfile.TarInfo(f"{name[:-4]}.{kind}")
                member.size = len(data)
                archive.addfile(member, BytesIO(data))
    return content.getvalue()


def _coco() -> dict[str, bytes]:
    files = {}
    for part in ("train", "val"):
        images = [{"id": number, "file_name": f"{part}{number}.jpg"} for number in range(3)]
        rows = [{"image_id": number, "caption": f"A dog number {number} ."} for number in range(3)]
        files[f"captions_{part}2014.json"] = json.dumps({"images": images, "annotations": rows}).encode()
    return files


def _flickr8k() -> dict[str, bytes]:
    pictures = _few()
    names = {"train": "train", "val": "dev", "test": "test"}
    text = {
        f"Flickr_8k.{names[split]}Images.txt": "".join(f"{n}\n" for n, (of, _) in pictures.items() if of == split)
        for split in SPLITS
    }
    text["Flickr8k.token.txt"] = "".join(
        f"{name}#{number}\t{caption}\n" for name, (_, texts) in pictures.items() for number, caption in enumerate(texts)
    )
    text["CrowdFlowerAnnotations.txt"] = "3.jpg\t3.jpg#1\t0.666667\t2\t1\n0.jpg\t1.jpg#0\t0\t0\t3\n"
    text["ExpertAnnotations.txt"] = "3.jpg\t3.jpg#0\t4\t4\t3\n"
    return _encoded(text)


TRAIN = Split.of([(name, texts) for name, (_, texts) in _few(3).items()])


def _npy(values: Any) -> bytes:
    content = BytesIO()
    numpy.save(content, values)
    return content.getvalue()


def _noise(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        shuffle = make_noise(TRAIN, DEFAULTS.data.noise, folder / name)
        assert shuffle is not None
        assert sorted(shuffle.permutation_M.tolist()) == list(range(len(TRAIN.captions)))
        return noisy(TRAIN, shuffle)

    return read


@functools.cache
def _towers() -> Path:
    """A folder with a small image tower and a small text tower, whole."""
    folder = Path(tempfile.mkdtemp())
    write_towers(folder)
    atexit.register(shutil.rmtree, folder)
    return folder


def _tower(folder: Path) -> object:
    return fetch(str(folder), str(_towers() / "bert"), image_revision=None, text_revision=None)


def _archive(folder: Path) -> object:
    check_archive(folder / "a.zip", limits=LIMITS)
    return [place.read_bytes() for places in files_in_archive(folder / "a.zip", LIMITS).values() for place in places]


def _archive_bytes() -> bytes:
    content = BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", "text " * 20)
        archive.writestr("c.jpg", jpeg(1), zipfile.ZIP_STORED)
    return content.getvalue()


def _image(folder: Path) -> object:
    (path,) = folder.iterdir()
    content = path.read_bytes()
    try:
        picture = decode(content, str(path))
    except Exception:
        _refused_too(content, path)
        raise
    check_image(content, str(path))  # what decodes was not refused when it was packed
    assert picture.mode == "RGB"
    return picture


def _refused_too(content: bytes, path: Path) -> None:
    """What stage download lets pass must not fail in stage features."""
    try:
        check_image(content, str(path))
    except InputError:
        return
    raise AssertionError("check_image takes what decode refuses")


def _pictures() -> dict[str, bytes]:
    noise = Image.effect_noise((24, 16), 60)
    colour = Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_180), noise))
    exif = Image.Exif()
    exif[0x0112] = 6
    shades = Image.fromarray(numpy.arange(384, dtype=numpy.uint16).reshape(16, 24) * 170)
    options: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "progressive.jpg": (colour, "JPEG", {"progressive": True}),
        "png": (colour, "PNG", {"exif": exif}),
        "palette.png": (colour.quantize(7), "PNG", {"transparency": b"\0\x80"}),
        "animated.webp": (colour, "WEBP", {"save_all": True, "append_images": [colour.rotate(90)]}),
        "gif": (colour, "GIF", {"save_all": True, "append_images": [colour.rotate(90)]}),
        "bmp": (colour, "BMP", {}),
        "tiff": (colour, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        "sixteen.tiff": (shades, "TIFF", {}),
    }
    found = {}
    for name, (image, kind, chosen) in options.items():
        content = BytesIO()
        image.save(content, kind, **chosen)
        found[name] = content.getvalue()
    return found


def readers() -> list[Reader]:
    """All of them."""
    table = "image,caption,split\n" + "".join(
        f'{name},"{text}",{split}\n' for name, (split, texts) in _few().items() for text in texts
    )
    lines = [
        json.dumps({"file_name": name, "captions": texts, "split": split}) for name, (split, texts) in _few().items()
    ]
    bars = "image| number| caption| split\n" + "".join(
        f"{name}| 0| {texts}| {split}\n" for name, (split, texts) in _few().items()
    )
    mapping = json.dumps({str(number): f"{number}.jpg" for number in range(4)})
    mapped = scan_text(_few(), lambda _, number: str(number)) | {"id_mapping.json": mapping}
    base64_lines = b"".join(b"%d\t%s\n" % (number, base64.b64encode(jpeg(number))) for number in range(4))
    texts = b"".join(b'{"text": "a dog", "image_ids": [%d]}\n' % number for number in range(4))
    scan = scan_text(_few(), lambda _, number: str(number)) | {"image_name.txt": "0.jpg\n1.jpg\n2.jpg\n3.jpg\n"}
    made = [
        Reader("FNE's JSON", _encoded(fne_json(_few(), "own")), _layout("fne", "folder")),
        Reader("Karpathy's JSON", {"dataset.json": karpathy_json(_few()).encode()}, _layout("karpathy", "folder")),
        Reader("SCAN's text", _encoded(scan), _layout("scan", "folder")),
        Reader("a CSV table", {"a.csv": table.encode()}, _layout("table", "folder")),
        Reader("a TSV table", {"a.tsv": table.replace(",", "\t").encode()}, _layout("table", "folder")),
        Reader("a JSON-lines table", {"a.jsonl": "\n".join(lines).encode()}, _layout("table", "folder")),
        Reader("a table with bars", {"a.csv": bars.encode()}, _layout("table", "folder")),
        Reader("COCO's own JSON", _coco(), _layout("coco", "folder")),
        Reader("SCAN's text by a mapping", _encoded(mapped), _layout("scan", "folder")),
        Reader("a parquet shard", {"a.parquet": _parquet()}, _shards),
        Reader("a tar shard", {"a.tar": _tar()}, _shards),
        Reader("base64 lines", {"train_imgs.tsv": base64_lines, "train_texts.jsonl": texts}, _shards),
        Reader("Flickr8k's text and judgments", _flickr8k(), _layout("flickr8k", "flickr8k")),
        Reader("a noise index", {"noise.npy": _npy(numpy.arange(12)[::-1].copy())}, _noise("noise.npy")),
        Reader("noisy captions", {"noise.txt": "\n".join(TRAIN.captions[::-1]).encode()}, _noise("noise.txt")),
        Reader("params.yaml", {"params.yaml": PARAMS.read_bytes()}, lambda at: load_params(at / "params.yaml"), 25),
        Reader(
            "a tower's folder",
            {
                "config.json": (_towers() / "vit/config.json").read_bytes(),
                "model.safetensors": (_towers() / "vit/model.safetensors").read_bytes(),
                "preprocessor_config.json": b'{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}',
            },
            _tower,
            15,
        ),
        Reader("an archive", {"a.zip": _archive_bytes()}, _archive),
    ]
    pictures = [Reader(f"an image: {name}", {name: content}, _image, 30) for name, content in _pictures().items()]
    return made + pictures
