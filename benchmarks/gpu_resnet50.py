"""ResNet-50 at 224 pixels on one GPU: training images/s against timm's, and the share of what the device could do."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from gpu_session import Session, as_torch_comes, interleaved, median, seconds_of, spread
from torch import Tensor, nn

from residuum import hardware, recipe
from residuum.models import create_model
from residuum.models.complexity import measure
from residuum.training import captured, optim

BATCH = 256
GOALS = {"timm, eager": 1.35, "timm, compiled": 1.15}


def resnet50(session: Session) -> None:
    """Training steps of ResNet-50 in bf16, channels last, on the same pictures, in turn with timm's."""
    batch, px, name = (4, 32, "resnet18") if session.tiny else (BATCH, 224, "resnet50")
    rates = rates_of(session)
    images = torch.randn(batch, 3, px, px, device=session.device).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=session.device) % 1000
    arms = _arms(session, name, images, labels)
    seconds = interleaved(session, arms, rounds=2 if session.tiny else 12, times=1 if session.tiny else 10)
    speeds = {arm: [batch / each for each in values] for arm, values in seconds.items() if values}
    for arm, values in speeds.items():
        session.row(f"{name} training, {arm}", median(values), "images/s", **spread(values))
    ours = {arm: median(values) for arm, values in speeds.items() if arm.startswith("residuum")}
    best = max(ours, key=ours.__getitem__)
    for peer, goal in GOALS.items():
        if peer in speeds:
            session.goal(f"{best} / {peer}", ours[best] / median(speeds[peer]), "x", goal)
    cost = cost_of(create_model(name), batch, px)
    step_s = batch / ours[best]
    flops = sum(each.flops for each in cost)
    session.row(f"{name}, share of the rate of a matrix product", flops / step_s / rates.flops, "", note=best)
    least_s = sum(max(each.flops / rates.flops, each.bytes / rates.bytes) for each in cost)
    session.row(f"{name}, share of the roofline", least_s / step_s, "", note=f"{best}; at best {least_s * 1000:.3g} ms")


@dataclass(frozen=True)
class Rates:
    """What the device was measured to do: operations a second in bf16, and bytes a second to and from its memory."""

    flops: float
    bytes: float


def rates_of(session: Session) -> Rates:
    """Measures a large product of bf16 matrices and a large copy, on random numbers, and writes their rows."""
    size, values = (256, 2**18) if session.tiny else (8192, 2**30)
    left, right = (torch.randn(size, size, device=session.device).bfloat16() for _ in range(2))
    times = 2 if session.tiny else 10
    seconds_of(session.device, lambda: left @ right, 3)
    rounds = [2 * size**3 / seconds_of(session.device, lambda: left @ right, times) for _ in range(5)]
    session.row(f"bf16 matrix product of {size}", median(rounds) / 1e12, "TFLOP/s", **_scaled(rounds, 1e12))
    source = torch.randn(values, device=session.device)
    target = torch.empty_like(source)
    seconds_of(session.device, lambda: target.copy_(source), 3)
    moved = 2 * source.numel() * source.element_size()
    copies = [moved / seconds_of(session.device, lambda: target.copy_(source), times) for _ in range(5)]
    session.row("copy, read and written", median(copies) / 1e9, "GB/s", **_scaled(copies, 1e9))
    return Rates(median(rounds), median(copies))


def _scaled(values: list[float], by: float) -> dict[str, float]:
    return spread([value / by for value in values])


Step = Callable[[], None]


