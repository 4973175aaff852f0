"""How many examples a property is tried on: few by default, FAULT_EXAMPLES of them in `make soak`."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

SOAK = int(os.environ.get("FAULT_EXAMPLES", "0"))


def examples(fast: int, share: float = 1.0) -> Callable[[Any], Any]:
    """Hypothesis' settings for `fast` examples, or for a share of as many as a soak wants, other ones each time."""
    return settings(
        max_examples=math.ceil(share * SOAK) or fast,
        deadline=None,
        derandomize=not SOAK,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
