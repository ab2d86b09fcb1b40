"""Table 6: the deeper the residual net, the smaller the test error, up to 110 layers; 1202 layers can be trained."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from residuum.lab import steps
from residuum.lab.bench import Bench
from residuum.lab.curves import how_measured, nets_of, panel, table
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.experiments.degradation import PAPER
from residuum.lab.findings import Check, Claim, Drawing, Finding, Headline, Measure, Rows, below, by_net, change, means
from residuum.lab.plots import draw_lines
from residuum.lab.together import Wanted
from residuum.models import create_model
from residuum.recipes import RECIPES

DEPTHS = {"smoke": (20, 56), "small": (20, 32, 44, 56, 110), "full": (20, 32, 44, 56, 110)}
PARAMETERS = {20: "0.27 M", 32: "0.46 M", 44: "0.66 M", 56: "0.85 M", 110: "1.7 M", 1202: "19.4 M"}
"""Source: Table 6."""
DEEPEST, ITS_PARAMETERS, ITS_LIMIT_GB = "resnet1202_cifar", 19_400_000, 24.0
BATCH = 128


def _deepest() -> dict[str, Any]:
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in create_model(DEEPEST).parameters())
    return {"params": params, "recipe": RECIPES["resnet1202_cifar10_2015"].build().name}


def _read(rows: Rows) -> Finding:
    test = by_net(rows, "net", "test_error")
    mean = means(test)
    deeper = sorted(mean, key=lambda net: int(net.removeprefix("resnet")))
    checks = [below(mean, later, earlier, "test error, %") for earlier, later in itertools.pairwise(deeper)]
    measures = [Measure(f"{net}: test error", values, "%", 2, f"{PAPER[net]} %") for net, values in test.items()]
    printed = " → ".join(PAPER[net] for net in deeper)
    depths = " → ".join(net.removeprefix("resnet") for net in deeper)
    headlines = [change(f"test error, {depths} layers", test, deeper, paper=f"{printed} %")]
    for row in (row for row in rows if row["kind"] == "deepest"):
        measures.append(Measure("resnet1202: parameters", [row["params"]], "", 0, PARAMETERS[1202]))
        built = f"resnet1202 builds, with {row['params']:,} parameters, and has the recipe {row['recipe']}"
        checks.append(Check(built, round(row["params"] / 1e5) == round(ITS_PARAMETERS / 1e5)))
    for row in (row for row in rows if row["kind"] == "steps"):
        finite = all(loss is not None for loss in row["losses"])
        checks.append(Check(f"resnet1202 takes {len(row['losses'])} step(s), the loss of each being finite", finite))
        if row["peak_bytes"]:
            peak, what = row["peak_bytes"] / 1e9, f"peak memory of steps of {row['batch_size']} pictures"
            measures.append(Measure(f"resnet1202: {what}", [peak], "GB", 1))
            headlines.append(Headline(f"{what}, 1202 layers", f"{peak:.1f} GB"))
            words = f"resnet1202 takes steps within {peak:.1f} of {ITS_LIMIT_GB:.0f} GB"
            checks.append(Check(words, peak < ITS_LIMIT_GB))
    parameters = {row["net"]: row["params"] for row in rows if row["kind"] == "net"}
    measures += [
        Measure(f"{net}: parameters", [parameters[net]], "", 0, PARAMETERS[int(net.removeprefix("resnet"))])
        for net in deeper
    ]

    def draw() -> bytes:
        return draw_lines([panel("Residual nets", nets_of(rows, "resnet"))])

    drawing = Drawing("curves", "Training and test error of residual nets by epoch", draw)
    return Finding(measures, checks, headlines, [drawing], [table(rows)], how_measured(rows))


@EXPERIMENTS.register(
    Claim(
        claim="The deeper the residual net, the smaller its test error, from 20 to 110 layers; even 1202 layers train.",
        source="arXiv:1512.03385, Table 6",
        rule="The test error falls from each depth to the next (means over seeds); ResNet-1202 has 19.4 M parameters "
        "and a recipe, and (from `small` on) takes steps of 128 pictures within 24 GB whose loss is finite.",
        scales={
            "smoke": "Narrow ResNet-20 and 56, 3 epochs on the digits; ResNet-1202 is built.",
            "small": "ResNet-20 to 110, trained as in `degradation`, two seeds; ResNet-1202 takes one step.",
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
        count = 1 if bench.scale == "small" else 3
        bench.note("depth: steps of ResNet-1202, for some minutes")
        bench.once("steps", lambda: steps.measured(DEEPEST, BATCH, count, ITS_LIMIT_GB), batch_size=BATCH, steps=count)
    bench.train(Wanted(f"resnet{layers}_cifar", seed) for seed in bench.seeds for layers in DEPTHS[bench.scale])
