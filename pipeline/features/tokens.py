"""Captions as the text tower takes them: cleaned, tokenised, padded; everything that encodes captions goes this way.

Shapes: B captions of a batch, M captions, L tokens, W features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from pipeline.data.captions import clean_caption
from pipeline.models.towers import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_TOKENS = 512  # of a caption, where the tokenizer names no limit (it then says 10^30)
BATCH = 64


class CaptionSettings(Protocol):
    """How captions are prepared: section `model` of params.yaml has it, and so has a trained model's record."""

    @property
    def words(self) -> int:
        """Words that are kept of a cleaned caption."""

    @property
    def captions(self) -> str:
        """cleaned, or raw: as published."""

    @property
    def pooling(self) -> str:
        """masked_mean or mean_all."""


def tokenised(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], settings: CaptionSettings) -> list[Tensor]:
    """Each caption's token ids, int32."""
    if settings.captions == "cleaned":
        captions = [clean_caption(caption, settings.words) for caption in captions]
    longest = min(tokenizer.model_max_length, MOST_TOKENS)
    ids: list[list[int]] = tokenizer(list(captions), truncation=True, max_length=longest)["input_ids"]
    return [torch.tensor(row, dtype=torch.int32) for row in ids]


def fixed_length(settings: CaptionSettings) -> int | None:
    """Tokens of every caption outside of training, as FNE's published code has it where it averages over padding."""
    return settings.words if settings.pooling == "mean_all" else None


def padded(rows: Sequence[Tensor], pad: int, length: int | None) -> Tokens:
    """Rows of token ids as one batch: padded to the longest, or cut (the closing token kept) and padded to `length`."""
    if length is not None:
        rows = [row if len(row) <= length else torch.cat([row[: length - 1], row[-1:]]) for row in rows]
    width = length or max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return Tokens(ids, mask)


@torch.inference_mode()
def encoded_captions(
    tower: Callable[[Tokens], Tensor],
    device: torch.device,
    tokenizer: Any,
    captions: Sequence[str],
    settings: CaptionSettings,
) -> Tensor:
    """Captions through a text tower on `device`, (M, W) on the CPU.

    Captions of about the same length share a batch, so that little padding is encoded.
    """
    rows = tokenised(tokenizer, captions, settings)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    encoded = []
    for start in range(0, len(order), BATCH):
        chosen = [rows[row] for row in order[start : start + BATCH]]
        tokens = padded(chosen, tokenizer.pad_token_id, fixed_length(settings))
        encoded.append(tower(tokens.to(device)).cpu())
    place_M = torch.empty(len(order), dtype=torch.long)
    place_M[order] = torch.arange(len(order))
    return torch.cat(encoded)[place_M]
