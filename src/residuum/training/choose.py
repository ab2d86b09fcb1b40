"""Which recipe a command means: by name, from a file or from the image set, with single keys changed.

Where the image set alone is named, and it is one of photos, what depends on the pictures is chosen by looking at
them, and each value is said with its reason (`suit.py`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Set
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from residuum import recipe
from residuum.errors import UsageError
from residuum.models import MODELS
from residuum.models._catalog import options_of
from residuum.models.pretrained import network_of
from residuum.recipe import ALIASES, Recipe
from residuum.recipes import RECIPES
from residuum.training import suit

DEFAULTS = {"digits": "digits", "cifar10": "resnet20_cifar10_fast", "cifar100": "resnet20_cifar10_fast"}
"""The recipe that `--data` alone means; for anything else it is `photos`."""

PHOTOS, SCRATCH = "photos", "photos_scratch"


def choose_recipe(wanted: str | Path | Recipe | None, data: str | None, changes: Mapping[str, object]) -> Recipe:
    """Returns the recipe that was named, with its changes; no picture is looked at."""
    changes = dict(changes)
    for key in ("batch_size", "data.batch_size"):
        if changes.get(key) == "auto":  # what is learned stays what it was; only the parts follow from the memory
            del changes[key]
            changes["accumulate"] = 0
    if wanted is None:
        wanted = _implied(data)
    if isinstance(wanted, Recipe):
        chosen = wanted
    elif _is_file(wanted):
        chosen = recipe.read(Path(wanted))
    else:
        chosen = RECIPES[str(wanted)].build()
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


def choose(
    wanted: str | Path | Recipe | None, data: str | None, changes: Mapping[str, object], *, download: bool = True
) -> tuple[Recipe, list[str]]:
    """Returns the recipe that `train` runs, and a sentence for each of its values that follows from the pictures.

    Where weights are named and no network is, by a flag or in a recipe's file, it is the network that they are of.
    Without `download` the weights to start from are taken for granted, unless offline.

    Raises:
        DataError: the pictures cannot be used.
        WeightsError: weights in a cache are not what they should be.
    """
    named = choose_recipe(wanted, data, changes)
    given = {ALIASES.get(key, key) for key in changes}
    network, why_network = _network_of_the_weights(wanted, named, given)
    if network:
        changes = {**network, **changes}
        named = choose_recipe(wanted, data, changes)
    if wanted is not None or data is None or data in DEFAULTS or _is_synthetic(data):
        return named, why_network
    look = suit.look_at(named)
    start = str(network.get("model.name", "")) if _has_weights(changes) else None
    small, why_small = suit.small_network(look, given, start)
    weights, why_weights = suit.weights_for({**small, **changes}, named, download=download)
    base = replace(RECIPES[PHOTOS if weights else SCRATCH].build(), name=PHOTOS)
    chosen = choose_recipe(
        base,
        data,
        {**small, **({"model.weights": weights} if weights and "model.weights" not in given else {}), **changes},
    )
    values, reasons = suit.fit_to_pictures(chosen, look, given)
    return recipe.override(chosen, values), [*why_network, *why_small, *why_weights, *reasons]


def _network_of_the_weights(
    wanted: str | Path | Recipe | None, named: Recipe, given: Set[str]
) -> tuple[dict[str, object], list[str]]:
    """Returns the changes that make a recipe's network that of its weights, and why; none where somebody said which
    network it is to be, or the weights do not say it."""
    if "model.name" in given or isinstance(wanted, Recipe) or _names_a_network(wanted):
        return {}, []
    theirs = network_of(named.model.weights)
    known = {field.name for field in fields(recipe.Model)} - {"weights"}
    changes = {f"model.{key}": value for key, value in theirs.items() if key in known}
    if not changes or theirs["name"] == named.model.name:
        return changes, []
    return changes, [f"{theirs['name']}: the network that the weights {named.model.weights} are of."]


def _names_a_network(wanted: str | Path | None) -> bool:
    """Whether it is a recipe's file in which somebody wrote which network is meant."""
    if wanted is None or not _is_file(wanted):
        return False
    table = tomllib.loads(Path(wanted).read_text(encoding="utf-8-sig")).get("model", {})
    return "name" in table


def _has_weights(changes: Mapping[str, object]) -> bool:
    """Whether weights to start from were asked for."""
    return changes.get("weights", changes.get("model.weights", "none")) != "none"


def _is_file(wanted: str | Path) -> bool:
    """Whether a recipe is named by its file, and not by its name."""
    if isinstance(wanted, Path) or wanted.endswith(".toml"):
        return True
    return wanted not in RECIPES and Path(wanted).is_file()


def _is_synthetic(data: str | None) -> bool:
    return (data or "").split(":", maxsplit=1)[0] == "synthetic"


def _implied(data: str | None) -> Recipe:
    """Returns the recipe that an image set alone means; noise is nothing that other weights know anything of."""
    if _is_synthetic(data):
        return replace(RECIPES[SCRATCH].build(), name=PHOTOS)
    return RECIPES[DEFAULTS.get(data or "digits", PHOTOS)].build()
