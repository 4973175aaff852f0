"""The momentum memory: a FIFO queue of features, their images and their captions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

NO_IMAGE = -100  # the id of a slot that holds no real image; never equals an anchor's


class Memory(nn.Module):
    """The last `size` momentum features of both sides (Q = `size`, D = `width`).

    Everything, including the write position, is in the state dict, so a resumed run has the same memory.
    Features are overwritten in place: enqueue after the backward pass.

    Args:
        size: Q; need not be a multiple of the batch size.
        width: D.
        prefill: "empty": slots count as candidates once written; "random": unit vectors that count from the start,
            as in FNE's published code.
    """

    image: Tensor
    text: Tensor
    image_id: Tensor
    caption_id: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, size: int, width: int, prefill: Literal["empty", "random"] = "empty") -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"memory size {size}: at least 1 is needed")
        random = prefill == "random"
        self.register_buffer("image", normalize(torch.randn(size, width)) if random else torch.zeros(size, width))
        self.register_buffer("text", normalize(torch.randn(size, width)) if random else torch.zeros(size, width))
        self.register_buffer("image_id", torch.full((size,), NO_IMAGE))
        self.register_buffer("caption_id", torch.full((size,), NO_IMAGE))
        self.register_buffer("filled", torch.full((size,), random))
        self.register_buffer("position", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """Q, including slots not yet written."""
        return len(self.image_id)

    @torch.no_grad()
    def enqueue(
        self, image_BD: Tensor, text_BD: Tensor, image_id_B: Tensor, caption_id_B: Tensor | None = None
    ) -> None:
        """Write a batch over the oldest slots; of a batch larger than the memory, keep the last `size` rows.

        Args:
            image_BD: (B, D) momentum features of the images.
            text_BD: (B, D) momentum features of their captions.
            image_id_B: (B,) the images' ids, not negative.
            caption_id_B: (B,) the captions' ids, for evidence and metrics.
        """
        dropped = max(0, len(image_id_B) - len(self))
        kept = torch.arange(dropped, len(image_id_B), device=self.position.device)
        slots = (self.position + kept) % len(self)
        self.image[slots] = image_BD[dropped:].detach().to(self.image.dtype)
        self.text[slots] = text_BD[dropped:].detach().to(self.text.dtype)
        self.image_id[slots] = image_id_B[dropped:]
        self.caption_id[slots] = NO_IMAGE if caption_id_B is None else caption_id_B[dropped:]
        self.filled.index_fill_(0, slots, True)  # an assigned number would be copied to a GPU, and the host waits
        self.position.copy_((self.position + len(image_id_B)) % len(self))
