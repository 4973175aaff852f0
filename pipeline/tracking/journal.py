"""What a stage tells its MLflow run, kept on this disk until the store has all of it.

A journal is written before the store is: one JSON object a line, `.tracking/<stage>-<digest>.jsonl` below the main
repository, files that the store did not take beside it. It is removed when the run is finished and delivered; what is
found there belongs to a stage that is running, was killed, or could not reach its store. A stage that cannot wait for
who holds its journal writes one beside it, `.tracking/<stage>-<digest>~.jsonl`: a later telling of the same.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import InputError
from pipeline.files import main_root, write_text
from pipeline.tracking.entries import BEGINNINGS, Entry, checked

JOURNALS = ".tracking"
BESIDE = "~"  # sorts after the dot of the file that it stands beside


class Journal:
    """One run's entries, held by one process at a time."""

    def __init__(self, path: Path) -> None:
        """Name it; nothing is read or made yet."""
        self.path = path
        self.files = path.with_suffix("")
        self._lock = FileLock(path.with_suffix(".lock"), is_singleton=True)

    @classmethod
    def of(cls, stage: str, key: str) -> Journal:
        """The journal of what `stage` computes from `key`, its folder made.

        Raises:
            InputError: for a key that is no plain name: it names files here, and may come from somebody else's file.
        """
        if not re.fullmatch(r"[\w -]{1,64}", key):
            raise InputError(
                f"the key of a run is {key[:60]!r}, expected letters and digits; `dvc repro` makes it anew"
            )
        folder = main_root() / JOURNALS
        folder.mkdir(parents=True, exist_ok=True)
        return cls(folder / f"{stage}-{key[:20]}.jsonl")

    @property
    def stage(self) -> str:
        """Which stage wrote it."""
        return self.path.name.partition("-")[0]

    def hold(self, seconds: float = 0.0) -> bool:
        """Keep other processes out; False if one still has it after `seconds`."""
        try:
            self._lock.acquire(timeout=max(0.0, seconds))
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let others in."""
        self._lock.release()

    def same(self) -> list[Journal]:
        """Those of the same stage and key that are there, oldest telling first."""
        name = self.path.stem.rstrip(BESIDE)
        paths = [path for path in self.path.parent.glob("*.jsonl") if path.stem.rstrip(BESIDE) == name]
        return [Journal(path) for path in sorted(paths, key=lambda path: len(path.name))]

    def earlier(self) -> list[Journal]:
        """Of those, the ones told before this one."""
        return [other for other in self.same() if len(other.path.name) < len(self.path.name)]

    def later(self) -> list[Journal]:
        """Of those, the ones told after this one."""
        return [other for other in self.same() if len(other.path.name) > len(self.path.name)]

    def beside(self) -> Journal:
        """The next name for a later telling."""
        return Journal(self.path.with_stem(self.path.stem + BESIDE))

    def entries(self) -> list[Entry]:
        """All of them, without a last one that a kill cut off; empty where there is no journal.

        Raises:
            InputError: when an earlier line is not an entry.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]  # a whole line ends in a line end
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from None
        found: list[Entry] = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(checked(json.loads(line), self.stage, first=number == 1))
            except (ValueError, RecursionError):  # also what is no UTF-8, and what pydantic refuses
                raise InputError(
                    f"{self.path}: line {number} is no entry of a journal; delete the file to give its record up"
                ) from None
        return found

    def is_of(self, report: Entry) -> bool:
        """Whether it is of the evaluation that a report was made from."""
        try:
            return any(entry["evaluate_key"] == report["evaluate_key"] for entry in self.entries()[:1])
        except InputError:
            return False

    def restart(self, first: Entry) -> None:
        """Begin again with `first`: what came after it, and later tellings, held too, will be told once more."""
        # In this order: a journal that a kill leaves here never names files that are gone.
        write_text(self.path, json.dumps(first, ensure_ascii=False) + "\n")
        shutil.rmtree(self.files, ignore_errors=True)
        for other in self.later():
            other.remove()
            other.release()

    def add(self, entry: Entry) -> None:
        """Append an entry."""
        with open(self.path, "ab") as handle:
            handle.write((json.dumps(entry, ensure_ascii=False) + "\n").encode())

    def keep(self, source: Path) -> str:
        """Keep a file or a folder for later; its path below `files`. Linked where that can be: outputs are replaced."""
        name = f"{len(list(self.files.iterdir())) if self.files.exists() else 0}/{source.name}"
        target = self.files / name
        target.parent.mkdir(parents=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=_link)
        else:
            _link(str(source), str(target))
        return name

    def remove(self) -> None:
        """Forget everything: the store has it."""
        self.path.unlink(missing_ok=True)  # first: see `restart`
        shutil.rmtree(self.files, ignore_errors=True)


def journals() -> list[Journal]:
    """Every journal of the main repository, in the order of the stages: each goes on in the run of those before."""
    found = [Journal(path) for path in sorted((main_root() / JOURNALS).glob("*.jsonl"))]
    stages = list(BEGINNINGS)
    return sorted(found, key=lambda journal: stages.index(journal.stage) if journal.stage in stages else len(stages))


def remove_leftovers() -> None:
    """Remove files that a kill in `Journal.remove` left without their journal."""
    for folder in (main_root() / JOURNALS).glob("*/"):
        journal = Journal(folder.with_suffix(".jsonl"))
        if not journal.path.exists() and journal.hold():
            try:
                if not journal.path.exists():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                journal.release()


def records_before(first: Entry) -> list[Journal]:
    """Journals that the store is to have before one that begins with `first`, or a run would be made a second time.

    That is an evaluation's training, and a report's evaluation, if they are for the same store; each with those beside.

    Raises:
        InputError: when the training's journal cannot be read.
    """
    found: list[Journal] = []
    if first["do"] == "evaluation":
        found = Journal.of("train", first["key"]).same()
    elif first["do"] == "report":
        found = [journal for journal in journals() if journal.stage == "evaluate" and journal.is_of(first)]
    return [journal for journal in found if any(entry["store"] == first["store"] for entry in journal.entries()[:1])]


def place() -> str:
    """A random name of this main repository, made once: what another machine has begun is not gone on with here."""
    path = main_root() / JOURNALS / "place"
    if not path.exists():
        write_text(path, secrets.token_hex(8))
    return path.read_text(encoding="utf-8").strip()


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
