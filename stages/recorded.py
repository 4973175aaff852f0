"""Check that the parameters and code that DVC records for a stage are those that the stage used."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARAMS = Path("params.yaml")
BEGAN_WITH = "FNE_BEGAN_WITH"
"""Environment variable that passes a stage's initial record to the processes that it starts."""
_began_with: dict[str, Any] = {}


@contextmanager
def recorded() -> Iterator[None]:
    """Make a stage started by DVC fail if its parameters or its code have changed between its start and its end.

    DVC records both after the stage has ended: it would store the new ones in dvc.lock and the run cache, together with
    outputs made with the old ones, and no later run could detect that. Outputs of earlier stages are not checked: DVC
    locks them, and makes them again if they were changed.

    Raises:
        InputError: naming the parameter or the file, and what to do.
    """
    told = os.environ.get(BEGAN_WITH)
    _began_with.update(_noted() if told is None else json.loads(told))
    try:
        if told is None:
            os.environ[BEGAN_WITH] = json.dumps(_began_with)
        check_recorded()
        yield
        check_recorded()
    finally:
        _began_with.clear()
        if told is None:
            del os.environ[BEGAN_WITH]


def check_recorded() -> None:
    """The same check earlier: a stage calls it before it deletes the checkpoint that it could resume from."""
    from pipeline.dependencies import CODE
    from pipeline.errors import InputError
    from pipeline.yaml_text import shown

    now = _noted() if _began_with else {}
    for name in _began_with | now:
        if name in _began_with and name in now and _began_with[name] == now[name]:
            continue
        stage = f"stage {os.environ['DVC_STAGE']} began"
        if name.startswith(CODE):
            what = f"{name} is not as it was when {stage}. DVC would record the outputs as the new code's"
            back = "Put the old code back, or keep the new, and run the same command again"
        else:
            before, after = (shown(values[name]) if name in values else "not there" for values in (_began_with, now))
            what = f"{PARAMS}: {name} was {before} when {stage} and is {after} now. DVC would record the outputs under "
            what += "the new value"
            back = "Put the old value back, or keep the new one, and run the same command again; for several at once: "
            back += "dvc exp run --queue"
        raise InputError(f"{what}; so they count as not made. {back}")


def _noted() -> dict[str, Any]:
    """Parameters by dotted name, and digests of code by path, that dvc.yaml lists for the stage.

    Empty if DVC did not start the stage, or if the files cannot be read.
    """
    from pipeline.dependencies import code_digests, stage_entry
    from pipeline.errors import InputError
    from pipeline.params import flat
    from pipeline.yaml_text import parse_yaml

    stage = os.environ.get("DVC_STAGE", "")
    try:
        names = stage_entry(stage, Path()).get("params", [])
        leaves = flat(parse_yaml(PARAMS.read_text(encoding="utf-8"), PARAMS))
        digests = code_digests(stage, Path())
    except (OSError, InputError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    chosen = {leaf: value for leaf, value in leaves.items() if any(f"{leaf}.".startswith(f"{name}.") for name in names)}
    return dict(json.loads(json.dumps(chosen | digests, default=str)))
