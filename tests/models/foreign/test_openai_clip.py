"""A CLIP under OpenAI's names, as NPC publishes it, gives transformers' CLIP the same embeddings.

The oracle is OpenAI's forward pass, written out. Shapes: B batch, L positions, W a tower's width, D the joint width.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, normalize

from pipeline.errors import InputError
from pipeline.models.foreign.checkpoints import PublishedCheckpoint, npc_clip, read_checkpoint, recognise


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def openai_clip(*, image_width: int = 16, text_width: int = 12) -> dict[str, Tensor]:
    """A small CLIP's parameters under OpenAI's names: 8 pixels in patches of 4, 7 tokens of 20, 2 and 3 layers."""

    def tower(prefix: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for number in range(layers):
            block = f"{prefix}transformer.resblocks.{number}."
            shapes |= {
                f"{block}attn.in_proj_weight": (3 * width, width),
                f"{block}attn.in_proj_bias": (3 * width,),
                f"{block}attn.out_proj.weight": (width, width),
                f"{block}attn.out_proj.bias": (width,),
                f"{block}mlp.c_fc.weight": (4 * width, width),
                f"{block}mlp.c_fc.bias": (4 * width,),
                f"{block}mlp.c_proj.weight": (width, 4 * width),
                f"{block}mlp.c_proj.bias": (width,),
            }
            shapes |= {f"{block}ln_{norm}.{kind}": (width,) for norm in (1, 2) for kind in ("weight", "bias")}
        return shapes

    shapes = {
        "positional_embedding": (7, text_width),
        "text_projection": (text_width, 10),
        "logit_scale": (),
        "visual.class_embedding": (image_width,),
        "visual.positional_embedding": (5, image_width),
        "visual.proj": (image_width, 10),
        "visual.conv1.weight": (image_width, 3, 4, 4),
        **{f"visual.ln_{norm}.{kind}": (image_width,) for norm in ("pre", "post") for kind in ("weight", "bias")},
        **tower("visual.", image_width, 2),
        **tower("", text_width, 3),
        "token_embedding.weight": (20, text_width),
        **{f"ln_final.{kind}": (text_width,) for kind in ("weight", "bias")},
    }
    return {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}


def openai_layers(
    state: dict[str, Tensor], prefix: str, hidden_BLW: Tensor, heads: int, causal: bool, quick: bool
) -> Tensor:
    """OpenAI's residual attention blocks, written out: norms first, x·sigmoid(1.702 x) in between (`quick`) or GELU."""
    length, width = hidden_BLW.shape[1:]
    mask_LL = torch.full((length, length), -torch.inf).triu(1) if causal else torch.zeros(length, length)
    for number in range(
        sum(name.startswith(f"{prefix}transformer.") and name.endswith("ln_1.weight") for name in state)
    ):

        def part(name: str, number: int = number) -> tuple[Tensor, Tensor]:
            block = f"{prefix}transformer.resblocks.{number}.{name}"
            separator = "_" if name == "attn.in_proj" else "."
            return state[f"{block}{separator}weight"], state[f"{block}{separator}bias"]

        qkv = linear(layer_norm(hidden_BLW, (width,), *part("ln_1")), *part("attn.in_proj")).chunk(3, dim=-1)
        query, key, value = (side.unflatten(-1, (heads, width // heads)).transpose(1, 2) for side in qkv)
        weights_BHLL = (query @ key.transpose(-1, -2) / (width // heads) ** 0.5 + mask_LL).softmax(dim=-1)
        attended_BLW = (weights_BHLL @ value).transpose(1, 2).flatten(2)
        hidden_BLW = hidden_BLW + linear(attended_BLW, *part("attn.out_proj"))
        inner = linear(layer_norm(hidden_BLW, (width,), *part("ln_2")), *part("mlp.c_fc"))
        hidden_BLW = hidden_BLW + linear(
            inner * (1.702 * inner).sigmoid() if quick else gelu(inner), *part("mlp.c_proj")
        )
    return hidden_BLW


def openai_image(state: dict[str, Tensor], pixels_B3HW: Tensor, heads: int, quick: bool = True) -> Tensor:
    patches_BLW = conv2d(pixels_B3HW, state["visual.conv1.weight"], stride=4).flatten(2).transpose(1, 2)
    width = patches_BLW.shape[2]
    first_B1W = state["visual.class_embedding"].expand(len(patches_BLW), 1, width)
    hidden_BLW = torch.cat([first_B1W, patches_BLW], dim=1) + state["visual.positional_embedding"]
    hidden_BLW = layer_norm(hidden_BLW, (width,), state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    pooled_BW = openai_layers(state, "visual.", hidden_BLW, heads, causal=False, quick=quick)[:, 0]
    pooled_BW = layer_norm(pooled_BW, (width,), state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return pooled_BW @ state["visual.proj"]


def openai_text(state: dict[str, Tensor], tokens_BL: Tensor, heads: int, quick: bool = True) -> Tensor:
    hidden_BLW = state["token_embedding.weight"][tokens_BL] + state["positional_embedding"]
    hidden_BLW = openai_layers(state, "", hidden_BLW, heads, causal=True, quick=quick)
    hidden_BLW = layer_norm(hidden_BLW, hidden_BLW.shape[2:], state["ln_final.weight"], state["ln_final.bias"])
    return hidden_BLW[torch.arange(len(tokens_BL)), tokens_BL.argmax(dim=1)] @ state["text_projection"]


@pytest.mark.parametrize(("image_width", "text_width", "heads"), [(16, 12, (1, 1)), (192, 128, (3, 2))])
def test_an_npc_checkpoint_becomes_a_clip_with_the_same_embeddings(
    tmp_path: Path, image_width: int, text_width: int, heads: tuple[int, int]
) -> None:
    state = openai_clip(image_width=image_width, text_width=text_width)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=2e-7).state_dict()
    content = {"epoch": 4, "name": "f30k_0.2", "state_dict": state, "optimizer": optimizer}
    torch.save(content, tmp_path / "npc_f30k.pt")
    checkpoint = read_checkpoint(tmp_path / "npc_f30k.pt")
    assert recognise(checkpoint) == "npc"
    assert checkpoint.record == {"epoch": 4, "name": "f30k_0.2"}
    clip = npc_clip(checkpoint.weights)
    pixels_B3HW = torch.randn(3, 3, 8, 8)
    tokens_BL = torch.tensor([[18, 4, 5, 19, 0, 0, 0], [18, 7, 19, 0, 0, 0, 0], [18, 1, 2, 3, 4, 5, 19]])
    with torch.no_grad():
        embedded = clip(input_ids=tokens_BL, pixel_values=pixels_B3HW)
        image_BD = normalize(openai_image(state, pixels_B3HW, heads[0]), dim=1)
        text_BD = normalize(openai_text(state, tokens_BL, heads[1]), dim=1)
    torch.testing.assert_close(embedded.image_embeds, image_BD, atol=1e-5, rtol=0)
    torch.testing.assert_close(embedded.text_embeds, text_BD, atol=1e-5, rtol=0)
    assert clip.logit_scale.item() == state["logit_scale"].item()


def test_openais_own_half_precision_state_dict_is_taken_too() -> None:
    state = openai_clip()
    numbers = {name: torch.tensor(7) for name in ("input_resolution", "context_length", "vocab_size")}
    plain = {name: value.half() for name, value in {**state, **numbers}.items()}
    assert recognise(PublishedCheckpoint(plain, {}, ())) == "npc"
    found = npc_clip(plain).visual_projection.weight
    assert torch.equal(found, state["visual.proj"].half().float().T)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("visual.conv1.weight", None, "no parameter 'visual.conv1.weight'"),
        ("visual.conv1.weight", torch.ones(3), r"visual.conv1.weight: shape \(3,\), expected 4 dimensions"),
        ("visual.ln_pre.bias", None, r"pre_layrnorm\.bias is missing"),
        ("ln_final.bias", torch.ones(3), r"final_layer_norm\.bias has the shape \(3,\), expected \(12,\)"),
        ("visual.head.weight", torch.ones(3), r"'visual.head.weight' of shape \(3,\): no parameter"),
        ("transformer.resblocks.0.attn.in_proj_bias", torch.ones(4), r"attn.in_proj_bias' of shape \(4,\)"),
        ("transformer.resblocks.999999999.ln_1.bias", torch.ones(12), r"resblocks\.3, but of 999999999"),
        ("visual.positional_embedding", torch.ones(7, 16), "7 positions"),
        ("visual.conv1.weight", torch.ones(193, 3, 4, 4), r"visual\.transformer: a width of 193"),
        ("visual.layer1.0.conv1.weight", torch.ones(1), "ResNet"),
        ("ln_final.bias", torch.full((12,), torch.inf), r"final_layer_norm\.bias has numbers that are not finite"),
    ],
)
def test_a_clip_of_another_make_is_refused(name: str, value: Tensor | None, said: str) -> None:
    state = openai_clip()
    state.pop(name, None)
    if value is not None:
        state[name] = value
    with pytest.raises(InputError, match=said):
        npc_clip(state)


def test_shapes_that_describe_more_numbers_than_the_file_holds_are_refused() -> None:
    """Each tensor is small; a matrix of the width of one and the height of another would not be."""
    state = openai_clip()
    state["visual.conv1.weight"] = torch.ones(64_000, 3, 1, 1)
    with pytest.raises(InputError, match=r"CLIP: its configuration describes \d+ numbers, but its weights hold \d+"):
        npc_clip(state)
