"""Which recipe a command means: by name, from a file or from the image set, with single keys changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from residuum import recipe
from residuum.errors import UsageError
from residuum.models import MODELS
from residuum.models._catalog import options_of
from residuum.recipe import Recipe
from residuum.recipes import RECIPES

DEFAULTS = {"digits": "digits", "cifar10": "resnet20_cifar10_fast", "cifar100": "resnet20_cifar10_fast"}
"""The recipe that `--data` alone means; for anything else it is `photos`."""


def choose_recipe(wanted: str | Path | Recipe | None, data: str | None, changes: Mapping[str, object]) -> Recipe:
    """Returns the recipe that `train` would run."""
    changes = dict(changes)
    for key in ("batch_size", "data.batch_size"):
        if changes.get(key) == "auto":  # what is learned stays what it was; only the parts follow from the memory
            del changes[key]
            changes["accumulate"] = 0
    if wanted is None:
        wanted = DEFAULTS.get(data or "digits", "photos")
    if isinstance(wanted, Recipe):
        chosen = wanted
    elif isinstance(wanted, Path) or wanted.endswith(".toml") or (wanted not in RECIPES and Path(wanted).is_file()):
        chosen = recipe.read(Path(wanted))
    else:
        chosen = RECIPES[wanted].build()
    own_model = chosen.model.name
    chosen = recipe.override(chosen, {**changes, **({} if data is None else {"data": data})})
    known = options_of(MODELS[chosen.model.name].build)  # refuses an unknown name before any picture is opened
    if chosen.model.name != own_model:  # what the recipe says of its own network and this one has not, goes
        foreign: dict[str, Any] = {
            key: None for key in chosen.model.options() if key not in known and f"model.{key}" not in changes
        }
        chosen = replace(chosen, model=replace(chosen.model, **foreign))
    if not chosen.data.source:
        raise UsageError(
            f"The recipe {chosen.name} does not name an image set.",
            expected="Expected a folder with one folder of pictures for each class.",
            hint="Give one: residuum train --data FOLDER",
        )
    return chosen
