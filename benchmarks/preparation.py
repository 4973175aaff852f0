"""What the stages before `train` make, once for each set of parameters that they read, in folders of its own.

A preparation is a folder with params.yaml and the outputs of the stages, as a clone has them. Preparations that agree
in the parameters and the code of a stage and of all earlier stages share its outputs by hard links. Another code makes
new folders; those of the old one may be deleted.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.dependencies import ROOT, STAGES, code_digests
from pipeline.errors import InputError
from pipeline.files import digest_of, read_record, write_json
from pipeline.params import BEFORE_TRAINING, Params, dotted
from pipeline.paths import BASE, FEATURES, RAW, SPLIT, TRUTH
from pipeline.yaml_text import parse_yaml

DONE = "prepared.json"
"""In each preparation: the key of every finished stage."""


def stages_before(end: str) -> list[str]:
    """The stages before this one, in the order of dvc.yaml."""
    names = list(_stages())
    return names[: names.index(end)]


def stage_key(params: Params, stage: str) -> str:
    """A digest of every parameter that this stage and the earlier ones read, and of their code."""
    values = dotted(params)
    read: dict[str, Any] = {}
    for name in (*stages_before(stage), stage):
        if name == "bank" and params.pairs.weighting != "npc":
            continue  # the bank is an empty table
        listed = [f"{one}." for one in _stages()[name].get("params", [])]
        read |= {leaf: value for leaf, value in values.items() if f"{leaf}.".startswith(tuple(listed))}
        if name == "evidence" and params.model.anchor == "none" and params.pairs.weighting not in BEFORE_TRAINING:
            del read["pairs.weighting"]  # of the pairs in the anchor
    return digest_of(read, _code(stage))


@functools.cache
def _code(stage: str) -> str:
    """Of this stage and the earlier ones: rows are stamped with the present code, also for what preparations hold."""
    return digest_of([code_digests(name, ROOT) for name in (*stages_before(stage), stage)])


def folder_of(root: Path, params: Params) -> Path:
    """The preparation of these parameters."""
    return _folder(root, params, stages_before("train")[-1])


def prepare(root: Path, wanted: Iterable[Params], jobs: int) -> None:
    """Make the preparations that are not there yet, `jobs` stages at a time.

    Raises:
        InputError: when a stage fails, with its last lines.
    """
    folders = {folder_of(root, params): params for params in wanted}
    noisy = {folder: params for folder, params in folders.items() if _is_noisy_copy(params)}
    clean = {folder: _clean(params) for folder, params in noisy.items()}
    _run_stages(root, {_folder(root, params, "features"): params for params in clean.values()}, _copied(), jobs)
    for folder, params in noisy.items():
        if not _is_done(folder, "features", params):
            _copy_with_noise(_folder(root, clean[folder], "features"), folder, params)
    _run_stages(root, folders, stages_before("train"), jobs)


def pack(root: Path, wanted: Iterable[Params], target: Path) -> None:
    """Copy what stage `features` and the earlier ones made into `target`, to be carried to another machine.

    Each stage's outputs are copied once, and `prepare` shares them there. Left out: pictures, the weights of towers
    where heads are trained, and noisy copies, evidence and banks, which `prepare` makes there from the rest.
    """
    packed: set[str] = set()
    for params in wanted:
        noisy = _is_noisy_copy(params)
        kept = _clean(params) if noisy else params
        folder = _folder(root, kept, "features") if noisy else folder_of(root, kept)
        keys = {stage: stage_key(kept, stage) for stage in _copied()}
        fresh = {stage: key for stage, key in keys.items() if key not in packed}
        packed.update(fresh.values())
        outputs = {Path(output) for stage in fresh for output in _outputs(stage)} - {RAW}
        if kept.model.train == "heads" and BASE in outputs:
            outputs = outputs - {BASE} | {BASE / "base.json"}
        for output in outputs:
            (target / folder.name / output).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (folder / output).is_dir() else shutil.copy)(
                folder / output, target / folder.name / output
            )
        if fresh:
            write_json(target / folder.name / DONE, fresh)


def _run_stages(root: Path, folders: Mapping[Path, Params], stages: Sequence[str], jobs: int) -> None:
    for folder, params in folders.items():
        write_json(folder / "params.yaml", params.model_dump())  # JSON is YAML too
    for stage in stages:
        todo = {folder: stage_key(params, stage) for folder, params in folders.items()}
        todo = {folder: key for folder, key in todo.items() if _done(folder).get(stage) != key}
        has = {_done(path.parent).get(stage): path.parent for path in sorted(root.glob(f"*/{DONE}"))}
        new = {key: folder for folder, key in todo.items() if key not in has}
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(_run, [stage] * len(new), new.values(), new))
        for folder, key in todo.items():
            if folder not in new.values():
                _link_outputs((has | new)[key], folder, stage)
                write_json(folder / DONE, _done(folder) | {stage: key})


def _run(stage: str, folder: Path, key: str) -> None:
    print(f"{folder.name}: stage {stage}", file=sys.stderr, flush=True)
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", f"stages.{stage}"]
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise InputError(f"{folder}: stage {stage} failed:\n{ran.stdout[-500:]}{ran.stderr[-1500:]}")
    write_json(folder / DONE, _done(folder) | {stage: key})


def _link_outputs(source: Path, target: Path, stage: str) -> None:
    """By hard links: a stage replaces its outputs, and never writes into them."""
    for output in _outputs(stage):
        shutil.rmtree(target / output, ignore_errors=True)
        if (source / output).exists():  # a packed preparation has no pictures
            shutil.copytree(source / output, target / output, copy_function=os.link)


def _copy_with_noise(clean: Path, folder: Path, params: Params) -> None:
    """What stage `features` and the earlier ones make with noise, from what they made without.

    A frozen tower's vector of a caption does not depend on the image that the caption is paired with, so neither
    pictures nor towers are needed.
    """
    import pandas
    import torch

    from pipeline.data.splits.format import read_split, write_split
    from pipeline.data.splits.noise import make_noise, noisy, write_noise
    from pipeline.features.shards import feature_shards, write_shards
    from pipeline.files import write_table

    for stage in _copied():
        _link_outputs(clean, folder, stage)
    split = read_split(clean / SPLIT / "train.json")
    shuffle = make_noise(split, params.data.noise, None)
    assert shuffle is not None
    write_split(folder / SPLIT / "train.json", noisy(split, shuffle), one_row_a_caption=True)
    write_noise(folder / SPLIT, split, params.data.noise, None, shuffle)
    if (folder / TRUTH).exists():
        table = pandas.read_parquet(folder / TRUTH)
        train = table["split"] == "train"
        table.loc[train, "caption"] = shuffle.permutation_M.argsort()[table.loc[train, "caption"]].astype("int32")
        write_table(folder / TRUTH, table)
    features = folder / FEATURES / "train"
    caption_MW, row_M = feature_shards(clean / FEATURES / "train", "captions"), torch.from_numpy(shuffle.permutation_M)
    for shard in features.glob("captions-*"):
        shard.unlink()
    write_shards(
        features, "captions", len(row_M), lambda span: {"feature": caption_MW[row_M[span.start : span.stop]]}, iter
    )
    write_json(folder / DONE, {stage: stage_key(params, stage) for stage in _copied()})


def _copied() -> list[str]:
    return [*stages_before("features"), "features"]


def _is_noisy_copy(params: Params) -> bool:
    noise = params.data.noise  # kind category needs the pictures' objects, which stage split reads
    return params.model.train == "heads" and noise.ratio > 0 and noise.file is None and noise.kind != "category"


def _clean(params: Params) -> Params:
    noise = params.data.noise.model_copy(update={"ratio": 0.0, "kind": "shuffle"})
    return params.model_copy(update={"data": params.data.model_copy(update={"noise": noise})})


def _folder(root: Path, params: Params, stage: str) -> Path:
    return root / stage_key(params, stage)[:16]


@functools.cache
def _stages() -> dict[str, Any]:
    return dict(parse_yaml((ROOT / STAGES).read_text(encoding="utf-8"), STAGES)["stages"])


def _outputs(stage: str) -> list[str]:
    return list(_stages()[stage]["outs"])


def _done(folder: Path) -> dict[str, Any]:
    return read_record(folder / DONE) if (folder / DONE).exists() else {}


def _is_done(folder: Path, stage: str, params: Params) -> bool:
    return bool(_done(folder).get(stage) == stage_key(params, stage))
