"""The whole job: a recipe and pictures in, a run folder out."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from residuum import hardware, recipe
from residuum.data.parts import ORDER, same_pictures
from residuum.data.sets import FileSet, ImageSet
from residuum.errors import DataError, ResourceError, UsageError
from residuum.evaluation.evaluate import evaluate
from residuum.evaluation.trained import rows
from residuum.models import MODELS, saved
from residuum.models._catalog import options_of
from residuum.recipe import Recipe
from residuum.recipes import RECIPES
from residuum.training import checkpoint
from residuum.training.loop import fit
from residuum.training.records import Listener
from residuum.training.run import Result, Run, build, eval_loader
from residuum.training.stop import listening
from residuum.training.summary import as_list, ignored_in_words, write_summary

DEFAULTS = {"digits": "digits", "cifar10": "resnet20_cifar10_fast", "cifar100": "resnet20_cifar10_fast"}
"""The recipe that `--data` alone means; for anything else it is `photos`."""

SAMPLES = 5
"""How many held-out pictures are left in `samples/` to try `residuum predict` on, where they are no files already."""


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    data: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    device: str = "auto",
    listener: Listener | None = None,
    changes: Mapping[str, object] | None = None,
    **more: object,
) -> Run:
    """Trains a network and leaves a run folder with the model, its scores and a report; returns the finished run.

    `recipe` is a name, a TOML file or a Recipe; without one it follows from `data`. Recipe keys are changed by name
    (`epochs=3`, `lr=0.1`) or in the mapping `changes` (`{"optim.momentum": 0.8}`). `out` is the run folder, which must
    be new (default `runs/<recipe>-<n>`). `resume` is the folder of a run to go on with, and excludes the rest.

    Raises:
        UsageError: a name, key or value that does not exist, or a run folder that does.
        DataError: the pictures cannot be used.
        ResourceError: the run folder cannot be written.
        DivergedError: the loss is not finite any more.
        Stopped, Interrupted: a signal asked for it; everything is saved.
    """
    created: list[Path] = []
    changes = {**(changes or {}), **more}
    if resume is not None:
        if recipe is not None or data is not None or out is not None or changes:
            raise UsageError(
                "A resumed run has its recipe, its pictures and its folder already.",
                expected="Expected --resume alone.",
                hint=f"Go on with: residuum train --resume {shlex.quote(str(resume))}",
            )
        with _refusals_named(Path(resume)):
            run = _reopen(Path(resume), device, listener)
    else:
        wanted = choose_recipe(recipe, data, changes)
        folder, created = _new_folder(wanted, out)
        try:
            with _refusals_named(folder):
                run = _start(wanted, folder, device, listener)
        except BaseException:
            _remove_if_empty_handed(folder, created)
            raise
    try:
        with listening(run.stop), _refusals_named(run.folder):
            _announce(run)
            run.start_clock()
            fit(run)
    except ResourceError:
        _remove_if_empty_handed(run.folder, created)
        raise
    with _refusals_named(run.folder):
        finish(run)
    return run


def choose_recipe(wanted: str | Path | Recipe | None, data: str | None, changes: Mapping[str, object]) -> Recipe:
    """Returns the recipe that `train` would run."""
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


def finish(run: Run) -> None:
    """Scores the weights that were kept on the part that decides, once, and writes everything that people read."""
    trained = saved.load(run.folder / "best", run.device)
    part, images = next(
        (name, images)
        for name, images in (("test", run.parts.test), ("val", run.parts.val), ("train", run.parts.train))
        if images is not None
    )
    loader = eval_loader(images, run.recipe, run.preprocessing, run.device, run.parts.total)
    scores, predictions = evaluate(trained.model, loader, run.classes, run.eval_autocast)
    run.skipped |= run.train_loader.skipped | loader.skipped | (run.val_loader.skipped if run.val_loader else {})
    run.result = Result(part, scores, predictions, images)
    _write_json(run.folder / "scores.json", {"part": part, "seconds": run.seconds, **scores.as_dict()})
    with (run.folder / "predictions.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ["file", "label", "predicted", "prob", "correct"])
        writer.writeheader()
        writer.writerows(rows(predictions, images, run.classes))
    run.records.write_csv()
    run.sample = _sample(run, images)
    write_summary(run, run.result)


def _start(wanted: Recipe, folder: Path, device: str, listener: Listener | None) -> Run:
    run = build(wanted, folder, hardware.choose_device(device), listener)
    (folder / "recipe.toml").write_text(recipe.to_toml(wanted), encoding="utf-8")
    _write_json(folder / "data.json", {**run.parts.record, "skipped": run.skipped})
    _write_json(folder / "env.json", {**hardware.describe(run.device), "precision": run.precision})
    return run


def _announce(run: Run) -> None:
    """Tells the log and the listener what is about to be trained on what."""
    parts = {"train": run.parts.train, "val": run.parts.val, "test": run.parts.test}
    for warning in (*as_list(run.parts.record.get("warnings")), *ignored_in_words(run.parts.record)):
        run.records.note(warning)
    for name, reason in run.skipped.items():
        run.records.note(f"Skipped {name}: {reason}.")
    run.records.write(
        kind="start",
        recipe=run.recipe.name,
        model=run.recipe.model.name,
        parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        source=run.recipe.data.source,
        classes=len(run.classes),
        images={name: len(part) for name, part in parts.items() if part is not None},
        img_size=run.preprocessing.img_size,
        device=str(run.device),
        precision=run.precision,
        epochs=run.recipe.epochs,
        epoch=run.epoch,
        steps_per_epoch=len(run.train_loader),
        folder=str(run.folder),
    )


def _reopen(folder: Path, device: str, listener: Listener | None) -> Run:
    if not checkpoint.is_run(folder):
        raise UsageError(
            f"There is no run to go on with in {folder}.",
            expected="Expected a run folder with recipe.toml and last/.",
            hint="Start a new one: residuum train",
        )
    run = build(recipe.read(folder / "recipe.toml"), folder, hardware.choose_device(device), listener)
    if not same_pictures(run.parts.record, json.loads((folder / "data.json").read_text(encoding="utf-8")), ORDER):
        raise DataError(
            f"The set {run.recipe.data.source!r} has other pictures now than when the run {folder} was started.",
            expected="Expected the same files: otherwise held-out pictures would be trained on.",
            hint="Start a new run: residuum train",
        )
    checkpoint.restore(run)
    run.records.rewind(run.step)
    run.records.note(f"Resumed at epoch {run.epoch}, step {run.step}.")
    return run


def _new_folder(wanted: Recipe, out: str | Path | None) -> tuple[Path, list[Path]]:
    """Creates the run folder, which must not hold anything yet; returns it and what was created, innermost first."""
    try:
        if out is None:
            name = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted.name) or "run"
            runs = Path("runs")
            created = [] if runs.exists() else [runs]
            folder = _first_free(runs, name)
            return folder, [folder, *created]
        folder = Path(out)
        created = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(
                f"The folder {folder} is not empty.",
                expected="Expected a new folder: a run is never overwritten.",
                hint=f"Give another --out, or go on with that run: residuum train --resume {shlex.quote(str(folder))}",
            )
        return folder, created
    except OSError as error:
        raise _unwritable(Path(out or "runs"), error) from error


def _first_free(parent: Path, name: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / f"{name}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def _remove_if_empty_handed(folder: Path, created: Sequence[Path]) -> None:
    """Takes back a run folder without any weights in it, and the folders around it that were created for it."""
    if (folder / "best").exists() or (folder / "last").exists():
        return
    for file in ("recipe.toml", "data.json", "env.json", "log.txt", "metrics.jsonl"):
        (folder / file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it
        for place in created:
            place.rmdir()


def _unwritable(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"Cannot write {error.filename or folder}: {error.strerror or error}.",
        expected="Expected a folder that can be written, with space left.",
        hint="Free some space, or write somewhere else with --out.",
    )


@contextlib.contextmanager
def _refusals_named(folder: Path) -> Iterator[None]:
    """Turns an operating system's refusal to write into a ResourceError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG):
            raise _unwritable(folder, error) from error
        raise


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _sample(run: Run, images: ImageSet) -> Path:
    """Returns something to type after `residuum predict BUNDLE`: a held-out file, or a folder of held-out pictures."""
    assert run.result is not None
    usable = run.result.predictions.indices[:SAMPLES].tolist()
    if isinstance(images, FileSet):
        return Path(images.name(usable[0]))
    folder = run.folder / "samples"
    folder.mkdir(exist_ok=True)
    for place in usable:
        label = re.sub(r"[^A-Za-z0-9._-]+", "_", run.classes[int(images.labels[place])])
        images.open(place).save(folder / f"{place}-{label}.png")
    return folder
