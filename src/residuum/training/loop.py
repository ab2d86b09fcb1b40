"""The training loop: `fit`, `train_epoch`, `train_step`. Read this first.

What is off is a stand-in that does nothing (a disabled scaler, an infinite clipping norm, an identity mix, an average
that is the model itself, a world of one process).

Shapes: N pictures in this process's part of a batch, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from residuum.data.loading import Batch
from residuum.training import captured, optim
from residuum.training.run import Run


def fit(run: Run) -> None:
    """Trains `run` from where it stands until it goes on no more, leaving records and checkpoints in `run.folder`."""
    one_epoch = captured.Epochs(run) if run.recipe.capture else train_epoch
    while run.goes_on():
        one_epoch(run)
        if run.val_loader and run.evaluates_now():
            run.world.same(run.averaged.model.state_dict().values())
            batches = run.until_stopped(run.val_loader)
            model = run.scored_part(run.averaged.model)  # all of it, by default
            scores, _ = run.judge(model, batches, run.classes, run.eval_autocast, run.world)
            run.scored(scores)
        run.epoch_done()


def train_epoch(run: Run) -> None:
    """The rest of one pass over the training set: all of it, unless the run was resumed within the pass."""
    run.thawing.begin(run.epoch)
    steps = len(run.train_loader)
    began = started = time.perf_counter()
    images_in_epoch = images_seen = 0
    for batch in run.train_loader.epoch(run.epoch, start=run.step - run.epoch * steps):
        run.step = run.epoch * steps + batch.number
        counts = run.counts(batch)
        if not counts:  # bad pictures were skipped, and left a process without two
            continue
        lr = run.schedule((run.step + 0.5) / steps, run.val_errors)  # in epochs, at the middle of the step
        optim.set_lr(run.optimizer, lr)
        loss, grad_norm = train_step(run, batch, counts)
        run.step += 1
        images_in_epoch += sum(counts)
        images_seen += sum(counts)
        if run.step % run.recipe.log_every_steps == 0:
            run.report(loss, grad_norm, lr, images_seen / (time.perf_counter() - started))
            started, images_seen = time.perf_counter(), 0
        run.between_steps()
    run.step = (run.epoch + 1) * steps  # also where bad pictures left no last batch
    if images_in_epoch:
        run.images_per_s = images_in_epoch / (time.perf_counter() - began)


def train_step(run: Run, batch: Batch, counts: Sequence[int]) -> tuple[float, float]:
    """One update from a batch, of which each process holds so many of `counts` pictures; it is left out where loss or
    gradient are not finite. Returns the mean loss and the norm of the gradient before it was clipped.

    Where a GPU's memory does not hold the batch, it goes through in twice as many parts, from then on.
    """
    run.norms.keep()
    loss = None
    with contextlib.suppress(torch.OutOfMemoryError):
        loss = _accumulate_gradient(run, batch.images, batch.labels, counts)
    if loss is None:  # only now has the error let go of what the network had kept
        run.split_batches()
        loss = _accumulate_gradient(run, batch.images, batch.labels, counts)
    run.scaler.unscale_(run.optimizer)
    grad_norm = float(clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm))
    return run.apply(loss, grad_norm, batch), grad_norm


def _accumulate_gradient(run: Run, images: Tensor, labels: Tensor, counts: Sequence[int]) -> float:
    """Leaves the gradient of the mean loss over the pictures of all processes, of which `images` [N, C, H, W] and
    `labels` ([N], or [N, K] of several classes) are this one's; returns their part of that loss.
    """
    run.seed_step()
    images = run.resize(images, run.step / run.total_steps)  # smaller pictures at first; by default, its input
    images, targets = run.mix(images, labels, run.step)  # mixup or cutmix; by default, its input
    total = torch.zeros((), device=run.device)
    parts = max(1, min(run.parts_of_a_batch, min(counts) // 2))  # as many in each, of two pictures for batch norm
    pieces = zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True)
    for number, (part_images, part_targets) in enumerate(pieces, start=1):
        with run.sharing_gradients(number == parts):  # once a batch: with the last part, all parts' sum
            with run.autocast():
                logits = run.forward(part_images)
            loss = run.criterion(logits.float(), part_targets) * (len(part_images) / sum(counts))  # up to the mean
            torch.autograd.backward(run.scaler.scale(loss * run.world.size))  # processes' gradients are averaged
        total += loss.detach()
    return float(total)
