"""The command that gives audited data back: what it replaces, and where it reads the pictures."""

from __future__ import annotations

from pathlib import Path

from tests.report.making import write_audit
from tests.stages.running import invoke_with


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
