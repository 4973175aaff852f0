"""The command that gives audited data back: what it replaces, and where it reads the pictures."""

from __future__ import annotations

from pathlib import Path

from tests.data.brought import parquet_numbered
from tests.report.making import write_audit
from tests.stages.running import STAGES, invoke_with, run, write_tiny_params


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
