"""Table 6: the deeper the residual net, the smaller the test error, up to 110 layers; 1202 layers can be trained."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import torch

from residuum.errors import ResourceError
from residuum.lab.bench import Bench
from residuum.lab.curves import how_measured, nets_of, panel, table
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.experiments.degradation import PAPER
from residuum.lab.findings import Check, Claim, Drawing, Finding, Measure, Rows, below, by_net, means
from residuum.lab.plots import draw_lines
from residuum.models import create_model
from residuum.recipes import RECIPES

DEPTHS = {"smoke": (20, 56), "small": (20, 32, 44, 56, 110), "full": (20, 32, 44, 56, 110)}
PARAMETERS = {20: "0.27 M", 32: "0.46 M", 44: "0.66 M", 56: "0.85 M", 110: "1.7 M", 1202: "19.4 M"}
"""Source: Table 6."""
DEEPEST, ITS_PARAMETERS, ITS_LIMIT_GB = "resnet1202_cifar", 19_400_000, 24.0

_STEPS = """
import json, sys
from pathlib import Path
import torch
from residuum import recipe
from residuum.models import create_model
from residuum.training import optim
batch, steps = int(sys.argv[1]), int(sys.argv[2])
model = create_model("resnet1202_cifar", checkpoint_activations=True).to(memory_format=torch.channels_last)
optimizer = optim.build(recipe.Sgd(), model)
images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
losses = []
for _ in range(steps):
    loss = torch.nn.functional.cross_entropy(model(images), torch.arange(batch) % 10)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(float(loss))
status = Path("/proc/self/status")
lines = status.read_text().splitlines() if status.exists() else []
peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
print(json.dumps({"losses": losses, "peak_bytes": peak}))
"""
"""A process of its own, whose peak memory is that of the steps alone."""


def _deepest() -> dict[str, Any]:
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in create_model(DEEPEST).parameters())
    return {"params": params, "recipe": RECIPES["resnet1202_cifar10_2015"].build().name}


def _steps(batch_size: int, steps: int) -> dict[str, Any]:
    command = [sys.executable, "-c", _STEPS, str(batch_size), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["its process was killed"])[-1]
        raise ResourceError(
            f"ResNet-1202 did not take its steps: {reason}",
            expected=f"Expected {ITS_LIMIT_GB:.0f} GB of free memory.",
            hint="Run it on a machine with more memory; what was measured before is kept.",
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _read(rows: Rows) -> Finding:
    test = by_net(rows, "net", "test_error")
    mean = means(test)
    deeper = sorted(mean, key=lambda net: int(net.removeprefix("resnet")))
    checks = [below(mean, later, earlier, "test error, %") for earlier, later in itertools.pairwise(deeper)]
    measures = [Measure(f"{net}: test error", values, "%", 2, f"{PAPER[net]} %") for net, values in test.items()]
    for row in (row for row in rows if row["kind"] == "deepest"):
        measures.append(Measure("resnet1202: parameters", [row["params"]], "", 0, PARAMETERS[1202]))
        built = f"resnet1202 builds, with {row['params']:,} parameters, and has the recipe {row['recipe']}"
        checks.append(Check(built, round(row["params"] / 1e5) == round(ITS_PARAMETERS / 1e5)))
    for row in (row for row in rows if row["kind"] == "steps" and row["peak_bytes"]):
        peak = row["peak_bytes"] / 1e9
        measures.append(Measure(f"resnet1202: peak memory of steps of {row['batch_size']} pictures", [peak], "GB", 1))
        checks.append(Check(f"resnet1202 takes steps within {peak:.1f} of {ITS_LIMIT_GB:.0f} GB", peak < ITS_LIMIT_GB))
    parameters = {row["net"]: row["params"] for row in rows if row["kind"] == "net"}
    measures += [
        Measure(f"{net}: parameters", [parameters[net]], "", 0, PARAMETERS[int(net.removeprefix("resnet"))])
        for net in deeper
    ]

    def draw() -> bytes:
        return draw_lines([panel("Residual nets", nets_of(rows, "resnet"))])

    alt = "Training and test error of residual nets by epoch"
    return Finding(measures, checks, [Drawing("curves", alt, draw)], [table(rows)], how_measured(rows))


@EXPERIMENTS.register(
    Claim(
        claim="The deeper the residual net, the smaller its test error, from 20 to 110 layers; even 1202 layers train.",
        source="arXiv:1512.03385, Table 6",
        rule="The test error falls from each depth to the next (means over seeds); ResNet-1202 has 19.4 M "
        "parameters and a "
        "recipe, and (from `small` on) takes steps of 128 pictures within 24 GB.",
        scales={
            "smoke": "Narrow ResNet-20 and 56, 3 epochs on the digits; ResNet-1202 is built.",
            "small": "ResNet-20 to 110, trained as in `degradation` (110 with an epoch at a tenth of the rate "
            "first), two "
            "seeds; ResNet-1202 takes one step.",
            "full": "ResNet-20 to 110 as published; ResNet-1202 takes three steps (its whole training is the recipe "
            "`resnet1202_cifar10_2015`).",
        },
        read=_read,
        seeds={"smoke": 1, "small": 2, "full": 5},
        takes=frozenset({"data", "seeds"}),
    )
)
def depth(bench: Bench) -> None:
    """Test error and parameters from 20 to 110 layers; 1202 layers build and take steps."""
    bench.once("deepest", _deepest)
    if bench.scale != "smoke":
        steps = 1 if bench.scale == "small" else 3
        bench.note("depth: steps of ResNet-1202, for some minutes")
        bench.once("steps", lambda: _steps(128, steps), batch_size=128, steps=steps)
    for seed in bench.seeds:
        for layers in DEPTHS[bench.scale]:
            bench.net(f"resnet{layers}_cifar", seed)
