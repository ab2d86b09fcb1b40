"""How fast this machine is on residuum's own paths: `train`, `infer` and `data` measure, `Bench` is what they found.

The arms of a measurement are taken in turns, after a turn that warms up and is forgotten. Without pictures of one's own
they are random ones, whose content costs nothing. How long programs take to begin is `deploy/bench_startup.py`.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

import residuum
from residuum import hardware, memory, recipe
from residuum.data.loading import Batch, EvalLoader, TrainLoader
from residuum.data.observed import Excerpt
from residuum.data.sources import open_parts
from residuum.deploy.bench_inference import Mode, batches_for, modes_of, opened
from residuum.deploy.bench_recipes import recipe_for_data, recipe_for_training
from residuum.deploy.photographs import photographs
from residuum.imaging import Preprocessing
from residuum.recipe import Recipe
from residuum.threads import cores
from residuum.timing import Figure, Measure, in_turns
from residuum.training.build import build
from residuum.training.embedded import embed_once
from residuum.training.loop import train_epoch, train_step
from residuum.training.run import Run
from residuum.training.step_profile import StepProfile, profile

COLUMNS = (
    "bench", "what", "unit", "median", "low", "high", "turns", "model", "recipe", "data", "batch_size", "img_size",
    "precision", "device", "date", "machine", "cores", "threads", "python", "torch", "residuum",
)  # fmt: skip
"""Of the table that rows are written into."""

PHOTOGRAPHS = 256
"""So many are made where `data` has no pictures to load."""

_READY = 4  # batches that are loaded before bare steps are timed
_DIGITS = 5

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Measured:
    """One arm: its name, what it is in words, its unit, and what was found."""

    what: str
    meaning: str
    unit: str
    figure: Figure


@dataclass(frozen=True)
class Bench:
    """What a command has measured: the arms, what they were measured with (columns of a row), remarks for people, and
    where a step's time went if that was asked."""

    kind: str
    arms: tuple[Measured, ...]
    about: Mapping[str, object]
    notes: tuple[str, ...] = ()
    profile: StepProfile | None = None

    def rows(self) -> list[dict[str, object]]:
        """Returns a row of `COLUMNS` for each arm."""
        return [
            {
                **dict.fromkeys(COLUMNS, ""),
                "bench": self.kind,
                "what": arm.what,
                "unit": arm.unit,
                **_rounded(arm.figure),
                **self.about,
            }
            for arm in self.arms
        ]

    def as_dict(self) -> dict[str, object]:
        """What was measured in JSON's types."""
        arms = [
            {"what": arm.what, "meaning": arm.meaning, "unit": arm.unit, **_rounded(arm.figure)} for arm in self.arms
        ]
        watched = None if self.profile is None else self.profile.as_dict()
        return {"bench": self.kind, "arms": arms, **self.about, "notes": list(self.notes), "profile": watched}


def _rounded(figure: Figure) -> dict[str, object]:
    values = {"median": figure.median, "low": figure.low, "high": figure.high}
    return {**{name: float(f"{value:.{_DIGITS}g}") for name, value in values.items()}, "turns": figure.count}


def about(device: torch.device, **more: object) -> dict[str, object]:
    """Returns what a figure needs beside it: date, machine, versions, and what the caller adds."""
    here = hardware.describe(device)
    return {
        **more,
        "device": str(device),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": here["device"],
        "cores": here["cores"],
        "threads": here["threads"],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "residuum": residuum.__version__,
    }


def train(
    wanted: str | Path | Recipe | None = None,
    *,
    data: str | None = None,
    changes: Mapping[str, object] | None = None,
    device: str = "auto",
    steps: int = 20,
    turns: int = 5,
    profiled: bool = False,
    tell: Tell | None = None,
) -> Bench:
    """Measures training steps on batches that are there, epochs of at most `steps` steps with their loading, and the
    loading alone, in pictures a second, and the most memory that this process had.

    `wanted`, `data` and `changes` choose the recipe as in `train`; without `data` the pictures are random ones of the
    recipe's size. With `profiled` the time of a step is then told by what it is spent on.

    Raises:
        UsageError: a name, key or value that does not exist.
        DataError: the pictures cannot be used.
    """
    place = hardware.choose_device(device)
    chosen, notes = recipe_for_training(wanted, data, changes or {}, steps)
    with training_run(chosen, place, steps) as run:
        measures = arms_of_training(run)
        found = in_turns(measures, turns, tell=tell)
        watched = None
        if profiled:
            if tell is not None:
                tell("profile")
            watched = profile(run, steps)
    done = len(run.train_loader)
    meanings = {
        "step": "updates from batches that are there",
        "epoch": f"an epoch with its loading (the first {done} steps of it)",
        "loading": "pictures loaded and augmented, without training",
    }
    arms = [Measured(name, meanings[name], "images/s", Figure.of(values)) for name, values in found.items()]
    arms += _peak(place)
    with_what = _about_recipe(run.recipe, place, run.precision)
    return Bench("train", tuple(arms), with_what, (*notes, *_remarks_on_loading(arms)), watched)


