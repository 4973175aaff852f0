"""Stage `bank`: which training pairs are clean, and the clean pairs (entries) of each image and caption (NPC)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from stages.command import stage
from stages.launch import started_together

if TYPE_CHECKING:
    import pandas

    from pipeline.params import Params


@click.command(name="bank")
@stage
def main() -> None:
    """Score every training pair with the base model, into bank; an empty table where pairs.weighting needs none."""
    from pipeline.bank.table import write_bank
    from pipeline.files import atomic_folder, write_json
    from pipeline.params import load_params
    from pipeline.paths import BANK, BANK_RECORD

    params = load_params()
    if params.pairs.weighting != "npc":
        table, record = None, {"weighting": params.pairs.weighting}
    elif params.pairs.file is not None:
        table, record = _published(params.pairs.file)
    elif started_together("bank", params.launch.processes):
        return
    else:
        table, record = _scored(params)
    if os.environ.get("RANK", "0") != "0":
        return
    with atomic_folder(BANK) as folder:
        write_bank(folder, table)
        write_json(folder / BANK_RECORD.name, record)
    if table is not None and params.pairs.file is None:
        clean = int(table["clean"].sum())
        auc = f"; AUC against the known noise {record['clean_auc']:.3f}" if "clean_auc" in record else ""
        click.echo(f"{clean} of {len(table)} pairs are clean{auc}")
        if clean == len(table):
            click.echo("every pair is clean: raise pairs.clean_threshold if some should not be", err=True)


def _scored(params: Params) -> tuple[pandas.DataFrame, dict[str, Any]]:
    import torch

    from pipeline.bank.scoring import learn_before_scoring, make_bank
    from pipeline.data.splits.truth_file import read_noise
    from pipeline.evidence.start import start_model
    from pipeline.features.inputs import open_inputs
    from pipeline.models.build import load_base
    from pipeline.paths import BASE, EVIDENCE, FEATURES, SPLIT
    from pipeline.retrieval.relevance import ranking_quality
    from pipeline.runtime.processes import own_device, process_group, use_threads

    torch.manual_seed(params.pairs.seed)
    base = load_base(BASE, params.model)
    inputs = open_inputs(params.model, FEATURES, SPLIT, "train")
    model = start_model(base, params.model, params.loss.temperature, inputs, EVIDENCE).to(own_device())
    use_threads(sum(parameter.numel() for parameter in model.parameters()))
    with process_group():
        learn_before_scoring(model, inputs, params.pairs)
        table, mixture = make_bank(model, inputs, params.pairs)
    record = {
        "weighting": params.pairs.weighting,
        "pairs": len(table),
        "clean": int(table["clean"].sum()),
        "clean_share": float(table["clean"].mean()),
        "mean": list(mixture.mean),
        "weight": list(mixture.weight),
    }
    noise = read_noise(SPLIT)
    if noise is not None and 0 < noise.wrong_M.sum() < len(table):
        clean_M = torch.tensor(table["clean_probability"].tolist())
        record["clean_auc"] = ranking_quality(-clean_M, torch.tensor(noise.wrong_M))["auc"]
    return table, record


def _published(file: str) -> tuple[pandas.DataFrame, dict[str, Any]]:
    import numpy as np
    import pandas

    from pipeline.bank.published import read_published_bank
    from pipeline.data.splits.format import read_split
    from pipeline.errors import InputError
    from pipeline.files import sha256, users_file
    from pipeline.paths import ANNOTATIONS, SPLIT

    image_path = users_file(file, "pairs.file")
    if "_img_" not in image_path.name:
        raise InputError(f"pairs.file = {file!r}: expected {{ratio}}_mbank_img_idx.npy, with its _txt_ twin beside it")
    text_path = users_file(str(image_path.with_name(image_path.name.replace("_img_", "_txt_"))), "pairs.file")
    split = read_split(SPLIT / "train.json")
    names = ANNOTATIONS / "image_name.txt"  # Flickr30K's ids are its lines
    image_entry_N, text_entry_M = read_published_bank(
        image_path, text_path, split, image_names=names if names.exists() else None
    )
    image_M = np.array(split.caption_image)
    clean_M = np.isin(np.arange(len(image_M)), np.concatenate([image_entry_N, text_entry_M]))
    table = pandas.DataFrame(
        {
            "caption": np.arange(len(image_M)),
            "image": image_M,
            "loss": np.nan,  # not published
            "clean_probability": np.nan,
            "clean": clean_M,  # those listed in the bank
            "image_entry": image_entry_N[image_M],
            "text_entry": text_entry_M,
        }
    )
    return table, {"weighting": "npc", "published": {path.name: sha256(path) for path in (image_path, text_path)}}


if __name__ == "__main__":
    main()
