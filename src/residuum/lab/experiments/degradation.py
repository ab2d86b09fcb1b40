"""Figures 1 and 6: plain nets get worse with depth, in training already; residual nets do not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from residuum.lab.bench import Bench
from residuum.lab.curves import how_measured, nets_of, panel, table
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Claim, Drawing, Finding, Measure, Rows, below, by_net, change, means
from residuum.lab.plots import draw_lines
from residuum.lab.together import Wanted

DEPTHS = {"smoke": (20, 56), "small": (20, 56), "full": (20, 32, 44, 56, 110)}
PAPER = {"resnet20": "8.75", "resnet32": "7.51", "resnet44": "7.17", "resnet56": "6.97", "resnet110": "6.61"}
"""Test errors in percent. Source: arXiv:1512.03385, Table 6 (110: mean of five)."""
_PLAIN = {"plain110": "above 60"}


def _read(rows: Rows) -> Finding:
    training, test = by_net(rows, "net", "train_error"), by_net(rows, "net", "test_error")
    errors = means(training)
    checks = [
        below(errors, "plain20", "plain56", "training error, %, at the end of the schedule"),
        below(errors, "resnet56", "resnet20", "training error, %, at the end of the schedule"),
    ]
    measures = [Measure(f"{net}: training error", values, "%") for net, values in training.items()]
    for net, values in test.items():
        paper = PAPER.get(net) or _PLAIN.get(net)
        measures.append(Measure(f"{net}: test error", values, "%", 2, f"{paper} %" if paper else ""))
    headlines = [
        change("training error of plain nets, 20 → 56 layers", training, ("plain20", "plain56")),
        change("training error of residual nets, 20 → 56 layers", training, ("resnet20", "resnet56")),
        change(
            "test error of residual nets, 20 → 56 layers",
            test,
            ("resnet20", "resnet56"),
            paper=f"{PAPER['resnet20']} → {PAPER['resnet56']} %",
        ),
    ]

    def draw() -> bytes:
        plain, residual = nets_of(rows, "plain"), nets_of(rows, "resnet")
        return draw_lines([panel("Plain nets", plain), panel("Residual nets", residual)])

    alt = "Training and test error by epoch: plain nets on the left, residual nets on the right"
    remarks = [*_of_test_errors(means(test)), *how_measured(rows)]
    return Finding(measures, checks, headlines, [Drawing("curves", alt, draw)], [table(rows)], remarks)


def _of_test_errors(mean: Mapping[str, float]) -> Iterator[str]:
    """Says so where residual nets get worse with depth on pictures that they have not seen."""
    shallow, deep = mean.get("resnet20", math.nan), mean.get("resnet56", math.nan)
    if deep > shallow:
        yield (
            f"Unlike in the paper, the deeper residual net has the greater test error here, {deep:.2f} % against "
            f"{shallow:.2f} %. The claim and its rule are about training error; a net that fits its pictures better "
            "need not know others better, least of all where it has seen few of them."
        )


@EXPERIMENTS.register(
    Claim(
        claim="A deeper plain net trains worse than a shallower one; a deeper residual net trains better.",
        source="arXiv:1512.03385, Figures 1 and 6, and Table 6",
        rule="At the end of the schedule the training error of plain-56 is above that of plain-20, and the training "
        "error of ResNet-56 below that of ResNet-20 (means over seeds).",
        scales={
            "smoke": "Narrow plain and residual nets of 20 and 56 layers, 3 epochs on the digits.",
            "small": "Plain-20, plain-56, ResNet-20 and ResNet-56 on 20,000 training pictures of CIFAR-10 at 16 x "
            "16 pixels, mirrored at random and not cropped, for 12 epochs of SGD in batches of 64; the rate is warmed "
            "up to 0.05 for one and falls to zero along a cosine. The paper: 50,000 at 32 x 32, cropped at random, for "
            "164 epochs in batches of 128, with a rate of 0.1 in three steps.",
            "full": "Plain and residual nets of 20, 32, 44, 56 and 110 layers as published.",
        },
        read=_read,
        takes=frozenset({"data", "seeds"}),
    )
)
def degradation(bench: Bench) -> None:
    """Plain nets get worse with depth, and residual nets do not: training and test curves."""
    bench.train(
        Wanted(f"{family}{depth}_cifar", seed)
        for seed in bench.seeds
        for depth in DEPTHS[bench.scale]
        for family in ("plain", "resnet")
    )
