"""A trained model in the formats of other libraries: transformers' own folder, and ONNX.

Shapes: B batch, L tokens, D width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import InputError, needs_extra
from pipeline.files import write_json
from pipeline.models.build import ModelRecord, load_end_to_end, read_model_record
from pipeline.models.clip import VISION
from pipeline.models.dual import PADDED_TO_THE_END, PARTS, is_dual_encoder, whole_class
from pipeline.models.heads import Head
from pipeline.models.pretrained import Pretrained
from pipeline.models.towers import MatchingModel, Tokens

LEARNED = {"logit_scale", "logit_bias", "temperature"}


def write_transformers(trained: Path, base: Path, folder: Path) -> list[str]:
    """Write the model so that transformers loads it: a dual encoder as one model, else a folder for each tower.

    Returns lines of Python that load it.

    Raises:
        InputError: for heads over frozen towers, or projections, which transformers' classes do not have.
    """
    record = read_model_record(trained)
    model, source = load_end_to_end(trained, base)
    changed = [name for name, head in model.heads.items() if next(head.parameters(), None) is not None]
    if changed:
        part = "head" if record.train == "heads" else "projection"
        held = not is_joined(source) and type(model.heads[changed[0]]) in (Head, nn.Linear)
        formats = "sentence-transformers or onnx" if held else "onnx"
        raise InputError(
            f"{trained}: has a {part} over its {changed[0]} tower, which no class of transformers has: use {formats}"
        )
    return write_towers(model, source, record, folder)


def write_towers(model: MatchingModel, source: Pretrained, record: ModelRecord, folder: Path) -> list[str]:
    """Write the towers alone, as `write_transformers`."""
    image, text = source.image, source.text
    if (timm := getattr(image.config, "pretrained_cfg", None)) is not None:  # its processor reads no other file
        image.config.pretrained_cfg = {**timm, **_timm_processing(record)}
    if not is_joined(source):
        for name, tower in (("image", image), ("text", text)):
            tower.save_pretrained(folder / name)
            write_json(folder / name / "preprocessor_config.json", _preprocessor(record))
        source.tokenizer.save_pretrained(folder / "text")
        over = "its tokens" if record.pooling == "masked_mean" else "all positions, also of padding"
        return [
            "from transformers import AutoModel, AutoTokenizer",
            'image, text = AutoModel.from_pretrained("image"), AutoModel.from_pretrained("text")',
            'tokenizer = AutoTokenizer.from_pretrained("text")',
            f"# a vector is the mean of last_hidden_state (of a caption: over {over}), scaled to length 1",
            *caption_lines(record),
        ]
    scale = model.logit_scale if model.logit_scale is not None else source.logit_scale
    _joined(image, text, None if scale is None else float(scale)).save_pretrained(folder)
    source.tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _preprocessor(record))
    return [
        "from transformers import AutoImageProcessor, AutoModel, AutoTokenizer",
        'model, processor = AutoModel.from_pretrained("."), AutoImageProcessor.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "# vectors: pooler_output of model.get_image_features(…) and of model.get_text_features(…), scaled to length 1",
        *caption_lines(record),
        *(
            ['# tokens: tokenizer(captions, padding="max_length", truncation=True, return_attention_mask=False)']
            if text.config.model_type in PADDED_TO_THE_END
            else []
        ),
    ]


def caption_lines(record: ModelRecord) -> list[str]:
    """What is done to captions before the text tower, for the loading lines; nothing if nothing is."""
    lines = []
    if record.captions == "cleaned":
        lines += [  # `data.captions.clean_caption` in lines that need no package
            "# the text tower knows captions as this makes them:",
            "def prepared(caption):",
            """    text = caption.lower().translate(str.maketrans("", "", ",.'!?\\"()*#:;~"))""",
            '    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")',
            f'    return " ".join(text.split()[:{record.words}])',
        ]
    if record.pooling == "mean_all":  # as `features.tokens.padded` does
        length = f'padding="max_length", truncation=True, max_length={record.words}'
        lines.append(f"# tokens: tokenizer(captions, {length})")
    return lines


def is_joined(source: Pretrained) -> bool:
    """Whether the two towers are halves of one dual encoder."""
    return source.image.config.model_type == VISION or is_dual_encoder(source.image)


def _joined(image: Any, text: Any, logit_scale: float | None) -> Any:
    """The whole dual encoder of two halves."""
    state = image.state_dict() | text.state_dict()
    with torch.random.fork_rng(devices=[]):
        if image.config.model_type == VISION:
            from transformers import CLIPConfig, CLIPModel

            width = image.config.projection_dim
            config: Any = CLIPConfig(
                vision_config=image.config.to_dict(), text_config=text.config.to_dict(), projection_dim=width
            )
            whole: Any = CLIPModel(config)
        else:
            config = type(text.config).from_dict(
                {name: value for name, value in text.config.to_dict().items() if name != PARTS}
            )
            whole = whole_class(config)(config)
    missing, surplus = whole.load_state_dict(state, strict=False)
    if surplus or set(missing) - LEARNED:
        raise InputError(f"{type(whole).__name__}: the two towers are not of one model ({[*surplus, *missing][0]})")
    with torch.no_grad():
        if logit_scale is not None and hasattr(whole, "logit_scale"):
            whole.logit_scale.fill_(logit_scale)
        elif logit_scale is not None:
            whole.temperature.copy_(torch.tensor(-logit_scale).exp())
    return whole


def _preprocessor(record: ModelRecord) -> dict[str, Any]:
    square = {"height": record.image_size, "width": record.image_size}
    crop = record.resize == "crop"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_resize": True,
        "size": {"shortest_edge": record.image_size} if crop else square,
        "do_center_crop": crop,
        "crop_size": square,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(record.mean),
        "image_std": list(record.std),
    }


