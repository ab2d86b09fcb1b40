"""How a run starts: new in an empty folder, or from where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from residuum import hardware, recipe
from residuum.data.identity import from_here, place_of
from residuum.data.parts import ORDER, same_pictures
from residuum.distributed import ALONE, World, launcher
from residuum.errors import DataError, RecipeError, UsageError
from residuum.recipe import Recipe
from residuum.training import checkpoint
from residuum.training.build import build
from residuum.training.choose import choose_recipe
from residuum.training.records import Listener
from residuum.training.run import Run
from residuum.training.seen import warn_if_seen
from residuum.training.stop import Stop

FIXED = (
    "model.",
    "data.source",
    "data.labels",
    "data.mode",
    "data.val_fraction",
    "data.test_fraction",
    "data.split_seed",
    "data.fold",  # and `data.folds`
)
"""The keys that a run keeps for life: its network, and which pictures it learns from. Others may change on the way."""


def start(
    wanted: Recipe, folder: Path, device: torch.device, listener: Listener | None, stop: Stop, world: World = ALONE
) -> Run:
    """Returns a new run, ready for its first step; from here on it can be resumed, whatever stops it."""
    machine = hardware.describe(device) if world.is_main else {}
    if world.is_main:
        write_text(folder / "recipe.toml", recipe.to_toml(wanted))
        _write_environment(folder, machine, None)
    stop.folder = folder
    run = build(wanted, folder, device, listener, stop=stop, world=world)
    warn_if_seen(run)
    if world.is_main:
        write_text(folder / "recipe.toml", recipe.to_toml(run.recipe))
        write_json(folder / "data.json", {**run.parts.record, "skipped": run.skipped})
        _write_environment(folder, machine, run.precision)
    return run


def resumed(
    folder: Path,
    wanted: str | Path | Recipe | None,
    data: str | None,
    changes: Mapping[str, object],
    device: torch.device,
    listener: Listener | None,
    *,
    override: bool,
    stop: Stop,
    world: World = ALONE,
) -> Run:
    """Returns the run in `folder` as its newest complete checkpoint left it, with its recipe changed as asked.

    Raises:
        UsageError: there is no run.
        RecipeError: without `override`, a key that a run keeps for life is changed.
        DataError: without `override`, the set has other classes or pictures than before.
        WeightsError: there is no complete checkpoint, or it is not of this network.
    """
    if not world.from_main(lambda: checkpoint.is_run(folder)):
        raise UsageError(
            f"There is no run to go on with in {folder}.",
            expected="Expected a run folder, with recipe.toml.",
            hint="Start a new one: residuum train",
        )
    before = world.from_main(lambda: recipe_in(folder))
    now = _called_alike(before, choose_recipe(before if wanted is None else wanted, data, changes))
    if now.accumulate == 0 and world.restarts:  # memory decided in an earlier life
        now = replace(now, accumulate=before.accumulate)
    changed = _changes(before, now)
    _refuse_other_networks_and_sets(folder, changed, override)
    if not world.from_main(lambda: checkpoint.has_weights(folder)):
        run = start(now, folder, device, listener, stop, world)
        run.records.rewind(0, 0)
        run.records.note("It was stopped before its first checkpoint, and begins anew.")
        return run
    stop.folder = folder
    run = build(now, folder, device, listener, stop=stop, world=world, fresh=False)
    warn_if_seen(run)
    if not override:
        _refuse_other_pictures(run, world.from_main(lambda: json.loads((folder / "data.json").read_text("utf-8"))))
    found, word = world.from_main(lambda: checkpoint.read(folder))
    misfits = checkpoint.restore(run, found, what_fits=override)
    run.records.rewind(*checkpoint.progress(found))
    if misfits:
        run.records.note(
            f"{len(misfits)} tensors of the checkpoint do not fit the network and start anew: {misfits[0]}."
        )
    if word:
        run.records.note(word)
    for key, (old, new) in changed.items():
        run.records.note(f"{key} is {new!r} from here on; it was {old!r}.")
    if changed and world.is_main:
        write_text(folder / "recipe.toml", recipe.to_toml(run.recipe))
        write_json(folder / "data.json", {**run.parts.record, "skipped": run.skipped})
    if world.is_main:
        _write_environment(folder, hardware.describe(device), run.precision)
    run.records.note(f"Resumed at epoch {run.epoch}, step {run.step}.")
    return run


def recipe_in(folder: Path) -> Recipe:
    """Returns the recipe of the run in `folder`, its set named by the place where it was, if what its recipe calls it
    means another one in the current folder, or nothing."""
    wanted, record = recipe.read(folder / "recipe.toml"), folder / "data.json"
    place = json.loads(record.read_text("utf-8")).get("place") if record.is_file() else None
    return replace(wanted, data=replace(wanted.data, source=from_here(wanted.data.source, place)))


def _called_alike(before: Recipe, now: Recipe) -> Recipe:
    """Returns `now` with its set called as `before`, where both lead to one place."""
    own = before.data.source
    same = place_of(own) is not None and place_of(now.data.source) == place_of(own)
    return replace(now, data=replace(now.data, source=own)) if same else now


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Writes a document that people and programs read."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file, or replaces it whole: on a full disk the older one stays."""
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _write_environment(folder: Path, machine: Mapping[str, object], precision: str | None) -> None:
    write_json(folder / "env.json", {**machine, "precision": precision, "launcher": launcher()})


def _changes(before: Recipe, now: Recipe) -> dict[str, tuple[Any, Any]]:
    """Returns the dotted keys that differ, with both values; a key that one of them lacks is None there."""
    old, new = _flat(recipe.to_dict(replace(before, name=now.name))), _flat(recipe.to_dict(now))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)}


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _refuse_other_networks_and_sets(folder: Path, changed: Mapping[str, tuple[Any, Any]], override: bool) -> None:
    refused = [key for key in changed if key.startswith(FIXED)]
    if refused and not override:
        old, new = changed[refused[0]]
        also = f" (and {', '.join(refused[1:])})" if refused[1:] else ""
        raise RecipeError(
            f"The run {folder} cannot go on with {refused[0]} = {new!r}{also}.",
            expected=f"Expected {old!r}, with which it was started.",
            hint="Start a new run, or go on all the same with --override.",
        )


def _refuse_other_pictures(run: Run, record: Mapping[str, Any]) -> None:
    source = run.recipe.data.source
    if list(run.classes) != record["classes"]:
        raise DataError(
            f"The set {source!r} has other classes now: {', '.join(run.classes[:10])}.",
            expected=f"Expected the classes that the run {run.folder} was started with: "
            f"{', '.join(record['classes'][:10])}.",
            hint="Start a new run, or go on all the same with --override.",
        )
    if not same_pictures(run.parts.record, record, ORDER):
        raise DataError(
            f"The set {source!r} has other pictures now than when the run {run.folder} was started.",
            expected="Expected the same files: otherwise held-out pictures would be trained on.",
            hint="Start a new run, or go on all the same with --override.",
        )
