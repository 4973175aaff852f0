"""Data sets of the Hugging Face hub: their files, fetched once into the hub's own cache (`HF_HOME`)."""

from __future__ import annotations

import glob
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.params import DataParams
from pipeline.progress import progress

CONVERTED = "refs/convert/parquet"  # the hub's own parquet copy of a data set that is a script
WORKERS = 4  # files fetched at a time
DATA = ("*.parquet", "*.tar", "*.csv", "*.tsv", "*.jsonl", "*.json", "*.txt", "*.zip")
NO_DATA = {".md", ".json", ".txt"}  # what a script has beside it: its card, its licence, its description
IMAGES = ("*.jpg", "*.jpeg", "*.png", "*.webp", "*.JPG", "*.JPEG", "*.PNG")


def fetch_repository(params: DataParams) -> Path:
    """Fetch what `data.files` names of `data.repository`, or all of its data; without a network, what is in the cache.

    Returns the folder that holds it, whose name is the commit.

    `HF_ENDPOINT` names another server. A repository without data files is read from the hub's parquet copy of it.

    Raises:
        InputError: naming the repository, if it, its revision or a file cannot be had, or it is above
            `data.limits.unpacked_gb`.
    """
    folder = _fetch(params, params.revision)
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    if params.revision is None and kinds <= (NO_DATA if params.files is None else {".md"}):
        folder = _fetch(params, CONVERTED)
    return folder


def _fetch(params: DataParams, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import DryRunError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    assert params.repository is not None
    about = f"data.repository = {params.repository!r}" + (f", data.revision = {revision!r}" if revision else "")
    patterns = (params.files or "|".join(DATA + IMAGES)).split("|")
    fetch = partial(
        huggingface_hub.snapshot_download,
        params.repository,
        repo_type="dataset",
        revision=revision,
        endpoint=os.environ.get("HF_ENDPOINT") or None,
        allow_patterns=[*patterns, *(f"*/{pattern}" for pattern in patterns), "README.md"],  # a path or a name
    )
    try:
        with suppress(DryRunError):  # no network: what is in the cache is complete or refused
            plan: Any = fetch(dry_run=True)
            missing = [file for file in plan if file.will_download]
            _check_size(about, sum(file.file_size for file in missing), params)
            with ThreadPoolExecutor(WORKERS) as pool:
                one = ((glob.escape(file.filename), file.commit_hash) for file in missing)
                done = pool.map(lambda item: fetch(allow_patterns=[item[0]], revision=item[1]), one)
                list(progress(done, label=f"fetching {params.repository}", total=len(missing)))
        return Path(fetch())
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{about}: cannot be fetched from the Hugging Face hub: {reason}") from None


def _check_size(about: str, size: int, params: DataParams) -> None:
    if size > params.limits.unpacked_gb * (1 << 30):
        raise InputError(
            f"{about}: {size / (1 << 30):.1f} GiB to fetch, at most {params.limits.unpacked_gb:g} are allowed; choose "
            "files by data.files, or raise data.limits.unpacked_gb"
        )
