"""Images read inside shards: from many threads, in any order, and compared with what stage download saw."""

from __future__ import annotations

import copy
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.data import shards
from pipeline.data.images import ImageArchive
from pipeline.data.shards import Location, content_digest, open_parquet, write_index
from pipeline.errors import InputError
from tests.data.brought import parquet
from tests.data.published import jpeg

COUNT = 40


@pytest.fixture
def archive(tmp_path: Path) -> ImageArchive:
    """Images in two parquet files of small row groups and one file of plain bytes."""
    mine = tmp_path / "mine"
    images = {}
    for shard in ("a", "b"):
        numbers = range(15) if shard == "a" else range(15, 30)
        parquet(mine / f"{shard}.parquet", [{"image": {"bytes": jpeg(n), "path": None}} for n in numbers], group=4)
        for row, number in enumerate(numbers):
            place = Location(str(mine / f"{shard}.parquet"), row, len(jpeg(number)), "image.bytes")
            images[f"{number}.jpg"] = (place, content_digest(jpeg(number)))
    with open(mine / "c.tar", "wb") as handle:
        for number in range(30, COUNT):
            place = Location(str(mine / "c.tar"), handle.tell(), len(jpeg(number)))
            images[f"{number}.jpg"] = (place, content_digest(jpeg(number)))
            handle.write(jpeg(number))
    (tmp_path / "raw").mkdir()
    write_index(tmp_path / "raw/images.parquet", mine, images)
    return ImageArchive(tmp_path / "raw/images.zip")


def test_every_image_is_read_from_many_threads_in_any_order(
    archive: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def open_and_count(file: Path) -> Any:
        opened.append(file.name)
        return open_parquet(file)

    monkeypatch.setattr(shards, "open_parquet", open_and_count)
    numbers = [number for number in range(COUNT) for _ in range(10)]
    random.Random(1).shuffle(numbers)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: archive.read(f"{number}.jpg"), numbers))
    finally:
        sys.setswitchinterval(before)
    assert found == [jpeg(number) for number in numbers]
    assert sorted(opened) == ["a.parquet", "b.parquet"], "each is opened once, by whichever thread comes first"
    assert archive.names == tuple(f"{number}.jpg" for number in range(COUNT))
    assert archive.contents[3][:2] == ("3.jpg", len(jpeg(3)))
    assert archive.decode("3.jpg").size == (35, 24)


def test_a_worker_opens_its_own(archive: ImageArchive) -> None:
    archive.read("1.jpg")
    assert copy.deepcopy(archive).read("1.jpg") == jpeg(1)


def test_a_shard_that_changed_or_is_gone_is_named(archive: ImageArchive, tmp_path: Path) -> None:
    shard = tmp_path / "mine/c.tar"
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with pytest.raises(InputError, match=r"c\.tar: image '30\.jpg' has changed since stage download"):
        archive.read("30.jpg")
    assert archive.read("31.jpg") == jpeg(31)
    shard.unlink()
    with pytest.raises(InputError, match=r"c\.tar: not found; `dvc repro -f download`"):
        archive.read("31.jpg")
    parquet(tmp_path / "mine/a.parquet", [{"image": {"bytes": jpeg(1), "path": None}}])
    with pytest.raises(InputError, match=r"a\.parquet: damaged at 7: no row"):
        archive.read("7.jpg")
    with pytest.raises(InputError, match=r"holds no image 'x\.jpg'"):
        archive.read("x.jpg")


def test_the_digest_tells_other_images_apart(archive: ImageArchive, tmp_path: Path) -> None:
    before = archive.digest()
    place = Location(str(tmp_path / "mine/c.tar"), 0, 9)
    write_index(tmp_path / "raw/images.parquet", tmp_path / "mine", {"30.jpg": (place, 1)})
    assert ImageArchive(archive.path).digest() != before
