"""`residuum reproduce`: the list, an experiment for people and for programs, wrong usage."""

from __future__ import annotations

from pathlib import Path

import pytest
from speaking import Say

from residuum.lab.experiments import every


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    from residuum.lab.costs import TABLE_1
    from residuum.lab.experiments import architecture

    monkeypatch.setattr(architecture, "TABLE_1", {"resnet18": TABLE_1["resnet18"]})


def test_the_list_has_a_line_for_each_and_is_the_default(say: Say) -> None:
    said = say("reproduce", "--list")
    assert (said.code, said.err) == (0, "")
    header, *lines = said.out.splitlines()
    assert header.split() == ["experiment", "what", "it", "measures"]
    assert [line.split()[0] for line in lines] == [entry.name for entry in every()]
    assert say("reproduce").out == said.out
    listed = {entry["name"]: entry for entry in say("reproduce", "--json").json["experiments"]}
    assert list(listed) == [entry.name for entry in every()]
    assert listed["degradation"]["seeds"] == {"smoke": 1, "small": 3, "full": 5}
    assert listed["paths"]["takes"] == ["bundle", "data", "seeds"]


def test_an_experiment_says_what_it_found(say: Say, tmp_path: Path) -> None:
    said = say("reproduce", "architecture", "--out", tmp_path)
    assert said.code == 0
    assert "resnet18: multiply-adds  1.814 G" in said.out
    assert "1.8 G" in said.out
    assert "Verdict  a smoke run, too small to judge by (the rule alone says: reproduced)" in said.out
    assert str(tmp_path / "architecture-smoke" / "report.html") in said.out
    found = say("reproduce", "architecture", "--out", tmp_path, "--json").json
    assert found["verdict"] == "reproduced"
    assert found["judged"] is False
    assert all(check["holds"] for check in found["checks"])
    assert found["measures"][1] == {
        "what": "resnet18: parameters", "values": [11_689_512], "mean": 11_689_512, "unit": "", "paper": "11.7 M",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "what", "expected"),
    [
        (["degradtion"], "No experiment is called 'degradtion'.", "Did you mean degradation"),
        (["architecture", "--seeds", "2"], "--seeds means nothing to architecture.", "none of --data"),
        (["architecture", "--data", "digits"], "--data means nothing to architecture.", "none of --data"),
        (["degradation", "--bundle", "x"], "--bundle means nothing to degradation.", "It takes --data, --seeds."),
        (["degradation", "--scale", "big"], "--scale cannot be 'big'", "Expected one of smoke, small, full."),
        (["degradation", "--seeds", "0"], "--seeds cannot be '0'.", "a whole number from 1 on"),
        (["tables", "--scale", "small"], "--scale means nothing to residuum reproduce tables.", "alone"),
        (["--list", "--data", "digits"], "--data means nothing to residuum reproduce --list.", "alone"),
        (["paths", "--list"], "An experiment means nothing to residuum reproduce --list.", "alone"),
        (["degradation", "--device", "abacus"], "The device 'abacus' is not on this machine.", "Expected auto"),
    ],
)
def test_wrong_usage(words: list[str], what: str, expected: str, say: Say, tmp_path: Path) -> None:
    said = say("reproduce", *words, *([] if {"tables", "--list"} & set(words) else ["--out", tmp_path / "lab"]))
    assert (said.code, said.out) == (2, "")
    assert what in said.err
    assert expected in said.err


def test_a_set_or_a_bundle_that_is_not_there(say: Say, tmp_path: Path) -> None:
    assert say("reproduce", "paths", "--data", tmp_path / "none", "--out", tmp_path / "a").code == 3
    assert say("reproduce", "paths", "--bundle", tmp_path / "none", "--out", tmp_path / "b").code == 4
    (tmp_path / "file").touch()
    assert say("reproduce", "architecture", "--out", tmp_path / "file").code == 5


def test_tables_are_for_the_projects_folder(say: Say, tmp_path: Path) -> None:
    said = say("reproduce", "tables", "--out", tmp_path)
    assert said.code == 2
    assert "has no table of experiments" in said.err
