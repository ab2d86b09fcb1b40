"""`residuum check`: what it prints, the exit codes, and where the report goes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residuum.cli.main import main


def photos(root: Path, per_class: int = 12) -> Path:
    """Writes a folder of photos, no two alike."""
    noise = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            coarse = Image.fromarray(noise.integers(0, 256, (5, 6, 3), dtype=np.uint8))
            coarse.resize((64, 48), Image.Resampling.BICUBIC).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, beside the folder `good` of clean photos and `bad` with an empty and a repeated one."""
    photos(tmp_path / "good")
    bad = photos(tmp_path / "bad")
    (bad / "cat/empty.png").touch()
    (bad / "dog/again.png").write_bytes((bad / "dog/5.png").read_bytes())
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_clean_set_exits_with_0_and_says_what_to_type_next(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "../good"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[:4]] == [["class", "pictures"], ["cat", "12"], ["dog", "12"], ["all", "24"]]
    assert "Ready to train on: nothing would harm training." in out
    assert out[-2:] == ["Report with pictures: residuum-check.html", "Next: residuum train --data ../good"]
    assert listing(here) == ["residuum-check.html"]


def test_a_set_with_faults_exits_with_3_and_names_them_harm_first(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "../bad"]) == 3
    text = capsys.readouterr().out
    told = ["class ", "Would harm training", "1 file is empty", "../bad/cat/empty.png"]
    told += [
        "Worth knowing",
        "2 pictures in 1 group are the same to the pixel.",
        "../bad/dog/5.png (dog) = ../bad/dog/again.png (dog)",
    ]
    told += ["Not ready to train on: 1 thing would harm training.", "Report with pictures: residuum-check.html"]
    places = [text.index(part) for part in told]
    assert places == sorted(places)
    assert "residuum train" not in text
    assert listing(here) == ["residuum-check.html"]


def test_json_is_one_document_with_every_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "../bad", "--json", "--out", "a.html"]) == 3
    document = json.loads(capsys.readouterr().out)
    assert {name: document[name] for name in ("data", "images", "classes", "splits", "harmful", "report")} == {
        "data": "../bad",
        "images": 26,
        "classes": {"cat": {"train": 13}, "dog": {"train": 13}},
        "splits": {"train": 26},
        "harmful": True,
        "report": "a.html",
    }
    empty, twice = document["findings"]
    assert (empty["kind"], empty["severity"], empty["count"]) == ("empty", "harm", 1)
    assert empty["files"] == ["../bad/cat/empty.png"]
    assert empty["what"]
    assert empty["do"]
    assert (twice["kind"], twice["severity"], twice["count"]) == ("duplicates", "note", 2)
    assert twice["groups"] == [["../bad/dog/5.png", "../bad/dog/again.png"]]
    assert (here / "a.html").read_text("utf-8").startswith("<!doctype html>")


def test_without_a_report_nothing_is_written(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "digits", "--no-report", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"] is None
    assert listing(here) == []


def test_reports_are_numbered_and_never_overwritten(here: Path) -> None:
    for _ in range(3):
        assert main(["check", "../good"]) == 0
    assert listing(here) == ["residuum-check-2.html", "residuum-check-3.html", "residuum-check.html"]
    before = (here / "residuum-check.html").read_bytes()
    assert main(["check", "../good", "--out", "residuum-check.html"]) == 2
    assert (here / "residuum-check.html").read_bytes() == before


def test_no_report_goes_into_the_set(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = here.parent / "good"
    assert main(["check", "../good", "--out", "../good/cat/a.html"]) == 2
    assert "lies among the pictures" in capsys.readouterr().err
    monkeypatch.chdir(good / "cat")
    assert main(["check", ".."]) == 0
    said = capsys.readouterr()
    assert "No report is written" in said.err
    assert "Report with pictures" not in said.out
    assert listing(good) == ["cat", "dog"]
    assert "residuum-check.html" not in listing(good / "cat")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nowhere"], 3, "There is no image set at"),
        (["../good", "--out", "no/folder/a.html"], 5, "Cannot write the report"),
        (["../good", "--workers", "-1"], 2, "whole number"),
        ([], 2, "DATA is missing"),
    ],
)
def test_what_cannot_be_done_is_said_in_three_parts(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    assert main(["check", *arguments]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Error: ")
    assert told in said.err
    assert listing(here) == []


def test_a_full_disk_costs_the_report_and_not_the_answer(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("residuum.html.write", full)
    assert main(["check", "../good", "--json"]) == 5
    said = capsys.readouterr()
    assert json.loads(said.out)["report"] is None
    assert "No space left on device" in said.err
    assert listing(here) == []
