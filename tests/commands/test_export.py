"""The command that writes a split as SCAN-style text (`pipeline.data.splits.scan` has the rest)."""

from __future__ import annotations

from pathlib import Path

from tests.stages.running import invoke_with, run, write_tiny_params


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
