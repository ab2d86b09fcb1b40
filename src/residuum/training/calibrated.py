"""The last thing that a run does to its weights: the temperature of the kept ones, and a threshold, into `best/`."""

from __future__ import annotations

from torch import nn

from residuum.calibration import Calibration
from residuum.evaluation.calibrate import collect, fit, in_words, write
from residuum.training.build import eval_loader
from residuum.training.run import Run


def calibrate_best(run: Run, model: nn.Module, known: Calibration) -> Calibration:
    """Chooses what the recipe wants on the run's validation pictures, writes it into `best/`, and says it.

    `model` is the network in `best/`, and `known` what that says of itself already. Without validation pictures the
    temperature stays at 1.
    """
    best, wanted = run.folder / "best", run.recipe.unknown_below
    if run.parts.val is None:
        found = Calibration(unknown_below=None if isinstance(wanted, str) else wanted)
        run.records.note(
            "There are no validation pictures to choose a temperature on: it is 1, and probabilities are as the "
            "network gives them."
        )
    else:
        loader = eval_loader(run.parts.val, run.recipe, run.preprocessing, run.device, run.parts.total, run.world)
        collected = collect(model, loader, len(run.classes), run.eval_autocast, run.world)
        chosen = fit(collected, wanted)
        found = Calibration(chosen.temperature, chosen.unknown_below, {"pictures": "validation", **chosen.found})
        run.note_skipped(loader.skipped)
        run.records.note(in_words(found, f"{len(collected.labels):,} validation pictures"))
    if found != known:
        run.world.from_main(lambda: write(best, best, found))
    return found
