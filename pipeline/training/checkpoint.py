"""Checkpoints from which a killed run resumes: the whole state of a training, outside of the stage's outputs.

DVC deletes a stage's outputs before it runs, and runs queued experiments in temporary copies of the repository; so
checkpoints are stored in the main repository, under a digest of everything the result depends on
(`pipeline.dependencies.checkpoint_folder`): a run with other parameters never resumes from them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import InputError
from pipeline.files import atomic_path

SHARE_OF_TIME = 0.05  # at most this much of a run goes into writing checkpoints
SHORTEST_PAUSE = 10.0  # seconds


class Checkpoint:
    """A file of tensors and plain values; `save` replaces it atomically."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Keep it in `folder`."""
        self.folder = folder
        self.clock = clock
        self._written = clock()
        self._cost = 0.0

    def due(self) -> bool:
        """Whether enough time has passed since the last checkpoint."""
        return self.clock() - self._written >= max(SHORTEST_PAUSE, self._cost / SHARE_OF_TIME)

    def kept(self) -> bool:
        """Whether there is a state to resume from."""
        return (self.folder / "state.pt").exists()

    def save(self, state: dict[str, Any], name: str = "state") -> None:
        """Write `state`: tensors, numbers, strings, lists and dicts of these."""
        started = self.clock()
        # with a path instead of a handle, torch's error would not say that the disk is full
        with atomic_path(self.folder / f"{name}.pt") as temporary, open(temporary, "wb") as handle:
            torch.save(state, handle)
        if name == "state":  # writing the best weights does not delay the next checkpoint
            self._written = self.clock()
            self._cost = self._written - started

    def load(self, name: str = "state") -> dict[str, Any] | None:
        """What `save` wrote, or None; never executes code from the file.

        Raises:
            InputError: when the file exists but is not a checkpoint.
        """
        path = self.folder / f"{name}.pt"
        if not path.exists():
            return None
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict):
                raise TypeError(f"found {type(state).__name__}, expected dict")
        except Exception as error:
            # torch's own message has many lines, and advises to switch its safety off
            kind = type(error).__name__
            raise InputError(f"{path}: not a readable checkpoint ({kind}); delete it to start over") from error
        return state

    def remove(self) -> None:
        """Delete the folder's files: the run is complete."""
        # first: a kill in between must not leave a state to resume from without its best weights
        (self.folder / "state.pt").unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
