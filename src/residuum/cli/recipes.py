"""Lists the recipes, or shows one as TOML, ready to be changed and run with: residuum train --recipe mine.toml

A recipe is everything that decides what a training run does. Single values are changed without a file, by their key:
residuum train --recipe NAME --set optim.lr=0.05

examples:
  residuum recipes
  residuum recipes show photos > mine.toml
"""

from __future__ import annotations

import argparse

from residuum.cli import console, flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("action", nargs="?", metavar="list|show", default="list", help="what to do (default: list)")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show")
    flags.add_json(parser, "the list, or the recipe,")


def run(arguments: argparse.Namespace) -> int:
    """Lists or shows recipes."""
    from residuum import recipe
    from residuum.errors import UsageError
    from residuum.recipes import RECIPES

    if arguments.action == "show" and arguments.name is not None:
        shown = RECIPES[arguments.name].build()
        if arguments.json:
            console.answer_json(recipe.to_dict(shown))
        else:
            console.answer(recipe.to_toml(shown).rstrip())
        return 0
    if arguments.action != "list" or arguments.name is not None:
        named = arguments.name or ("" if arguments.action == "show" else arguments.action)
        raise UsageError(
            f"residuum recipes does not know what to do with {named!r}."
            if named
            else "residuum recipes show names no recipe.",
            expected=f"Expected: residuum recipes show {named if named in RECIPES else 'NAME'}",
            hint="List the names with: residuum recipes",
        )
    return _list(in_json=arguments.json)


def _list(*, in_json: bool) -> int:
    from dataclasses import asdict

    from residuum.recipes import RECIPES

    entries = RECIPES.entries()
    if in_json:
        recipes = [(entry, entry.build()) for entry in entries]
        listed = [
            {
                "name": entry.name,
                "summary": entry.summary,
                "model": built.model.name,
                "data": built.data.source,
                "epochs": built.epochs,
                **asdict(entry.card),
            }
            for entry, built in recipes
        ]
        console.answer_json({"recipes": listed})
        return 0
    rows = [[e.name, "-" if e.card.top1_error is None else f"{e.card.top1_error:g} %", e.summary] for e in entries]
    console.answer(console.table(("recipe", "test error to reach", "what it does"), rows, right=(1,)))
    return 0
