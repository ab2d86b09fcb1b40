"""Runs on pictures that may have several classes: what of a recipe follows from that, and how such a run fares.

The loop is the same. What differs are objects: the loss, and what judges the network (`Run.judge`). A class is said to
be on a picture where its probability reaches the class's threshold, which validation pictures choose in every
evaluation, and which the bundle carries.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residuum import recipe
from residuum.data.balance import yes_weights
from residuum.data.labels import are_several, counts
from residuum.data.parts import Parts
from residuum.errors import RecipeError
from residuum.evaluation import multilabel
from residuum.evaluation.precision_recall import HALF
from residuum.training import losses
from residuum.training.run import Judge


def resolved(wanted: recipe.Recipe, parts: Parts) -> recipe.Recipe:
    """Returns the recipe with what follows from labels of several classes: that they are so, and the loss.

    Raises:
        RecipeError: it asks for another loss, or for one threshold for all classes.
    """
    if not are_several(parts.train.labels):
        return wanted
    if wanted.loss == "cross_entropy":
        raise RecipeError(
            "The recipe key 'loss' cannot be 'cross_entropy' where a picture may have several classes.",
            expected="Expected 'bce' (every class is a question of its own), or 'auto'.",
            hint="Use --set loss=bce. Where | is a letter of a class's name: --set data.labels=one",
        )
    if wanted.unknown_below != "none":
        raise RecipeError(
            f"unknown_below = {wanted.unknown_below!r} cannot be where a picture may have several classes.",
            expected="Expected 'none': each class has a threshold of its own, which validation pictures choose.",
            hint="Leave it out. Where | is a letter of a class's name: --set data.labels=one",
        )
    return replace(wanted, loss="bce", data=replace(wanted.data, labels="several"))


def criterion(wanted: recipe.Recipe, parts: Parts, device: torch.device) -> losses.Criterion:
    """Returns the loss, with the weights that `class_weights` asks for."""
    weights: Tensor | None = None
    if wanted.class_weights:
        having = counts(parts.train.labels, len(parts.train.classes))
        weights = torch.from_numpy(yes_weights(having, len(parts.train), wanted.class_weights))
        weights = weights.to(device, torch.float32)
    return losses.of_labels(wanted.label_smoothing, weights)


def judging(parts: Parts) -> dict[str, Any]:
    """Returns the fields of a run that say what judges it, and the thresholds before any pictures have chosen them;
    none where a picture has one class."""
    if not are_several(parts.train.labels):
        return {}
    judge: Judge = multilabel.evaluate
    return {"judge": judge, "thresholds": (HALF,) * len(parts.train.classes)}


def in_words(wanted: recipe.Recipe, parts: Parts) -> str:
    """Returns a sentence that says what such pictures mean for the run; nothing where they have one class each."""
    labels = parts.train.labels
    if not are_several(labels):
        return ""
    each, none = float(np.mean(labels.sum(axis=1))), int((~labels.any(axis=1)).sum())
    without = f", none on {none:,} of {len(labels):,}" if none else ""
    thresholds = (
        "thresholds for the best F1 come from the validation pictures"
        if parts.val is not None
        else f"there are no validation pictures to choose thresholds on, so they are {HALF:g}"
    )
    return (
        f"A picture may have several of the {len(parts.train.classes)} classes: {each:.2g} on average{without}. Each "
        f"class is a question of its own (loss = {wanted.loss}), and {thresholds}. Where | is a letter of a class's "
        "name: --set data.labels=one"
    )
