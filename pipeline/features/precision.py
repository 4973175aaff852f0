"""The precision in which frozen towers compute their outputs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from pipeline.errors import InputError
from pipeline.models.towers import Tokens

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
    """For images: products are computed in `precision`; weights, and what is added up, stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_precision(tower: nn.Module, precision: Precision) -> nn.Module:
    """A text tower that computes in `precision` as a whole, a copy if that is bf16.

    A caption's few tokens cost more in conversions than in products: with MiniLM, captions a second are 2.6 to 3.0
    times those of float32, with `autocast` 2.0 to 2.4, and the lowest cosine to float32 is 0.9999.

    Raises:
        InputError: when the tower has an operation without bf16.
    """
    if precision == "float32":
        return tower
    halved = copy.deepcopy(tower).bfloat16()
    device = next(halved.parameters()).device
    two = torch.ones(1, 2, dtype=torch.long, device=device)
    try:
        with torch.inference_mode():
            halved(Tokens(two, two))
    except RuntimeError as error:  # also what torch raises of an operation that it lacks
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"model.features_precision: the text tower does not compute in bf16 ({reason}); take float32"
        ) from None
    return halved


def _processor_has_it() -> bool:
    try:
        lines = CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(NATIVE & set(line.split()) for line in lines if line.lower().startswith(("flags", "features")))
