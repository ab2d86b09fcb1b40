"""Runs that go on from another folder than the one where their pictures had a name, and weights that know pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from residuum.errors import Interrupted, RecipeError
from residuum.recipe import Recipe
from residuum.training import folds as folding
from residuum.training.folds import cross_validate
from residuum.training.run import Run
from residuum.training.train import train

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture
def home(class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the set `photos` in it."""
    shutil.copytree(class_folders, tmp_path / "home" / "photos")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def warnings_of(run: Run) -> list[str]:
    """What the weights that a run starts from know of its pictures, in its record, its log and what it says on."""
    told = [str(line) for line in json.loads((run.folder / "data.json").read_text())["warnings"]]
    known = [line for line in told if "were trained on this set" in line]
    warnings = run.parts.record["warnings"]
    assert isinstance(warnings, list)
    assert known == [line for line in warnings if "were trained on this set" in line]
    assert all(line in (run.folder / "log.txt").read_text("utf-8") for line in known)
    return known


def test_a_run_goes_on_from_any_folder(
    tiny: Recipe, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(replace(tiny, epochs=1), data="photos", out="run", device="cpu")
    recipe = (home / "run" / "recipe.toml").read_text()
    monkeypatch.chdir(tmp_path)
    again = train(resume="home/run", device="cpu")
    assert again.result is not None
    assert run.result is not None
    assert again.result.scores.as_dict() == run.result.scores.as_dict()
    assert (home / "run" / "recipe.toml").read_text() == recipe  # what it is called at home is not changed
    shutil.copytree(home / "photos" / "2", tmp_path / "photos" / "2")  # another one that is called so here
    more = train(resume="home/run", data="home/photos", device="cpu", changes={"epochs": 2})
    assert (more.epoch, json.loads((home / "run" / "data.json").read_text())["place"]) == (2, str(home / "photos"))
    with pytest.raises(RecipeError, match=r"cannot go on with data\.source = 'photos'"):
        train(resume="home/run", data="photos", device="cpu")


def test_folds_go_on_from_any_folder(tiny: Recipe, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = folding.train

    def interrupted(*arguments: object, **more: object) -> Run:
        if "fold-2" in str(more.get("out")):
            raise Interrupted("Stopped by SIGINT; everything is saved.")
        return real(*arguments, **more)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(folding, "train", interrupted)
        with pytest.raises(Interrupted):
            cross_validate(replace(tiny, epochs=1), folds=2, data="photos", out="folds", device="cpu")
    monkeypatch.chdir(tmp_path)
    done = cross_validate(resume=home / "folds", device="cpu")
    assert [run.recipe.data.source for run in done.runs] == [str(home / "photos")] * 2
    judged = [row.split(",")[1] for row in (home / "folds" / "out_of_fold.csv").read_text().splitlines()[1:]]
    assert len(judged) == len({Path(name).resolve() for name in judged}) == done.as_dict()["images"]


def test_weights_that_have_learnt_what_is_held_out_are_named(tiny: Recipe, home: Path) -> None:
    plain = replace(tiny, epochs=1, model=replace(tiny.model, drop_path=None))
    first = train(plain, data="photos", out="first", device="cpu")
    assert warnings_of(first) == []
    knowing = replace(plain, model=replace(plain.model, weights=str(home / "first" / "best")))
    same = train(knowing, data="photos", out="same", device="cpu")
    assert warnings_of(same) == []  # the same pictures are held out
    shutil.copytree(home / "photos", home / "renamed")
    other = train(knowing, data="renamed", out="other", device="cpu", changes={"data.split_seed": 7})
    (said,) = warnings_of(other)
    assert str(home / "first" / "best") in said
    assert "data.split_seed" in said
    again = train(resume="other", device="cpu")
    assert warnings_of(again) == [said]
    shutil.rmtree(home / "first")
    assert warnings_of(other) == [said]
    assert train(resume="other", device="cpu").epoch == 1  # which needs these weights no more


def test_folds_from_weights_that_know_the_pictures_say_so(tiny: Recipe, home: Path) -> None:
    plain = replace(tiny, epochs=1, model=replace(tiny.model, drop_path=None))
    train(plain, data="photos", out="first", device="cpu")
    knowing = replace(plain, model=replace(plain.model, weights="first/best"))
    done = cross_validate(knowing, folds=2, data="photos", out="folds", device="cpu")
    for run in done.runs:
        (said,) = warnings_of(run)
        assert "Cross-validate from weights that know nothing of this set" in said
    report = (home / "folds" / "report.html").read_text("utf-8")
    assert report.count("were trained on this set, divided in another way") == 1
