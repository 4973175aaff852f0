"""The folder of `--to`, which a command replaces as a whole (no command)."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError


def check_target(folder: Path, mark: str, text: str) -> None:
    """Refuse a folder with files, unless its file `mark` contains `text`, which only the same command writes there.

    A git repository that somebody made of it is refused too: its history would be lost.
    """
    made = folder / mark
    ours = made.is_file() and text in made.read_text(encoding="utf-8", errors="replace")
    ours = ours and not (folder / ".git").exists()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise InputError(f"--to {folder}: holds files that this command did not write; name another folder")
