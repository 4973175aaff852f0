"""How often a fault is tried: few times by default, FAULT_EXAMPLES files and FAULT_MOMENTS kills in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

SOAK = int(os.environ.get("FAULT_EXAMPLES", "0"))
MANY = int(os.environ.get("FAULT_MOMENTS", "20"))


def examples(fast: int) -> Callable[[Any], Any]:
    """Hypothesis' settings for `fast` examples, or for as many as a soak wants, other ones each time."""
    return settings(
        max_examples=SOAK or fast,
        derandomize=not SOAK,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
