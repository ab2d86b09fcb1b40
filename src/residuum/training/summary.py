"""What people read of a finished run: plots/ and report.html."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from residuum import hardware, imaging, recipe
from residuum.data.labels import in_words
from residuum.data.sets import ImageSet
from residuum.evaluation.explain import explain
from residuum.evaluation.label_issues import SUSPICIOUS, LabelIssue, label_issues, write_csv
from residuum.evaluation.multilabel_report import write_label_report
from residuum.evaluation.pictures import Mistake, Picture, as_pixels
from residuum.evaluation.report import Content, write_report
from residuum.models.layers import Network
from residuum.training.data_check import check_of, warnings_of
from residuum.training.run import LabelResult, Result, Run

PICTURES, MISTAKES = 32, 12
"""How many training pictures, and how many mistakes, the report shows."""


def write_summary(run: Run, result: Result | LabelResult, model: Network) -> None:
    """Writes plots/ and report.html; `model` is the network that `result` is about."""
    record = run.parts.record
    checked, unread = check_of(run)
    for warning in (warnings := warnings_of(checked)):
        run.records.note(warning)
    issues = issues_of_result(result, run.classes)
    if issues is not None:
        write_csv(run.folder / SUSPICIOUS, issues)
    search = run.folder / "plots" / "lr_search.png"
    bundle = shlex.quote(str(run.folder / "best"))
    content: Content[Any, Any] = Content(
        title=f"{run.recipe.model.name} on {Path(run.recipe.data.source).name}",
        part=result.part,
        scores=result.scores,
        predictions=result.predictions,
        reliance=result.reliance if isinstance(result, Result) else None,
        threshold_chosen_here=result.part == "val" and run.recipe.unknown_below == "auto",
        model=run.recipe.model.name,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        images=len(run.parts.train),
        epochs=run.epoch,
        seconds=run.seconds,
        records=run.records.history,
        recipe_toml=recipe.to_toml(run.recipe),
        command=_again(run),
        class_counts=_mapping(record.get("counts")),
        data_facts={"source": record.get("source"), "kind": record.get("kind"), **_mapping(record.get("split"))},
        environment=hardware.describe(run.device),
        next_commands={
            "Predict": f"residuum predict {bundle} {shlex.quote(str(run.sample or 'PICTURE'))}",
            "Evaluate": f"residuum evaluate {bundle} --data DATA",
            "Check the pictures": f"residuum check {shlex.quote(run.recipe.data.source)}",
        },
        training_pictures=_as_the_network_sees_them(run),
        mistakes=_shown(run, result, model),
        warnings=[*run.parts.warnings, *warnings],
        skipped=run.skipped,
        ignored=run.parts.ignored,
        checked=checked,
        unread=unread,
        label_issues=issues,
        label_commands={} if run.recipe.data.folds else _label_commands(run),
        lr_search=search.read_bytes() if search.is_file() else b"",
    )
    write = write_report if isinstance(result, Result) else write_label_report
    write(run.folder / "report.html", content, plots=run.folder / "plots")


def issues_of_result(result: Result | LabelResult, classes: Sequence[str]) -> list[LabelIssue] | None:
    """Returns the suspicious labels among the pictures that a run was scored on, None where it was trained on these, or
    where a picture may have several classes."""
    if isinstance(result, LabelResult) or result.part == "train":
        return None
    return label_issues([(result.predictions, result.images)], classes)


def _label_commands(run: Run) -> dict[str, str]:
    """Returns purpose -> command of what judges the labels of all pictures."""
    source, bundle = shlex.quote(run.recipe.data.source), shlex.quote(str(run.folder / "best"))
    return {
        "All pictures in seconds, by those most like each": f"residuum check {source} --bundle {bundle}",
        "All pictures, each by a network that was not trained on it": f"{_again(run)} --folds 5",
    }


def _again(run: Run) -> str:
    """Returns the command that trains as the run did: the same recipe, network, weights and pictures."""
    return f"residuum train --recipe {shlex.quote(str(run.folder / 'recipe.toml'))}"


def _mapping(value: object) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _as_the_network_sees_them(run: Run) -> list[Picture]:
    batches = run.train_loader.pictures.epoch(0)
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    images, targets = run.mix(run.resize(batch.images, 0.0), batch.labels, 0)
    count = min(PICTURES, len(targets))
    pixels = as_pixels(images[:count].float().cpu().numpy(), run.preprocessing.mean, run.preprocessing.std)
    return [Picture(image, _title(run, target)) for image, target in zip(pixels, targets[:count], strict=True)]


def _title(run: Run, target: Tensor) -> str:
    """Returns the class of a label, or its classes, or those of a mixture with their parts."""
    if target.ndim == 0 or (run.parts.train.labels.ndim == 2 and bool((target.frac() == 0).all())):
        return in_words(target.cpu().numpy(), run.classes) or "none"
    parts = sorted(enumerate(target.tolist()), key=lambda part: -part[1])[:2]
    return " + ".join(f"{100 * share:.0f} % {run.classes[place]}" for place, share in parts if share > 0)


def _shown(run: Run, result: Result | LabelResult, model: Network) -> list[Mistake]:
    return worst_mistakes(run, result, model) if isinstance(result, Result) else worst_answers(run, result, model)


def worst_mistakes(run: Run, result: Result, model: Network) -> list[Mistake]:
    """Returns the surest mistakes, each with what spoke for the wrong class."""
    shown = []
    for place in result.predictions.confident_mistakes(MISTAKES):
        index, predicted = int(result.predictions.indices[place]), int(result.predictions.top[place, 0])
        label, prob = run.classes[int(result.predictions.labels[place])], float(result.predictions.probs[place, 0])
        shown.append(_explained(run, result.images, index, predicted, model, label, run.classes[predicted], prob))
    return shown


def worst_answers(run: Run, result: LabelResult, model: Network) -> list[Mistake]:
    """Returns the surest wrong answers, each with what spoke for the class that is, or is not, there."""
    found, probs = result.predictions, result.predictions.probs
    shown = []
    for row, place in found.confident_mistakes(result.scores.thresholds, MISTAKES):
        said = f"{'misses' if found.labels[row, place] else 'adds'} {run.classes[place]}"
        label, prob = in_words(found.labels[row], run.classes) or "none of the classes", float(probs[row, place])
        prob = 1 - prob if found.labels[row, place] else prob  # of the answer that it gave
        shown.append(_explained(run, result.images, int(found.indices[row]), place, model, label, said, prob))
    return shown


def _explained(
    run: Run, images: ImageSet, index: int, place: int, model: Network, label: str, said: str, prob: float
) -> Mistake:
    """Returns picture `index` with what speaks for class `place` on it."""
    picture = images.open(index)
    normalised = imaging.normalise(imaging.prepare(picture, run.preprocessing)[None], run.preprocessing)
    prepared = torch.from_numpy(normalised).to(run.device, memory_format=torch.channels_last)
    heat = explain(model, prepared, [place], autocast=run.eval_autocast).maps[0]
    seen = imaging.seen_part(picture.size, run.preprocessing)
    picture.thumbnail((256, 256))
    return Mistake(
        np.atleast_3d(np.asarray(picture)),
        label=label,
        predicted=said,
        prob=prob,
        name=images.name(index),
        heat=heat,
        seen=seen,
    )
