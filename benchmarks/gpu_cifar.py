"""CIFAR-10 on one GPU: the recipe of 2015 against the script that everybody writes, and 94 and 96 % in seconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from gpu_plain import PlainScript
from gpu_session import Session, interleaved, median, scratch, seconds_of, spread, wait_for
from torch import Tensor

from residuum import hardware
from residuum.data.loading import Batch
from residuum.data.sets import ImageSet
from residuum.errors import DataError
from residuum.evaluation.evaluate import evaluating
from residuum.models import create_model
from residuum.recipe import Recipe
from residuum.recipes import RECIPES
from residuum.training import checkpoint
from residuum.training.build import build, eval_loader
from residuum.training.captured import Epochs
from residuum.training.run import Run

PUBLISHED_ERROR = 8.75
"""Of ResNet-20 in arXiv:1512.03385, Table 6, percent."""


def recipe2015(session: Session) -> None:
    """ResNet-20 as published: seconds a step against the plain script, then whole runs, as many as the time allows."""
    if not session.has_cifar10():
        return
    arm = _fastest_arm(session)
    wanted = session.recipe(RECIPES["resnet20_cifar10_2015"].build(), **_ARMS[arm], log_every_steps=10**6)
    what = f"{_scored_on(session)} error"
    _seeds(session, wanted, arm, what)
    errors = [float(row["value"]) for row in session.rows(what)]
    if errors:
        middle = statistics.fmean(errors)
        session.goal(f"mean {what} of {len(errors)} runs", middle, "%", PUBLISHED_ERROR, at_most=True, note="Table 6")


_ARMS: dict[str, dict[str, object]] = {
    "captured, fp32": {"precision": "fp32", "capture": True},
    "captured, bf16": {"precision": "bf16", "capture": True},
    "captured, bf16, compiled": {"precision": "bf16", "capture": True, "compile": True},
}


def _fastest_arm(session: Session) -> str:
    """Times a step of each arm and of the plain script, in turn; writes the rows and returns the fastest arm."""
    known = {row["what"].removeprefix("seconds a step, "): float(row["value"]) for row in _timed(session)}
    if not known.keys() & _ARMS.keys():
        times = _times(session)
        for name, seconds in times.items():
            session.row(f"seconds a step, {name}", median(seconds), "s", **spread(seconds))
        known = {name: median(seconds) for name, seconds in times.items()}
        for name in sorted(known.keys() & _ARMS.keys()):
            for script in sorted(known.keys() - _ARMS.keys()):
                session.goal(f"{script} / {name}", known[script] / known[name], "x", 8)
    return min(known.keys() & _ARMS.keys(), key=known.__getitem__)


def _timed(session: Session) -> list[dict[str, str]]:
    names = [*_ARMS, *(f"plain script, {workers} workers" for workers in _WORKERS)]
    return [row for name in names for row in session.rows(f"seconds a step, {name}")[-1:]]


_WORKERS = (2, 8)


def _times(session: Session) -> dict[str, list[float]]:
    """Returns the seconds of one update of 128 pictures, by arm, round by round."""
    names = [name for name, changes in _ARMS.items() if session.compiles or not changes.get("compile")]
    recipe = RECIPES["resnet20_cifar10_2015"].build()
    with scratch() as folder:
        runs = [
            build(session.recipe(recipe, **_ARMS[name]), folder / str(at), session.device)
            for at, name in enumerate(names)
        ]
        arms: dict[str, _Epoch | PlainScript] = {name: _Epoch(run) for name, run in zip(names, runs, strict=True)}
        workers = (0,) if session.tiny else _WORKERS
        arms |= {
            f"plain script, {count} workers": PlainScript(runs[0], session.device, count, 2 if session.tiny else 100)
            for count in workers  # last: while a step is recorded, no loader may pin memory
        }
        seconds = interleaved(session, arms, rounds=1 if session.tiny else 5, times=1, warm_up=1)
        for arm in arms.values():
            if isinstance(arm, PlainScript):
                arm.close()
    return {name: [value / arms[name].steps for value in values] for name, values in seconds.items()}


class _Epoch:
    """An epoch of captured steps, over and over; what it learns is no matter."""

    def __init__(self, run: Run) -> None:
        run.recipe = replace(run.recipe, log_every_steps=10**6)
        self.steps = len(run.train_loader)
        self._run = run
        self._epochs: Epochs | None = None  # recorded when it is first called, where a failure can be told

    def __call__(self) -> None:
        self._epochs = self._epochs or Epochs(self._run)
        self._epochs(self._run)
        self._run.epoch = (self._run.epoch + 1) % self._run.recipe.epochs
        self._run.step = self._run.epoch * self.steps


def _seeds(session: Session, wanted: Recipe, arm: str, what: str) -> None:
    """Trains seed after seed to the end, goes on with one that an earlier call began, and leaves one that it begins."""
    done = {int(row["seed"]) for row in session.rows(what)}
    todo = [seed for seed in range(session.seeds or 5) if seed not in done]
    if not todo:
        return
    first = replace(wanted, seed=todo[0])
    run = build(first, session.run_folder(first), session.device)
    if checkpoint.has_weights(run.folder):
        checkpoint.restore(run, checkpoint.read(run.folder)[0])
        session.say(f"goes on with seed {todo[0]} after epoch {run.epoch}")
    epochs = Epochs(run)
    for seed in todo:
        if seed != todo[0]:
            run.folder = session.run_folder(replace(wanted, seed=seed))
            anew(run, epochs, seed)
        session.say(f"training seed {seed} from epoch {run.epoch}")
        if not _trained(session, run, epochs):
            run.save({}, best=False)
            session.say(f"the time is up in epoch {run.epoch} of seed {seed}; the next call goes on with it")
            return
        wait_for(session.device)
        run.save({}, best=False)
        error = 100 - top1(run, _scored_part(session, run), views=1)[0]
        session.row(what, error, "%", seed=seed, note=f"{arm}; trained in {run.seconds:.1f} s")
        session.row("seconds of training", run.seconds, "s", seed=seed, note=arm)


def _trained(session: Session, run: Run, epochs: Epochs) -> bool:
    """Whether the run came to its end before the session's time was up; a few seconds are left for saving."""
    run.start_clock()
    while run.epoch < run.recipe.epochs:
        if session.left_s < 10 and not session.tiny:
            return False
        epochs(run)
        run.epoch += 1
    return True


