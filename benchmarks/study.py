"""Compare methods over seeds through DVC's queue, and keep the raw figures as CSV.

    python -m benchmarks.study scenes --jobs 2

queues one experiment a method and seed in the present repository, works the queue off, and writes
`docs/results/<study>.csv` from the MLflow runs. The repository's params.yaml decides the data set and the base
towers: `python -m commands.recipe` sets those of a study, to be committed before. What DVC has in its run cache is not
trained again: its earlier MLflow run stands for it.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from pipeline.retrieval.recall import recall_names

RESULTS = Path("docs/results")
SEEDS = "1,2,3"
METHODS: dict[str, dict[str, str]] = {
    "FNE": {"sampler.strategy": "fne", "loss.name": "triplet"},
    "hardest": {"sampler.strategy": "hardest", "loss.name": "triplet"},
    "random": {"sampler.strategy": "random", "loss.name": "triplet"},
    "InfoNCE, memory": {"sampler.strategy": "all", "loss.name": "infonce", "train.warmup": "infonce"},
    "InfoNCE, batch only": {
        "sampler.strategy": "all",
        "loss.name": "infonce",
        "train.warmup": "infonce",
        "memory.size": "0",
    },
}
CUTDOWNS: dict[str, dict[str, str]] = {
    f"cutdown {value}": {"sampler.strategy": "fne", "loss.name": "triplet", "sampler.cutdown": value}
    for value in ("0.05", "0.1", "0.2", "0.3", "0.4")
}
CLIP = {"pairs.weighting": "none"}
NOISE: dict[str, dict[str, str]] = {
    f"{method}, noise {ratio}": {"data.noise.ratio": ratio, **overrides}
    for method, overrides in {"CLIP": CLIP, "NPC": {"pairs.weighting": "npc"}}.items()
    for ratio in ("0.0", "0.2", "0.4", "0.6")
}
PAIRS: dict[str, dict[str, str]] = {  # over flickr8k-infonce; each method warms up alike
    "InfoNCE": {"memory.size": "0"},
    "NPC": {"memory.size": "0", "pairs.weighting": "npc", "pairs.bank_epochs": "1"},
    "hardest": {"sampler.strategy": "hardest", "loss.name": "triplet"},
    "FNE": {"sampler.strategy": "fne", "loss.name": "triplet"},
    "FNE, NPC's weights": {
        "sampler.strategy": "fne",
        "loss.name": "triplet",
        "pairs.weighting": "npc",
        "pairs.bank_epochs": "1",
    },
}
FLICKR8K_NOISE = {
    f"{method}, noise {ratio}": {"data.noise.ratio": ratio, **overrides}
    for method, overrides in PAIRS.items()
    for ratio in ("0.0", "0.4")
} | {"NPC without the bank's loss, noise 0.4": {"data.noise.ratio": "0.4", **PAIRS["NPC"], "pairs.bank_loss": "0.0"}}
STUDIES = {
    "scenes": {name: METHODS[name] for name in METHODS if name != "random"},
    "flickr8k": {name: METHODS[name] for name in METHODS if name != "InfoNCE, batch only"},
    "flickr8k-towers": {"FNE's weights in InfoNCE": {"sampler.strategy": "fne", "loss.name": "infonce"}},
    "cutdown": CUTDOWNS,
    "scenes-noise": NOISE,
    "flickr8k-noise": FLICKR8K_NOISE,
}
RECIPES = {"flickr8k": "flickr8k-fne", "scenes-noise": "scenes-clip", "flickr8k-noise": "flickr8k-infonce"}
"""What params.yaml holds beforehand, where not as committed; of `flickr8k-towers` the notes say it."""
FIGURES = (
    *(f"{part}/{name}" for part in ("test", "last") for name in recall_names("/")),
    "test/rsum",
    "last/rsum",
    *(f"{part}/truth/{side}/mAP_at_R" for part in ("test", "last") for side in ("i2t", "t2i")),
    "test/posterior/auc",
    "last/posterior/auc",
    "sampler/false_negative_share",
    "pairs/weight_auc",
    "pairs/ratio_auc",
    "bank/clean_auc",
)


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--seeds", default=SEEDS, show_default=True, help="comma-separated")
@click.option("--jobs", default=2, show_default=True, help="queue workers")
@click.option("--collect-only", is_flag=True, help="write the CSV from the runs that are there")
def main(study: str, seeds: str, jobs: int, collect_only: bool) -> None:
    """Queue a study's experiments, wait for them, write docs/results/STUDY.csv."""
    _check_data(study)
    if not collect_only:
        for overrides in STUDIES[study].values():
            values = [f"-S{name}={value}" for name, value in (overrides | {"seed": seeds}).items()]
            _dvc("exp", "run", "--queue", *values)
        _dvc("queue", "start", "--jobs", str(jobs))
        _wait()
    rows = _collect(study, [int(seed) for seed in seeds.split(",")])
    content = io.StringIO()
    writer = csv.DictWriter(content, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    from pipeline.files import write_text

    write_text(RESULTS / f"{study}.csv", content.getvalue())
    click.echo(f"{RESULTS / study}.csv: {len(rows)} runs")


def _check_data(study: str) -> None:
    """Refuse to write one data set's figures into another's file."""
    from pipeline.params import load_params

    found, expected = load_params().data.name, "flickr8k" if study.startswith("flickr8k") else "scenes"
    if found != expected:
        before = f"python -m commands.recipe {RECIPES[study]}, then commit" if study in RECIPES else "set it"
        raise click.ClickException(f"params.yaml: data.name = {found}, but {study} is a study of {expected}: {before}")


def _collect(study: str, seeds: list[int]) -> list[dict[str, Any]]:
    """The newest run of each method and seed that differs from params.yaml in nothing else."""
    from pipeline.params import dotted, load_params
    from pipeline.tracking import finished_runs

    params = load_params()
    present = {name: "null" if value is None else str(value) for name, value in dotted(params).items()}
    free = ("evaluate.", "tracking.", "launch.")
    runs = finished_runs(params.tracking.experiment)
    rows = []
    for method, overrides in STUDIES[study].items():
        for seed in seeds:
            wanted = present | overrides | {"seed": str(seed)}
            wanted = {name: value for name, value in wanted.items() if not name.startswith(free)}
            match = next((run for run in runs if wanted.items() <= run["params"].items()), None)
            if match is None:
                raise click.ClickException(f"no finished run of {method!r} with seed {seed}: dvc queue status, logs")
            figures = {name: match["metrics"].get(name, "") for name in FIGURES}
            rows.append({"method": method, "seed": seed, "seconds": round(match["seconds"], 1), **figures})
    return rows


def _wait() -> None:
    while True:
        answer = subprocess.run(["dvc", "queue", "status"], capture_output=True, text=True, check=True).stdout
        waiting = answer.count("Queued") + answer.count("Running")
        if not waiting:
            return
        click.echo(f"{waiting} experiments to go", err=True)
        time.sleep(15)


def _dvc(*arguments: str) -> None:
    if subprocess.run(["dvc", *arguments], check=False).returncode:
        sys.exit(f"dvc {' '.join(arguments)} failed")


if __name__ == "__main__":
    main()
