"""The whole job: a recipe and pictures in, a run folder out."""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from residuum import bundle, hardware
from residuum.distributed import World, joined, launcher
from residuum.errors import ResourceError, Stopped, UsageError
from residuum.recipe import Recipe
from residuum.recipe import override as override_recipe
from residuum.training import checkpoint
from residuum.training.choose import choose, choose_recipe
from residuum.training.embedded import embed_once
from residuum.training.find_lr import LrSearch
from residuum.training.find_lr import find_lr as search_lr
from residuum.training.loop import fit
from residuum.training.records import Listener
from residuum.training.run import Run
from residuum.training.start import resumed, start
from residuum.training.stop import Stop, listening


def train(
    recipe: str | Path | Recipe | None = None,
    *,
    data: str | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    override: bool = False,
    device: str = "auto",
    listener: Listener | None = None,
    find_lr: bool = False,
    changes: Mapping[str, object] | None = None,
    **more: object,
) -> Run:
    """Trains a network and leaves a run folder with the model, its scores and a report; returns the finished run.

    `recipe` is a name, a TOML file or a Recipe; without one it follows from `data`. Recipe keys are changed by name
    (`epochs=3`, `lr=0.1`) or in the mapping `changes` (`{"optim.momentum": 0.8}`); a `batch_size` of "auto" keeps the
    recipe's, in as many parts as memory needs. With `find_lr` a short trial chooses the learning rate. `out` is the run
    folder, which must be new (default `runs/<recipe>-<n>`). `resume` is the folder of a run to go on with, by its own
    recipe with what the others change; another network or other pictures need `override`. Under torchrun or srun, all
    processes train together.

    Raises:
        UsageError: a name, key or value that does not exist, or a run folder that does.
        DataError: the pictures cannot be used.
        WeightsError: the checkpoint to go on from is damaged, and the one before it too.
        ResourceError: the run folder cannot be written, or memory does not suffice.
        DivergedError: the loss is not finite any more.
        Stopped, Interrupted: a signal asked for it; everything is saved.
        PeerError: another process of this run has failed.
    """
    changes = {**(changes or {}), **more}
    refuse_contradictions(resume, out, override, find_lr, changes)
    stop = Stop()
    with joined() as world, listening(stop):
        place = hardware.choose_device(device, world.local_rank)
        resume = resume or _earlier_life(recipe, data, out, changes, world)
        created: list[Path] | None = None
        if resume is None:
            run, created = _begun(recipe, data, changes, find_lr, out, place, listener, stop, world)
        else:
            with _refusals_named(Path(resume)):
                run = resumed(
                    Path(resume), recipe, data, changes, place, listener, override=override, stop=stop, world=world
                )
        try:
            with _refusals_named(run.folder):
                _announce(run)
                run.start_clock()
                embed_once(run)
                with stop.between_steps():
                    fit(run)
                _say_if_early(run)
        except ResourceError:
            _remove_if_empty_handed(run.folder, created)
            raise
        with _refusals_named(run.folder):
            finish(run)
    return run


def refuse_contradictions(
    resume: str | Path | None, out: str | Path | None, override: bool, find_lr: bool, changes: Mapping[str, object]
) -> None:
    if find_lr and (resume is not None or {"lr", "optim.lr"} & changes.keys()):
        raise UsageError(
            "--find-lr chooses the learning rate of a new run, which has one already.",
            expected="Expected --find-lr without --lr and without --resume.",
            hint="Leave out one of them.",
        )
    if override and resume is None:
        raise UsageError(
            "--override is for a run that is resumed.",
            expected="Expected --resume RUN with it.",
            hint="Leave it out for a new run.",
        )
    if None not in (resume, out):
        raise UsageError(
            f"A resumed run has its folder already, {resume}.",
            expected="Expected --resume without --out.",
            hint=f"Go on with: residuum train --resume {shlex.quote(str(resume))}",
        )


def _say_if_early(run: Run) -> None:
    if run.epoch < run.recipe.epochs:
        run.records.note(
            f"Ended after epoch {run.epoch}: the scores of epoch {run.best_epoch} were not bettered since."
        )


