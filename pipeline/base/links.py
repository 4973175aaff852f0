"""Links to the files of towers in local folders, so that DVC detects changes in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.files import digest_of
from pipeline.models.loading import local_folder

READ = {".json", ".safetensors", ".txt", ".model"}
"""The files that transformers reads; DVC need not hash the same weights in other formats."""
PICKLED = "open_clip_pytorch_model.bin"


def link_local_towers(links: Path, towers: Mapping[str, str | None]) -> None:
    """Make `links`, a folder that a stage depends on, hold a link to each file of the `towers` in local folders.

    `towers`: by parameter, such as `model.image`, a hub name, a path or None.

    dvc.yaml cannot name a folder that params.yaml chooses, but DVC hashes the targets of links. A link's name also
    contains the folder's path: a copy of a folder counts as another tower.

    Raises:
        InputError: when a path is not a folder.
    """
    links.mkdir(exist_ok=True)
    for link in links.iterdir():
        if link.is_symlink():
            link.unlink()
    for key, name in towers.items():
        folder = None if name is None else local_folder(key, name)
        for file in () if folder is None else folder.iterdir():
            if (file.suffix in READ or file.name == PICKLED) and file.is_file():
                (links / f"{key.split('.')[-1]}-{digest_of(str(folder))[:8]}-{file.name}").symlink_to(file)
