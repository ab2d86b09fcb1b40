"""What a run's report says of its pictures: checked as the run divided them, and read only where that costs little."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residuum.data.check import check
from residuum.data.sources import open_parts
from residuum.recipe import Recipe
from residuum.training import data_check
from residuum.training.build import build
from residuum.training.data_check import check_of, warnings_of
from residuum.training.run import Run


def run_on(data: Path, tiny: Recipe, folder: Path) -> Run:
    return build(replace(tiny, data=replace(tiny.data, source=str(data))), folder, torch.device("cpu"))


def test_copies_among_what_was_held_out_by_chance_are_found(tiny: Recipe, class_folders: Path, tmp_path: Path) -> None:
    """No check of the undivided folder can know of these."""
    photos = Path(shutil.copytree(class_folders, tmp_path / "photos"))
    wanted = replace(tiny.data, source=str(photos))
    for number in range(30):  # until a copy and its original are drawn for two parts
        shutil.copy(photos / "bee" / f"{number % 22}.png", photos / "bee" / f"copy{number}.png")
    parts = open_parts(wanted)
    assert parts.val is not None
    run = run_on(photos, tiny, tmp_path / "run")
    checked, unread = check_of(run)
    assert unread == ""
    assert checked.splits == {"train": len(parts.train), "val": len(parts.val), "test": len(parts.test or ())}
    across = next(finding for finding in checked.findings if finding.kind == "duplicates-across-splits")
    assert across.severity == "harm"
    assert {name.split(",")[0] for name in across.remarks.values()} >= {"train", "val"}
    (warning,) = warnings_of(checked)
    assert warning.startswith(across.what)
    assert " = ".join(across.groups[0][:2]) in warning
    assert warnings_of(check(str(photos))) == []
    assert not check(str(photos)).harmful


def test_the_report_of_a_run_says_what_was_found(finished: Run) -> None:
    text = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "What the data check found" in text
    assert "Nothing about the pictures harmed training." in text
    assert "Suspicious labels" in text
    assert (finished.folder / "suspicious_labels.csv").read_text().startswith("file,label,suggested,prob,label_prob")


@pytest.mark.parametrize("limit", ["CHECKED_PICTURES", "CHECKED_PIXELS"])
def test_a_large_set_is_not_read_again(
    limit: str, tiny: Recipe, class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos := tmp_path / "photos").mkdir()
    for name in ("2", "10"):
        shutil.copytree(class_folders / name, photos / name)
    for number in range(5, 22):
        (photos / "2" / f"{number}.png").unlink()
    run = run_on(photos, tiny, tmp_path / "run")
    monkeypatch.setattr(data_check, limit, 10)
    monkeypatch.setattr("residuum.data.check.inspect", lambda *_, **__: pytest.fail("pictures were read"))
    monkeypatch.setattr(data_check, "survey", lambda *_: pytest.fail("folders were walked again"))
    checked, unread = check_of(run)
    assert f"residuum check {photos}" in unread
    assert [finding.kind for finding in checked.findings] == ["few-pictures"]


def test_a_set_that_has_gone_since_does_not_cost_the_report(tiny: Recipe, class_folders: Path, tmp_path: Path) -> None:
    photos = Path(shutil.copytree(class_folders, tmp_path / "photos"))
    run = run_on(photos, tiny, tmp_path / "run")
    shutil.rmtree(photos)
    checked, _ = check_of(run)
    assert {finding.kind for finding in checked.findings} == {"missing"}
