"""What must hold on one GPU before anything is timed: captured steps are the plain ones, fp16 trains, runs resume."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from gpu_resnet50 import rates_of
from gpu_session import Session, scratch
from torch import nn

from residuum import hardware
from residuum.data.loading import TrainLoader
from residuum.data.on_device import DeviceBatches
from residuum.data.sets import ResidentSet
from residuum.errors import Stopped, VerificationError
from residuum.recipe import Augment, Data, Model, Muon, OneCycle, PadCrop, Recipe, Sgd
from residuum.training.build import build
from residuum.training.loop import fit
from residuum.training.run import Run
from residuum.training.start import resumed, start
from residuum.training.stop import Stop

SMALL = Recipe(
    name="check",
    epochs=2,
    precision="fp32",
    label_smoothing=0.1,
    log_every_steps=4,
    save_every_epochs=10**6,
    model=Model("resnet20_cifar"),
    data=Data("synthetic:600x10x32", batch_size=64, val_fraction=0.0),
    augment=Augment(crop=PadCrop(px=4), flip="random", erasing=0.3),
    optim=Sgd(lr=0.05),
    schedule=OneCycle(),
)
"""Ten updates an epoch, the last of 24 pictures."""

MUON = Muon(lr=0.02, weight_decay=0.0, fixed_length=True, bias_factor=5.0)
SWIFT = replace(SMALL, model=Model("swift_resnet10_cifar"), optim=MUON)


def check(session: Session) -> None:
    """The device and what it can do; batches and steps on it against the plain ones; a few seconds.

    Raises:
        VerificationError: something differs by more than rounding does.
    """
    about = hardware.describe(session.device)
    session.say(f"{about['device']}, {about['cores']} cores, torch {torch.__version__}, CUDA {torch.version.cuda}")
    if session.device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(session.device)
        session.row("compute capability", major + minor / 10, "")
        session.row("memory", torch.cuda.get_device_properties(session.device).total_memory / 2**30, "GiB")
    session.row("bf16 in hardware", float(bool(about["bf16_in_hardware"])), "")
    rates_of(session)
    _same_batches(session)
    wrong = []
    for name, wanted, precision, limit in (
        ("ResNet-20, SGD, fp32", SMALL, "fp32", 1e-3),
        ("Swift ResNet-10, Muon, fp32", SWIFT, "fp32", 2e-2),
        ("ResNet-20, SGD, bf16", SMALL, "bf16", 5e-2),
    ):
        found = _one_epoch_apart(session, _sized(session, replace(wanted, precision=precision, epochs=1)))
        session.row(f"captured against plain, one epoch of {name}", found, "of the change", goal=f"at most {limit:g}",
                    met="yes" if found <= limit else "no")  # fmt: skip
        wrong += [name] if not found <= limit else []
    if wrong:
        raise VerificationError(
            f"Captured steps and plain ones differ: {', '.join(wrong)}.",
            expected="Expected the same updates, but for rounding.",
            hint="See the rows above.",
        )


def _sized(session: Session, wanted: Recipe) -> Recipe:
    if not session.tiny:
        return wanted
    data = replace(wanted.data, source="synthetic:36x3x8", img_size=8, resize_px=8, batch_size=12)
    width = 0.0625 if wanted.model.name.startswith("swift") else 0.25
    return replace(wanted, model=replace(wanted.model, width=width), data=data, log_every_steps=2)


def _same_batches(session: Session) -> None:
    """Batches that are made on the device are the loader's, to the last bit; raises VerificationError."""
    wanted = _sized(session, SMALL)
    with scratch() as folder:
        run = build(wanted, folder, session.device)
        images = run.parts.train
        assert isinstance(images, ResidentSet)
        loader: TrainLoader = run.train_loader
        made = DeviceBatches(
            images, wanted.data, wanted.augment, run.preprocessing, seed=wanted.seed, device=session.device,
            channels_last=True, batches=len(loader),
        )  # fmt: skip
        made.load(made.table(1))
        same = 0
        for batch in loader.epoch(1):
            number = torch.tensor([batch.number], device=session.device)
            pictures, labels = made.batch(number, len(batch.labels))
            same += int(torch.equal(pictures, batch.images) and torch.equal(labels, batch.labels))
    session.row("batches made on the device that are the loader's", same, f"of {len(loader)}")
    if same != len(loader):
        raise VerificationError(f"Only {same} of {len(loader)} batches that the device makes are the loader's.")


