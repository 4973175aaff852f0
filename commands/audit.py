"""Audit captioned pictures without parameters, training or git (no DVC stage): a page and tables in a folder.

It runs the stages `download`, `split` and `evidence` in a folder of its own, and then what stage `audit` runs.
"""

from __future__ import annotations

import importlib
import io
import re
import shlex
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.target import check_target
from pipeline.errors import InputError
from stages.command import stage

if TYPE_CHECKING:
    from pipeline.report.audit import Findings
    from pipeline.report.page import Contents

IMAGE, TEXT = "timm/tf_efficientnet_lite0.in1k", "sentence-transformers/all-MiniLM-L6-v2"
HUB = re.compile(r"[\w.-]+/[\w.-]+")
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
DEFAULTS = Path(__file__).with_suffix(".yaml")
SHARES = {"val": 0.2, "test": 0.05, "seed": 1}
"""Of images where the data names no split: the posterior is fitted on `val`, and the lists cover all of them."""
OPTIONS = {
    "-S evidence.text=": "--text-encoder ",
    "-S evidence.image=": "--image-encoder ",
    "evidence.text": "--text-encoder",
    "evidence.image": "--image-encoder",
    "data.root": "FOLDER",
    "data.repository": "FOLDER",
    "data.judgments": "--judgments",
    "data.columns.image": "--columns image",
    "data.columns.caption": "--columns caption",
    "data.columns": "--columns",
    "data.files": "--captions",
    "data.annotations": "--captions",
    # only what is no local folder is looked for there
    "cannot be fetched from the Hugging Face hub": "is no folder here, and cannot be fetched from the Hugging Face hub",
}
"""What stages call parameters is an option here."""
SHOWN: dict[str, Any] = {"queries": 6, "false_negatives": 200, "noisy_pairs": 100, "split": "all", "thumbnail": 256}


@click.command(name="audit")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of pictures.")
@click.option("--captions", type=FILE, help="Their captions: a table (image, caption), or Karpathy's or COCO's .json.")
@click.option("--columns", default="", metavar="image=NAME,caption=NAME", help="Columns of a table with other names.")
@click.option("--embeddings", type=FILE, help="Vectors of both by a model with one space: .npz, see docs/audit.md.")
@click.option("--model", help="A dual encoder (CLIP) for the evidence, hub name or folder.")
@click.option("--image-encoder", default=IMAGE, show_default=True, help="Hub name or folder.")
@click.option("--text-encoder", default=TEXT, show_default=True, help="Hub name or folder.")
@click.option("--words", is_flag=True, help="No encoder: only the words that captions share.")
@click.option("--judgments", type=FILE, help="judgments.csv of an earlier page.")
@click.option("--against", metavar="RUN", help="Instead of a FOLDER: the run of this repository and another one.")
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Made, or replaced if this made it."
)
@stage
def main(to: Path, against: str | None, **asked: Any) -> None:
    """Find which unpaired captions match a picture after all, and which pairs are wrong.

    FOLDER holds pictures with one table (columns image and caption) or a .txt beside each, or is a data set's id on the
    hub. With --against, the page is that of the last run here, and shows which queries it wins and loses against
    another run: its name or id in MLflow.
    """
    from pipeline.files import users_path
    from pipeline.paths import IMAGES
    from pipeline.report.audit import FACTS, said, write_report

    _check(asked, against, to)
    check_target(to, FACTS, '"command": "python -m commands.audit')
    target = to.absolute()
    command = shlex.join(["python", "-m", "commands.audit", *sys.argv[1:]])
    if against is not None:
        contents, found = _run_against(against, command)
        size = write_report(target, contents, found, IMAGES, SHOWN["thumbnail"])
    else:
        paths = {name: value for name, value in asked.items() if isinstance(value, Path)}
        asked |= {name: str(value.absolute() if value.exists() else value) for name, value in paths.items()}
        for name in ("model", "image_encoder", "text_encoder"):
            if asked[name] is not None and (place := users_path(asked[name], f"--{name}")).is_dir():
                asked[name] = str(place)
        with tempfile.TemporaryDirectory(prefix="audit-") as scratch, chdir(scratch):
            try:
                contents, found = _audit(asked, command)
                size = write_report(target, contents, found, IMAGES, SHOWN["thumbnail"])
            except (InputError, click.ClickException) as error:
                raise InputError(_as_asked(str(error), asked)) from None
    click.echo(f"{to / 'index.html'}: {size / 1e6:.1f} MB")
    for line in said(found):
        click.echo(line)


