"""Write the split, or the trained model, in formats that other libraries read (no DVC stage)."""

from __future__ import annotations

from pathlib import Path

import click

from commands.target import check_target
from pipeline.errors import InputError
from stages.command import stage

SPLIT_FORMATS, MODEL_FORMATS = ("scan", "jsonl"), ("transformers", "sentence-transformers", "onnx")


@click.command(name="export")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Made if missing."
)
@click.option(
    "--format",
    "kind",
    type=click.Choice([*SPLIT_FORMATS, *MODEL_FORMATS]),
    default="scan",
    show_default=True,
    help="scan, jsonl: of data/split; the others: of models/trained.",
)
@stage
def main(folder: Path, kind: str) -> None:
    """Write data/split as text, with its noise where there is some, or models/trained with a model card.

    Audited data in the formats of other tools is written by `python -m commands.clean`.
    """
    from pipeline.files import read_record
    from pipeline.paths import SOURCE, SPLIT

    if kind in MODEL_FORMATS:
        _write_model(folder, kind)
        return
    from pipeline.data.splits.format import SPLITS
    from pipeline.data.splits.jsonl import write_jsonl
    from pipeline.data.splits.scan import write_scan

    name = read_record(SOURCE, "download")["name"]
    there = [folder / f"{split}.jsonl" for split in SPLITS if (folder / f"{split}.jsonl").exists()]
    if kind == "jsonl" and there:  # write_scan checks its own files
        raise InputError(f"--to {folder}: holds {there[0].name} already; name another folder, or remove it")
    for line in write_scan(SPLIT, name, folder) if kind == "scan" else write_jsonl(SPLIT, folder):
        click.echo(line)


def _write_model(folder: Path, kind: str) -> None:
    from pipeline.files import atomic_folder, read_record, write_text
    from pipeline.models.pretrained import read_base_record
    from pipeline.models.sentence import write_sentence_transformers
    from pipeline.models.whole import write_onnx, write_transformers
    from pipeline.params import dotted, load_params
    from pipeline.paths import BASE, EVALUATED, INTERVALS, RUN, SOURCE, TRAINED
    from pipeline.report.card import model_card

    check_target(folder, "README.md", "Made by `python -m commands.export")
    run, evaluated = read_record(RUN, "train"), read_record(EVALUATED, "evaluate")
    if evaluated["train_key"] != run["key"]:
        raise InputError(f"{EVALUATED}: not of the training in {TRAINED}; run `dvc repro evaluate`")
    params, intervals = dotted(load_params()), read_record(INTERVALS) if INTERVALS.exists() else None
    told = params, evaluated, intervals, read_record(SOURCE, "download"), read_base_record(BASE).source
    origin = run.get("published")
    write = {
        "transformers": write_transformers,
        "sentence-transformers": write_sentence_transformers,
        "onnx": write_onnx,
    }[kind]
    with atomic_folder(folder) as made:
        loading = write(TRAINED, BASE, made)
        write_text(made / "README.md", model_card(*told, loading, kind, origin and origin["kind"].upper()))
    click.echo(f"{folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    click.echo(f"to a hub, after `hf auth login`: hf upload YOUR/NAME {folder}")


if __name__ == "__main__":
    main()
