"""A training's history as files: what DVC plots, and what evaluation reads about a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from pipeline.errors import InputError
from pipeline.files import atomic_folder, read_as, write_json, write_table, write_text
from pipeline.paths import HISTORY, RUN, TRAIN, VALIDATION, WEIGHTS, maker
from pipeline.sampling.strategies import cutdown_threshold

if TYPE_CHECKING:
    import pandas

PLACE = ("epoch", "step")
Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class _Recorded(BaseModel):
    """Unknown keys are allowed and ignored."""

    model_config = ConfigDict(strict=True, extra="allow")


class PopulationRecord(_Recorded):
    """The record of one of the two populations of similarities."""

    mean: FiniteFloat
    variance: Annotated[FiniteFloat, Field(ge=0)]
    count: Annotated[FiniteFloat, Field(ge=0)]


class StatisticsRecord(_Recorded):
    """`SimilarityStatistics.as_numbers()`."""

    positive: PopulationRecord
    negative: PopulationRecord


class Moment(_Recorded):
    """A position in a training, and the statistics at that position."""

    epoch: Annotated[int, Field(ge=-1, lt=1 << 63)]
    step: Count
    statistics: StatisticsRecord


class SamplerRecord(_Recorded):
    """The part of the run's section `sampler` that later stages read."""

    cutdown: FiniteFloat
    alpha: FiniteFloat
    suspect_alpha: FiniteFloat | None = None
    suspect: FiniteFloat
    prior: Annotated[FiniteFloat, Field(gt=0)]
    min_matches: Count


class Run(_Recorded):
    """`train/run.json`: what stage `train` records for later stages."""

    key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    best: Moment
    last: Moment
    sampler: SamplerRecord

    @property
    def threshold(self) -> float:
        """Candidates with a similarity at or below this were cut down, at the epoch of the best weights."""
        return cutdown_threshold(self.best.statistics.positive.mean, self.sampler.cutdown)


def read_run(path: Path) -> Run:
    """Read what stage `train` recorded.

    Raises:
        InputError: naming the file and the invalid value.
    """
    return read_as(Run, path, "train")


def write_training(
    history: Sequence[dict[str, Any]], run: dict[str, Any], pairs: pandas.DataFrame | None = None
) -> None:
    """Replace folder `train`: history, run and NPC's pairs. Nothing of an earlier training stays."""
    with atomic_folder(TRAIN) as folder:
        write_history(folder / HISTORY.name, history)
        write_validations(folder / VALIDATION.name, history)
        if pairs is not None:
            write_table(folder / WEIGHTS.name, pairs)
        write_json(folder / RUN.name, run)


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """One row per record; a missing metric stays empty. No wall-clock time, so equal runs write equal files."""
    names = sorted({name for row in history for name in row} - {*PLACE, "time"})
    _write_rows(path, [*PLACE, *names], history)


def write_validations(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """The rows with validation recalls; columns have names that DVC can plot: `val_rsum`, `val_i2t_R1` …"""
    rows = [{name.replace("/", "_"): value for name, value in row.items()} for row in history if "val/rsum" in row]
    names = sorted({name for row in rows for name in row if name.startswith("val_")})
    _write_rows(path, [*PLACE, *names], rows)


def read_rows(path: Path, columns: Sequence[str] = PLACE) -> pandas.DataFrame:
    """A table of numbers that stage `train` or `evaluate` wrote.

    Raises:
        InputError: when it is missing, not a CSV file, lacks one of `columns`, or holds anything but numbers.
    """
    import pandas

    again = f"run `dvc repro {maker(path) or 'train'}`"
    try:
        table = pandas.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; {again}") from None
    except Exception as error:  # the parser raises many types of errors
        raise InputError(f"{path}: not readable as CSV ({' '.join(str(error).split())}); {again}") from None
    if missing := [name for name in columns if name not in table]:
        raise InputError(f"{path}: no column {missing[0]!r}; {again}")
    for name in table if len(table) else ():
        if not pandas.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"{path}: column {str(name)[:60]!r} holds something else than numbers; {again}")
    return table


def best_validation(path: Path) -> float | None:
    """The highest rsum on the validation split in history.csv; None where nothing was validated."""
    history = read_rows(path)
    return float(history["val/rsum"].max()) if "val/rsum" in history else None


def sampling_by_epoch(path: Path) -> pandas.DataFrame:
    """One row per epoch: the mean of each `sampler/…` metric of history.csv, without the prefix.

    `false_negative_share` (the share of the sampled weight on negatives that are true matches) is included where the
    training split's truth is known. The mean is over records; an epoch's last record may cover fewer steps.
    """
    history = read_rows(path)
    columns = [column for column in history.columns if column.startswith("sampler/")]
    means = history.groupby("epoch")[columns].mean().dropna(how="all")
    return means.rename(columns=lambda name: name.removeprefix("sampler/")).reset_index()


def _write_rows(path: Path, columns: list[str], rows: Sequence[dict[str, Any]]) -> None:
    import pandas

    write_text(path, pandas.DataFrame(rows, columns=columns).to_csv(index=False))
