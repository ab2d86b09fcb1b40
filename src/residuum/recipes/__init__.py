"""What to run: each recipe is one function that returns a `Recipe`, with its source and what it must reach.

Run one: residuum train --recipe NAME. See one: residuum recipes show NAME.
"""

from __future__ import annotations

from residuum.recipe import Expect, Recipe
from residuum.registry import Registry

RECIPES: Registry[Expect, Recipe] = Registry("recipe", "residuum.recipes", "residuum recipes")

__all__ = ["RECIPES"]
