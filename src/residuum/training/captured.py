"""Epochs in which the host only says "the next step": for small sets on a GPU, each step is one CUDA graph.

The pictures lie on the device, and so does what an epoch draws (`data/on_device.py`) and its learning rates. A step
gathers and augments its batch, goes forward and backward and updates the weights, without a word from the host; a GPU
records it once and plays it again. On other devices the same step is simply called, so that what is tested
there is what a GPU records.

Departures from the loop's own steps: a step whose loss is not finite cannot be left out, and ends the run; the loss is
looked at, and signals are heard, every `log_every_steps`; the norm of the gradient is not reported.

Source: torch's documentation, "CUDA semantics", section "CUDA Graphs": whole-network capture.
Shapes: N pictures in a batch, C channels, S x S pixels.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from residuum import recipe
from residuum.data.on_device import DeviceBatches, Table, unsupported
from residuum.data.sets import ResidentSet
from residuum.errors import DivergedError, RecipeError
from residuum.models.layers import DropPath
from residuum.training import optim
from residuum.training.resolution import side_px
from residuum.training.run import Run

REHEARSALS = 3
"""Steps that are taken, and undone, before one is recorded: libraries choose their kernels and take memory then."""

Step = Callable[[], None]


class Epochs:
    """`train_epoch` of the loop, in steps that are recorded once and replayed.

    Raises:
        RecipeError: the recipe or the set needs more than such steps can do.
    """

    def __init__(self, run: Run) -> None:
        images = run.parts.train
        _refuse(run)
        assert isinstance(images, ResidentSet)
        wanted, self._steps = run.recipe, len(run.train_loader)
        rows = max(self._steps, REHEARSALS)
        self.batches = DeviceBatches(
            images,
            wanted.data,
            wanted.augment,
            run.preprocessing,
            seed=wanted.seed,
            device=run.device,
            channels_last=wanted.channels_last,
            batches=rows,
        )
        self._number = torch.zeros(1, dtype=torch.int64, device=run.device)
        self._rates = torch.zeros(rows, device=run.device)
        self._losses = torch.zeros(rows, device=run.device)
        self._ahead: tuple[int, int, Future[Table]] | None = None
        self._steps_of: dict[tuple[int, int], Step] = {}
        self._record_all(run)

    def __call__(self, run: Run) -> None:
        """The rest of one pass over the training set, as `train_epoch` does it."""
        first = run.step - run.epoch * self._steps
        run.model.train()
        self._load(run)
        self._number.fill_(first)
        began = time.perf_counter()
        seen, settled = 0, first
        for number in range(first, self._steps):
            self._steps_of[self._kind(run, run.step)]()
            run.averaged.update(run.model)
            run.step += 1
            seen += self.batches.count(number)
            if run.step % run.recipe.log_every_steps == 0 or number == self._steps - 1:
                self._settle(run, settled, number + 1, seen / (time.perf_counter() - began))
                settled = number + 1
                run.between_steps()
        if seen:
            run.images_per_s = seen / (time.perf_counter() - began)

    def _kind(self, run: Run, step: int) -> tuple[int, int]:
        """Returns what tells the steps apart that are recorded: the pictures in a batch, and their side in pixels."""
        augment, side = run.recipe.augment, run.recipe.data.img_size
        shown_px = side_px(augment, side, step / run.total_steps) if augment.start_px else side
        return self.batches.count(step % self._steps), shown_px

    def _record_all(self, run: Run) -> None:
        """Records every kind of step that is still to come."""
        run.model.train()
        self._load(run)
        for step in range(run.epoch * self._steps, run.total_steps):
            kind = self._kind(run, step)
            if kind not in self._steps_of:
                self._steps_of[kind] = self._recorded(run, kind[0], step / run.total_steps)

    def _recorded(self, run: Run, count: int, done: float) -> Step:
        """Returns a step of `count` pictures, at a moment when `done` of the run lies behind."""

        def step() -> None:
            run.optimizer.zero_grad(set_to_none=True)
            images, labels = self.batches.batch(self._number, count)
            images = run.resize(images, done)
            with run.autocast():
                logits = run.forward(images)
            loss = run.criterion(logits.float(), labels)
            torch.autograd.backward(loss)
            if run.recipe.optim.clip_norm < math.inf:
                clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm)
            optim.set_lr(run.optimizer, self._rates.index_select(0, self._number)[0])
            run.optimizer.step()
            self._losses.index_copy_(0, self._number, loss.detach().reshape(1))
            self._number.add_(1)

        with _undone(run), _without_a_cache_of_casts():
            self._number.zero_()
            return recorded(step, run.device)

    def _load(self, run: Run) -> None:
        """Brings the numbers and the rates of the run's epoch to the device, and begins with those of the next."""
        key = (self.batches.seed, run.epoch)
        ahead = self._ahead
        table = ahead[2].result() if ahead and ahead[:2] == key else self.batches.table(run.epoch)
        self.batches.load(table)
        steps = range(run.epoch * self._steps, (run.epoch + 1) * self._steps)
        rates = torch.tensor([run.schedule((step + 0.5) / self._steps, run.val_errors) for step in steps])
        self._rates[: self._steps].copy_(rates.pin_memory() if self._rates.is_cuda else rates, non_blocking=True)
        if run.epoch + 1 < run.recipe.epochs:
            pool = ThreadPoolExecutor(1, thread_name_prefix="residuum-draws")
            self._ahead = (key[0], run.epoch + 1, pool.submit(self.batches.table, run.epoch + 1))
            pool.shutdown(wait=False)

    def _settle(self, run: Run, first: int, end: int, images_per_s: float) -> None:
        """Waits for the steps `first` to `end` of the epoch and takes in their losses.

        Raises:
            DivergedError: one of them is not finite.
        """
        losses = self._losses[first:end].tolist()
        for number, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise DivergedError(
                    f"The training loss was {loss} in step {run.epoch * self._steps + number} (epoch {run.epoch + 1}).",
                    expected="Expected a finite loss; a captured step cannot be left out.",
                    hint="Lower the learning rate (--lr), or train without: --set capture=false",
                )
            run.epoch_loss += loss
            run.epoch_steps += 1
        if run.step % run.recipe.log_every_steps == 0:
            lr = run.schedule((run.step - 0.5) / self._steps, run.val_errors)
            run.report(losses[-1], math.nan, lr, images_per_s)


