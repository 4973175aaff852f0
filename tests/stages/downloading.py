"""Stage download on a copy of a data set, and what it packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.data.images import ImageArchive
from tests.data.brought import serve_hub
from tests.data.published import Copy, write_copy_params
from tests.stages.running import run


def download(copy: Copy, **changes: Any) -> str:
    """What the stage says of a copy, served where it is to be fetched."""
    with serve_hub(copy.served) as address, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", address)
        write_copy_params(Path(), copy, address if copy.served else None, **changes)
        return run("download")


def packed() -> dict[str, bytes]:
    archive = ImageArchive("data/raw/images.zip")
    return {name: archive.read(name) for name in archive.names}
