"""Whether the weights that a run starts from have learnt pictures that it holds out: its scores are too good then."""

from __future__ import annotations

import contextlib

from residuum import bundle
from residuum.data.parts import same_pictures
from residuum.errors import WeightsError
from residuum.evaluation.origin import Card, trained_on
from residuum.models.weights import WEIGHTS
from residuum.training.run import Run
from residuum.userpath import expanded


def warn_if_seen(run: Run) -> None:
    """Adds a warning to those of the set, which the log, the report and the terminal show."""
    word = run.world.from_main(lambda: _word(run))
    if word:
        run.parts.record["warnings"] = [*run.parts.warnings, word]


def _word(run: Run) -> str:
    data, weights = run.recipe.data, str(run.recipe.model.weights)
    if run.parts.val is None and run.parts.test is None:
        return ""
    card = _card(weights)
    theirs = card.get("data", {})
    if not theirs.get("names") or same_pictures(run.parts.record, theirs, ("train",)):
        return ""
    if not trained_on(card, data.source):
        return ""
    instead = (
        "Cross-validate from weights that know nothing of this set, such as imagenet."
        if data.folds
        else "Start from other weights, or hold out what that training held out (its data.split_seed and fractions)."
    )
    return (
        f"The weights {weights} were trained on this set, divided in another way: pictures that are held out now were "
        f"learnt then, so that scores are too good and labels that are wrong look right. {instead}"
    )


def _card(weights: str) -> Card:
    """Returns the card of the bundle that weights are named by; an empty one where they are no bundle, or none that is
    still there."""
    folder = expanded(weights)
    if weights in ("imagenet", *WEIGHTS) or not folder.is_dir():
        return {}
    with contextlib.suppress(WeightsError):  # a resumed run does not need it any more
        return bundle.read(folder)[1]
    return {}