def _timm_processing(record: ModelRecord) -> dict[str, Any]:
    return {
        "input_size": [3, record.image_size, record.image_size],
        "crop_pct": 1.0,
        "crop_mode": "center" if record.resize == "crop" else "squash",
        "interpolation": "bicubic",
        "mean": list(record.mean),
        "std": list(record.std),
    }


class _Images(nn.Module):
    def __init__(self, model: MatchingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)


class _Texts(nn.Module):
    def __init__(self, model: MatchingModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(Tokens(input_ids, attention_mask))


def write_onnx(trained: Path, base: Path, folder: Path) -> list[str]:
    """Write `image.onnx` (uint8 pixels (B, 3, S, S)) and `text.onnx` (ids and mask (B, L)), to unit vectors (B, D).

    The tokenizer is written beside them. Returns lines of Python that load it.

    Raises:
        InputError: without the packages of the extra `onnx`.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--format onnx: {error}; {needs_extra('onnx')}") from None
    record = read_model_record(trained)
    model, source = load_end_to_end(trained, base)
    model.eval()
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=source.tokenizer.model_max_length)
    pixels = torch.zeros(2, 3, record.image_size, record.image_size, dtype=torch.uint8)
    ids = torch.tensor(source.tokenizer(["a a a"] * 2)["input_ids"])
    for name, part, inputs, shapes in (
        ("image", _Images(model), (pixels,), ({0: batch},)),
        ("text", _Texts(model), (ids, torch.ones_like(ids)), ({0: batch, 1: length}, {0: batch, 1: length})),
    ):
        program = torch.onnx.export(part.eval(), inputs, dynamo=True, dynamic_shapes=shapes, verbose=False)
        assert program is not None
        program.save(folder / f"{name}.onnx")
    source.tokenizer.save_pretrained(folder)
    size = record.image_size
    way = f"both sides to {size}, bicubic"
    if record.resize == "crop":
        way = f"shorter side to {size}, bicubic; then the {size} × {size} in the centre"
    padded = ['# tokens = tokenizer(captions, padding=True, truncation=True, return_tensors="np")']
    return [
        "from onnxruntime import InferenceSession",
        "from transformers import AutoTokenizer",
        'image, text = InferenceSession("image.onnx"), InferenceSession("text.onnx")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        *caption_lines(record),
        *(padded if record.pooling != "mean_all" else []),
        f"# pixels: uint8 RGB (B, 3, {size}, {size}), upright pictures resized ({way})",
        '# unit vectors: image.run(None, {"pixels": pixels})[0] and, of tokens as int64,',
        '# text.run(None, {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]})[0]',
    ]
