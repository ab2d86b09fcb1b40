"""How a run ends: the weights that were kept are judged, and what people read is written.

No run needs this file, nor what it alone imports, before its last epoch.
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import torch

from residuum import bundle
from residuum.calibration import Calibration
from residuum.data.labels import in_words
from residuum.data.loading import EvalLoader
from residuum.data.sets import FileSet, ImageSet
from residuum.evaluation import multilabel
from residuum.evaluation.tempered import Tempered, evaluate_both
from residuum.evaluation.trained import rows
from residuum.models import saved
from residuum.models.inference import answering
from residuum.training.build import eval_loader
from residuum.training.calibrated import calibration_of, complete_best
from residuum.training.run import LabelResult, Result, Run
from residuum.training.start import write_json

SAMPLES = 5
"""How many held-out pictures are left in `samples/` to try `residuum predict` on, where they are no files already."""


def end(run: Run) -> None:
    """Gives the weights that were kept a temperature, scores them on the part that decides, once, and writes everything
    that people read."""
    _keep_if_nothing_is_kept(run)
    best = run.world.from_main(lambda: saved.load(run.folder / "best"))
    model = best.model.to(run.device).to(memory_format=torch.channels_last)  # in place
    one_class = best.thresholds is None  # of several, each has a threshold of its own, and there is no temperature
    calibration = calibration_of(run, model) if one_class else best.calibration
    part = "val" if run.recipe.data.folds else run.parts.deciding  # a fold decides on its own pictures
    images = run.parts.by_name[part]
    loader = eval_loader(images, run.recipe, run.preprocessing, run.device, run.parts.total, run.world)
    result, table = _judged(run, best, calibration, loader, part, images)
    run.note_skipped(run.train_loader.skipped | loader.skipped | (run.val_loader.skipped if run.val_loader else {}))
    run.result = result
    run.world.from_main(lambda: complete_best(run, calibration, result))
    if not run.world.is_main:
        return
    told = result.reliance.as_dict() if isinstance(result, Result) else {}
    write_json(run.folder / "scores.json", {"part": part, "seconds": run.seconds, **result.scores.as_dict(), **told})
    with (run.folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    run.records.write_csv()
    run.sample = _sample(run, images)
    from residuum.training.summary import write_summary  # matplotlib, which only the process that writes needs

    write_summary(run, run.result, model)


def _keep_if_nothing_is_kept(run: Run) -> None:
    """Makes the weights as they are the result of a run that ended before its recipe would have kept any: resumed with
    fewer epochs than it had done."""
    missing = run.world.from_main(lambda: not bundle.is_there(run.folder / "best"))
    if missing or (run.val_loader is None and run.best_epoch < run.epoch):
        run.best_epoch = run.epoch
        run.save({}, best=True)


def _judged(
    run: Run, best: saved.Saved, calibration: Calibration, loader: EvalLoader, part: str, images: ImageSet
) -> tuple[Result | LabelResult, list[dict[str, object]]]:
    """Returns how the weights that were kept fare on a part, and a row for each of its pictures."""
    network = answering(best.model, "fp32")
    if best.thresholds is not None:
        found, said = multilabel.evaluate(network, loader, run.classes, world=run.world, thresholds=best.thresholds)
        return LabelResult(part, found, said, images), multilabel.rows(said, images, found)
    tempered, below = Tempered(network, calibration.temperature), calibration.unknown_below
    scores, predictions, told = evaluate_both(tempered, loader, run.classes, world=run.world, unknown_below=below)
    return Result(part, scores, predictions, images, told), rows(predictions, images, run.classes, below)


def _sample(run: Run, images: ImageSet) -> Path:
    """Returns something to type after `residuum predict BUNDLE`: a held-out file, or a folder of held-out pictures."""
    assert run.result is not None
    usable = run.result.predictions.indices[:SAMPLES].tolist()
    if isinstance(images, FileSet):
        return Path(images.name(usable[0]))
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    for place in usable:
        label = re.sub(r"[^A-Za-z0-9._-]+", "_", in_words(images.labels[place], run.classes) or "none")
        images.open(place).save(folder / f"{place}-{label}.png")
    return folder
