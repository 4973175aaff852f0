"""The precision in which frozen towers compute their outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

CPUINFO = Path("/proc/cpuinfo")
Precision = Literal["float32", "bf16"]
NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}
"""What Linux calls it when a processor multiplies in bfloat16: Intel and AMD, Intel's matrix units, ARM."""


def precision_on(device: torch.device, asked: Literal["auto", "float32", "bf16"]) -> Precision:
    """What `model.features_precision` means on `device`: `auto` is bf16 where the device computes in it natively."""
    if asked != "auto":
        return asked
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _processor_has_it()
    return "bf16" if native else "float32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """A context in which products are computed in `precision`; weights, and what is added up, stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _processor_has_it() -> bool:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(NATIVE & set(line.split()) for line in lines if line.lower().startswith(("flags", "features")))
