"""What DVC will record of a stage must be what the stage worked with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARAMS, STAGES = Path("params.yaml"), Path("dvc.yaml")
ABSENT = object()
_began_with: dict[str, Any] = {}


@contextmanager
def recorded() -> Iterator[None]:
    """Have a stage that DVC started fail when its parameters in params.yaml are others at its end than at its start.

    DVC reads them when the stage has ended, and would put the new values beside outputs that were made with the old
    ones, in dvc.lock and in the run cache: no later run would find that out.

    Raises:
        InputError: naming the parameters, and what to do.
    """
    _began_with.update(_parameters())
    try:
        yield
        check_recorded()
    finally:
        _began_with.clear()


def check_recorded() -> None:
    """The same at any time before: what a stage asks before it gives up what it could go on from."""
    from pipeline.errors import InputError
    from pipeline.yaml_text import shown

    now = _parameters() if _began_with else {}
    for name in _began_with | now:
        if _began_with.get(name, ABSENT) != now.get(name, ABSENT):
            before, after = (shown(values[name]) if name in values else "not there" for values in (_began_with, now))
            raise InputError(
                f"{PARAMS}: {name} was {before} when stage {os.environ['DVC_STAGE']} began and is {after} now. DVC "
                "would record the outputs under the new value; so they count as not made. Put the old value back, or "
                "keep the new one, and run the same command again; for several at once: dvc exp run --queue"
            )


def _parameters() -> dict[str, Any]:
    """What dvc.yaml names for the stage, by dotted name; nothing where DVC started none or cannot read the files."""
    from pipeline.errors import InputError
    from pipeline.params import flat
    from pipeline.yaml_text import parse_yaml

    try:
        stages, values = (parse_yaml(path.read_text(encoding="utf-8"), path) for path in (STAGES, PARAMS))
        names = stages["stages"][os.environ["DVC_STAGE"]].get("params", [])
        leaves = flat(values)
    except (OSError, InputError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {
        leaf: value
        for leaf, value in leaves.items()
        if any(f"{leaf}.".startswith(f"{name}.") for name in names if isinstance(name, str))
    }
