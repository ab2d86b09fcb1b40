"""The last thing that a run does to its weights: the temperature of the kept ones, a threshold, and their scores on the
part that decides, into `best/`."""

from __future__ import annotations

from torch import nn

from residuum import bundle
from residuum.calibration import KEY, Calibration
from residuum.evaluation.calibrate import collect, fit, in_words
from residuum.training.build import eval_loader
from residuum.training.run import LabelResult, Result, Run


def calibration_of(run: Run, model: nn.Module) -> Calibration:
    """Chooses what the recipe wants on the run's validation pictures, and says it; `model` is the network in `best/`.

    Without validation pictures the temperature stays at 1.
    """
    wanted = run.recipe.unknown_below
    if run.parts.val is None:
        run.records.note(
            "There are no validation pictures to choose a temperature on: it is 1, and probabilities are as the "
            "network gives them."
        )
        return Calibration(unknown_below=None if isinstance(wanted, str) else wanted)
    loader = eval_loader(run.parts.val, run.recipe, run.preprocessing, run.device, run.parts.total, run.world)
    collected = collect(model, loader, len(run.classes), run.eval_autocast, run.world)
    chosen = fit(collected, wanted)
    found = Calibration(chosen.temperature, chosen.unknown_below, {"pictures": "validation", **chosen.found})
    run.note_skipped(loader.skipped)
    run.records.note(in_words(found, f"{len(collected.labels):,} validation pictures"))
    return found


def complete_best(run: Run, calibration: Calibration, result: Result | LabelResult) -> None:
    """Writes `best/` again with its calibration and its scores, where they are not in it already.

    The validation scores that chose the weights stay as they are there.
    """
    best = run.folder / "best"
    tensors, card = bundle.read(best)
    known, own = card.get("scores", {}), {result.part: result.scores.summary()}
    new = {**card, "scores": {**own, **known} if result.part == "val" else {**known, **own}}
    if KEY in card or calibration != Calibration():
        new[KEY] = calibration.as_dict()
    if new != card:
        bundle.write(best, tensors, new)