def _check(asked: dict[str, Any], against: str | None, to: Path) -> None:
    folder, images, captions = (asked[name] for name in ("folder", "images", "captions"))
    given = [name for name in ("embeddings", "model", "words") if asked[name]]
    if len(given) > 1:
        raise InputError(f"--{given[0]} and --{given[1]}: the evidence comes from one of them")
    by_folder = folder is not None and images is None and (captions is None or folder.is_dir())
    if against is not None:
        if folder or images or captions or given or asked["judgments"] or asked["columns"]:
            raise InputError("--against: compares runs of this repository; leave out the FOLDER and its options")
    elif not (by_folder or (folder is None and images and captions)):
        raise InputError("name a FOLDER, or both --images and --captions without one")
    elif folder is not None and not folder.is_dir() and not HUB.fullmatch(str(folder)):
        raise InputError(f"{folder}: there is no such folder, and it is no id of a data set on the hub (owner/name)")
    target = to.resolve()
    for path in (value for value in asked.values() if isinstance(value, Path)):
        place = path.resolve()
        if target.is_relative_to(place) or place.is_relative_to(target):
            raise InputError(f"--to {to}: is the same as {path}, or one lies in the other; name a folder elsewhere")


def _audit(asked: dict[str, Any], command: str) -> tuple[Contents, Findings]:
    """Run the stages in the working directory, and return the page and what was found."""
    from pipeline.data.splits.format import SPLITS, read_split
    from pipeline.data.splits.judgment_file import read_judged
    from pipeline.data.splits.judgments import write_judgments
    from pipeline.data.splits.truth_file import read_truth
    from pipeline.dependencies import code_of_metrics
    from pipeline.evidence.table import has_evidence
    from pipeline.evidence.whole import WHOLE, write_audited, write_whole
    from pipeline.files import read_record, write_json
    from pipeline.params import load_params
    from pipeline.paths import EVIDENCE, FEATURES, SOURCE, SPLIT
    from pipeline.report.audit import findings, made_by, statements
    from pipeline.report.evidence import read_evidence
    from pipeline.report.gallery import Embedded
    from pipeline.report.labels import Labelled
    from pipeline.report.maps import embedding_map
    from pipeline.report.page import Contents
    from pipeline.report.retrieval import retrieval_of
    from pipeline.report.suspects import suspected_pairs

    write_json(Path("params.yaml"), _params(asked))
    params = load_params()
    _stage("download", asked)
    whole = len(read_record(SOURCE)["counts"]) == 1  # stage `split` draws the splits, which then mean nothing
    _stage("split", asked, without="judgments: " if whole else None)
    splits = {name: read_split(SPLIT / f"{name}.json") for name in SPLITS}
    if asked["embeddings"] is not None:
        from pipeline.features.given import write_given

        write_given(FEATURES, splits, Path(asked["embeddings"]))
    _stage("evidence", asked)
    truths = {name: read_truth(SPLIT, name) for name in SPLITS}
    judged = {name: read_judged(SPLIT, name) for name in SPLITS}
    train = splits["train"]
    if has_evidence(EVIDENCE):
        if whole:
            splits = {WHOLE: write_whole(EVIDENCE, splits)}
            if asked["judgments"] is not None:
                click.echo(write_judgments(asked["judgments"], splits, SPLIT))
            truths, judged = {WHOLE: None}, {WHOLE: read_judged(SPLIT, WHOLE)}
        write_audited(EVIDENCE, splits, train, params.evidence.seed)
    evidence = read_evidence(EVIDENCE, splits, "all", params.sampler, train)
    labelled = {name: Labelled(splits[name], truths[name], judged[name]) for name in splits}
    largest = max(splits, key=lambda name: len(splits[name].images))
    retrieval = None
    vectors = evidence.opened[largest].vectors if evidence.opened else None
    if vectors is not None and vectors.image_NV is not None:
        one = labelled[largest]
        image_ND, text_MD = vectors.image_NV.cpu(), vectors.caption_MV.cpu()
        embedded = Embedded(one.split, one.truth, one.judged, image_ND=image_ND, text_MD=text_MD)
        labelled[largest] = embedded
        drawn = embedding_map(embedded)
        of = "a regression from frozen features, each image by one without it"
        if "similarity" in params.evidence.kinds:
            of = f"the vectors of {asked['model'] or Path(asked['embeddings'] or '').name}"
        retrieval = retrieval_of(largest, embedded, of, params.audit.queries, [] if drawn is None else [drawn])
    worst = suspected_pairs(splits, evidence.trust, params.audit.noisy_pairs, {})
    found = findings(evidence, labelled, params.audit, worst, {})
    where = asked["folder"] or asked["images"]
    contents = Contents(
        title=f"Audit: {Path(where).name}",
        statements=statements(found),
        splits=labelled,
        truth=next((truth.how for truth in truths.values() if truth is not None), ""),
        false_negatives=found.false_negatives,
        suspects=found.suspects,
        footer=made_by(command, f"none: nothing was trained (code {code_of_metrics()[:12]})", ""),
        retrieval=retrieval,
    )
    return contents, found


def _stage(name: str, asked: dict[str, Any], without: str | None = None) -> None:
    """Run a stage in this process and working directory, and print what it says in this command's words.

    `without`: how a line begins that is not printed.
    """
    said = io.StringIO()
    with redirect_stdout(said):
        importlib.import_module(f"stages.{name}").main.main([], standalone_mode=False)
    lines = said.getvalue().splitlines(keepends=True)
    click.echo(
        _as_asked("".join(line for line in lines if not (without and line.startswith(without))), asked), nl=False
    )


