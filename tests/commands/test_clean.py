"""The command that gives audited data back: what it replaces, and where it reads the pictures."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import pandas
import pytest
from click.testing import CliRunner

from commands.audit import main as audit
from pipeline.data.scenes.scenes import generate, truth
from pipeline.params import load_params
from tests.data.brought import parquet_numbered
from tests.report.making import write_audit, write_pictures
from tests.stages.running import ROOT, STAGES, invoke_with, run, write_tiny_params


def test_a_folder_of_somebody_elses_is_not_replaced_and_an_earlier_one_is(tmp_path: Path) -> None:
    report = write_audit(tmp_path / "report")
    target = tmp_path / "mine"
    target.mkdir()
    (target / "README.md").write_text("# My data\n\nCleaned by `python -m commands.clean`.\n")
    options = [str(report), "--format", "pairs", "--to", str(target)]
    said = invoke_with("clean", *options)
    assert said.exit_code == 1
    assert said.output == f"error: --to {target}: holds files that this command did not write; name another folder\n"
    (target / "README.md").unlink()
    for content in ("", "of an earlier run"):
        (target / "captions.csv").write_text(content) if content else None
        assert invoke_with("clean", *options).exit_code == 0
        assert "a red square" in (target / "captions.csv").read_text()
    (target / ".git").mkdir()
    assert "holds files that this command did not write" in invoke_with("clean", *options).output
    assert (target / ".git").exists()


@pytest.mark.parametrize("place", ["images", "."])
@pytest.mark.parametrize("suffix", [".png", ".PNG", ""])
def test_pictures_are_found_as_the_audit_found_them(suffix: str, place: str, tmp_path: Path) -> None:
    """In the audited folder or its images/, under names in another case or without a suffix in the table."""
    report, folder = write_audit(tmp_path / "report"), tmp_path / "shop"
    archive = write_pictures(tmp_path)
    (folder / place).mkdir(parents=True)
    for name in archive.names:
        (folder / place / name.upper()).write_bytes(archive.read(name))
    pairs = pandas.read_parquet(report / "pairs.parquet")
    pairs["image"] = pairs["image"].str.replace(".png", suffix)
    pairs.to_parquet(report / "pairs.parquet")
    options = ["--format", "webdataset", "--to", str(tmp_path / "clean"), "--images", str(folder)]
    result = invoke_with("clean", str(report), *options)
    assert result.exit_code == 0, result.output
    with tarfile.open(tmp_path / "clean/val-00000.tar") as tar:
        assert tar.extractfile("000000000.png").read() == archive.read("blue.png")  # type: ignore[union-attr]
    (folder / place / "BLUE.PNG").unlink()
    said = invoke_with("clean", str(report), *options).output
    assert said.startswith(f"error: --images {folder}: 'blue{suffix}' is none of its 3 images; name")


def test_a_picture_of_the_same_name_in_another_folder_is_not_given_back(tmp_path: Path) -> None:
    report, archive = write_audit(tmp_path / "report"), write_pictures(tmp_path)
    (tmp_path / "shop/train").mkdir(parents=True)
    for name in archive.names:
        (tmp_path / "shop/train" / name).write_bytes(archive.read(name))
    pairs = pandas.read_parquet(report / "pairs.parquet")
    pairs.assign(image="test/" + pairs["image"]).to_parquet(report / "pairs.parquet")
    options = ["--format", "open_clip", "--to", str(tmp_path / "clean"), "--images", str(tmp_path / "shop")]
    assert (
        "none of its 4 images; name the folder that was audited" in invoke_with("clean", str(report), *options).output
    )
    (tmp_path / "shop/train").rename(tmp_path / "shop/Test")
    assert invoke_with("clean", str(report), *options).exit_code == 0


def test_pictures_in_shards_are_given_back_by_the_pipeline(clone: Path, tmp_path: Path) -> None:
    options = ["--format", "open_clip", "--to", "clean", "--trust", "0"]
    said = invoke_with("clean", str(write_audit(tmp_path / "report")), *options).output
    assert "If they are in shards or on the hub, run the pipeline on them" in said
    shards = parquet_numbered(tmp_path / "shards")
    write_tiny_params(clone, data__name="folder", data__root=str(shards.root))
    run(*STAGES)
    assert invoke_with("clean", *options).exit_code == 0
    found = {path.read_bytes() for path in Path("clean/images").iterdir() if path.suffix == ".jpg"}
    assert found == set(shards.content.values())


def test_the_negatives_of_generated_scenes_are_not_more_often_true_than_random_ones(clone: Path) -> None:
    scenes = generate(load_params(ROOT / "params.yaml").data.scenes, 3, 150)
    texts = [text for scene in scenes for text in scene.captions]
    owner = [number for number, scene in enumerate(scenes) for _ in scene.captions]
    (clone / "mine/images").mkdir(parents=True)
    for number, scene in enumerate(scenes):
        scene.image(32).save(clone / f"mine/images/{number}.png")
    table = pandas.DataFrame({"image": [f"{number}.png" for number in owner], "caption": texts})
    table.to_csv("mine/captions.csv", index=False)
    assert CliRunner().invoke(audit, ["mine", "--words", "--to", "report"]).exit_code == 0
    assert invoke_with("clean", "report", "--format", "sentence-transformers", "--to", "clean").exit_code == 0

    rows = [json.loads(line) for line in Path("clean/train.jsonl").read_text().splitlines()]
    matches = truth(texts, scenes)  # (captions, pictures)
    of = {pair: number for number, scene in enumerate(scenes) for pair in itertools.permutations(scene.captions, 2)}
    picture = [of[row["anchor"], row["positive"]] for row in rows]
    negative = [texts.index(row["negative"]) for row in rows]
    random_share = (matches.sum() - len(texts)) / (matches.size - len(texts))
    assert len(rows) > 0.9 * len(texts)
    assert matches[negative, picture].mean() < random_share
