"""Captions for the text tower: cleaned, tokenised, padded. All code that encodes captions uses this module.

Shapes: B captions of a batch, M captions, L tokens, W features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pipeline.data.captions import clean_caption
from pipeline.models.towers import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pipeline.models.build import ModelRecord
    from pipeline.params import ModelParams

    CaptionSettings = ModelParams | ModelRecord

MOST_TOKENS = 512  # of a caption, if the tokenizer has no limit (transformers then gives 10^30)
BATCH = 64


def tokenised(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str], settings: CaptionSettings) -> list[Tensor]:
    """Each caption's token ids, int32."""
    if settings.captions == "cleaned":
        captions = [clean_caption(caption, settings.words) for caption in captions]
    longest = min(tokenizer.model_max_length, MOST_TOKENS)
    ids: list[list[int]] = tokenizer(list(captions), truncation=True, max_length=longest)["input_ids"]
    return [torch.tensor(row, dtype=torch.int32) for row in ids]


def fixed_length(settings: CaptionSettings) -> int | None:
    """Tokens per caption outside of training if padding is averaged (as in FNE's published code), else None."""
    return settings.words if settings.pooling == "mean_all" else None


def padded(rows: Sequence[Tensor], pad: int, length: int | None) -> Tokens:
    """A batch of token ids: padded to the longest row, or cut (keeping the closing token) and padded to `length`."""
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
    """Encode captions with a text tower on `device`; (M, W), float32, on the CPU.

    Batches hold captions of similar length, to encode little padding.
    """
    rows = tokenised(tokenizer, captions, settings)
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    encoded = []
    for start in range(0, len(order), BATCH):
        chosen = [rows[row] for row in order[start : start + BATCH]]
        tokens = padded(chosen, tokenizer.pad_token_id, fixed_length(settings))
        encoded.append(tower(tokens.to(device)).float().cpu())
    place_M = torch.empty(len(order), dtype=torch.long)
    place_M[order] = torch.arange(len(order))
    return torch.cat(encoded)[place_M]
