"""Table 3 and section 3.3: shortcuts A, B and C differ little, so that projections are not essential."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import torch

from residuum.lab.bench import Bench
from residuum.lab.curves import how_measured, nets_of, panel, table
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Check, Claim, Drawing, Finding, Measure, Rows, by_net, change, means
from residuum.lab.plots import draw_lines
from residuum.lab.together import Wanted
from residuum.models import create_model

KINDS = ("A", "B", "C")
PAPER = {"resnet34-A": 25.03, "resnet34-B": 24.52, "resnet34-C": 24.19, "plain34": 28.54}
"""Top-1 validation errors in percent on ImageNet, ten crops. Source: arXiv:1512.03385, Tables 2 and 3."""
COUNTED = ("resnet34", "resnet20_cifar")


def _parameters(model: str) -> dict[str, Any]:
    with torch.device("meta"):
        return {kind: sum(p.numel() for p in create_model(model, shortcut=kind).parameters()) for kind in KINDS}


def _kind(net: str) -> str:
    """Returns the shortcut of a net; a CIFAR net that names none has A, and serves other experiments too."""
    return net.partition("-")[2] or "A"


def _read(rows: Rows) -> Finding:
    test = by_net(rows, "net", "test_error")
    mean = means(test)
    nets = {_kind(net): net for net in mean if not net.startswith("plain")}
    residual = {kind: mean[net] for kind, net in nets.items()}
    plain_net = next((net for net in mean if net.startswith("plain")), "plain20")
    spread = max(residual.values()) - min(residual.values())
    gap = mean.get(plain_net, math.nan) - max(residual.values())
    checks = [
        Check(f"{later} {residual[later]:.2f} % at most {earlier} {residual[earlier]:.2f} %",
              residual[later] <= residual[earlier], (nets[later], nets[earlier]))
        for earlier, later in itertools.pairwise(KINDS)
    ]  # fmt: skip
    what = f"A, B and C differ by {spread:.2f} points; the plain net is {gap:.2f} points behind the worst of them"
    checks.append(Check(what, spread < gap, (*nets.values(), plain_net)))
    measures = [
        Measure(f"{net}: test error", values, "%", 2, f"{PAPER[net]} % (ten crops)" if net in PAPER else "")
        for net, values in test.items()
    ]
    for row in (row for row in rows if row["kind"] == "parameters"):
        for kind in ("B", "C"):
            more = row[kind] - row["A"]
            measures.append(Measure(f"{row['net']}: parameters that {kind} has more than A", [more], "", 0))

    def draw() -> bytes:
        return draw_lines([panel("Shortcuts A, B, C, and none", nets_of(rows))])

    alt = "Training and test error by epoch of nets with shortcuts A, B, C, and without"
    remarks = [] if all(check.holds for check in checks[:2]) else [_WORSE]
    remarks += how_measured(rows)
    papers = [f"{PAPER[nets[kind]]:.2f}" for kind in KINDS if nets[kind] in PAPER]
    printed = f"{' → '.join(papers)} % (ten crops)" if papers else ""
    headlines = [
        change("test error with shortcuts A → B → C", test, [nets[kind] for kind in KINDS], paper=printed),
        change("without", test, [plain_net], paper=f"{PAPER[plain_net]} % (ten crops)" if plain_net in PAPER else ""),
    ]
    if not any(net.startswith("resnet34") for net in test):
        remarks.append(
            "The paper compares the three on ResNet-34 and ImageNet (25.03, 24.52 and 24.19 %; plain-34: 28.54 %; "
            "ten crops); here it is ResNet-20 on small pictures, and the paper has no figure for that."
        )
    return Finding(measures, checks, headlines, [Drawing("curves", alt, draw)], [table(rows)], remarks)


_WORSE = (
    "Unlike in the paper, projections do not help here. In its successor they do harm on CIFAR-10 too: ResNet-110 with "
    "1x1 convolutions in all shortcuts has 12.22 % error, and 6.61 % with identities (arXiv:1603.05027, Table 1)."
)


@EXPERIMENTS.register(
    Claim(
        claim="Projection shortcuts help little: B is slightly better than A and C than B, and all are far better "
        "than none.",
        source="arXiv:1512.03385, Table 3 and section 3.3",
        rule="Test errors fall from A to B to C, and A, B and C differ by less than the plain net is behind the "
        "worst of them (means over seeds).",
        scales={
            "smoke": "A narrow ResNet-20 with A, B and C, and plain-20, 3 epochs on the digits.",
            "small": "ResNet-20 with A, B and C, and plain-20, trained as in `degradation`.",
            "full": "ResNet-20 with A, B and C, and plain-20, as published; where --data names a set of larger "
            "pictures, such "
            "as a folder of ImageNet, ResNet-34 and plain-34 as published.",
        },
        read=_read,
        takes=frozenset({"data", "seeds"}),
    )
)
def shortcuts(bench: Bench) -> None:
    """Shortcuts A, B and C: curves, errors, extra parameters."""
    for model in COUNTED:
        bench.once("parameters", partial(_parameters, model), net=model.removesuffix("_cifar"))
    large = bench.scale == "full" and bench.shorter_side() > 64
    plain, residual = ("plain34", "resnet34") if large else ("plain20_cifar", "resnet20_cifar")
    options = {kind: () if kind == "A" and not large else (("shortcut", kind),) for kind in KINDS}
    for seed in bench.seeds:
        bench.train([Wanted(plain, seed), *(Wanted(residual, seed, options[kind]) for kind in KINDS)])
