"""Audits without parameters or training: a folder, vectors of another model, judgments, and bad input."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from click.testing import CliRunner, Result

from commands.audit import DEFAULTS, main
from pipeline.data.scenes.scenes import generate
from pipeline.models.small import word_tokenizer
from pipeline.params import dotted, load_params
from pipeline.report.parameters import MARKER, between_markers
from tests.data.published import write_params
from tests.stages.running import ROOT, invoke_with, work_in

PICTURES, CAPTIONS = 40, 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Generated pictures with their captions, two of which were exchanged."""
    work_in(tmp_path / "elsewhere", monkeypatch)
    made = tmp_path / "shop"
    (made / "images").mkdir(parents=True)
    rows = []
    params = load_params(ROOT / "params.yaml").data.scenes.model_copy(update={"captions": CAPTIONS})
    for number, scene in enumerate(generate(params, 3, PICTURES)):
        name = f"{number}.png"
        scene.image(32).save(made / "images" / name)
        rows += [[name, text] for text in scene.captions]
    rows[0][1], rows[-1][1] = rows[-1][1], rows[0][1]
    with open(made / "captions.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([["image", "caption"], *rows])
    return made


def audit(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], catch_exceptions=False)


def said(*arguments: object) -> str:
    result = audit(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_folder_is_enough_and_nothing_is_left_where_it_was_started(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = sorted(Path().rglob("*"))
    text = said(folder, "--words", "--to", out)
    assert sorted(Path().rglob("*")) == before
    assert re.search(r"\n\d+ possible false negatives listed; at least \d+ matches expected in all\n", text)
    assert re.search(r"\n\d+ suspects listed; about \d+ wrong pairs expected in all\n", text)
    pairs = pandas.read_parquet(out / "pairs.parquet")
    assert len(pairs) == PICTURES * CAPTIONS, "no picture is left out"
    page = (out / "index.html").read_text()
    assert "Audit: shop" in page
    assert "nothing was trained" in page
    found = pandas.read_csv(out / "false_negatives.csv")
    assert set(found["split"]) == {"all"}
    assert (found["image"] != found["written_for"]).all()


def test_vectors_of_another_model_are_evidence_and_exchanged_captions_come_first(folder: Path, tmp_path: Path) -> None:
    rows = pandas.read_csv(folder / "captions.csv")
    draw = np.random.default_rng(0)
    place = draw.normal(size=(PICTURES, 16)).astype(np.float32)
    names = np.array([f"{number}.png" for number in range(PICTURES)])
    owner = rows["image"].str.removesuffix(".png").astype(int).to_numpy().copy()
    owner[0], owner[-1] = owner[-1], owner[0]
    text = place[owner] + 0.3 * draw.normal(size=(len(rows), 16)).astype(np.float32)
    unique = ~rows["caption"].duplicated().to_numpy()
    vectors = tmp_path / "vectors.npz"
    order = draw.permutation(PICTURES)
    arrays: dict[str, Any] = {"image": place[order], "image_name": names[order], "text": text[unique]}
    np.savez(vectors, **arrays, caption=rows["caption"].to_numpy(str)[unique])
    out = tmp_path / "out"
    said(folder, "--embeddings", vectors, "--to", out)
    worst = pandas.read_csv(out / "noisy_pairs.csv").head(4)
    assert {rows["caption"].iloc[0], rows["caption"].iloc[-1]} <= set(worst["caption"])
    page = (out / "index.html").read_text()
    assert "the vectors of vectors.npz" in page
    assert 'id="hubs"' in page

    np.savez(vectors, **arrays | {"image": arrays["image"][1:], "image_name": arrays["image_name"][1:]},
             caption=rows["caption"].to_numpy(str)[unique])  # fmt: skip
    missing = audit(folder, "--embeddings", vectors, "--to", out)
    assert f"vectors.npz: image_name: no vector of '{names[order][0]}', which the data set has" in missing.output
    np.savez(vectors, image=place)
    assert (
        "expected image with image_name, text with caption"
        in audit(folder, "--embeddings", vectors, "--to", out).output
    )


def test_only_evidence_that_was_used_is_named(folder: Path, tmp_path: Path) -> None:
    """With one caption an image there are no other captions to agree with, and none to compare pictures with."""
    rows, out = pandas.read_csv(folder / "captions.csv").drop_duplicates("image"), tmp_path / "out"
    rows.to_csv(folder / "captions.csv", index=False)
    place, noise = np.random.default_rng(0).normal(size=(2, PICTURES, 16))
    place[1::2] = place[::2]  # two pictures of the same
    texts, vectors = rows["caption"].drop_duplicates(), tmp_path / "vectors.npz"
    arrays: dict[str, Any] = {"text": (place + 0.5 * noise)[texts.index // CAPTIONS], "caption": texts.to_numpy(str)}
    np.savez(vectors, image=place, image_name=rows["image"].to_numpy(str), **arrays)
    assert "evidence from similarity: at least" in said(folder, "--embeddings", vectors, "--to", out)
    facts = json.loads((out / "audit.json").read_text())
    assert facts["evidence"] == "similarity; no labels, no training"
    assert "by the evidence (similarity) in all" in (out / "index.html").read_text()
    for name in ("false_negatives", "noisy_pairs"):
        table = pandas.read_csv(out / f"{name}.csv")
        assert table["similarity"].notna().any()
        assert not {"captions", "pictures"} & set(table)


def test_a_bound_is_said_only_where_the_share_of_matches_is_estimated(folder: Path, tmp_path: Path) -> None:
    """Vectors drawn at random tell nothing: K is the published one then."""
    said(folder, "--words", "--to", tmp_path / "words")
    rows, draw, vectors = pandas.read_csv(folder / "captions.csv"), np.random.default_rng(0), tmp_path / "vectors.npz"
    texts = rows["caption"].drop_duplicates().to_numpy(str)
    names = np.array([f"{number}.png" for number in range(PICTURES)])
    image, text = draw.normal(size=(PICTURES, 16)), draw.normal(size=(len(texts), 16))
    np.savez(vectors, image=image, image_name=names, text=text, caption=texts)
    said(folder, "--embeddings", vectors, "--to", tmp_path / "random")
    for name, is_bound in (("words", True), ("random", False)):
        first, *_, last = json.loads((tmp_path / name / "audit.json").read_text())["statements"]
        assert first.startswith("≥") == ("a lower bound" in first) == is_bound
        assert ("matches, at least" in last) == is_bound


def test_pictures_and_captions_may_be_in_two_places_and_splits_are_kept(folder: Path, tmp_path: Path) -> None:
    table = pandas.read_csv(folder / "captions.csv")
    number = table["image"].str.removesuffix(".png").astype(int)
    table["split"] = ["train" if n < 24 else "val" if n < 32 else "test" for n in number]
    captions = tmp_path / "texts.tsv"
    table.to_csv(captions, sep="\t", index=False)
    out = tmp_path / "out"
    said("--images", folder / "images", "--captions", captions, "--words", "--to", out)
    found = pandas.read_parquet(out / "pairs.parquet")
    assert found.groupby("split")["image"].nunique().to_dict() == {"train": 24, "val": 8, "test": 8}


def in_coco(rows: pandas.DataFrame, folder: Path) -> list[object]:
    """With an empty caption, which is left out."""
    names = rows["image"].unique().tolist()
    rows = pandas.concat([rows, pandas.DataFrame({"image": ["3.png"], "caption": [""]})])
    content = {
        "images": [{"id": row, "file_name": name} for row, name in enumerate(names)],
        "annotations": [
            {"id": row, "image_id": names.index(image), "caption": text}
            for row, (image, text) in enumerate(rows.itertuples(index=False))
        ],
    }
    (folder / "any name.json").write_text(json.dumps(content))
    return ["--images", folder / "images", "--captions", folder / "any name.json"]


def of_each(rows: pandas.DataFrame, folder: Path) -> list[object]:
    (folder / "any name.json").write_text(json.dumps(rows.groupby("image")["caption"].agg(list).to_dict()))
    return ["--images", folder / "images", "--captions", folder / "any name.json"]


def as_objects(rows: pandas.DataFrame, folder: Path) -> list[object]:
    rows.to_json(folder / "captions.json", orient="records")
    return [folder]


def beside(rows: pandas.DataFrame, folder: Path) -> list[object]:
    for image, texts in rows.groupby("image")["caption"]:
        (folder / "images" / str(image)).with_suffix(".txt").write_text("\n".join(texts) + "\n")
    return [folder / "images"]


def in_german(rows: pandas.DataFrame, folder: Path) -> list[object]:
    """With two empty captions, which are left out."""
    more = pandas.DataFrame({"image": ["3.png", "4.png"], "caption": ["", " "]})
    renamed = pandas.concat([rows, more]).rename(columns={"image": "Datei", "caption": "Text"})
    renamed.to_csv(folder / "german.csv", index=False)
    return [folder, "--columns", "image=Datei,caption=Text"]


@pytest.mark.parametrize("written", [in_coco, of_each, as_objects, beside, in_german])
def test_captions_are_read_as_people_have_them(
    written: Callable[[pandas.DataFrame, Path], list[object]], folder: Path, tmp_path: Path
) -> None:
    rows = pandas.read_csv(folder / "captions.csv").drop_duplicates()
    (folder / "captions.csv").unlink()
    out = tmp_path / "out"
    text = said(*written(rows, folder), "--words", "--to", out)
    found = pandas.read_parquet(out / "pairs.parquet")
    assert set(found["split"]) == {"all"}, "splits that were drawn have no meaning"
    found["image"] = found["image"].map(lambda name: Path(name).name)
    assert sorted(found[["image", "caption"]].itertuples(index=False, name=None)) == sorted(
        rows.itertuples(index=False, name=None)
    )
    assert ("left out: empty captions of" in text) == (written in (in_coco, in_german))


def test_other_files_in_the_folder_are_no_captions(folder: Path, tmp_path: Path) -> None:
    """A text beside one picture, JSON that is none, and a table named like a picture."""
    rows = pandas.read_csv(folder / "captions.csv").drop_duplicates()
    (folder / "images/0.txt").write_text("notes of mine\n")
    (folder / "settings.json").write_text('{"size": 1}\n{not json')
    (folder / "captions.png").write_bytes((folder / "images/0.png").read_bytes())
    out = tmp_path / "out"
    said(folder, "--words", "--to", out)
    assert len(pandas.read_parquet(out / "pairs.parquet")) == len(rows)
    (folder / "captions.csv").unlink()
    lines = rows.assign(caption=rows["caption"].map(lambda text: [["one", text]]))  # lists in lists, an object a line
    lines.to_json(folder / "any.json", orient="records", lines=True)
    said("--images", folder / "images", "--captions", folder / "any.json", "--words", "--to", out)
    assert set(pandas.read_parquet(out / "pairs.parquet")["caption"]) == {"one", *rows["caption"]}


def test_errors_name_what_was_given(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No parameter that this command lacks, and no folder of its own."""
    out = tmp_path / "out"
    broken = tmp_path / "texts.csv"
    broken.write_text("image,caption\n0.png,a dog,too many\n")
    result = audit("--images", folder / "images", "--captions", broken, "--words", "--to", out)
    assert result.output.startswith(f"error: {broken}: line 2: expected 2 fields")
    broken.write_text("Datei,Beschreibung\n0.png,ein Hund\n")
    result = audit("--images", folder / "images", "--captions", broken, "--words", "--to", out)
    assert f"{broken}: the columns are Datei, Beschreibung" in result.output
    assert "--columns can name others" in result.output
    assert "data." not in result.output.replace("metadata.", "")
    result = audit(folder, "--columns", "picture=x", "--words", "--to", out)
    assert result.output == "error: --columns picture=x: expected image=NAME,caption=NAME\n"
    small = tmp_path / "small"
    small.mkdir()
    for number in range(2):
        (small / f"{number}.png").write_bytes((folder / f"images/{number}.png").read_bytes())
        (small / f"{number}.txt").write_text("a dog\n")
    assert f"\nerror: {small}: 2 images; at least 3 are needed" in audit(small, "--words", "--to", out).output
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = audit("picures/flickr", "--words", "--to", out)
    assert result.output.startswith("error: FOLDER = 'picures/flickr': is no folder here, and cannot be fetched from")
    assert not out.exists()


LEFT: dict[str, Any] = {
    "data__columns__image": "Datei",
    "data__columns__caption": "Text",
    "data__split__val": 0.4,
    "model__train": "heads",
    "model__anchor": "cca",
    "model__words": 2,
    "pairs__weighting": "osa",
    "evidence__kinds": ["words", "regression"],
    "train__epochs": 0,
    "launch__processes": 2,
}
"""What a recipe and an experiment may have left in params.yaml."""


def test_an_audit_does_not_depend_on_what_an_experiment_left_in_params_yaml(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said(folder, "--words", "--to", tmp_path / "before")
    write_params(tmp_path, **LEFT)
    monkeypatch.setattr("pipeline.dependencies.ROOT", tmp_path)
    said(folder, "--words", "--to", tmp_path / "after")
    before, after = (pandas.read_parquet(tmp_path / name / "matches.parquet") for name in ("before", "after"))
    pandas.testing.assert_frame_equal(before, after)


def test_an_audit_begins_with_the_documented_defaults() -> None:
    _, table, _ = between_markers((ROOT / "docs/parameters.md").read_text(encoding="utf-8"), "", MARKER)
    documented = [tuple(line.split("` | ")[:2]) for line in table.splitlines()[2:]]
    values = dotted(load_params(DEFAULTS))
    assert documented == [(f"| `{name}", f"`{'null' if value is None else value}") for name, value in values.items()]


def test_limits_of_archives_are_those_of_params_yaml(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says to raise them there."""
    shutil.make_archive(str(folder / "images"), "zip", folder / "images")
    shutil.rmtree(folder / "images")
    write_params(tmp_path, data__limits__members=PICTURES - 1)
    monkeypatch.setattr("pipeline.dependencies.ROOT", tmp_path)
    told = f"images.zip: {PICTURES} members, at most {PICTURES - 1} are allowed; raise data.limits.members"
    assert told in audit(folder, "--words", "--to", tmp_path / "out").output
    write_params(tmp_path, data__limits__members=PICTURES)
    said(folder, "--words", "--to", tmp_path / "out")
    (tmp_path / "params.yaml").write_text("data: {name: scenes}\n")
    said(folder, "--words", "--to", tmp_path / "out")


def test_without_evidence_it_does_not_talk_of_a_training(folder: Path, tmp_path: Path) -> None:
    rows = pandas.read_csv(folder / "captions.csv").drop_duplicates("image")
    rows.to_csv(folder / "captions.csv", index=False)
    text = said(folder, "--words", "--to", tmp_path / "out")
    assert "no evidence: it suspects, drops and lists no pair\n" in text
    assert "\n0 possible false negatives listed\n0 suspects listed\n" in text


@pytest.mark.parametrize("form", ["karpathy", "webdataset"])
def test_clean_data_without_splits_is_read_again(form: str, folder: Path, tmp_path: Path) -> None:
    out, clean, images = tmp_path / "out", tmp_path / "clean", folder / "images"
    said(folder, "--words", "--to", out)
    options = ["--format", form, "--to", str(clean), "--images", str(images), "--trust", "0"]
    result = invoke_with("clean", str(out), *options)
    assert result.exit_code == 0, result.output
    if form == "karpathy":
        (clean / "images").symlink_to(images)
    said(clean, "--words", "--to", tmp_path / "again")
    found = pandas.read_parquet(tmp_path / "again/pairs.parquet")
    assert set(found["split"]) == {"all"}
    assert found["image"].nunique() == PICTURES


def test_judgments_change_the_figures_and_the_clean_data(folder: Path, tmp_path: Path) -> None:
    out, judgments, clean = tmp_path / "out", tmp_path / "judgments.csv", tmp_path / "clean"
    said(folder, "--words", "--to", out)
    first = pandas.read_csv(out / "false_negatives.csv").iloc[0]
    wrong = pandas.read_csv(out / "noisy_pairs.csv").iloc[0]
    with open(judgments, "w", newline="") as handle:
        answers = [["image", "caption", "verdict", "chosen"], [first["image"], first["caption"], "no", "proposed"]]
        csv.writer(handle).writerows([*answers, [wrong["image"], wrong["caption"], "no", "by hand"]])
    printed = said(folder, "--words", "--judgments", judgments, "--to", out)
    lines = [line for line in printed.splitlines() if line.startswith("judgments: ")]
    assert lines == ["judgments: 2 used"], "those of all pictures, whatever splits are drawn"
    page = (out / "index.html").read_text()
    assert "0 of 1" in page, "judged matches that match"
    assert "1 of 1" in page, "judged pairs that are wrong"
    result = invoke_with("clean", str(out), "--format", "pairs", "--to", str(clean), "--trust", "0")
    assert result.exit_code == 0, result.output
    kept = pandas.read_csv(clean / "captions.csv")
    assert not ((kept["image"] == wrong["image"]) & (kept["caption"] == wrong["caption"])).any()
    assert len(kept) == PICTURES * CAPTIONS - int(
        ((pandas.read_csv(folder / "captions.csv") == [wrong["image"], wrong["caption"]]).all(axis=1)).sum()
    )
    assert "1 of 160 pairs are left out" in (clean / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere", "--words"], "nowhere: there is no such folder, and it is no id of a data set on the hub"),
        (["--words"], "name a FOLDER, or both --images and --captions"),
        (["--captions", "TABLE", "--words"], "name a FOLDER, or both --images and --captions"),
        (["FOLDER", "--images", "FOLDER", "--captions", "TABLE", "--words"], "name a FOLDER, or both --images and"),
        (["FOLDER", "--images", "FOLDER", "--words"], "name a FOLDER, or both --images and --captions"),
        (["owner/name", "--captions", "TABLE", "--words"], "name a FOLDER, or both --images and --captions"),
        (["FOLDER", "--words", "--model", "x"], "--model and --words: the evidence comes from one of them"),
        (["FOLDER", "--against", "x"], "--against: compares runs of this repository"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(
    options: list[str], message: str, folder: Path, tmp_path: Path
) -> None:
    given = {"FOLDER": folder, "TABLE": folder / "captions.csv"}
    result = audit(*(given.get(option, option) for option in options), "--to", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("inside", ["", "out"])
def test_a_page_among_the_pictures_is_refused(inside: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next audit would take its tables for captions, or it would replace them."""
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    for given in ([folder], ["--images", folder, "--captions", "captions.csv"]):
        result = audit(*given, "--words", "--to", folder / inside)
        assert result.output.startswith(f"error: --to {folder / inside}: is the same as {folder}, or one lies in the")
    assert sorted(folder.rglob("*")) == before


def test_judgments_in_the_folder_that_is_replaced_are_kept(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said(folder, "--words", "--to", out)
    judgments = out / "judgments.csv"
    judgments.write_text("image,caption,verdict,chosen\n")
    result = audit(folder, "--words", "--judgments", judgments, "--to", out)
    assert result.output.startswith(f"error: --to {out}: is the same as {judgments}, or one lies in the other")
    assert judgments.exists()


def test_a_website_is_not_replaced_and_an_earlier_audit_is(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    for name in ("index.html", "audit.json"):  # npm writes one, too
        (site / name).write_text("{}")
    result = audit(folder, "--words", "--to", site)
    assert result.output == f"error: --to {site}: holds files that this command did not write; name another folder\n"
    assert (site / "index.html").read_text() == "{}"
    out = tmp_path / "out"
    out.mkdir()
    said(folder, "--words", "--to", out)
    (out / "index.html").write_text("an earlier page")
    said(folder, "--words", "--to", out)
    assert "Audit: shop" in (out / "index.html").read_text()


def test_a_dual_encoder_is_evidence(folder: Path, tmp_path: Path) -> None:
    from tests.models.test_clip import whole_clip
    from tests.models.test_pretrained import WORDS

    clip = tmp_path / "clip"
    whole_clip().save_pretrained(clip)
    tokenizer = word_tokenizer(WORDS)
    tokenizer.model_max_length = 8  # as many as the tower has positions
    tokenizer.save_pretrained(clip)
    said(folder, "--model", clip, "--to", tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    assert " by clip; no labels, no training" in page
    assert "both centred, by the dual encoder" in page
