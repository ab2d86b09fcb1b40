"""The training loop: `fit`, `train_epoch`, `train_step`. Read this first.

The step has no `if`: what is off is a stand-in that does nothing (a disabled scaler, an infinite clipping norm, an
identity mix, an average that is the model itself).

Shapes: N pictures in a batch, C channels, H and W pixels, K classes.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from residuum.evaluation.evaluate import evaluate
from residuum.training import optim
from residuum.training.run import Run, require_finite


def fit(run: Run) -> None:
    """Trains `run` from where it stands to its last epoch, leaving records and checkpoints in `run.folder`."""
    while run.epoch < run.recipe.epochs:
        train_epoch(run)
        run.epoch += 1
        if run.val_loader and (run.epoch % run.recipe.eval_every_epochs == 0 or run.epoch == run.recipe.epochs):
            scores, _ = evaluate(run.averaged.model, run.val_loader, run.classes, run.eval_autocast)
            run.scored(scores)
        run.epoch_done()


def train_epoch(run: Run) -> None:
    """The rest of one pass over the training set: all of it, unless the run was resumed within the pass."""
    run.model.train()
    steps = len(run.train_loader)
    began = started = time.perf_counter()
    images_in_epoch = images_seen = 0
    for batch in run.train_loader.epoch(run.epoch, start=run.step - run.epoch * steps):
        run.step = run.epoch * steps + batch.number
        lr = run.schedule((run.step + 0.5) / steps, run.val_errors)  # in epochs, at the middle of the step
        optim.set_lr(run.optimizer, lr)
        loss, grad_norm = train_step(run, batch.images, batch.labels)
        run.step += 1
        run.epoch_loss += loss
        run.epoch_steps += 1
        images_in_epoch += len(batch.labels)
        images_seen += len(batch.labels)
        if run.step % run.recipe.log_every_steps == 0:
            report(run, loss, grad_norm, lr, images_seen / (time.perf_counter() - started))
            started, images_seen = time.perf_counter(), 0
        run.stop_if_asked()
    run.step = (run.epoch + 1) * steps  # also where bad pictures left no last batch
    require_finite(run, float(run.epoch_loss))
    run.images_per_s = images_in_epoch / (time.perf_counter() - began)


def train_step(run: Run, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """One update from `images` [N, C, H, W] and `labels` [N]; returns the mean loss and the norm of the gradient."""
    run.seed_step()
    images = run.resize(images, run.step / run.total_steps)  # smaller pictures at first; by default, its input
    images, targets = run.mix(images, labels, run.step)  # mixup or cutmix; by default, its input
    total = torch.zeros((), device=run.device)
    parts = max(1, min(run.recipe.accumulate, len(images) // 2))  # of two pictures at least: batch norm needs them
    for part_images, part_targets in zip(images.tensor_split(parts), targets.tensor_split(parts), strict=True):
        with run.autocast():
            logits = run.compiled(part_images)
        loss = run.criterion(logits.float(), part_targets) * (
            len(part_images) / len(images)
        )  # parts add up to the mean over N
        torch.autograd.backward(run.scaler.scale(loss))
        total += loss.detach()
    run.scaler.unscale_(run.optimizer)
    grad_norm = clip_grad_norm_(run.model.parameters(), run.recipe.optim.clip_norm)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.optimizer.zero_grad(set_to_none=True)
    run.averaged.update(run.model)
    return total, grad_norm


def report(run: Run, loss: Tensor, grad_norm: Tensor, lr: float, images_per_s: float) -> None:
    """Writes a step's record: the only place within an epoch where the host waits for the device."""
    require_finite(run, float(loss))
    run.records.write(
        kind="step",
        epoch=run.epoch,
        step=run.step,
        loss=float(loss),
        lr=lr,
        grad_norm=float(grad_norm),
        images_per_s=images_per_s,
    )