def _arms(session: Session, name: str, images: Tensor, labels: Tensor) -> dict[str, Step]:
    """Returns a training step of each arm. What records a graph comes before what may spoil it."""
    arms: dict[str, Step] = {}
    ours = partial(_ours, name, images, labels)
    arms["residuum, eager"] = ours(compiles=False)
    arms["residuum, captured"] = _Later(partial(_recorded, session, ours(compiles=False)))
    if session.compiles:
        arms["residuum, compiled"] = ours(compiles=True)
        arms["residuum, compiled and captured"] = _Later(partial(_recorded, session, ours(compiles=True)))
    if importlib.util.find_spec("timm") is None:
        session.say("timm is not installed: there is nobody to compare with (pip install timm)")
        return arms
    arms["timm, eager"] = _timms(name, images, labels, compiles=False)
    if session.compiles:
        arms["timm, compiled"] = _timms(name, images, labels, compiles=True)
    return arms


class _Later:
    """A step that is made when it is first asked for, where a failure can be told."""

    def __init__(self, make: Callable[[], Step]) -> None:
        self._make = make
        self._step: Step | None = None

    def __call__(self) -> None:
        self._step = self._step or self._make()
        self._step()


def _recorded(session: Session, step: Step) -> Step:
    return captured.recorded(step, session.device)


def _ours(name: str, images: Tensor, labels: Tensor, *, compiles: bool) -> Step:
    device = images.device
    torch.manual_seed(0)
    model = create_model(name).to(device).to(memory_format=torch.channels_last).train()
    optimizer = optim.build(recipe.Sgd(nesterov=True), model)
    optim.set_lr(optimizer, torch.tensor(0.1, device=device))
    forward = torch.compile(model) if compiles else model
    context = hardware.autocast("bf16", device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with context():
            logits = forward(images)
        F.cross_entropy(logits.float(), labels).backward()
        optimizer.step()

    return step


def _timms(name: str, images: Tensor, labels: Tensor, *, compiles: bool) -> Step:
    """As timm's train.py with --amp --amp-dtype bfloat16 --channels-last, and --torchcompile."""
    import timm
    import timm.optim

    device = images.device
    torch.manual_seed(0)
    model = timm.create_model(name).to(device).to(memory_format=torch.channels_last).train()
    optimizer = timm.optim.create_optimizer_v2(model, opt="sgd", lr=0.1, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss()
    forward = torch.compile(model) if compiles else model

    def step() -> None:
        with as_torch_comes():
            with torch.autocast(device.type, torch.bfloat16):
                loss = criterion(forward(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return step


@dataclass(frozen=True)
class Cost:
    """The operations of a piece of a training step, and the fewest bytes that it can read and write."""

    flops: float
    bytes: float


def cost_of(model: nn.Module, batch: int, px: int) -> list[Cost]:
    """Returns what a step's passes through each layer cost in bfloat16, for the roofline.

    A convolution or linear layer has three passes (forward, gradient of its input, gradient of its weights), but for
    the first, whose input needs none; each reads two of its input, output and weights and writes the third. A norm,
    with the addition and relu after it, reads its input and writes its output, and backwards reads both gradients'
    sources and writes one: five times its values. Other layers count their input and output, twice.
    """
    width = 2  # bytes of a bfloat16
    sizes: dict[str, tuple[int, int]] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            sizes[name] = inputs[0].numel(), output.numel()

        return hook

    model = model.to("meta").eval()
    for name, layer in model.named_modules():
        if next(layer.children(), None) is None:
            layer.register_forward_hook(watch(name))
    model(torch.empty(1, 3, px, px, device="meta"))
    costs: list[Cost] = []
    first = True
    for row in measure(model, px).layers:
        before, after = (batch * size for size in sizes[row.name])
        if row.multiply_adds:
            passes = 2 if first else 3
            first = False
            moved = width * (before + after + row.params)
            costs += [Cost(2.0 * batch * row.multiply_adds, moved)] * passes
        elif row.kind.startswith("BatchNorm"):
            costs.append(Cost(0.0, width * 5 * before))
        elif row.kind not in ("ReLU", "Identity", "Flatten"):
            costs.append(Cost(0.0, width * 2 * (before + after)))
    return costs


PARTS = {resnet50.__name__: resnet50}
