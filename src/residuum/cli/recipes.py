"""Lists the recipes, or shows one as TOML, ready to be changed and run with: residuum train --recipe mine.toml

examples:
  residuum recipes
  residuum recipes show photos > mine.toml
"""

from __future__ import annotations

import argparse

from residuum.cli import console


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument("action", nargs="?", choices=("list", "show"), default="list", help="list (default) or show")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the recipe to show")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Lists or shows recipes."""
    from dataclasses import asdict

    from residuum import recipe
    from residuum.errors import UsageError
    from residuum.recipes import RECIPES

    if arguments.action == "show":
        if arguments.name is None:
            raise UsageError(
                "No recipe is named.", expected="Expected a name.", hint="List them with: residuum recipes"
            )
        shown = RECIPES[arguments.name].build()
        if arguments.json:
            console.answer_json(recipe.to_dict(shown))
        else:
            console.answer(recipe.to_toml(shown).rstrip())
        return 0
    entries = RECIPES.entries()
    if arguments.json:
        listed = [
            {
                "name": e.name,
                "summary": e.summary,
                "model": e.build().model.name,
                "epochs": e.build().epochs,
                **asdict(e.card),
            }
            for e in entries
        ]
        console.answer_json({"recipes": listed})
        return 0
    rows = [[e.name, "-" if e.card.top1_error is None else f"{e.card.top1_error:g} %", e.summary] for e in entries]
    console.answer(console.table(("recipe", "test error to reach", "what it does"), rows, right=(1,)))
    return 0
