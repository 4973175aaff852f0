"""Ten-image copies of data as people bring them: Kaggle's, COCO's own, the hub's, shards, and names that nearly fit."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.published import (
    KARPATHY_ZIP,
    SPLIT_OF,
    Copy,
    Pictures,
    captions,
    contents,
    jpeg,
    karpathy_json,
    scan_text,
    serve,
    ten,
    write_files,
    write_zip,
)

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def unsplit(pictures: Pictures) -> Pictures:
    """The same pictures where the data set names no split."""
    return {name: ("", texts) for name, (_, texts) in pictures.items()}


def renamed(pictures: Pictures, name: Callable[[int], str]) -> Pictures:
    """The same captions under other names, by each picture's number."""
    return {name(number): value for number, value in enumerate(pictures.values())}


def in_folder(
    folder: Path, pictures: Pictures, files: dict[str, bytes | str], images: str = "images/{}", **more: Any
) -> Copy:
    """A folder with these files, and each picture under `images`, where `{}` is its name."""
    content = contents(pictures)
    write_files(folder, {images.format(name): data for name, data in content.items()} | files)
    return Copy(**{"name": "folder", "annotations": "auto", **more}, expected=pictures, content=content, root=folder)


def table(folder: Path, name: str, header: str, row: str, images: str = "images/{}", **more: Any) -> Copy:
    """A table without splits: `row` has the places {image}, {number} and {text}."""
    pictures = unsplit(ten("100{}_abc.jpg".format))
    rows = "".join(
        row.format(image=image, number=number, text=text)
        for image, (_, texts) in pictures.items()
        for number, text in enumerate(texts)
    )
    return in_folder(folder, pictures, {name: header + rows}, images, **more)


def kaggle_flickr30k(folder: Path) -> Copy:
    """results.csv with a bar and a blank between fields, quotes that nothing closes, and its one line without a bar."""
    copy = table(
        folder, "results.csv", "image_name| comment_number| comment\n", "{image}| {number}| {text}\n", "all/{}"
    )
    path = folder / "results.csv"
    text = path.read_text().replace("| A dog and picture number 2", '| "A dog" and picture number 2')
    path.write_text(text.replace("1003_abc.jpg| 4| ", "1003_abc.jpg| 4   "))
    quoted = [text.replace("A dog", '"A dog"') for text in copy.expected["1002_abc.jpg"][1]]
    copy.expected["1002_abc.jpg"] = ("", quoted)
    return copy


def hub_flickr30k(folder: Path) -> Copy:
    """flickr_annotations_30k.csv, captions as a JSON list in a cell, images in a ZIP beside it; on the hub."""
    pictures = ten(lambda number: f"3697{number}.jpg")
    rows = "".join(
        f'"{json.dumps(texts).replace(chr(34), chr(34) * 2)}","[1, 2]",{split},{name},{number}\n'
        for number, (name, (split, texts)) in enumerate(pictures.items())
    )
    repository = folder / "hub/owner/flickr30k"
    write_files(repository, {"flickr_annotations_30k.csv": "raw,sentids,split,filename,img_id\n" + rows})
    images = contents(pictures)
    write_zip(repository / "flickr30k-images.zip", {f"flickr30k-images/{name}": data for name, data in images.items()})
    return Copy("hub", "auto", pictures, images, served=folder, repository="owner/flickr30k")


def coco(folder: Path) -> Copy:
    """captions_{train,val}2017.json and its two folders; stage split makes val the test split."""
    pictures = renamed(ten(str), lambda number: f"{number:012d}.jpg")
    files: dict[str, bytes | str] = {}
    for part, splits in (("train", ("train", "val")), ("val", ("test",))):
        chosen = [(name, texts) for name, (split, texts) in pictures.items() if split in splits]
        images = [{"id": int(name[:12]), "file_name": name} for name, _ in chosen]
        rows = [{"image_id": int(name[:12]), "id": 1, "caption": text} for name, texts in chosen for text in texts]
        files[f"annotations/captions_{part}2017.json"] = json.dumps({"images": images, "annotations": rows})
        files |= {f"{part}2017/{name}": jpeg(int(name[:12])) for name, _ in chosen}
    content = {name: jpeg(int(name[:12])) for name in pictures}
    write_files(folder, files)
    return Copy("folder", "auto", unsplit(pictures), content, folder)