def recorded(step: Step, device: torch.device) -> Step:
    """Returns what does `step` again: on a CUDA device the replay of its graph, elsewhere the step itself.

    It is rehearsed first, so that whoever calls this undoes what it has done to weights and state. Nothing of it may
    wait for the device, and all that it reads and writes must stay where it is.
    """
    if device.type != "cuda":
        for _ in range(REHEARSALS):
            step()
        return step
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(REHEARSALS):
            step()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):  # the stream of the rehearsals, to which gradients are bound
        step()
    return graph.replay


@contextlib.contextmanager
def _undone(run: Run) -> Iterator[None]:
    """Undoes, in place, what happens to the weights, the norms' statistics and the optimizer's state meanwhile."""
    for group in run.optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = run.device.type == "cuda"
    tensors = list(run.model.state_dict().values())
    kept = [tensor.clone() for tensor in tensors]
    state = {id(value): value.clone() for value in _state_of(run.optimizer)}
    yield
    with torch.no_grad():
        for tensor, before in zip(tensors, kept, strict=True):
            tensor.copy_(before)
        for value in _state_of(run.optimizer):
            value.copy_(state[id(value)]) if id(value) in state else value.zero_()


def _state_of(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


@contextlib.contextmanager
def _without_a_cache_of_casts() -> Iterator[None]:
    """Autocast keeps no casts of weights meanwhile: a graph would replay what was made from older ones."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _refuse(run: Run) -> None:
    """Raises RecipeError for what captured steps cannot do."""
    wanted = run.recipe
    reasons = {
        f"a set that is not in memory at its size ({wanted.data.source})": not isinstance(run.parts.train, ResidentSet),
        "several processes": run.world.size > 1,
        "precision = 'fp16', whose scaler asks the host": run.precision == "fp16",
        unsupported(wanted.augment): bool(unsupported(wanted.augment)),
        "drop-path": any(isinstance(layer, DropPath) for layer in run.model.modules()),
        f"accumulate = {run.parts_of_a_batch}": run.parts_of_a_batch > 1,
        "the table transfer": wanted.transfer != recipe.Transfer(),
    }
    what = next((what for what, found in reasons.items() if found), None)
    if what is not None:
        raise RecipeError(
            f"capture = true does not go with {what}.",
            expected="Expected a small set in one process, in fp32 or bf16, cropped with a margin or not at all, "
            "flipped, erased or shrunk, and nothing else.",
            hint="Leave it out: --set capture=false",
        )
