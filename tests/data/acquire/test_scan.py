"""Shards read once: which samples are one picture, what is left out, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.acquire.layouts import ImageFiles
from pipeline.data.acquire.scan import Scan
from pipeline.data.columns import ANY
from pipeline.data.rows import Annotations, Picture
from pipeline.errors import InputError
from pipeline.params import DataParams, load_params
from tests.data.brought import parquet, tar
from tests.data.published import PARAMS, jpeg


def scan(folder: Path, **changes: Any) -> tuple[Annotations, ImageFiles]:
    params: DataParams = load_params(PARAMS).data.model_copy(update=changes)
    images = ImageFiles(str)
    shards = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.*"))}
    return Scan(shards, params, images).annotations(), images


def cell(number: int, path: str | None = None) -> dict[str, Any]:
    return {"bytes": jpeg(number), "path": path}


def test_rows_of_one_name_and_content_are_one_picture(tmp_path: Path) -> None:
    rows = [(1, "a.jpg", "one"), (1, "a.jpg", "two"), (2, "a.jpg", "another"), (1, "b.jpg", "one again")]
    parquet(tmp_path / "0.parquet", [{"image": cell(n, name), "text": text} for n, name, text in rows])
    found, images = scan(tmp_path)
    assert found.pictures == (
        Picture("a.jpg", ("one", "two"), None),
        Picture("0/000000002-a.jpg", ("another",), None),
        Picture("b.jpg", ("one again",), None),
    )
    assert found.rows == 4
    contents = [images.find(picture.image) for picture in found.pictures]
    assert [image.read() for image in contents if image] == [jpeg(1), jpeg(2), jpeg(1)]


def test_without_names_equal_images_of_a_split_are_one_picture(tmp_path: Path) -> None:
    for split, numbers in (("train", (1, 1, 2)), ("test", (1,))):
        rows = [{"image": jpeg(number), "text": f"text {at}"} for at, number in enumerate(numbers)]
        parquet(tmp_path / f"{split}.parquet", rows)
    found, _ = scan(tmp_path)
    assert found.pictures == (
        Picture("test/000000000", ("text 0",), "test"),
        Picture("train/000000000", ("text 0", "text 1"), "train"),
        Picture("train/000000002", ("text 2",), "train"),
    )


def test_a_null_is_no_name_and_no_split(tmp_path: Path) -> None:
    table = {"image": [jpeg(number) for number in range(3)], "image_id": [0, None, 2], "split": [None, "Train", "test"]}
    rows = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    parquet(tmp_path / "0.parquet", [row | {"text": "a dog"} for row in rows])
    assert scan(tmp_path)[0].pictures == (
        Picture("0", ("a dog",), None),
        Picture("0/000000001", ("a dog",), "train"),
        Picture("2", ("a dog",), "test"),
    )


def test_columns_are_told_and_can_be_named(tmp_path: Path) -> None:
    row = {"thumb": jpeg(1), "image": jpeg(2), "caption": "no", "alt": ["a dog"], "part": "dev", "filename": "x/a.jpg"}
    parquet(tmp_path / "0.parquet", [row])
    found, _ = scan(tmp_path)
    assert found.columns == ("image image named by filename, caption caption, split not there",)
    wanted = ANY.model_copy(update={"image": "thumb", "caption": "alt", "split": "part"})
    found, images = scan(tmp_path, columns=wanted)
    assert found.pictures == (Picture("a.jpg", ("a dog",), "val"),)
    image = images.find("a.jpg")
    assert image is not None
    assert image.read() == jpeg(1)


def test_samples_without_an_image_or_a_caption_are_left_out_and_told(tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"a.jpg": jpeg(1), "a.txt": b"one\n['two', 'three']", "b.jpg": jpeg(2), "c.txt": b"lost"})
    found, _ = scan(tmp_path)
    assert found.pictures == (Picture("0/a.jpg", ("one", "two", "three"), None),)
    assert set(found.notes) == {
        f"left out: 1 samples without a caption; the first is {tmp_path}/0.tar: b",
        f"left out: 1 samples without an image; the first is {tmp_path}/0.tar: c",
    }


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ({"a.caption": b"one"}, ("one",)),
        ({"a.json": b'{"caption": "one", "url": "x"}'}, ("one",)),
        ({"a.json": b'{"captions": ["one", "two"]}'}, ("one", "two")),
        ({"a.txt": b"one", "a.json": b'{"caption": "other"}'}, ("one",)),
    ],
)
def test_where_a_tar_may_hold_captions(members: dict[str, bytes], caption: tuple[str, ...], tmp_path: Path) -> None:
    tar(tmp_path / "0.tar", {"folder/a.JPG": jpeg(1)} | {f"folder/{name}": text for name, text in members.items()})
    assert scan(tmp_path)[0].pictures == (Picture("0/a.JPG", caption, None),)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("0.tar", b"\x1f\x8b" + b"x" * 600, "not a whole tar archive (cut off or compressed?)"),
        ("0.parquet", b"PAR1" + b"x" * 600, "not a whole parquet file"),
        ("train_imgs.tsv", b"1\t!!!!\n", "line 1: expected an id, a tab and a base64 text"),
        ("train_imgs.tsv", b"AAAA\n", "line 1: expected an id, a tab and a base64 text"),
    ],
)
def test_a_damaged_shard_is_named(name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as refused:
        scan(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / name}: {expected}")


def test_an_image_above_the_limit_is_refused(tmp_path: Path) -> None:
    limits = load_params(PARAMS).data.limits.model_copy(update={"member_mb": 1})
    tar(tmp_path / "0.tar", {"a.jpg": b"x" * (2 << 20), "a.txt": b"one"})
    with pytest.raises(
        InputError, match=r"member 'a\.jpg': 2 MiB, at most 1 are allowed; raise data\.limits\.member_mb"
    ):
        scan(tmp_path, limits=limits)
