"""`residuum recipes`: the list, and one as TOML that `train --recipe` takes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from speaking import Say

from residuum import recipe
from residuum.recipes import RECIPES


def test_json_lists_every_recipe(say: Say) -> None:
    said = say("recipes", "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["recipes"]
    listed = {entry["name"]: entry for entry in said.json["recipes"]}
    assert list(listed) == RECIPES.names()
    published = listed["resnet20_cifar10_2015"]
    assert published["top1_error"] == 8.75  # arXiv:1512.03385, Table 6
    assert published["model"] == "resnet20_cifar"
    assert published["data"] == "cifar10"
    assert "arXiv:1512.03385" in published["source"]


def test_the_table_has_a_line_for_each_and_list_is_the_default(say: Say) -> None:
    said = say("recipes")
    assert (said.code, said.err) == (0, "")
    header, *lines = said.out.splitlines()
    assert header.startswith("recipe ")
    assert [line.split()[0] for line in lines] == RECIPES.names()
    assert say("recipes", "list").out == said.out


@pytest.mark.parametrize("name", RECIPES.names())
def test_what_is_shown_is_the_recipe_and_train_takes_it(name: str, say: Say, tmp_path: Path) -> None:
    said = say("recipes", "show", name)
    assert (said.code, said.err) == (0, "")
    assert tomllib.loads(said.out)["name"] == name
    file = tmp_path / "mine.toml"
    file.write_text(said.out, encoding="utf-8")
    assert recipe.read(file) == RECIPES[name].build()


@pytest.mark.parametrize("name", RECIPES.names())
def test_the_json_of_a_recipe_is_strict_and_reads_back(name: str, say: Say) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    values = json.loads(say("recipes", "show", name, "--json").out, parse_constant=refuse)
    assert recipe.from_dict(values) == RECIPES[name].build()


@pytest.mark.parametrize(
    ("words", "what", "expected"),
    [
        (["show"], "residuum recipes show names no recipe.", "Expected: residuum recipes show NAME"),
        (["show", "digit"], "No recipe is called 'digit'.", "Did you mean digits?"),
        (["show", "nope"], "No recipe is called 'nope'.", "names, such as "),
        (["digits"], "does not know what to do with 'digits'.", "Expected: residuum recipes show digits"),
        (["nope"], "does not know what to do with 'nope'.", "Expected: residuum recipes show NAME"),
        (["list", "digits"], "does not know what to do with 'digits'.", "Expected: residuum recipes show digits"),
    ],
)
def test_wrong_usage(words: list[str], what: str, expected: str, say: Say) -> None:
    said = say("recipes", *words)
    assert (said.code, said.out) == (2, "")
    first, second, third = said.err.splitlines()
    assert first.startswith("Error: ")
    assert what in first
    assert expected in second
    assert "residuum recipes" in third
