"""Figure 7: residual nets respond less than plain ones, and deeper residual nets less per layer."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch

from residuum.lab.bench import Bench
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Claim, Drawing, Finding, Measure, Rows, below, by_net, change, mean_of_curves, means
from residuum.lab.nets import Net
from residuum.lab.plots import Panel, Series, draw_lines
from residuum.lab.responses import response_stds

NETS = {
    "smoke": ("plain20_cifar", "plain56_cifar", "resnet20_cifar", "resnet56_cifar"),
    "small": ("plain20_cifar", "plain56_cifar", "resnet20_cifar", "resnet56_cifar"),
    "full": ("plain20_cifar", "plain56_cifar", "resnet20_cifar", "resnet56_cifar", "resnet110_cifar"),
}
PICTURES = {"smoke": 256, "small": 1_000, "full": 10_000}


def _measure(net: Net, bench: Bench) -> dict[str, Any]:
    images, _ = bench.pictures(net, PICTURES[bench.scale])
    stds = response_stds(net.model, torch.split(images, 250))
    return {"stds": [float(f"{std:.6g}") for std in stds], "mean": statistics.fmean(stds)}


def _read(rows: Rows) -> Finding:
    found = by_net(rows, "responses", "mean")
    mean = means(found)
    checks = [
        below(mean, "resnet20", "plain20", "20 layers: mean standard deviation"),
        below(mean, "resnet56", "plain56", "56 layers: mean standard deviation"),
        below(mean, "resnet56", "resnet20", "deeper residual nets respond less per layer"),
    ]
    if "resnet110" in mean:
        checks.append(below(mean, "resnet110", "resnet56", "and so on, at 110 layers"))
    by_order, by_size = [], []
    for look, net in enumerate(found):
        curves = [row["stds"] for row in rows if row["kind"] == "responses" and row["net"] == net]
        number = range(1, len(curves[0]) + 1)
        by_order.append(Series(net, number, mean_of_curves(curves), look))
        by_size.append(Series(net, number, mean_of_curves([sorted(c, reverse=True) for c in curves]), look))
    y = "standard deviation"
    panels = [
        Panel("In the order of the layers", "layer", y, by_order),
        Panel("Sorted by size", "layers, by the size of their response", y, by_size),
    ]

    def draw() -> bytes:
        return draw_lines(panels)

    measures = [Measure(f"{net}: mean over layers of the standard deviation", v, "", 3) for net, v in found.items()]
    alt = "Standard deviation of layer responses, in the order of the layers and sorted"
    headlines = [
        change(f"mean standard deviation, {what}", found, nets, unit="", decimals=3)
        for what, nets in (
            ("plain → residual, 20 layers", ("plain20", "resnet20")),
            ("plain → residual, 56 layers", ("plain56", "resnet56")),
            ("residual, 20 → 56 layers", ("resnet20", "resnet56")),
        )
    ]
    remarks = [] if checks[2].holds else [_BRIEF]
    return Finding(measures, checks, headlines, [Drawing("responses", alt, draw)], remarks=remarks)


_BRIEF = (
    "Unlike in the paper, the deeper residual net does not respond less per layer here. What is measured comes out of "
    "batch norm, so its size is that of the norm's own weights: these begin at 1, and only long training with weight "
    "decay makes them small."
)


@EXPERIMENTS.register(
    Claim(
        claim="The layers of residual nets respond less strongly than those of plain nets, and the deeper the net, the "
        "less each layer changes the signal.",
        source="arXiv:1512.03385, Figure 7 (read off the curves: no number is printed)",
        rule="The mean over layers of the standard deviation is smaller in the residual net than in the plain one "
        "of the "
        "same depth, and smaller in the deeper residual net than in the shallower one (means over seeds).",
        scales={
            "smoke": "Narrow nets of 20 and 56 layers, trained for 3 epochs on the digits; 256 test pictures.",
            "small": "Nets of 20 and 56 layers trained as in `degradation`, or bundles; 1,000 test pictures.",
            "full": "Nets of 20, 56 and 110 layers trained as published; 10,000 test pictures.",
        },
        read=_read,
        takes=frozenset({"data", "seeds", "bundle"}),
        nets=lambda scale: NETS[scale],
    )
)
def responses(bench: Bench) -> None:
    """The standard deviation of every layer's response, after batch norm and before relu or addition."""
    for net in bench.nets(*NETS[bench.scale]):
        bench.once("responses", partial(_measure, net, bench), **net.key)
