"""The links by which DVC sees that a tower in a local folder has changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.base.links import link_local_towers
from pipeline.errors import InputError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A main repository with a tower in it, and what else such a folder may hold."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "vit/onnx").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "vocab.txt", "pytorch_model.bin", "onnx/config.json"):
        (tmp_path / "vit" / name).write_text(name)
    return tmp_path


def named(image: str | None, text: str | None = None) -> dict[str, str | None]:
    return {"model.image": image, "model.text": text}


def linked(folder: Path) -> dict[str, str]:
    """What the links lead to, by side and file."""
    links = [link for link in (folder / ".towers").iterdir() if link.is_symlink()]
    return {f"{link.name.split('-')[0]}/{link.name.split('-', 2)[2]}": link.read_text() for link in links}


def test_each_file_that_is_read_of_a_local_tower_is_linked(folder: Path) -> None:
    link_local_towers(folder / ".towers", named("vit", "bert-base-uncased"))
    read = ("config.json", "model.safetensors", "vocab.txt")
    assert linked(folder) == {f"image/{name}": name for name in read}
    link_local_towers(folder / ".towers", named(str(folder / "vit"), "./vit"))
    assert linked(folder) == {f"{side}/{name}": name for side in ("image", "text") for name in read}


def test_what_is_no_longer_named_or_there_is_no_longer_linked(folder: Path) -> None:
    link_local_towers(folder / ".towers", named("vit"))
    (folder / ".towers/.gitignore").write_text("*")
    shutil.rmtree(folder / "vit")
    link_local_towers(folder / ".towers", named(None))
    assert [path.name for path in (folder / ".towers").iterdir()] == [".gitignore"]


def test_a_copy_of_a_tower_is_another(folder: Path) -> None:
    """DVC's run cache would take one's result for the other's, whose folder may have changed since."""
    shutil.copytree(folder / "vit", folder / "copy")
    names = []
    for tower in ("vit", "copy"):
        link_local_towers(folder / ".towers", named(tower))
        names.append({link.name for link in (folder / ".towers").iterdir()})
    assert not names[0] & names[1]


def test_a_path_without_a_folder_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^model\.image = '\./vt': no such folder"):
        link_local_towers(folder / ".towers", named("./vt"))
