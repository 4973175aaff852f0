"""A trained model in the format of the library sentence-transformers: modules that it calls one after another.

Shapes: B batch, W a tower's own width, D the joint width.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.errors import InputError, needs_extra
from pipeline.models.anchor import Anchored
from pipeline.models.build import ModelRecord, load_end_to_end, read_model_record
from pipeline.models.dual import PADDED_TO_THE_END
from pipeline.models.heads import Head, Standardise
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import MatchingModel, Tokens, tower_widths
from pipeline.models.whole import caption_lines, is_joined, write_towers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

LOWEST_COSINE = 0.9999  # of a vector that the library computes with the model's own
PROBES = ("a", "a red dot on a white ground")  # of two lengths, so that padding is seen


def write_sentence_transformers(trained: Path, base: Path, folder: Path) -> list[str]:
    """Write the model so that sentence-transformers loads it, and compare the vectors that it then computes.

    A dual encoder is one `Transformer` module. Other towers are two routes, each a `Transformer`, a mean `Pooling` and
    the head or projection as `LayerNorm` and `Dense` modules. Returns lines of Python that load it.

    Raises:
        InputError: without the extra `sentence-transformers`; for a head that the library has no module for; where the
            library's vectors are others than the model's own.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Normalize
    except ImportError as error:
        said = f"--format sentence-transformers: {error}; {needs_extra('sentence-transformers')}"
        raise InputError(said) from None
    record = read_model_record(trained)
    model, source = load_end_to_end(trained, base)
    model.eval()
    heads = {side: _layers(trained, side, head) for side, head in model.heads.items()}
    if is_joined(source) and any(heads.values()):
        raise InputError(
            f"{trained}: its projection over a dual encoder is no module of sentence-transformers: use onnx"
        )
    with TemporaryDirectory(prefix="towers-") as name:
        write_towers(model, source, record, Path(name))
        try:
            modules = [_towers(model, source, record, heads, Path(name)), Normalize()]
            made = SentenceTransformer(modules=modules, device="cpu")
            made.save(str(folder), create_model_card=False)
            loaded = SentenceTransformer(str(folder), device="cpu")
            lowest = _lowest_cosine(loaded, model, source, record)
        except Exception as error:  # for what the library cannot hold, it raises any type
            said = " ".join(str(error).split())
            raise InputError(f"{trained}: sentence-transformers cannot run it ({said}): use onnx") from error
    if not lowest >= LOWEST_COSINE:
        raise InputError(
            f"{trained}: sentence-transformers computes other vectors (lowest cosine {lowest:.4f}), as it pools or "
            "pads differently: use onnx"
        )
    text = "prepared(caption)" if record.captions == "cleaned" else "caption"
    return [
        "from sentence_transformers import SentenceTransformer",
        'model = SentenceTransformer(".")',
        *caption_lines(record),
        f"vectors = model.encode([picture]), model.encode([{text}])  # a picture of PIL and a text, to unit vectors",
    ]


def _towers(
    model: MatchingModel, source: Pretrained, record: ModelRecord, heads: dict[str, list[Any]], place: Path
) -> Any:
    """The module for pictures and texts; `heads` come after each tower's pooling."""
    from sentence_transformers.base.modules import Router, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    if is_joined(source):
        text: dict[str, Any] = {}
        if source.text.config.model_type in PADDED_TO_THE_END:
            longest = source.tokenizer.model_max_length
            text = {"padding": "max_length", "max_length": longest, "return_attention_mask": False}
        return Transformer(str(place), processing_kwargs={"text": text})
    widths = tower_widths(model.image_tower, model.text_tower, record.image_size)
    return Router(
        {
            side: [Transformer(str(place / side)), Pooling(width, "mean"), *heads[side]]
            for side, width in zip(("image", "text"), widths, strict=True)
        }
    )


def _layers(trained: Path, side: str, head: nn.Module) -> list[Any]:
    """A head, or a projection, as the library's modules; none for no change.

    Raises:
        InputError: for a head whose parts are added or put side by side.
    """
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm

    def dense(linear: nn.Linear, activation: nn.Module) -> Dense:
        return Dense(
            linear.in_features,
            linear.out_features,
            activation_function=activation,
            init_weight=linear.weight.detach(),
            init_bias=linear.bias.detach(),
        )

    if isinstance(head, nn.Identity):
        return []
    if isinstance(head, nn.Linear):
        return [dense(head, nn.Identity())]
    if isinstance(head, Anchored):
        raise InputError(
            f"{trained}: has a head over an anchor, which sentence-transformers has no modules for: use onnx"
        )
    if type(head) is not Head:
        raise InputError(
            f"{trained}: its {side} head is {type(head).__name__}, which sentence-transformers has no modules for: "
            "use onnx"
        )
    parts = dict(head.named_children())
    norm, first, second = parts["0"], parts["1"], parts["3"]
    assert isinstance(norm, nn.LayerNorm) and isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    layer_norm = LayerNorm(norm.normalized_shape[0])
    layer_norm.norm = norm
    scaled = [dense(_as_linear(parts["standardise"]), nn.Identity())] if "standardise" in parts else []
    return [*scaled, layer_norm, dense(first, nn.GELU()), dense(second, nn.Identity())]


def _as_linear(standardise: nn.Module) -> nn.Linear:
    assert isinstance(standardise, Standardise)
    mean_W, std_W = standardise.mean_W, standardise.std_W
    linear = nn.Linear(len(mean_W), len(mean_W))
    linear.weight, linear.bias = nn.Parameter(torch.diag(1 / std_W)), nn.Parameter(-mean_W / std_W)
    return linear


@torch.inference_mode()
def _lowest_cosine(loaded: SentenceTransformer, model: MatchingModel, source: Pretrained, record: ModelRecord) -> float:
    """Of a picture that needs no resizing and of captions of two lengths: the library's vectors with the model's."""
    from PIL.Image import fromarray

    size = record.image_size
    pixels_3SS = torch.randint(256, (3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    tokenise = {"padding": True, "truncation": True, "return_tensors": "pt", "return_attention_mask": True}
    rows = source.tokenizer(list(PROBES), **tokenise)
    own = (
        model.encode_image(pixels_3SS[None]),
        model.encode_text(Tokens(rows["input_ids"], rows["attention_mask"])),
    )
    picture = fromarray(pixels_3SS.permute(1, 2, 0).numpy())
    found = (loaded.encode(inputs, convert_to_tensor=True) for inputs in ([picture], list(PROBES)))
    return min(float((ours * theirs).sum(dim=1).min()) for ours, theirs in zip(own, found, strict=True))
