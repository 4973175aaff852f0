"""How many examples a property is tried on: few by default, FAULT_EXAMPLES of them in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

SOAK = int(os.environ.get("FAULT_EXAMPLES", "0"))


def examples(fast: int) -> Callable[[Any], Any]:
    """Hypothesis' settings for `fast` examples, or for as many as a soak wants; the soak's differ from run to run."""
    return settings(
        max_examples=SOAK or fast,
        deadline=None,
        derandomize=not SOAK,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
