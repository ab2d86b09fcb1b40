"""Fast paths of a step against the plain one, on the same batch in float32: compiled code, and the memory's layout.

Others have their tests beside them: captured steps (`test_captured.py`), the fused kernel and folded networks
(`tests/models`), whole-batch augmentation and caches (`tests/data`), the C kernel for pictures (`test_pixels.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from residuum.recipe import Augment, Data, Model, PadCrop, Recipe, Sgd
from residuum.training import optim
from residuum.training.build import build
from residuum.training.loop import train_step

CPU = torch.device("cpu")
SMALL = Recipe(
    name="small",
    epochs=1,
    precision="fp32",
    channels_last=False,
    label_smoothing=0.1,
    model=Model("resnet20_cifar", width=0.25),
    data=Data("synthetic:24x3x8", img_size=8, resize_px=8, batch_size=16, val_fraction=0.0),
    augment=Augment(crop=PadCrop(px=1), flip="random"),
    optim=Sgd(lr=0.1, weight_decay=5e-4, clip_norm=1.0),
)
TOLERANCE = 1e-5
"""Of the largest value of a tensor: float32 adds up in another order."""


@dataclass
class Stepped:
    """A run after one update: what it was made of, and what came of it."""

    images: Tensor
    loss: float
    grad_norm: float
    before: dict[str, Tensor]
    after: dict[str, Tensor]


def stepped(wanted: Recipe, folder: Path) -> Stepped:
    run = build(wanted, folder, CPU)
    before = {name: value.detach().clone() for name, value in run.model.state_dict().items()}
    batch = next(iter(run.train_loader.epoch(0)))
    optim.set_lr(run.optimizer, wanted.optim.lr)
    loss, grad_norm = train_step(run, batch, run.counts(batch))
    return Stepped(batch.images, loss, grad_norm, before, run.model.state_dict())


def assert_the_same_step(fast: Stepped, plain: Stepped) -> None:
    assert torch.equal(fast.images, plain.images)
    assert (fast.loss, fast.grad_norm) == pytest.approx((plain.loss, plain.grad_norm), rel=TOLERANCE)
    assert fast.after.keys() == plain.after.keys()
    for name, value in plain.after.items():
        assert torch.equal(fast.before[name], plain.before[name])
        largest = float(value.abs().max())
        torch.testing.assert_close(fast.after[name], value, rtol=0, atol=TOLERANCE * max(1.0, largest), msg=name)
    moved = [name for name, value in plain.after.items() if not torch.equal(value, plain.before[name])]
    assert len(moved) == len(plain.after), "every weight and statistic moves in a step"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Stepped:
    return stepped(SMALL, tmp_path_factory.mktemp("plain"))


def test_a_compiled_step_is_the_plain_one(plain: Stepped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graphs that torch traces, forward and backward, called as they are; code is not generated for them."""
    from torch._dynamo.testing import CompileCounterWithBackend  # takes seconds

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("residuum.training.build.refuse_if_it_cannot", lambda *_: None)  # no code is generated
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    fast = stepped(replace(SMALL, compile=True), tmp_path / "run")
    assert counter.frame_count == 1, "the whole network is one graph"
    assert_the_same_step(fast, plain)


def test_a_step_in_channels_last_is_the_plain_one(plain: Stepped, tmp_path: Path) -> None:
    fast = stepped(replace(SMALL, channels_last=True), tmp_path)
    name = next(name for name, value in fast.after.items() if value.ndim == 4 and value.shape[1] > 1)
    for step, is_so in ((fast, True), (plain, False)):
        for values in (step.images, step.after[name]):
            assert values.is_contiguous(memory_format=torch.channels_last) is is_so
    assert_the_same_step(fast, plain)