def imagefolder(folder: Path) -> Copy:
    """metadata.csv inside each split's folder, names relative to it."""
    names = {"train": "train", "val": "validation", "test": "test"}
    pictures = renamed(ten(str), lambda number: f"{names[SPLIT_OF[number]]}/{number % 2}{number}.jpg")
    files: dict[str, bytes | str] = {}
    for split in names.values():
        rows = [(name[len(split) + 1 :], texts) for name, (_, texts) in pictures.items() if name.startswith(split)]
        lines = "".join(f'{name},"{text}"\n' for name, texts in rows for text in texts)
        files[f"{split}/metadata.csv"] = "file_name,text\n" + lines
    return in_folder(folder, pictures, files, "{}")


def json_lines(folder: Path) -> Copy:
    """metadata.jsonl with lists of captions."""
    pictures = ten("images/100{}_abc.jpg".format)
    rows = [{"file_name": name, "captions": texts, "split": split} for name, (split, texts) in pictures.items()]
    return in_folder(folder, pictures, {"metadata.jsonl": "\n".join(map(json.dumps, rows))}, "{}")


def scan_with_mapping(folder: Path) -> Copy:
    """SCAN-style text with id_mapping.json in f30k/, beside flickr30k-images/, as LAPS and VSE-infinity have it."""
    pictures = ten(lambda number: f"3697{number}.jpg")
    mapping = json.dumps({str(number): name for number, name in enumerate(pictures)})
    text = scan_text(pictures, lambda _, number: str(number)) | {"id_mapping.json": mapping}
    files: dict[str, bytes | str] = {f"f30k/{name}": content for name, content in text.items()}
    return in_folder(folder, pictures, files, "flickr30k-images/{}", name="flickr30k", annotations="scan")


def flickr8k_by_karpathy(folder: Path) -> Copy:
    """dataset_flickr8k.json in Karpathy's archive."""
    pictures = ten("100{}_abc.jpg".format)
    copy = in_folder(folder / "mine", pictures, {}, "Images/{}", name="flickr8k", annotations="karpathy")
    write_zip(folder / "served" / KARPATHY_ZIP, {"dataset_flickr8k.json": karpathy_json(pictures)})
    copy.served = folder / "served"
    return copy


