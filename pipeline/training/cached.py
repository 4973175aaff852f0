"""Encode a batch in parts, with the gradient of the loss over all of it (GradCache, Gao et al. 2021).

Every part is encoded twice: first without a graph, to get all vectors and, from the loss, the gradient of each; then
again, to carry these gradients on to the parameters. Only one part's activations are in memory at a time.

Shapes: b pairs on this process, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from pipeline.models.towers import Tokens

Encode = Callable[[Tensor, Tensor | Tokens], tuple[Tensor, Tensor]]


def parts(images: Tensor, texts: Tensor | Tokens, size: int) -> list[tuple[Tensor, Tensor | Tokens]]:
    """Images and texts in parts of `size` pairs."""
    spans = [slice(start, start + size) for start in range(0, len(images), size)]
    return [
        (images[span], texts[span] if isinstance(texts, Tensor) else Tokens(*(each[span] for each in texts)))
        for span in spans
    ]


class CachedVectors:
    """The vectors of a batch, leaves of the loss's graph, and the second pass that carries their gradients on.

    Args:
        encode: the model, in training mode.
        images: of the batch.
        texts: of the batch.
        size: pairs encoded at a time.
    """

    def __init__(self, encode: Encode, images: Tensor, texts: Tensor | Tokens, size: int) -> None:
        """Encode without a graph; the random state of each part is kept, so that dropout is the same twice."""
        self._encode, self._parts = encode, parts(images, texts, size)
        self._devices = [images.device] if images.device.type == "cuda" else []
        self._states: list[tuple[Tensor, list[Tensor]]] = []
        encoded = []
        with torch.no_grad():
            for part in self._parts:
                self._states.append((torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in self._devices]))
                encoded.append(encode(*part))
        self.image_bD, self.text_bD = (torch.cat(side).requires_grad_() for side in zip(*encoded, strict=True))

    def backward(
        self, direct: Sequence[Tensor] = (), no_sync: Callable[[], AbstractContextManager[object]] = nullcontext
    ) -> None:
        """Add the parameters' gradients, after the loss has been propagated back to the vectors.

        Args:
            direct: parameters that the loss used directly; processes wait for them in the last part.
            no_sync: a context in which processes do not average gradients, for all parts but the last.
        """
        assert self.image_bD.grad is not None and self.text_bD.grad is not None
        first = 0
        for number, (part, (state, device_states)) in enumerate(zip(self._parts, self._states, strict=True)):
            last = number == len(self._parts) - 1
            with nullcontext() if last else no_sync(), torch.random.fork_rng(self._devices):
                torch.set_rng_state(state)
                for device, device_state in zip(self._devices, device_states, strict=True):
                    torch.cuda.set_rng_state(device_state, device)
                image, text = self._encode(*part)
                rows = slice(first, first + len(image))
                surrogate = (image * self.image_bD.grad[rows]).sum() + (text * self.text_bD.grad[rows]).sum()
                sum((0 * parameter for parameter in direct), surrogate).backward()
            first = rows.stop
