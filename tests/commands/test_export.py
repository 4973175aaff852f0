"""The command that writes the split or the trained model for other libraries."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from onnx.reference import ReferenceEvaluator
from PIL import Image
from sentence_transformers import SentenceTransformer
from torch.nn.functional import normalize
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

import pipeline
from pipeline.data.captions import clean_caption
from pipeline.data.splits.format import read_split
from pipeline.errors import InputError
from pipeline.features.pixels import Resize, square_pixels
from pipeline.tracking import store_uri
from pipeline.tracking.model import describe_version
from tests.models.test_dual import published
from tests.stages.running import ROOT, invoke_with, run, write_tiny_params

RECORD = "models/trained/model.json"
TEXT_INPUTS = ("input_ids", "attention_mask")


def test_a_noisy_split_of_scenes_is_exported(clone: Path) -> None:
    write_tiny_params(clone, data__noise__ratio=0.4)
    assert "noise: 24 of 60 captions shuffled, " in run("download", "split")
    said = invoke_with("export", "--to", "text")
    assert said.exit_code == 0, said.output
    assert said.output.startswith("train: 12 images, 5 captions each\n")
    names = {path.name for path in (clone / "text").iterdir()}
    assert {"0.4_noise_train_caps.txt", "0.4_noise_index.npy", "image_name.txt", "dev_ids.txt"} < names


def test_before_there_is_a_split_it_says_what_to_run(clone: Path) -> None:
    said = invoke_with("export", "--to", "text")
    assert said.exit_code == 1
    assert said.output == "error: data/raw/source.json: not found; `dvc repro download` makes it\n"
    assert not (clone / "text").exists()


def test_the_split_is_exported_as_pairs(clone: Path) -> None:
    write_tiny_params(clone)
    run("download", "split")
    assert "train: 60 pairs\n" in invoke_with("export", "--to", "out", "--format", "jsonl").output
    split = read_split(Path("data/split/test.json"))
    rows = [json.loads(line) for line in Path("out/test.jsonl").read_text().splitlines()]
    expected = [(split.images[image], text) for text, image in zip(split.captions, split.caption_image, strict=True)]
    assert [(row["image"], row["caption"]) for row in rows] == expected
    Path("out/val.jsonl").unlink()
    said = invoke_with("export", "--to", "out", "--format", "jsonl").output
    assert said == "error: --to out: holds train.jsonl already; name another folder, or remove it\n"
    assert not Path("out/val.jsonl").exists()


@pytest.mark.parametrize("kind", ["clip", "vit_bert", "SiglipModel"])
def test_the_trained_model_is_loaded_by_transformers_and_by_onnx(kind: str, clone: Path) -> None:
    family = {
        "model__family": "vit_bert" if kind == "vit_bert" else "clip",
        "model__captions": "cleaned" if kind == "vit_bert" else "raw",
    }
    if kind == "SiglipModel":
        published(kind, clone / "dual")
        own = {"size": {"shortest_edge": 32}, "do_center_crop": True}
        (clone / "dual/preprocessor_config.json").write_text(json.dumps(own))
        family |= {"model__image": "dual", "model__resize": "auto"}
    write_tiny_params(clone, **family, train__lr=0.01)
    said = run("download", "split", "base", "features", "evidence", "bank", "train", "evaluate")
    assert f"resize: {'crop' if kind == 'SiglipModel' else 'square'}" in said
    found = invoke_with("export", "--to", "out", "--format", "transformers")
    assert found.exit_code == 0, found.output
    assert "hf upload YOUR/NAME out" in found.output
    card = Path("out/README.md").read_text()
    recall = json.loads(Path("metrics.json").read_text())["test"]["i2t"]["R1"]
    assert f"{recall:.1f} |" in card and "95 % interval" in card and "Means over" not in card and "Apache-2.0" in card

    model = pipeline.load("models/trained")
    pictures = [Image.effect_noise((40, 30), 90).convert("RGB"), Image.new("RGB", (32, 32), "red")]
    vectors = model.encode_image(pictures), model.encode_text(["a red dot", "a"])
    theirs = transformers_vectors(Path("out"), pictures, kind)
    for ours, other in zip(vectors, theirs, strict=True):
        torch.testing.assert_close(normalize(other, dim=1), ours, rtol=1e-2, atol=1e-3)  # resized by torchvision
    assert model.search("a red dot", vectors[0], top=1)[0][0] == int((vectors[0] @ vectors[1][0]).argmax())

    shutil.copytree("out", "onnx")  # an earlier export is replaced
    assert invoke_with("export", "--to", "onnx", "--format", "onnx").exit_code == 0
    for made in (card, Path("onnx/README.md").read_text()):
        assert ("def prepared(caption):" in made) == (kind == "vit_bert")
    assert f"({'shorter side' if kind == 'SiglipModel' else 'both sides'} to 32, bicubic" in made
    assert not list(Path("onnx").rglob("*.safetensors"))
    resize: Resize = "crop" if kind == "SiglipModel" else "square"
    pixels = torch.stack([square_pixels(one, 32, resize) for one in pictures]).numpy()
    outputs: Any = ReferenceEvaluator("onnx/image.onnx").run(None, {"pixels": pixels})
    torch.testing.assert_close(torch.tensor(outputs[0]), vectors[0], rtol=1e-3, atol=1e-4)
    (line,) = (line for line in made.splitlines() if line.startswith("# tokens = "))
    names: Any = {"tokenizer": AutoTokenizer.from_pretrained("onnx"), "captions": ["a red dot", "a"]}
    tokens = eval(line.removeprefix("# tokens = "), names)  # noqa: S307  (our own line)
    outputs = ReferenceEvaluator("onnx/text.onnx").run(None, {name: tokens[name] for name in TEXT_INPUTS})
    torch.testing.assert_close(torch.tensor(outputs[0]), vectors[1], rtol=1e-3, atol=1e-4)


def transformers_vectors(folder: Path, pictures: list[Image.Image], kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers says, called as the model card tells."""
    padding = {"padding": "max_length", "truncation": True} if kind == "SiglipModel" else {"padding": True}
    image_folder, text_folder = (folder / "image", folder / "text") if kind == "vit_bert" else (folder, folder)
    tokens = AutoTokenizer.from_pretrained(text_folder)(["a red dot", "a"], return_tensors="pt", **padding)
    said = 'padding="max_length", truncation=True, return_attention_mask=False' in (folder / "README.md").read_text()
    assert said == (kind == "SiglipModel")
    pixels = AutoImageProcessor.from_pretrained(image_folder)(pictures, return_tensors="pt")
    image, text = (AutoModel.from_pretrained(place).eval() for place in (image_folder, text_folder))
    with torch.no_grad():
        if kind == "vit_bert":
            mask = tokens["attention_mask"][:, :, None]
            hidden = text(**tokens).last_hidden_state
            return image(**pixels).last_hidden_state.mean(dim=1), (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        kept = ("input_ids",) if kind == "SiglipModel" else ("input_ids", "attention_mask")
        texts = image.get_text_features(**{name: tokens[name] for name in kept}).pooler_output
        return image.get_image_features(**pixels).pooler_output, texts


def test_recalls_of_an_earlier_training_are_not_written_beside_later_weights(ready: Path) -> None:
    write_tiny_params(ready, seed=2)
    run("train")
    said = invoke_with("export", "--to", "out", "--format", "transformers")
    place = "evaluation/evaluated.json"
    assert said.output == f"error: {place}: not of the training in models/trained; run `dvc repro evaluate`\n"
    assert not Path("out").exists()
    run("evaluate")
    rsum = json.loads(Path("metrics.json").read_text())["test"]["rsum"]
    Path("metrics.json").write_text("{}")  # of another commit, as git checkout leaves it
    assert invoke_with("export", "--to", "out", "--format", "transformers").exit_code == 0
    assert f"| {rsum:.1f} |" in Path("out/README.md").read_text()


def test_the_card_of_published_weights_says_what_their_captions_need_and_no_training(ready: Path) -> None:
    for path, value in (("train/run.json", {"published": {"kind": "fne"}}), (RECORD, {"pooling": "mean_all"})):
        record = json.loads(Path(path).read_text())
        Path(path).write_text(json.dumps(record | value))
    assert invoke_with("export", "--to", "out", "--format", "transformers").exit_code == 0
    card = Path("out/README.md").read_text()
    assert "- weights: FNE's, as published; nothing was trained here\n- image tower: " in card
    assert "epochs" not in card and "best validation" not in card
    lines = card[card.index("def prepared(caption):") : card.index("# tokens: ")]
    exec(lines, scope := dict[str, Any]())  # noqa: S102  (our own lines)
    for caption in ("a T-shirt/I-beam & <person>", " ‘A’\tb,c! " * 40, string.punctuation, ""):
        assert scope["prepared"](caption) == clean_caption(caption, 30)
    (line,) = (line for line in card.splitlines() if line.startswith("# tokens: "))
    assert "(of a caption: over all positions, also of padding)" in card
    tokenizer, captions = AutoTokenizer.from_pretrained("out/text"), ["a red dot", "a", "a red dot " * 12]
    tokens = eval(line.removeprefix("# tokens: "), {"tokenizer": tokenizer, "captions": captions})  # noqa: S307
    with torch.no_grad():
        hidden = AutoModel.from_pretrained("out/text").eval()(**tokens.convert_to_tensors("pt")).last_hidden_state
    expected = pipeline.load("models/trained").encode_text(captions)
    torch.testing.assert_close(normalize(hidden.mean(dim=1), dim=1), expected, rtol=1e-4, atol=1e-5)


def test_a_folder_of_somebody_elses_is_not_replaced(clone: Path) -> None:
    (clone / "mine").mkdir()
    (clone / "mine/README.md").write_text("Write it by `python -m commands.export`.")
    said = invoke_with("export", "--to", "mine", "--format", "onnx")
    assert said.output == "error: --to mine: holds files that this command did not write; name another folder\n"
    assert (clone / "mine/README.md").exists()


@pytest.mark.parametrize(("anchor", "formats"), [("none", "sentence-transformers or onnx"), ("cca", "onnx")])
def test_heads_are_refused_by_transformers_and_nothing_is_written(anchor: str, formats: str, heads_clone: Path) -> None:
    write_tiny_params(heads_clone, model__train="heads", model__anchor=anchor)
    run("evidence", "train", "evaluate")
    said = invoke_with("export", "--to", "out", "--format", "transformers").output
    assert said.startswith("error: models/trained: has a head over its image tower, which no class of")
    assert said.endswith(f"use {formats}\n")
    if anchor != "none":
        said = invoke_with("export", "--to", "out", "--format", "sentence-transformers").output
        assert said.startswith("error: models/trained: has a head over an anchor, ") and said.endswith("use onnx\n")
    assert not Path("out").exists()


def test_heads_are_exported_as_modules_of_sentence_transformers(heads_clone: Path) -> None:
    write_tiny_params(heads_clone, model__train="heads")
    run("train", "evaluate")
    said = invoke_with("export", "--to", "out", "--format", "sentence-transformers")
    assert said.exit_code == 0, said.output
    card = Path("out/README.md").read_text()
    assert "library_name: sentence-transformers" in card and "model.encode([prepared(caption)])" in card
    library, own = SentenceTransformer("out", device="cpu"), pipeline.load("models/trained")
    found = library.encode(["a red dot", "a"], convert_to_tensor=True)
    torch.testing.assert_close(found, own.encode_text(["a red dot", "a"]), rtol=1e-3, atol=1e-4)


def test_the_readme_s_lines_run(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (ROOT / "README.md").read_text().split("## The model elsewhere")[1].split("```python\n")[1].split("```")[0]
    (ready / "docs/images").mkdir(parents=True)
    shutil.copy(ROOT / "docs/images/audit-narrow.png", ready / "docs/images")
    exec(code, scope := dict[str, Any]())  # noqa: S102  (our own lines)
    assert scope["similarity_NM"].shape == (1, 2)
    assert capsys.readouterr().out.strip().split(" ", 1)[1] in scope["captions"]


def test_the_best_version_has_the_alias_and_a_description(
    ready: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write_tiny_params(ready, tracking__model="kept")
    run("evaluate")
    client = MlflowClient(tracking_uri=store_uri())
    version = client.get_model_version_by_alias("kept", "best")
    assert str(version.version) == "1"
    assert str(version.description).startswith("scenes: ") and "i2t R@1 |" in str(version.description)
    describe_version(client, "kept", "1", "worse", -1.0, "of other data")
    found = pipeline.load("models:/kept@best").encode_text(["a red circle"])
    torch.testing.assert_close(found, pipeline.load("models/trained").encode_text(["a red circle"]))
    with pytest.raises(InputError, match=r"^models:/kept@worst: not read from"):
        pipeline.load("models:/kept@worst")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match=r"mlflow\.db: not found; run in the repository's root, or set MLFLOW_T"):
        pipeline.load("models:/kept@best")
    assert not list(Path().iterdir())
