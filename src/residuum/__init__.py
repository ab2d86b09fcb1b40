"""residuum trains, understands and ships residual networks.

    model = residuum.create_model("resnet50", num_classes=10)
    run = residuum.train("photos", data="my_photos", epochs=30)
    residuum.load("runs/photos-1/best").predict("a.jpg")
    residuum.evaluate("runs/photos-1/best", data="more_photos")
    residuum.Index("vectors.parquet").search("a.jpg", top=5)

The names are imported when they are first used, so that `import residuum` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from residuum.deploy.explain import Explanation
    from residuum.deploy.predict import Prediction, Predictor, load
    from residuum.deploy.search import Index
    from residuum.errors import ResiduumError
    from residuum.evaluation.calibrate import calibrate
    from residuum.evaluation.trained import evaluate
    from residuum.models import create_model
    from residuum.models.embedding import embedder
    from residuum.recipe import Recipe
    from residuum.training.run import Run
    from residuum.training.train import train

_HOME = {
    "Explanation": "residuum.deploy.explain",
    "Index": "residuum.deploy.search",
    "Prediction": "residuum.deploy.predict",
    "Predictor": "residuum.deploy.predict",
    "Recipe": "residuum.recipe",
    "ResiduumError": "residuum.errors",
    "Run": "residuum.training.run",
    "calibrate": "residuum.evaluation.calibrate",
    "create_model": "residuum.models",
    "embedder": "residuum.models.embedding",
    "evaluate": "residuum.evaluation.trained",
    "load": "residuum.deploy.predict",
    "train": "residuum.training.train",
}

__all__ = [
    "Explanation",
    "Index",
    "Prediction",
    "Predictor",
    "Recipe",
    "ResiduumError",
    "Run",
    "__version__",
    "calibrate",
    "create_model",
    "embedder",
    "evaluate",
    "load",
    "train",
]


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'residuum' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