def anew(run: Run, epochs: Epochs, seed: int) -> None:
    """Makes the run what it was before its first step, with another seed; its steps stay recorded."""
    torch.manual_seed(seed)
    fresh = create_model(**run.model_card)
    with torch.no_grad():
        for name, value in run.model.state_dict().items():
            value.copy_(fresh.state_dict()[name])
        for state in run.optimizer.state.values():
            for value in state.values():
                value.zero_()
    epochs.batches.seed = seed
    run.recipe = replace(run.recipe, seed=seed)
    run.epoch = run.step = run.epoch_steps = 0
    run.epoch_loss = run.seconds = 0.0


def cifar94(session: Session) -> None:
    """94 % by a net whose every stage adds an identity shortcut: 40 seeds, each from its first look at the pictures
    to its score on the test pictures."""
    _to_accuracy(session, "swift_resnet10_cifar10_94", 94.0, session.seeds or 40)


def cifar96(session: Session) -> None:
    """96 % by a wider one: 16 seeds."""
    _to_accuracy(session, "swift_wide_resnet10_cifar10_96", 96.0, session.seeds or 16)


def _to_accuracy(session: Session, name: str, goal: float, seeds: int) -> None:
    if not session.has_cifar10():
        return
    wanted = session.recipe(RECIPES[name].build(), capture=True, compile=session.compiles, log_every_steps=10**6)
    label = session.changed
    what = f"top-1 {_scored_on(session)}, {label}"
    done = {int(row["seed"]) for row in session.rows(what)}
    todo = [seed for seed in range(seeds) if seed not in done]
    with scratch() as folder:
        if todo:
            session.say(f"recording and warming up; {len(todo)} seeds, {wanted.epochs} epochs")
            trial = _warm_trial(session, wanted, folder)
        longest = 0.0
        for seed in todo:
            if session.left_s < 1.5 * longest + 5 and not session.tiny:
                session.say(f"no time for seed {seed}: the next call goes on with it")
                break
            seconds, scores = trial(seed)
            longest = max(longest, seconds)
            views = f"mirrored {scores[1]:.2f}, six views {scores[2]:.2f}"
            session.row(what, scores[0], "%", seed=seed, note=f"{seconds:.3f} s; {views}")
            session.row(f"seconds, {label}", seconds, "s", seed=seed)
    _summary(session, what, f"seconds, {label}", goal)


def _warm_trial(session: Session, wanted: Recipe, folder: Path) -> _Trial:
    """Returns a trial that has done everything once; without the compiler, where that fails."""
    try:
        run = build(wanted, folder / f"compile-{wanted.compile}", session.device)
        trial = _Trial(run, _shown(run, _scored_part(session, run)))
        trial.warm_up()
    except (RuntimeError, AssertionError) as error:
        if not wanted.compile:
            raise
        session.say(f"goes on without compiling: {type(error).__name__}: {str(error)[:300]}")
        return _warm_trial(session, replace(wanted, compile=False), folder)
    return trial