def chinese_clip(folder: Path) -> Copy:
    """`<split>_imgs.tsv`, URL-safe base64 lines, and `<split>_texts.jsonl`."""
    pictures = renamed(ten(str), lambda number: f"1{number}77.jpg")
    content = contents(pictures)
    files: dict[str, bytes | str] = {}
    for split, chosen in by_split(pictures):
        published = "valid" if split == "val" else split
        lines = (f"{name[:-4]}\t{base64.urlsafe_b64encode(content[name]).decode()}\n" for name, _ in chosen)
        files[f"{published}_imgs.tsv"] = "".join(lines)
        rows = [{"text_id": 1, "text": text, "image_ids": [int(name[:-4])]} for name, texts in chosen for text in texts]
        files[f"{published}_texts.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in rows)
    write_files(folder, files)
    return Copy("folder", "auto", pictures, content, folder)


def parquet(path: Path, rows: list[dict[str, Any]], group: int = 2) -> None:
    """A parquet file with these rows, a few to a row group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)


def by_split(pictures: Pictures) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """Each split, and its names and captions."""
    for split in ("train", "val", "test"):
        yield split, [(name, texts) for name, (of, texts) in pictures.items() if of == split]


def parquet_by_file(folder: Path) -> Copy:
    """An image object and a list of captions; the split is in the files' names; two shards of the training split."""
    pictures = ten("100{}_abc.jpg".format)
    content = contents(pictures)
    for split, rows in by_split(pictures):
        name = {"val": "validation"}.get(split, split)
        made = [{"image": {"bytes": content[name], "path": name}, "caption": texts} for name, texts in rows]
        for number in range(2 if split == "train" else 1):
            part = made[number * 3 :] if number else made[:3] if split == "train" else made
            parquet(folder / f"data/{name}-0000{number}-of-00002.parquet", part)
    return Copy("folder", "auto", pictures, content, folder)


def parquet_a_caption(folder: Path) -> Copy:
    """A row a caption, the image repeated, as bytes; its name and its split in columns."""
    pictures = ten("100{}_abc.jpg".format)
    content = contents(pictures)
    rows = [
        {"jpg": content[name], "filename": f"images/{name}", "sentence": text, "split": split}
        for name, (split, texts) in pictures.items()
        for text in texts
    ]
    parquet(folder / "all.parquet", rows, 7)
    return Copy("folder", "auto", pictures, content, folder)


def parquet_numbered(folder: Path) -> Copy:
    """caption_0 to caption_4; images without names."""
    pictures = renamed(unsplit(ten(str)), lambda number: f"0000/{number:09d}")
    content = contents(pictures)
    rows = [
        {"image": {"bytes": content[name], "path": None}} | {f"caption_{n}": text for n, text in enumerate(texts)}
        for name, (_, texts) in pictures.items()
    ]
    parquet(folder / "0000.parquet", rows)
    return Copy("folder", "auto", pictures, content, folder)


def tar(path: Path, members: dict[str, bytes]) -> None:
    """An uncompressed tar with these members in this order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def img2dataset(folder: Path) -> Copy:
    """Two shards with .jpg, .txt and .json, their statistics and their metadata beside them; one failed download."""
    pictures = {f"{number // 5:05d}/{number:09d}.jpg": ("", captions(number, 1)) for number in range(10)}
    content = contents(pictures)
    for shard in ("00000", "00001"):
        members: dict[str, bytes] = {}
        rows = []
        for name, (_, texts) in pictures.items():
            if name.startswith(shard):
                about = {"key": name[:-4], "caption": texts[0], "url": "https://example.org", "status": "success"}
                key = name[6:-4]
                members |= {f"{key}.jpg": content[name], f"{key}.txt": texts[0].encode()}
                members[f"{key}.json"] = json.dumps(about).encode()
                rows.append(about)
        members[f"{shard}9999.json"] = json.dumps({"key": "9999", "caption": "lost"}).encode()
        tar(folder / f"{shard}.tar", members)
        parquet(folder / f"{shard}.parquet", rows)
        write_files(folder, {f"{shard}_stats.json": "{}"})
    note = f"left out: 2 samples without an image; the first is {folder}/00000.tar: 000009999"
    return Copy("folder", "auto", pictures, content, folder, notes=[note])


def clip_benchmark(folder: Path) -> Copy:
    """A folder a split, every key used in each, several captions a .txt."""
    pictures: Pictures = {}
    content = {}
    for split, rows in by_split(ten(str)):
        members: dict[str, bytes] = {}
        for number, (_, texts) in enumerate(rows):
            image, key = jpeg(len(pictures)), f"s{number:07d}"
            pictures[f"{split}/0/{key}.jpg"], content[f"{split}/0/{key}.jpg"] = (split, texts), image
            members |= {f"{key}.jpg": image, f"{key}.txt": "\n".join(texts).encode()}
        tar(folder / split / "0.tar", members)
    return Copy("folder", "auto", pictures, content, folder)


def names_that_nearly_fit(folder: Path) -> Copy:
    """Another case, accents in another Unicode form, base names of images in sub-folders, no suffix, another one."""
    told = ["Day 0.jpg", "DAY 1.JPG", "café 2.jpg", "3.jpg", "4", "five", "6.jfif", "deep/7.jpg", "8.jpg", "9.jpg"]
    there = [
        *("images/day 0.JPG", "images/Day 1.jpg", unicodedata.normalize("NFD", "images/café 2.jpg")),
        *("images/sea/3.jpg", "images/4.jpg", "images/five", "images/6.jfif", "other/deep/7.jpg"),
        *("images/a/8.jpg", "images/9.jpg"),
    ]
    pictures: Pictures = {name: ("", [f"A dog and picture number {number} ."]) for number, name in enumerate(told)}
    content = contents(pictures)
    rows = "".join(f"{name},{texts[0]}\n" for name, (_, texts) in pictures.items())
    write_files(folder, {"captions.csv": "image,caption\n" + rows})
    write_files(folder, dict(zip(there, content.values(), strict=True)))
    return Copy("folder", "auto", pictures, content, folder)


def on_the_hub(build: Callable[[Path], Copy], folder: Path) -> Copy:
    """The same files as a repository of the hub."""
    copy = build(folder / "hub/owner/set")
    copy.name, copy.root, copy.served, copy.repository = "hub", None, folder, "owner/set"
    return copy


def flickr30k_without_the_form(folder: Path) -> Copy:
    """Images from a hub repository, all of them in `test`; captions and splits from Karpathy's archive."""
    pictures = ten(lambda number: f"3697{number}.jpg")
    content = contents(pictures)
    rows = [
        {"image": {"bytes": data, "path": None}, "caption": ["?"], "filename": name} for name, data in content.items()
    ]
    parquet(folder / "hub/owner/set/data/test-00000-of-00001.parquet", rows)
    write_zip(folder / KARPATHY_ZIP, {"dataset_flickr30k.json": karpathy_json(pictures)})
    return Copy("flickr30k", "auto", pictures, content, served=folder, repository="owner/set")


EXCEL = "\ufeffimage;caption\r\n", "{image};{text}\r\n"
BROUGHT: dict[str, Callable[[Path], Copy]] = {
    "Kaggle's Flickr8k": lambda at: table(at, "captions.txt", "image,caption\n", '{image},"{text}"\n', "Images/{}"),
    "Kaggle's Flickr30K": kaggle_flickr30k,
    "the hub's Flickr30K, a list in a cell": hub_flickr30k,
    "COCO's own": coco,
    "imagefolder": imagefolder,
    "metadata.jsonl": json_lines,
    "SCAN with id_mapping.json in f30k": scan_with_mapping,
    "flickr8k, Karpathy": flickr8k_by_karpathy,
    "open_clip's TSV called .csv": lambda at: table(at, "a.csv", "filepath\ttitle\n", "{image}\t{text}\n"),
    "Excel's semicolons": lambda at: table(at, "captions.CSV", *EXCEL),
    "blanks after commas": lambda at: table(at, "captions.csv", "image, caption\n", '{image}, "{text}"\n'),
    "names that nearly fit": names_that_nearly_fit,
    "Chinese-CLIP's": chinese_clip,
    "parquet, a split a file": parquet_by_file,
    "parquet, a row a caption": parquet_a_caption,
    "parquet, numbered captions": parquet_numbered,
    "img2dataset's tars": img2dataset,
    "CLIP benchmark's tars": clip_benchmark,
    "parquet on the hub": lambda at: on_the_hub(parquet_by_file, at),
    "tars on the hub": lambda at: on_the_hub(clip_benchmark, at),
    "imagefolder on the hub": lambda at: on_the_hub(imagefolder, at),
    "Flickr30K without the form": flickr30k_without_the_form,
}


class _Hub(SimpleHTTPRequestHandler):
    """The Hugging Face hub's addresses for data sets in the folder `hub`; other paths as ordinary files."""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[0] not in ("api", "datasets"):
            super().do_GET()
            return
        start = 2 if parts[0] == "api" else 1
        revision = "" if len(parts) <= start + 3 else parts[start + 3]
        folder = Path(self.directory, "hub", *parts[start : start + 2])
        if "refs%2Fconvert%2Fparquet" in self.path or revision == COMMIT[::-1]:
            folder = folder.with_name(f"{folder.name}.converted")
        commit = COMMIT[::-1] if folder.name.endswith(".converted") else COMMIT
        path = folder.joinpath(*parts[start + 4 :])
        if not folder.is_dir() or (parts[0] == "datasets" and not path.is_file()):
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif parts[0] == "datasets":
            content = path.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit})
        else:
            files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
            names = [file.relative_to(folder).as_posix() for file in files]
            tree = [
                {"type": "file", "path": name, "size": file.stat().st_size, "oid": "0" * 40}
                for name, file in zip(names, files, strict=True)
            ]
            about = {"id": "owner/set", "sha": commit, "siblings": [{"rfilename": name} for name in names]}
            found = json.dumps(tree if parts[4] == "tree" else about).encode()
            self._send(200, found, {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def serve_hub(folder: Path | None) -> Iterator[str]:
    """Serve a folder as `serve` does, and its folder `hub` as the Hugging Face hub; yields the address of both."""
    with serve(folder, _Hub) as address:
        yield address