@contextmanager
def training_run(wanted: Recipe, device: torch.device, steps: int) -> Iterator[Run]:
    """Yields a run, in a folder of the moment, whose epochs have at most `steps` steps and whose every part learns."""
    with tempfile.TemporaryDirectory(prefix="residuum-bench-") as folder:
        run = build(wanted, Path(folder), device)
        embed_once(run)
        run.epoch = run.thawing.all_learn_from
        run.train_loader = Excerpt(run.train_loader, steps)
        yield run


def arms_of_training(run: Run) -> dict[str, Measure]:
    """Returns what is measured of a training run, each in pictures a second."""
    batches = list(islice(run.train_loader.epoch(run.epoch), _READY))

    def step() -> float:
        run.thawing.begin(run.epoch)  # also puts the network in training mode
        images, started = 0, time.perf_counter()
        for number in range(len(run.train_loader)):
            batch = batches[number % len(batches)]
            train_step(run, batch, run.counts(batch))
            run.step += 1
            images += len(batch.labels)
        return images / (time.perf_counter() - started)

    def epoch() -> float:
        train_epoch(run)
        run.epoch += 1
        return run.images_per_s

    def loading() -> float:
        return rate(run.train_loader.epoch(run.epoch), run.device)

    return {"step": step, "epoch": epoch, "loading": loading}


def rate(batches: Iterable[Batch], device: torch.device) -> float:
    """Returns how many pictures a second come out of `batches`."""
    images, started = 0, time.perf_counter()
    for batch in batches:
        images += len(batch.labels)
    _wait(device)
    return images / (time.perf_counter() - started)


def _remarks_on_loading(arms: Iterable[Measured]) -> Iterator[str]:
    rates = {arm.what: arm.figure.median for arm in arms}
    if rates["epoch"] < 0.9 * rates["step"]:
        lost = 100 * (1 - rates["epoch"] / rates["step"])
        yield f"Loading costs {lost:.0f} % of the speed of bare steps."


def infer(
    model: str = "resnet50",
    *,
    data: str | None = None,
    batch_size: int = 32,
    img_size: int | None = None,
    device: str = "auto",
    steps: int = 10,
    turns: int = 5,
    tell: Tell | None = None,
) -> Bench:
    """Measures a network (a name, with random weights, or a bundle) in each mode of computing, in pictures a second.

    The pictures are random ones, or the first of `data`, which then also tell on how many of them the answer is that of
    float32.

    Raises:
        UsageError: no network and no bundle is called so.
        DataError: the pictures cannot be used.
    """
    place = hardware.choose_device(device)
    hardware.take(place)
    network, preprocessing, name = opened(model, place, img_size)
    batches = batches_for(preprocessing, data, batch_size, steps, place)
    modes = modes_of(network, place)

    def measure(forward: Callable[[Tensor], Tensor]) -> float:
        images, started = 0, time.perf_counter()
        with torch.inference_mode():
            for number in range(steps):
                images += len(forward(batches[number % len(batches)]))
        _wait(place)
        return images / (time.perf_counter() - started)

    found = in_turns({mode: partial(measure, at.forward) for mode, at in modes.items()}, turns, tell=tell)
    arms = [Measured(mode, modes[mode].meaning, "images/s", Figure.of(values)) for mode, values in found.items()]
    notes = ["The pictures are random; --data and a trained network also tell how far the modes agree."]
    if data is not None:
        notes = []
        meaning = f"of {sum(map(len, batches))} pictures, the same answer as fp32"
        for mode, percent in agreement(modes, batches).items():
            arms.append(Measured(f"{mode}: agreement", meaning, "%", Figure.of([percent])))
    arms += _peak(place)
    with_what = about(place, model=name, data=data or "random", batch_size=batch_size, img_size=preprocessing.img_size)
    return Bench("infer", tuple(arms), with_what, tuple(notes))


