"""Run a study of benchmarks/studies.py, and write its raw results as CSV, one row for each trial.

    python -m benchmarks.study scenes --jobs 16

makes what the stages before `train` make, once for each set of parameters (benchmarks/preparation.py); tunes every
method; then trains the chosen settings with five seeds. Trials run in processes of one thread each, which share a GPU
if there is one. A row is written when its trial is finished, and a trial whose row is there is not run again: an
interrupted study continues with the same command. Neither DVC nor MLflow is needed.

For another machine: `--pack FOLDER` writes what trials read into FOLDER; there, `--prepared FOLDER` takes it.
"""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click

from benchmarks.preparation import folder_of, pack, prepare
from benchmarks.studies import FINAL_SEEDS, STUDIES, TUNE_SEEDS, Study, points_of, variants_of
from benchmarks.trials import COLUMNS, IDENTITY, Trial, run_trial
from pipeline.dependencies import ROOT, code_of_metrics
from pipeline.errors import InputError
from pipeline.files import digest_of, write_text
from pipeline.params import Params, parse_params
from pipeline.recipes import RECIPES, read_recipe
from pipeline.yaml_text import parse_yaml

RESULTS = ROOT / "docs/results"
OF_MACHINE = ("data.root", "data.mirror", "model.image", "model.text")
"""Parameters that say where something is on this machine."""
PREPARED = ROOT / "build/study"
Row = dict[str, Any]


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="processes")
@click.option("--phase", type=click.Choice(["tune", "final", "all"]), default="all", show_default=True)
@click.option("--only", default="", help="methods and cases whose 'case: method' contains this text")
@click.option("--results", default=RESULTS, type=click.Path(path_type=Path), help="folder of STUDY.csv")
@click.option("--prepared", default=PREPARED, type=click.Path(path_type=Path), help="folder of the preparations")
@click.option("--prepare-only", is_flag=True, help="run the stages before train, and no trial")
@click.option("--pack", "packed", type=click.Path(path_type=Path), help="write what trials read here, and run none")
@click.option("-S", "--set", "given", multiple=True, help="NAME=VALUE for this machine, such as data.root; in no row")
@click.option("--limit", default=900, show_default=True, help="seconds for one trial")
@click.option("--epochs", type=int, help="train.epochs of every trial, to try the driver; the rows say so")
def main(
    study: str,
    jobs: int,
    phase: str,
    only: str,
    results: Path,
    prepared: Path,
    prepare_only: bool,
    packed: Path | None,
    given: tuple[str, ...],
    limit: int,
    epochs: int | None,
) -> None:
    """Tune the methods of STUDY, train the chosen ones with five seeds, and write STUDY.csv."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        driver = Driver(study, results / f"{study}.csv", prepared.resolve(), given, only, epochs)
        if packed is not None or prepare_only:
            trials = driver.possible(driver.tune_trials() + driver.final_trials(guess=True))
            driver.prepare(trials, jobs)
            if packed is not None:
                pack(driver.prepared, [driver.params(trial) for trial in trials], packed)
            return
        failed = driver.run_phases(phase, jobs, limit)
    except InputError as error:
        raise click.ClickException(str(error)) from None
    if failed:
        raise click.ClickException(f"{failed} trials failed; the same command runs them again")


class Driver:
    """A study with its CSV file and its preparations."""

    def __init__(
        self,
        name: str,
        path: Path,
        prepared: Path,
        given: Sequence[str],
        only: str = "",
        epochs: int | None = None,
        methods: Sequence[str] = (),
        seeds: int = len(FINAL_SEEDS),
        study: Study | None = None,
    ) -> None:
        """Read the CSV file, if there is one.

        `methods`: these alone, in every case; `seeds`: how many; `study`: another than that of this name.
        """
        self.methods, self.seeds = methods, seeds
        self.name, self.study, self.path, self.prepared, self.only = name, study or STUDIES[name], path, prepared, only
        self.given = dict(_assignment(text) for text in given)
        self.extra = {} if epochs is None else {"train.epochs": epochs}
        self.rows = read_rows(path)
        self.content = parse_yaml((ROOT / "params.yaml").read_text(encoding="utf-8"), "params.yaml")
        if self.study.recipe is not None:
            set_values(self.content, read_recipe(self.study.recipe, ROOT / RECIPES).values)

    def params(self, trial: Trial) -> Params:
        """All parameters of a trial; raises InputError for those that params.yaml does not have or allow."""
        content = json.loads(json.dumps(self.content))
        set_values(content, {**trial.overrides, **self.given, "seed": trial.seed})
        return parse_params(content, f"{self.name}, {trial.method}")

    def tune_trials(self) -> list[Trial]:
        """Every method with every setting of the grid; none for a study without a grid."""
        return [
            self._trial(case, method, "tune", seed, point)
            for case, method in self.compared()
            if self._is_tuned(method)
            for point in self._points(case, method)
            for seed in TUNE_SEEDS
        ]

    def final_trials(self, *, guess: bool = False) -> list[Trial]:
        """Every method's chosen setting and its variants, with every seed; `guess`: the first setting as chosen."""
        trials = []
        for case, method in self.compared():
            point = self._points(case, method)[0] if guess else self._chosen(case, method)
            for variant, changes in variants_of(self.study, method).items() if point is not None else ():
                for seed in FINAL_SEEDS[: self.seeds]:
                    own = dict.fromkeys(self.study.per_seed, seed)
                    trials.append(
                        self._trial(case, method, "final", seed, {**(point or {}), **changes, **own}, variant)
                    )
        return trials

    def possible(self, trials: Iterable[Trial]) -> list[Trial]:
        """Those whose parameters params.yaml has; the others are listed."""
        kept, refused = [], {}
        for trial in trials:
            try:
                self.params(trial)
                kept.append(trial)
            except InputError as error:
                refused[f"{trial.case}: {trial.method}"] = str(error).splitlines()[0]
        for name, reason in refused.items():
            click.echo(f"left out: {name}: {reason}", err=True)
        return kept

    def prepare(self, trials: Iterable[Trial], jobs: int) -> None:
        """Run the stages that these trials need."""
        prepare(self.prepared, [self.params(trial) for trial in trials], jobs)

    def run_phases(self, phase: str, jobs: int, limit: int) -> int:
        """Run "tune", "final" or "all"; returns how many trials failed. Final trials take what the tuning chose."""
        failed = self.run(self.tune_trials(), jobs, limit) if phase != "final" else 0
        return failed + (self.run(self.final_trials(), jobs, limit) if phase != "tune" else 0)

    def run(self, trials: Iterable[Trial], jobs: int, limit: int) -> int:
        """Run the trials that have no row yet, and write each row; returns how many failed."""
        there = {tuple(row[name] for name in IDENTITY) for row in self.rows}
        todo = [trial for trial in self.possible(trials) if trial.identity not in there]
        self.prepare(todo, jobs)
        code, failed = self.code(), 0
        with ProcessPoolExecutor(min(jobs, len(todo)) or 1, multiprocessing.get_context("spawn")) as pool:
            running = {}
            for trial in todo:
                params = self.params(trial)
                running[pool.submit(run_trial, trial, params, folder_of(self.prepared, params), limit)] = trial
            for number, done in enumerate(as_completed(running), 1):
                trial = running[done]
                said = f"{number}/{len(todo)} {trial.case}: {trial.method}, {trial.phase}, seed {trial.seed}"
                try:
                    row = done.result()
                except (InputError, TimeoutError, RuntimeError) as error:
                    failed += 1
                    click.echo(f"{said}: failed: {error}", err=True)
                    continue
                self.rows.append({name: str(row.get(name, "")) for name in COLUMNS} | {"code": code})
                write_rows(self.path, self.rows)
                click.echo(f"{said}: validation {row['val_rsum']:.1f}, {row['seconds']} s", err=True)
        return failed

    def code(self) -> str:
        """A digest of what a row depends on that its overrides do not say: the code, and the other parameters."""
        return digest_of(code_of_metrics(), self.content)[:12]

    def compared(self) -> list[tuple[str, str]]:
        """The cases and their methods."""
        return [
            (case, method)
            for case in self.study.cases
            for method in self.study.methods
            if self.only in f"{case}: {method}"
            and (method in self.methods if self.methods else method in self.study.broad.get(case, [method]))
        ]

    def _is_tuned(self, method: str) -> bool:
        return bool(self.study.grid) or method in self.study.own

    def _points(self, case: str, method: str) -> list[dict[str, Any]]:
        overrides = self._trial(case, method, "", 0, {}).overrides
        return points_of(self.study, method, overrides.get("loss.name", self.content["loss"]["name"]))

    def _trial(
        self, case: str, method: str, phase: str, seed: int, changes: Mapping[str, Any], variant: str = ""
    ) -> Trial:
        study = self.study
        overrides = {**study.settings, **study.cases[case], **study.methods[method], **changes, **self.extra}
        return Trial(self.name, case, f"{method}, {variant}" if variant else method, phase, seed, overrides)

    def _chosen(self, case: str, method: str) -> dict[str, Any] | None:
        """The setting of the best mean validation; None if a trial of the tuning has no row."""
        if not self._is_tuned(method):
            return {}
        points = self._points(case, method)
        found = {tuple(row[name] for name in IDENTITY): float(row["val_rsum"]) for row in self.rows}
        means = []
        for point in points:
            trials = [self._trial(case, method, "tune", seed, point) for seed in TUNE_SEEDS]
            if any(trial.identity not in found for trial in trials):
                click.echo(f"not tuned yet: {case}: {method}", err=True)
                return None
            means.append(statistics.mean(found[trial.identity] for trial in trials))
        return points[means.index(max(means))]


def read_rows(path: Path) -> list[Row]:
    """The rows of a CSV file; none for a missing one.

    Raises:
        InputError: for rows of an earlier format, which `write_rows` would replace.
    """
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    if rows and not set(IDENTITY) <= rows[0].keys():
        raise InputError(f"{path}: its rows are of an earlier format; move it away, or name another folder: --results")
    return rows


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Replace a CSV file, in the order of `IDENTITY`."""
    content = io.StringIO()
    writer = csv.DictWriter(content, COLUMNS, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: tuple(row[name] for name in IDENTITY)))
    write_text(path, content.getvalue())


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"-S {text}: expected NAME=VALUE")
    if name not in OF_MACHINE:
        raise InputError(f"-S {name}: changes the trials; what trials are is written in benchmarks/studies.py alone")
    return name, parse_yaml(value, f"-S {name}")


def set_values(content: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put values by dotted name into nested sections."""
    for name, value in values.items():
        *sections, key = name.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
        section[key] = value


if __name__ == "__main__":
    sys.exit(main())