def _summary(session: Session, what: str, seconds: str, goal: float) -> None:
    found = [float(row["value"]) for row in session.rows(what)]
    if not found:
        return
    times = [float(row["value"]) for row in session.rows(seconds)]
    error = statistics.stdev(found) / len(found) ** 0.5 if len(found) > 1 else 0.0
    note = f"{len(found)} seeds, standard error {error:.3f}, from {min(found):.2f} to {max(found):.2f}"
    session.goal(f"mean {what}", statistics.fmean(found), "%", goal, note=note)
    session.row(f"median {seconds}", median(times), "s", **spread(times))


class _Trial:
    """A whole training, again and again: whitening, every epoch, and one view of every held-out picture."""

    def __init__(self, run: Run, shown: tuple[Tensor, Tensor]) -> None:
        self._run, self._shown = run, shown
        self._epochs = Epochs(run)
        batches = eval_loader(run.parts.train, run.recipe, run.preprocessing, run.device, run.parts.total)
        wanted = max(1, run.model.pictures_wanted)
        self._looked_at = torch.cat([batch.images for batch in _first(batches, wanted)])[:wanted]

    def warm_up(self) -> None:
        """Goes through an epoch and the scores, so that nothing is done for the first time later."""
        anew(self._run, self._epochs, 0)
        self._run.model.look_at(self._looked_at)
        self._epochs(self._run)
        top1(self._run, self._shown)

    def __call__(self, seed: int) -> tuple[float, list[float]]:
        """Returns the seconds of a training, and the top-1 in percent with one, two and six views."""
        run = self._run
        anew(run, self._epochs, seed)
        scores: list[float] = []

        def training() -> None:
            run.model.look_at(self._looked_at)
            while run.epoch < run.recipe.epochs:
                self._epochs(run)
                run.epoch += 1
            scores.extend(top1(run, self._shown, views=1))

        seconds = seconds_of(run.device, training)
        return seconds, [*scores, *top1(run, self._shown)[1:]]


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    """Yields batches until they hold `count` pictures."""
    seen = 0
    for batch in batches:
        yield batch
        seen += len(batch.labels)
        if seen >= count:
            return


def _scored_on(session: Session) -> str:
    return "held out" if session.held_out else "test"


def _scored_part(session: Session, run: Run) -> ImageSet:
    """The pictures that a training is scored on: the test pictures, or those that were held out for a choice."""
    part = run.parts.val if session.held_out else run.parts.test
    if part is None:
        raise DataError("There are no test pictures.", expected="Expected the part test.", hint="Give all shards.")
    return part


def _shown(run: Run, images: ImageSet) -> tuple[Tensor, Tensor]:
    """Returns pictures as the network sees them, and their labels, on the device."""
    batches = list(eval_loader(images, run.recipe, run.preprocessing, run.device, run.parts.total))
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


@torch.no_grad()
def top1(run: Run, shown: tuple[Tensor, Tensor] | ImageSet, views: int = 6) -> list[float]:
    """Returns the top-1 in percent with one view, mirrored too, and moved by a pixel too: as many as `views` allows.

    The six views and their weights are those of arXiv:2404.00498, section 3.5.
    """
    images, labels = _shown(run, shown) if not isinstance(shown, tuple) else shown
    precision = "bf16" if run.precision == "bf16" else "fp32"
    context = hardware.autocast(precision, run.device)
    sums = [torch.zeros((), device=run.device) for _ in range({1: 1, 2: 2, 6: 3}[views])]
    with evaluating(run.model):
        for part, truth in zip(images.split(2000), labels.split(2000), strict=True):
            with context():
                logits = [run.model(view).float() for view in islice(_views(part), views)]
            plain = logits[0]
            answers = [plain]
            if views > 1:
                answers.append((plain + logits[1]) / 2)
            if views > 2:
                moved = torch.stack(logits[2:]).mean(0)
                answers.append((answers[1] + moved) / 2)
            for total, answer in zip(sums, answers, strict=True):
                total += (answer.argmax(1) == truth).sum()
    return [100 * float(total) / len(labels) for total in sums]


def _views(images: Tensor) -> Iterator[Tensor]:
    """Yields the pictures, mirrored, and both moved by a pixel up and left and down and right."""
    yield images
    yield images.flip(-1)
    side = images.shape[-1]
    padded = F.pad(images, (1, 1, 1, 1), "reflect")
    for start in (0, 2):
        moved = padded[:, :, start : start + side, start : start + side]
        yield moved
        yield moved.flip(-1)


PARTS = {part.__name__: part for part in (recipe2015, cifar94, cifar96)}
