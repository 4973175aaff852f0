"""The trained model by itself: found by a search, and loaded from MLflow."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import mlflow.pyfunc
import numpy
import pandas
import pytest
import torch
from click.testing import CliRunner, Result
from mlflow import MlflowClient
from PIL import Image

import pipeline
from commands.search import main
from pipeline.data.images import ImageArchive
from pipeline.data.splits.format import Split, read_split
from pipeline.errors import InputError
from pipeline.evaluation.embedding import Embedder
from pipeline.features.encoding import encode_split
from pipeline.features.inputs import open_inputs
from pipeline.models.build import load_trained
from pipeline.params import load_params
from pipeline.report.search_page import Match, write_search_page
from pipeline.serving import Matcher, example
from pipeline.tracking import store_uri
from tests.stages.running import STAGES, run, run_in, write_tiny_params

TRAINED, BASE = Path("models/trained"), Path("models/base")


@pytest.fixture(scope="module", params=["towers", "heads"])
def _finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in(tmp_path_factory.mktemp(request.param), *STAGES, model__train=request.param, tracking__model="tried")


@pytest.fixture
def finished(_finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(_finished)
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return _finished


@pytest.fixture
def split(finished: Path) -> Split:
    return read_split(Path("data/split/test.json"))


@pytest.fixture
def archive(finished: Path) -> ImageArchive:
    return ImageArchive("data/raw/images.zip")


def search(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=False)


def test_pictures_and_sentences_are_embedded_as_evaluation_embeds_them(split: Split, archive: ImageArchive) -> None:
    params = load_params()
    inputs = open_inputs(params.model, Path("features"), Path("data/split"), "test")
    model = load_trained(TRAINED, inputs.feature_widths)
    image_ND, text_MD = encode_split(model, inputs, 4)
    embedder = Embedder(TRAINED, BASE)
    pictures = [archive.decode(name) for name in split.images]
    torch.testing.assert_close(embedder.images(pictures), image_ND, atol=1e-4, rtol=0)
    torch.testing.assert_close(embedder.captions(split.captions), text_MD, atol=1e-4, rtol=0)


def test_the_towers_of_heads_are_beside_them_wherever_the_model_is(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pipeline.load().encode_text(["red"])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/base").mkdir(parents=True)  # another model's
    for name in ("models/trained", "models/trained/last"):
        assert pipeline.load(finished / name).encode_text(["red"]).shape == expected.shape
    assert torch.equal(pipeline.load(finished / "models/trained").encode_text(["red"]), expected)


def test_a_picture_opened_by_pil_is_encoded_as_its_file(finished: Path, tmp_path: Path) -> None:
    gradient, exif = Image.linear_gradient("L"), Image.Exif()
    exif[0x0112] = 6  # the orientation of a picture taken with the camera on its side
    gradient.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(numpy.asarray(gradient).astype(numpy.uint16) << 8).save(tmp_path / "deep.png")
    model = pipeline.load()
    files = [tmp_path / "turned.jpg", tmp_path / "deep.png"]
    assert torch.equal(model.encode_image([Image.open(path) for path in files]), model.encode_image(files))
    with pytest.raises(InputError, match="32 bits a pixel"):
        model.encode_image([gradient.convert("F")])


def test_a_sentence_finds_images_best_first(split: Split) -> None:
    result = search(split.captions[7], "--top", "3")
    assert result.exit_code == 0, result.output
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert sorted((float(row[1]) for row in rows), reverse=True) == [float(row[1]) for row in rows]
    assert {row[2] for row in rows} <= set(split.images)


def test_a_picture_finds_captions(archive: ImageArchive, tmp_path: Path) -> None:
    split = read_split(Path("data/split/val.json"))
    picture = tmp_path / "picture.png"
    picture.write_bytes(archive.read(split.images[0]))
    page = tmp_path / "page.html"
    result = search("--image", str(picture), "--split", "val", "--top", "1000", "--page", str(page))
    assert result.exit_code == 0, result.output
    assert sorted(line.split("\t")[3] for line in result.stdout.splitlines()[:-1]) == sorted(split.captions)
    assert page.read_text().count("data:image/jpeg;base64,") == len(split.captions) + 1
    assert "the val split of scenes" in page.read_text()


@pytest.mark.parametrize(("name", "value"), [("image_size", 16), ("captions", "raw")])
def test_features_that_were_remade_for_other_parameters_than_the_model_s_are_refused(
    name: str, value: Any, ready: Path
) -> None:
    expected = search("a red circle").stdout
    write_tiny_params(ready, **{"model__train": load_params().model.train, f"model__{name}": value})
    assert search("a red circle").stdout == expected, "the features are still the model's"
    run("features")
    was = {"image_size": 32, "captions": "cleaned"}[name]
    assert search("a red circle").output == (
        f"error: features/features.json: made for model.{name} {value}, models/trained for {was}; set it back in "
        "params.yaml and run `dvc repro features`, or train\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a dog", "--image", "a.png"], "search for one thing"),
        (["--image", "a.png"], "--image a.png: No such file"),
        (["--image", "params.yaml"], "params.yaml: does not decode"),
    ],
)
def test_what_cannot_be_searched_for_is_refused(arguments: list[str], said: str, finished: Path) -> None:
    result = search(*arguments)
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert said in result.output


def test_a_hostile_caption_is_shown_and_not_run(archive: ImageArchive, tmp_path: Path) -> None:
    hostile = '<script>alert(1)</script>" onload="alert(2)'
    write_search_page(tmp_path / "p.html", hostile, "", [Match(archive.names[0], hostile, 0.5)], archive.decode)
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page
    assert '" onload' not in page
    assert "&lt;script&gt;alert(1)" in page


def test_the_registered_model_answers_any_number_of_rows(finished: Path, split: Split, archive: ImageArchive) -> None:
    client = MlflowClient(tracking_uri=store_uri())
    (version,) = client.search_model_versions("name='tried'")
    before = mlflow.get_tracking_uri()
    model = mlflow.pyfunc.load_model(version.source)
    assert mlflow.get_tracking_uri() == before
    content = archive.read(split.images[0])
    table = pandas.DataFrame({"image": [base64.b64encode(content).decode(), None], "caption": list(split.captions[:2])})
    answer = model.predict(table)
    embedder = Embedder(TRAINED, BASE)
    expected = embedder.captions(split.captions[:2])
    torch.testing.assert_close(torch.tensor(answer["caption_embedding"].tolist()), expected, atol=1e-5, rtol=0)
    picture = embedder.images([archive.decode(split.images[0])])
    assert answer["similarity"][0] == pytest.approx(float(picture[0] @ expected[0]), abs=1e-5)
    assert answer["image_embedding"][1] is None
    assert len(model.predict(pandas.DataFrame({"caption": ["a red square"] * 70}))) == 70
    assert model.metadata.signature is not None
    assert len(model.predict(pandas.DataFrame([example()]))) == 1
    assert not list((finished / "mlartifacts").rglob("*.pkl"))


def test_the_run_has_its_table_its_data_and_its_model(finished: Path) -> None:
    client = MlflowClient(tracking_uri=store_uri())
    experiment = client.get_experiment_by_name(load_params().tracking.experiment)
    assert experiment is not None
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert "| best validation |" in tracked.data.tags["mlflow.note.content"]
    assert tracked.inputs is not None
    assert tracked.outputs is not None
    names = {entry.dataset.name: entry.tags[0].value for entry in tracked.inputs.dataset_inputs}
    assert names == {"scenes train": "training", "scenes val": "validation", "scenes test": "test"}
    assert len(tracked.outputs.model_outputs) == 1


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pandas.DataFrame({"text": ["a"]}), "image and caption, or one of them"),
        (pandas.DataFrame({"caption": ["a", None]}), "row 1: neither an image nor a caption"),
        (pandas.DataFrame({"image": ["no such file.png"]}), "no file that can be read, and no base64"),
        (pandas.DataFrame({"image": [base64.b64encode(b"text").decode()]}), "row 0, image: does not decode"),
    ],
)
def test_a_row_that_cannot_be_embedded_is_named(table: pandas.DataFrame, said: str, finished: Path) -> None:
    with pytest.raises(InputError, match=said):
        Matcher(Embedder(TRAINED, BASE)).predict(table)


def test_paths_and_bytes_are_pictures_too(split: Split, archive: ImageArchive, tmp_path: Path) -> None:
    content = archive.read(split.images[0])
    (tmp_path / "a.png").write_bytes(content)
    cells = [str(tmp_path / "a.png"), content, f"data:image/png;base64,{base64.b64encode(content).decode()}"]
    found = Matcher(Embedder(TRAINED, BASE)).predict(pandas.DataFrame({"image": cells}))["image_embedding"]
    for vector in found:
        assert vector == pytest.approx(found[0], abs=1e-5)


def test_sentences_are_answered_one_after_the_other_from_what_was_kept(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [search(caption, "--top", "2", "--split", "all").stdout for caption in split.captions[:2]]
    monkeypatch.setattr("pipeline.evaluation.index.encode_split", None)  # nothing is encoded again
    typed = "\n".join([*split.captions[:2], "", "not read"])
    result = CliRunner().invoke(main, ["--top", "2", "--split", "all"], input=typed, catch_exceptions=False)
    assert result.stdout == "".join(alone)
    assert {row.split("\t")[2] for row in result.stdout.splitlines()} <= {
        name for part in ("train", "val", "test") for name in read_split(Path(f"data/split/{part}.json")).images
    }


def test_what_was_kept_for_another_model_is_not_used(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search("red", "--top", "1")
    weights = next(path for path in TRAINED.rglob("*.safetensors"))
    os.utime(weights, (1, 1))
    encoded = Mock(wraps=encode_split)
    monkeypatch.setattr("pipeline.evaluation.index.encode_split", encoded)
    for _ in range(2):
        search("red", "--top", "1")
    assert encoded.call_count == 1


def test_ones_own_pictures_are_searched(split: Split, archive: ImageArchive, tmp_path: Path) -> None:
    (tmp_path / "own/deep").mkdir(parents=True)
    for number, name in enumerate(split.images[:3]):
        (tmp_path / "own/deep" / f"{number}.png").write_bytes(archive.read(name))
    expected = Embedder(TRAINED, BASE)
    similarity = expected.images([archive.decode(name) for name in split.images[:3]]) @ expected.captions(["red"])[0]
    result = search("red", "--folder", str(tmp_path / "own"), "--top", "1", "--page", str(tmp_path / "page.html"))
    assert result.stdout.split("\t")[2] == str(tmp_path / f"own/deep/{int(similarity.argmax())}.png")
    assert f"among 3 images of {tmp_path / 'own'}" in (tmp_path / "page.html").read_text()
    (tmp_path / "none").mkdir()
    assert "no picture in it" in search("red", "--folder", str(tmp_path / "none")).output


def test_a_damaged_picture_of_one_s_own_is_left_out_with_a_warning(archive: ImageArchive, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for name in ("a.png", "c.png"):
        (tmp_path / "own" / name).write_bytes(archive.read(archive.names[0]))
    (tmp_path / "own/b.png").write_bytes(b"cut off")
    for _ in ("new", "kept"):
        result = search("red", "--folder", str(tmp_path / "own"))
        assert {line.split("\t")[2] for line in result.stdout.splitlines()} == {
            str(tmp_path / "own" / name) for name in ("a.png", "c.png")
        }
        assert f"skipped: 1 of 3 pictures do not decode; the first is {tmp_path / 'own/b.png'}\n" in result.stderr
    for name in ("a.png", "c.png"):
        (tmp_path / "own" / name).unlink()
    assert "b.png: does not decode" in search("red", "--folder", str(tmp_path / "own")).output


def test_a_single_picture_or_sentence_is_no_list(finished: Path) -> None:
    model = pipeline.load()
    for one in ("a.png", Path("a.png"), Image.new("RGB", (8, 8))):
        with pytest.raises(InputError, match="expected a list of pictures"):
            model.encode_image(one)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a list of sentences"):
        model.encode_text("red")
