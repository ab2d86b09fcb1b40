"""`residuum check`: what it prints, the exit codes, and where the report goes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from speaking import Trained

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


@pytest.fixture
def mixed_up(here: Path) -> Path:
    """Two classes of one colour each, with a picture of the other one in either."""
    noise = np.random.default_rng(0)
    for name, colour in (("red", (190, 40, 40)), ("blue", (40, 40, 190))):
        (here.parent / "set" / name).mkdir(parents=True, exist_ok=True)
        for number in range(14):
            pixels = np.clip(np.array(colour) + noise.integers(-40, 41, (24, 24, 3)), 0, 255).astype(np.uint8)
            label = name if number else {"red": "blue", "blue": "red"}[name]
            (here.parent / "set" / label).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(here.parent / "set" / label / f"{name}{number}.png")
    return here.parent / "set"


def test_suspicious_labels_are_named_where_a_network_is(
    here: Path, mixed_up: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: file.read_bytes() for file in mixed_up.rglob("*.png")}
    words = ["check", str(mixed_up), "--bundle", str(trained.bundle), "--csv", "suspicious.csv"]
    assert main([*words, "--json", "--out", "a.html"]) == 0
    document = json.loads(capsys.readouterr().out)
    wrong = {"blue/red0.png": ("blue", "red"), "red/blue0.png": ("red", "blue")}
    found = {issue["file"].removeprefix(f"{mixed_up}/"): issue for issue in document["label_issues"]}
    assert {name: (found[name]["label"], found[name]["suggested"]) for name in wrong} == wrong
    (finding,) = [each for each in document["findings"] if each["kind"] == "suspicious-labels"]
    assert finding["severity"] == "note"
    assert finding["files"] == [issue["file"] for issue in document["label_issues"]]
    with (here / "suspicious.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == finding["files"]
    page = (here / "a.html").read_text("utf-8")
    assert "in blue, looks like red" in page
    assert main([*words[:4], "--no-report"]) == 0
    said = capsys.readouterr()
    assert "look like other classes than their own, by the 20 pictures most like each" in " ".join(said.out.split())
    assert "red0.png (in blue, looks like red" in said.out
    assert {file: file.read_bytes() for file in mixed_up.rglob("*.png")} == before


def test_labels_are_judged_in_spite_of_bad_pictures(
    here: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "../bad", "--bundle", str(trained.bundle), "--json", "--no-report"]) == 3
    assert all("empty" not in issue["file"] for issue in json.loads(capsys.readouterr().out)["label_issues"])
    for name in ("cat", "dog"):
        (here.parent / "none" / name).mkdir(parents=True)
        (here.parent / "none" / name / "a.png").touch()
    assert main(["check", "../none", "--bundle", str(trained.bundle), "--json", "--no-report"]) == 3
    assert json.loads(capsys.readouterr().out)["label_issues"] == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--csv", "a.csv"], 2, "--csv is for suspicious labels"),
        (["--device", "cpu"], 2, "--device is for suspicious labels"),
        (["--bundle", "nowhere"], 4, "nowhere"),
        (["--bundle", "BUNDLE", "--csv", "../good/a.csv"], 2, "lies among the pictures"),
        (["--bundle", "BUNDLE", "--csv", "no/folder/a.csv"], 5, "Cannot write no/folder/a.csv"),
        (["--bundle", "BUNDLE", "--device", "abacus"], 2, "abacus"),
    ],
    ids=str,
)
def test_a_judge_of_labels_that_cannot_be_is_refused_before_the_check(
    here: Path, trained: Trained, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    words = [str(trained.bundle) if word == "BUNDLE" else word for word in arguments]
    assert main(["check", "../good", *words]) == code
    said = capsys.readouterr()
    assert (said.out, listing(here)) == ("", [])
    assert told in said.err