def _params(asked: dict[str, Any]) -> dict[str, Any]:
    """What params.yaml would say: the defaults, what an audit needs, and the limits of the repository's params.yaml."""
    from pipeline.dependencies import ROOT
    from pipeline.yaml_text import parse_yaml

    content: dict[str, Any]
    content, own = (parse_yaml(path.read_text(encoding="utf-8"), path) for path in (DEFAULTS, ROOT / "params.yaml"))
    if isinstance(own.get("data"), dict):
        content["data"]["limits"] |= own["data"].get("limits", {})  # errors say to raise them there
    hub = asked["folder"] is not None and not Path(asked["folder"]).is_dir()
    place = {"name": "hub", "repository": asked["folder"]} if hub else {"name": "folder", "root": _root(asked)}
    if asked["captions"] is not None:
        place["files"] = _name_of(Path(asked["captions"]))
    chosen = {"on_bad_image": "skip", "judgments": asked["judgments"], "split": SHARES}
    content["data"] |= place | chosen
    content["data"]["columns"] |= _columns(asked["columns"])
    content["audit"] |= SHOWN
    if asked["model"] is not None:
        towers = {"text": asked["model"], "image": asked["model"]}
        content["evidence"] |= {"kinds": ["captions", "similarity", "pictures"], **towers}
        content["model"] |= {"captions": "raw", "words": 77, "resize": "auto"}
    elif asked["embeddings"] is not None:
        content["evidence"] |= {"kinds": ["captions", "similarity", "pictures"]}
        content["model"] |= {"train": "heads"}
    elif not asked["words"]:
        towers = {"text": asked["text_encoder"], "image": asked["image_encoder"]}
        content["evidence"] |= {"kinds": ["captions", "regression", "pictures"], **towers}
    return content


def _root(asked: dict[str, Any]) -> str:
    """The folder to read; one of links where pictures and captions are in two places."""
    if asked["images"] is None and asked["captions"] is None:
        return str(asked["folder"])
    folder = Path("source").absolute()
    folder.mkdir()
    images = Path(asked["images"] or asked["folder"])
    (folder / "images").symlink_to(images if asked["images"] or not (images / "images").is_dir() else images / "images")
    captions = Path(asked["captions"])
    (folder / _name_of(captions)).symlink_to(captions)
    return str(folder)


def _name_of(captions: Path) -> str:
    """The name by which stage `download` knows what a file of captions holds."""
    from pipeline.data.text import read_json

    if captions.suffix.lower() != ".json":
        return f"captions{captions.suffix}"
    try:
        content = read_json(captions)
    except InputError:  # objects, one a line, or what stage download refuses
        content = None
    if not isinstance(content, dict) or "images" not in content:
        return "captions.json"
    return "captions_val.json" if "annotations" in content else "dataset.json"


def _columns(text: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",") if part]
    if any(name not in ("image", "caption") or not value for name, _, value in parts):
        raise InputError(f"--columns {text}: expected image=NAME,caption=NAME")
    return {name: value for name, _, value in parts}


def _as_asked(message: str, asked: dict[str, Any]) -> str:
    """A stage's words by what this command was given: its options, not parameters, and no scratch folder."""
    link = Path("source").absolute()
    if link.is_dir():
        places = {f"data.root = {link}": f"--captions {asked['captions']}"}
        places |= {str(place): str(place.readlink()) for place in sorted(link.iterdir(), reverse=True)}
        for place, given in (places | {str(link): str(asked["images"] or asked["folder"])}).items():
            message = message.replace(place, given)
    message = message.replace("data/raw: ", f"{asked['images'] or asked['folder']}: ")
    for name, option in OPTIONS.items():
        message = message.replace(name, option)
    return message


def _run_against(name: str, command: str) -> tuple[Contents, Findings]:
    from pipeline.comparison.paired import read_queries
    from pipeline.files import sha256
    from pipeline.params import load_params
    from pipeline.paths import QUERIES, SPLIT
    from pipeline.report.retrieval import against
    from pipeline.tracking import finished_runs, run_file
    from stages.audit import audited_run

    params = load_params()
    runs = finished_runs(params.tracking.experiment)
    named = [run for run in runs if name in (run["run_id"], run["name"], run["tags"].get("dvc.experiment"))]
    if len(named) != 1:
        known = ", ".join(str(run["name"]) for run in runs[:8])
        raise InputError(f"--against {name}: {len(named)} runs of this name or id; there are {known or 'none'}")
    with tempfile.TemporaryDirectory() as folder:
        path = run_file(named[0]["run_id"], "ranks.parquet", Path(folder))
        if path is None:
            raise InputError(f"--against {name}: that run has no ranks.parquet")
        if not sha256(SPLIT / "test.json").startswith(named[0]["test"]):
            raise InputError(f"--against {name}: was judged on another test split than {SPLIT / 'test.json'}")
        other = against(named[0]["name"], read_queries(QUERIES, str(QUERIES)), read_queries(path, name), name)
    return audited_run(params, command, other)[:2]


if __name__ == "__main__":
    main()
