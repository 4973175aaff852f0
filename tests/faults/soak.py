"""Kills at length: every stage, DVC itself and its workers, at seeded moments; and many experiments at once.

    python -m tests.faults.soak --moments 20 --dvc 5 --rounds 20

Prints a table of what was tried, landed (ended what it was sent to before its time) and survived, and on standard error
what was not as it should be, as soon as it is found; ends with 1 if anything was.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from signal import Signals
from subprocess import SubprocessError, TimeoutExpired
from typing import TYPE_CHECKING, TypeVar

import click
import numpy as np

from pipeline.progress import progress
from tests.stages.running import STAGES

if TYPE_CHECKING:
    from tests.end_to_end.test_dvc import Clone
    from tests.faults.killing_dvc import Killed, Outcome

Item = TypeVar("Item")


@click.command()
@click.option("--moments", default=20, show_default=True, help="Kills of each stage.")
@click.option(
    "--dvc",
    "of_dvc",
    default=5,
    show_default=True,
    help="Kills of DVC in each of three ways, and of two workers.",
)
@click.option("--rounds", default=20, show_default=True, help="Four queued experiments beside one in the workspace.")
@click.option("--seed", default=0, show_default=True, help="Decides the moments.")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this one; may be repeated.")
def main(moments: int, of_dvc: int, rounds: int, seed: int, stages: tuple[str, ...]) -> None:
    """Kill, start again, compare."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # one ignored, as in `make soak &`, is so in what we start
    problems: list[str] = []
    click.echo("| killed | kills | landed | survived |\n|---|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        if moments:
            problems += _kill_stages(Path(folder), moments, seed, stages or STAGES)
        if of_dvc or rounds:
            clone = _clone(Path(folder).resolve())
        if of_dvc:
            problems += _kill_dvc(clone, Path(folder).resolve(), of_dvc, seed)
            problems += _kill_queue(clone, Path(folder).resolve(), of_dvc, seed)
        if rounds:
            problems += _crowd(clone, Path(folder).resolve() / "crowd", rounds)
    raise SystemExit(bool(problems))


def _kill_stages(folder: Path, moments: int, seed: int, stages: tuple[str, ...]) -> list[str]:
    """Every fourth over an earlier run's outputs, every fifth with its second start killed too."""
    from tests.faults.killing import VARIANTS, run_whole, seeded_kills, try_kill_and_tell

    problems = []
    for variant, changes in VARIANTS.items():
        reference = run_whole(folder / f"whole {variant}", **changes)
        for stage in stages:
            ended = survived = 0
            for number, drawn in enumerate(_shown(seeded_kills(reference, stage, moments, seed), stage)):
                again = reference.seconds[stage] / 2 if number % 5 == 4 else None
                kill = replace(drawn, over=number % 4 == 3, again=again)
                landed, found = try_kill_and_tell(kill, reference, folder / f"{variant}-{stage}-{number}")
                ended += landed
                survived += not found
                problems += _told(f"{variant}: {stage}, {kill}", found)
            if not ended:
                problems += _told(f"{variant}: {stage}", ["no kill landed"])
            click.echo(f"| {stage}, {variant} | {moments} | {ended} | {survived} |")
    return problems


def _clone(folder: Path) -> Clone:
    from tests.end_to_end.test_dvc import Clone

    clone = Clone(folder)
    for _ in range(3):  # each goes on where the one before ran out of its time on a busy machine
        with suppress(TimeoutExpired):
            clone.dvc("repro")
            break
    clone.commit("The first results")
    return clone


def _kill_dvc(clone: Clone, folder: Path, count: int, seed: int) -> list[str]:
    from tests.faults.killing_dvc import COMMANDS, after, copied, kill_dvc, uninterrupted

    problems = []
    for way, command in enumerate(COMMANDS):
        try:
            expected, seconds = uninterrupted(copied(clone, folder / f"whole-{way}"), command)
        except (AssertionError, SubprocessError) as error:
            problems += _told(f"{command}, not killed", [str(error)])
            continue

        def kill(other: Clone, moment: float, number: Signals, way: str = command, like: Outcome = expected) -> Killed:
            return kill_dvc(other, way, after(moment), number, like)

        problems += _tried(f"`{command}`", kill, clone, folder / f"killed-{way}", _moments(count, seconds, [seed, way]))
    return problems


def _kill_queue(clone: Clone, folder: Path, count: int, seed: int) -> list[str]:
    from tests.faults.killing_dvc import after, copied, end_all
    from tests.faults.killing_queue import VICTIMS, kill_queue, uninterrupted

    try:
        expected, seconds = uninterrupted(copied(clone, folder / "whole-queue"))
    except (AssertionError, SubprocessError) as error:
        return _told("two queue workers, not killed", [str(error)])
    finally:
        end_all(folder / "whole-queue")
    problems = []
    for way, victims in enumerate(VICTIMS):

        def kill(other: Clone, moment: float, number: Signals, victims: str = victims) -> Killed:
            return kill_queue(other, victims, after(moment), number, expected)

        moments = _moments(count, seconds, [seed, len(VICTIMS) + way])
        problems += _tried(f"two queue workers: {victims}", kill, clone, folder / f"queue-{way}", moments)
    return problems


def _tried(
    what: str, kill: Callable[[Clone, float, Signals], Killed], clone: Clone, folder: Path, moments: list[float]
) -> list[str]:
    """One kill in a copy of its own for each moment, the signals in turn; a row of the table."""
    from tests.faults.killing import SIGNALS
    from tests.faults.killing_dvc import Killed, copied, end_all

    problems, landed, survived = [], 0, 0
    for number, moment in enumerate(_shown(moments, what)):
        other, sent = copied(clone, folder.with_name(f"{folder.name}-{number}")), SIGNALS[number % len(SIGNALS)]
        try:
            killed = kill(other, moment, sent)
        except (AssertionError, SubprocessError) as error:  # one that went wrong keeps no other from being tried
            killed = Killed(problems=[f"{type(error).__name__}: {error}"])
        end_all(other.folder)
        landed += killed.landed
        survived += killed.landed and not killed.problems
        problems += _told(f"{what}, {sent.name} after {moment:.1f} s", killed.problems)
    click.echo(f"| {what} | {len(moments)} | {landed} | {survived} |")
    return problems if landed else [*problems, *_told(what, ["no kill came before the end"])]


def _crowd(clone: Clone, folder: Path, rounds: int) -> list[str]:
    from tests.faults.crowding import crowd
    from tests.faults.killing_dvc import copied, end_all

    other, problems, well = copied(clone, folder), [], 0
    for number in _shown(range(rounds), "many at once"):
        try:
            found = crowd(other, number)
        except (AssertionError, SubprocessError) as error:
            found = [f"{type(error).__name__}: {error}"]
        if found:
            end_all(other.folder)
        well += not found
        problems += _told(f"round {number}", found)
    end_all(other.folder)
    click.echo(f"| nobody: four queued experiments and one in the workspace | {rounds} rounds | | {well} |")
    return problems


def _shown(items: Sequence[Item], label: str) -> Iterator[Item]:
    return progress(items, label=label, total=len(items))


def _told(where: str, found: list[str]) -> list[str]:
    """Say at once what was not as it should be: the whole takes hours."""
    problems = [f"{where}: {problem}" for problem in found]
    for problem in problems:
        click.echo(problem, err=True)
    return problems


def _moments(count: int, seconds: float, seed: list[int]) -> list[float]:
    """One in each part of the first nine tenths: on a quieter machine than the measured one the end comes earlier."""
    parts = (np.arange(count) + np.random.default_rng(seed).random(count)) / count
    moments: list[float] = (0.9 * seconds * parts).tolist()
    return moments


if __name__ == "__main__":
    main()