def agreement(modes: Mapping[str, Mode], batches: Iterable[Tensor]) -> dict[str, float]:
    """Returns of every mode but float32 on how many pictures, in percent, it gives float32's answer."""
    answers: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    with torch.inference_mode():
        for batch in batches:
            for mode, found in answers.items():
                found.append(modes[mode].forward(batch).float().argmax(dim=1))
    every = {mode: torch.cat(found) for mode, found in answers.items()}
    return {mode: 100 * float((every[mode] == every["fp32"]).float().mean()) for mode in modes if mode != "fp32"}


def data(
    wanted: str | Path | Recipe | None = None,
    *,
    data: str | None = None,
    changes: Mapping[str, object] | None = None,
    device: str = "auto",
    steps: int = 20,
    turns: int = 5,
    tell: Tell | None = None,
) -> Bench:
    """Measures how fast pictures become batches, for training and for evaluation, in pictures a second.

    Without `data` they are JPEG photographs made for this; without a recipe they are cut and flipped as usual at 224
    pixels. Every core decodes, because nothing else is computed meanwhile, unless `data.workers` says otherwise.

    Raises:
        UsageError: a name, key or value that does not exist.
        DataError: the pictures cannot be used.
    """
    place = hardware.choose_device(device)
    hardware.take(place)
    with tempfile.TemporaryDirectory(prefix="residuum-bench-") as folder:
        if data is None:
            photographs(Path(folder), PHOTOGRAPHS)
        chosen = recipe_for_data(wanted, data or folder, changes or {})
        training, evaluation = loaders(chosen, place, steps)
        batches = -(-len(training) * chosen.data.batch_size // chosen.data.eval_batch_size)
        epoch = 0

        def trained() -> float:
            nonlocal epoch
            epoch += 1
            return rate(training.epoch(epoch), place)

        measures = {"training": trained, "evaluation": lambda: rate(islice(evaluation, batches), place)}
        found = in_turns(measures, turns, tell=tell)
    meanings = {"training": "cut, augmented and normalised", "evaluation": "the centre of each, normalised"}
    arms = [Measured(name, meanings[name], "images/s", Figure.of(values)) for name, values in found.items()]
    arms += [
        Measured(f"{arm.what}, a core", arm.meaning, "images/s", arm.figure.times(1 / cores())) for arm in tuple(arms)
    ]
    shown = replace(chosen, data=replace(chosen.data, source=data or f"{PHOTOGRAPHS} photographs made for this"))
    return Bench("data", tuple(arms), {**_about_recipe(shown, place, ""), "model": ""})


def loaders(wanted: Recipe, device: torch.device, steps: int) -> tuple[TrainLoader, EvalLoader]:
    """Returns the loaders of a recipe's pictures without its network, the first of at most `steps` batches an epoch."""
    parts = open_parts(wanted.data)
    channels = 3 if parts.train.mode == "RGB" else 1
    preprocessing = Preprocessing(
        mode=parts.train.mode,
        img_size=wanted.data.img_size,
        resize_px=max(wanted.data.resize_px, wanted.data.img_size),
        interpolation=wanted.data.interpolation,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        resize=wanted.data.resize,
    )
    training = TrainLoader(
        parts.train, wanted.data, wanted.augment, preprocessing,
        seed=wanted.seed, device=device, channels_last=wanted.channels_last, of=parts.total,
    )  # fmt: skip
    evaluation = EvalLoader(
        parts.train, preprocessing, wanted.data.eval_batch_size,
        device=device, channels_last=wanted.channels_last, workers=wanted.data.workers,
        on_bad_image=wanted.data.on_bad_image, of=parts.total,
    )  # fmt: skip
    return Excerpt(training, steps), evaluation


def _about_recipe(wanted: recipe.Recipe, device: torch.device, precision: str) -> dict[str, object]:
    return about(
        device,
        model=wanted.model.name,
        recipe=wanted.name,
        data=wanted.data.source,
        batch_size=wanted.data.batch_size,
        img_size=wanted.data.img_size,
        precision=precision,
    )


def _peak(device: torch.device) -> list[Measured]:
    """Returns the most memory that was in use at once, of the GPU's where one computes; nothing where nobody knows."""
    found = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak_bytes()
    if found is None:
        return []
    whose = "of the GPU" if device.type == "cuda" else "of this process"
    return [Measured("memory", f"the most memory {whose} in use at once", "MB", Figure.of([found / 1e6]))]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
