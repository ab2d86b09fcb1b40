"""Pictures that may have several classes, learnt and scored by several processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from labelled import write_pictures
from residuum.recipe import Recipe, to_toml
from test_worlds import ended, records_of, started, world_recipe


@pytest.mark.slow
def test_two_processes_learn_and_score_what_one_does(tiny: Recipe, tmp_path: Path) -> None:
    recipe = world_recipe(tiny)
    data = replace(recipe.data, source=str(write_pictures(tmp_path / "set")), balanced_sampling=0.5)
    (tmp_path / "recipe.toml").write_text(to_toml(replace(recipe, data=data)), encoding="utf-8")
    words = ["train", "-q", "--recipe", "recipe.toml", "--device", "cpu", "--out"]
    for name, size in (("alone", 1), ("two", 2)):
        for done in ended(started(size, [*words, name], tmp_path)):
            assert done.code == 0, done.err
    alone, two = (records_of(tmp_path / name) for name in ("alone", "two"))
    for one, other in zip(alone, two, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert other.get("val_map") == one.get("val_map")
    words = ["evaluate", str(tmp_path / "two" / "best"), "--json", "--batch-size", "5"]
    (one_process,), (first, second) = (ended(started(size, words, tmp_path)) for size in (1, 2))
    assert json.loads(first.out) == json.loads(one_process.out)
    assert second.out == ""