def _begun(
    recipe: str | Path | Recipe | None,
    data: str | None,
    changes: Mapping[str, object],
    find_lr: bool,
    out: str | Path | None,
    device: torch.device,
    listener: Listener | None,
    stop: Stop,
    world: World,
) -> tuple[Run, list[Path] | None]:
    """Returns a new run and the folders that were created for it (None in a process that does not write), which are
    taken back where it cannot begin.
    """
    world.from_main(lambda: refuse_if_taken(out))  # before the long work
    wanted, reasons = world.from_main(lambda: choose(recipe, data, changes))
    search: LrSearch | None = None
    if find_lr:
        search = search_lr(wanted, device, world)
        wanted, reasons = override_recipe(wanted, {"lr": search.chosen}), [*reasons, search.in_words()]
    folder, created = world.from_main(lambda: new_folder(_plain_name(wanted), out))
    try:
        with _refusals_named(folder):
            run = start(wanted, folder, device, listener, stop, world)
            for reason in reasons:
                run.records.note(reason)
            if search is not None and world.is_main:
                search.write(folder)
            return run, created if world.is_main else None
    except Stopped:
        raise
    except BaseException:
        _remove_if_empty_handed(folder, created if world.is_main else None)
        raise


def _earlier_life(
    wanted: str | Path | Recipe | None,
    data: str | None,
    out: str | Path | None,
    changes: Mapping[str, object],
    world: World,
) -> Path | None:
    """Returns the folder of the run that torchrun started with the same words before it started this world anew."""

    def found() -> Path | None:
        if out is not None:
            folders = [Path(out)]
        else:
            folders = list(Path("runs").glob(f"{_plain_name(choose_recipe(wanted, data, changes))}-*"))
        for folder in sorted(folders, key=lambda folder: folder.stat().st_mtime, reverse=True):
            with contextlib.suppress(OSError, ValueError):
                if json.loads((folder / "env.json").read_text(encoding="utf-8")).get("launcher") == launcher():
                    return folder
        return None

    return world.from_main(found) if world.restarts else None


def finish(run: Run) -> None:
    """Gives the weights that were kept a temperature, scores them on the part that decides, once, and writes everything
    that people read."""
    from residuum.training.ending import end  # with what no run needs before its end

    end(run)


def _announce(run: Run) -> None:
    """Tells the log and the listener what is about to be trained on what."""
    for warning in (*run.parts.warnings, *run.parts.ignored_in_words()):
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
        images={name: len(part) for name, part in run.parts.by_name.items()},
        img_size=run.preprocessing.img_size,
        device=str(run.device),
        precision=run.precision,
        epochs=run.recipe.epochs,
        epoch=run.epoch,
        steps_per_epoch=len(run.train_loader),
        folder=str(run.folder),
    )


def new_folder(name: str, out: str | Path | None) -> tuple[Path, list[Path]]:
    """Creates the run folder `out`, or `runs/<name>-<n>`, which must not hold anything yet; returns it and
    what was created, innermost first."""
    try:
        if out is None:
            runs = Path("runs")
            created = [] if runs.exists() else [runs]
            folder = _first_free(runs, name)
            return folder, [folder, *created]
        folder = Path(out)
        created = [place for place in (folder, *folder.parents) if not place.exists()]
        refuse_if_taken(folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder, created
    except OSError as error:
        raise _unwritable(Path(out or "runs"), error) from error


def refuse_if_taken(out: str | Path | None) -> None:
    """Refuses a run folder that holds something already; a file in its place is refused where it is made."""
    if out is None or not Path(out).is_dir() or not any(Path(out).iterdir()):
        return
    held = (
        f"Give another --out, or go on with that run: residuum train --resume {shlex.quote(str(out))}"
        if checkpoint.is_run(Path(out))
        else "Give another --out."
    )
    raise UsageError(
        f"The folder {out} is not empty.", expected="Expected a new folder: a run is never overwritten.", hint=held
    )


def _plain_name(wanted: Recipe) -> str:
    """Returns the recipe's name as a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", wanted.name) or "run"


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


def _remove_if_empty_handed(folder: Path, created: Sequence[Path] | None) -> None:
    """Takes back a run folder without any weights in it, and the folders that were `created` for it.

    Where `created` is None, it is the folder of a run that was there before, and stays.
    """
    if created is None or (folder / "best").exists() or (folder / "last").exists():
        return
    for file in ("recipe.toml", "data.json", "env.json", "log.txt", "metrics.jsonl", "lr_search.csv"):
        (folder / file).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it
        for place in created:
            place.rmdir()


def _unwritable(folder: Path, error: OSError) -> ResourceError:
    last = folder / "last"
    needed = sum(file.stat().st_size for file in last.iterdir()) if last.is_dir() else 0
    room = f"; a checkpoint needs {needed:,} bytes and {bundle.free_space(folder)}" if needed else ", with space left"
    return ResourceError(
        f"Cannot write {error.filename or folder}: {error.strerror or error}.",
        expected=f"Expected a folder that can be written{room}.",
        hint="Free some space, or write somewhere else with --out. What the folder held is still there.",
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
