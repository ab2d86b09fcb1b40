"""Optimizers that leave torch's compiler alone: the same steps as torch's own, and a run without its import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from residuum.training import eager

PAIRS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "SGD": (eager.SGD, torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "fused SGD": (eager.SGD, torch.optim.SGD, {"momentum": 0.9, "fused": True}),
    "AdamW": (eager.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
    "fused AdamW": (eager.AdamW, torch.optim.AdamW, {"fused": True}),
}


def trained(kind: Any, options: dict[str, Any], steps: int, state: Any = None) -> tuple[list[Tensor], Any]:
    """Returns the parameters after some steps, of an optimizer that begins in `state`, and its state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    optimizer = kind(model.parameters(), lr=0.1, **options)
    if state is not None:
        optimizer.load_state_dict(state)
    for _ in range(steps):
        loss = (model(torch.randn(4, 5)) ** 2).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    return [parameter.detach() for parameter in model.parameters()], optimizer.state_dict()


@pytest.mark.parametrize("name", PAIRS)
def test_steps_and_states_are_those_of_torchs_own(name: str) -> None:
    ours, theirs, options = PAIRS[name]
    found, state = trained(ours, options, 4)
    wanted, torchs_state = trained(theirs, options, 4)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert state["param_groups"] == torchs_state["param_groups"]
    again, _ = trained(ours, options, 2, torchs_state)  # either reads what the other has written
    torchs_again, _ = trained(theirs, options, 2, state)
    fresh, _ = trained(ours, options, 2)
    assert all(torch.equal(one, other) for one, other in zip(again, torchs_again, strict=True))
    assert not all(torch.equal(one, other) for one, other in zip(again, fresh, strict=True))


RUNS = """
import sys
from dataclasses import replace
from pathlib import Path
from residuum import recipe
from residuum.training.train import train

data = recipe.Data("synthetic:24x2x8", img_size=8, resize_px=8, batch_size=8)
small = recipe.Recipe(epochs=1, model=recipe.Model("resnet20_cifar", width=0.25), data=data)
for optim in (recipe.Sgd(), recipe.AdamW(), recipe.Muon()):
    train(replace(small, optim=optim), out=Path(sys.argv[1]) / type(optim).__name__)
    assert "torch._dynamo" not in sys.modules, optim
"""


def test_a_run_does_not_import_the_compiler(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", RUNS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(place.name for place in tmp_path.iterdir()) == ["AdamW", "Muon", "Sgd"]


BEGINNING = """
import sys
import torch
torchs = set(sys.modules)  # what torch itself imports is another thing in each of its versions
from residuum.cli.main import main
from residuum.training import loop

def first_step(*arguments, step=loop.train_step):
    step(*arguments)
    print(*sorted(set(sys.modules) - torchs))
    sys.exit(0)

loop.train_step = first_step
sys.exit(main(["train", "--data", "synthetic:24x2x8", "--img-size", "8", "--batch-size", "8", "--out", sys.argv[1]]))
"""
LATE = ("matplotlib", "pyarrow", "sklearn", "scipy", "torchvision", "rich", "tensorboard", "sympy", "pandas")
LATE_MODULES = ("torch._dynamo", "residuum.training.ending", "residuum.training.summary", "residuum.evaluation.trained")


def test_nothing_comes_before_the_first_step_that_a_run_on_small_pictures_does_not_need(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BEGINNING, str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert "residuum.training.build" in imported
    assert not imported & {*LATE_MODULES}
    assert not {name.split(".")[0] for name in imported} & {*LATE}