def _one_epoch_apart(session: Session, wanted: Recipe) -> float:
    """Returns how far a captured epoch ends from a plain one, as a part of how far the weights have moved."""
    with scratch() as folder, _deterministic():
        ends = []
        for which in (False, True):
            run = build(replace(wanted, capture=which), folder / str(which), session.device)
            began = _weights(run.model)
            fit(run)
            ends.append(_weights(run.model))
    return float((ends[1] - ends[0]).norm() / (ends[0] - began).norm())


def _weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().double().cpu() for parameter in model.parameters()])


@contextmanager
def _deterministic() -> Iterator[None]:
    """Only kernels that give the same bits each time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


def fp16(session: Session) -> None:
    """A short run in float16 learns, its scaler begins far too high and comes down, and it goes on where it stopped."""
    precision = "fp16" if session.device.type == "cuda" else "bf16"  # there is no fp16 on CPUs
    wanted = _sized(session, replace(SMALL, precision=precision, epochs=4, save_every_epochs=1))
    with scratch() as folder:
        (folder / "run").mkdir()
        run = start(wanted, folder / "run", session.device, None, Stop())
        if run.scaler.is_enabled():
            run.scaler = torch.amp.GradScaler(session.device.type, init_scale=2.0**24)  # its first gradients overflow
        fit(run)
        losses = [float(str(record["loss"])) for record in run.records.epochs()]
        session.row("loss of the first epoch", losses[0], "nats", note=precision)
        session.row("loss of the last epoch", losses[-1], "nats", note=precision)
        scale = run.scaler.get_scale()
        session.row("scale at the end", scale, "", note=precision)
        again = resumed(run.folder, None, None, {"epochs": 5}, session.device, None, override=False, stop=Stop())
        kept = again.scaler.get_scale() == scale and (again.step, again.epoch) == (run.step, run.epoch)
        fit(again)
        learned = math.isfinite(losses[-1]) and losses[-1] < losses[0] and again.epoch == 5
        session.row("trains, and resumes with its scale", float(kept and learned), "", goal="at least 1",
                    met="yes" if kept and learned else "no")  # fmt: skip


def resume(session: Session) -> None:
    """A run that is stopped within an epoch and resumed against one that nobody disturbed, with kernels that give the
    same bits each time: plain, in bf16, captured."""
    cases: dict[str, Callable[[Recipe], Recipe]] = {
        "plain, fp32": lambda r: r,
        "plain, bf16": lambda r: replace(r, precision="bf16"),
        "captured, fp32": lambda r: replace(r, capture=True),
        "captured, bf16": lambda r: replace(r, capture=True, precision="bf16"),
    }
    for name, change in cases.items():
        wanted = _sized(session, change(replace(SMALL, epochs=3)))
        with scratch() as folder, _deterministic():
            undisturbed = build(wanted, folder / "undisturbed", session.device)
            fit(undisturbed)
            again = _stopped_and_resumed(wanted, folder / "stopped", session.device)
            fit(again)
            difference = float((_weights(again.model) - _weights(undisturbed.model)).abs().max())
        same = difference == 0 and again.step == undisturbed.step
        session.row(f"stopped and resumed, {name}: largest difference of a weight", difference, "",
                    goal="at most 0", met="yes" if same else "no")  # fmt: skip


def _stopped_and_resumed(wanted: Recipe, folder: Path, device: torch.device) -> Run:
    """Returns a run as it goes on after a signal stopped it in its second epoch."""
    stop = Stop()
    folder.mkdir()
    run = start(wanted, folder, device, None, stop)
    update, at = run.averaged.update, len(run.train_loader) + wanted.log_every_steps // 2

    def ask(model: nn.Module) -> None:
        update(model)
        if run.step >= at:
            stop.signal = signal.SIGTERM

    run.averaged.update = ask  # type: ignore[method-assign]
    try:
        fit(run)
    except Stopped:
        return resumed(folder, None, None, {}, device, None, override=False, stop=Stop())
    raise VerificationError("A run that was asked to stop did not.")


PARTS = {part.__name__: part for part in (check, fp16, resume)}
