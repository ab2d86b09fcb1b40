"""A gradient always has a direct way down: the norm of dL/dx at every block, at initialisation and after training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from residuum.lab.bench import Bench
from residuum.lab.blocks import gradient_norms
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import (
    Check,
    Claim,
    Drawing,
    Finding,
    Headline,
    Measure,
    Rows,
    Scale,
    by_net,
    mean_of_curves,
    means,
)
from residuum.lab.nets import Net
from residuum.lab.plots import Panel, Series, draw_lines

DEPTHS = {"smoke": (20, 56, 110), "small": (20, 32, 44, 56, 110), "full": (20, 32, 44, 56, 110)}
TRAINED = {"smoke": (20, 56), "small": (20, 56), "full": (20, 56, 110)}
PICTURES = 128
STATES = {"initial": "at initialisation", "trained": "after training"}
FAMILIES = ("plain", "resnet")


def _measure(net: Net, bench: Bench) -> dict[str, Any]:
    norms = gradient_norms(net.model, *bench.pictures(net, PICTURES, "train"))
    return {"norms": [_in_json(norm) for norm in norms], "decades": decades_of(norms)}


def decades_of(norms: Sequence[float]) -> float | None:
    """Returns the decades between the largest and the smallest norm; None, for infinitely many, where one is zero or
    not finite."""
    if not all(math.isfinite(norm) and norm > 0 for norm in norms):
        return None
    return math.log10(max(norms) / min(norms))


def _in_json(norm: float) -> float | None:
    return float(f"{norm:.6g}") if math.isfinite(norm) else None


def _decades(rows: Rows) -> dict[str, list[float]]:
    """Returns net -> its decades, in the order of the seeds; infinitely many are an infinity."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        decades = math.inf if row["decades"] is None else float(row["decades"])
        found.setdefault(row["net"], []).append((row["seed"], decades))
    return {net: [value for _, value in sorted(values)] for net, values in found.items()}


def _read(rows: Rows) -> Finding:
    checks, measures, drawings, headlines, remarks = [], [], [], [], [_REMARK]
    for state, words in STATES.items():
        found = [row for row in rows if row["kind"] == "gradients" and row["state"] == state]
        decades = _decades(found)
        mean = means(decades)
        depths = sorted({int(net.removeprefix(family)) for net in decades for family in FAMILIES if family in net})
        for depth in depths:
            plain, residual = f"plain{depth}", f"resnet{depth}"
            what = f"{words}, {depth} layers: {mean.get(residual, math.nan):.2f} decades in the residual net, "
            what += f"{mean.get(plain, math.nan):.2f} in the plain one"
            fewer = mean.get(residual, math.nan) < mean.get(plain, math.nan)
            checks.append(Check(what, fewer, (residual, plain) if state == "trained" else ()))
        finite = {net: values for net, values in decades.items() if all(map(math.isfinite, values))}
        measures += [
            Measure(f"{net}, {words}: decades between the largest and the smallest norm", values)
            for net, values in finite.items()
        ]
        remarks += [
            f"{net}, {words}: somewhere the gradient is zero or not finite, which counts as infinitely many decades."
            for net in decades
            if net not in finite
        ]
        deepest = max(depths, default=0)
        both = (finite.get(f"{family}{deepest}") for family in FAMILIES)
        said = " → ".join(f"{Measure('', each).mean:.2f}" if each else "infinitely many" for each in both)
        headlines.append(Headline(f"decades of gradients {words}, plain-{deepest} → ResNet-{deepest}", said))
        alt = f"Norm of the gradient at every block of plain and residual nets, {words}"
        panels = [_panel(found, family, words) for family in FAMILIES]
        drawings.append(Drawing(state, alt, partial(draw_lines, panels)))
    remarks += [_of_errors(rows, check.nets) for check in checks if check.nets and not check.holds]
    return Finding(measures, checks, headlines, drawings, remarks=remarks)


def _trained(scale: Scale) -> list[str]:
    return [f"{family}{depth}_cifar" for depth in TRAINED[scale] for family in FAMILIES]


def _of_errors(rows: Rows, nets: Sequence[str]) -> str:
    """Says what gradients are worth whose norms span few decades."""
    errors = means(by_net(rows, "net", "train_error"))
    found = ", ".join(f"{net} {errors[net]:.1f} %" for net in nets if net in errors)
    return (
        f"Unlike in the claim, the norms along {nets[1]} do not span more decades than those along {nets[0]} after "
        "training. Norms that are alike do not say that a net has learnt"
        f"{f' (training errors: {found})' if found else ''}."
    )


_REMARK = (
    "With batch norm, the gradients of a plain net at initialisation do not vanish on their way down: they grow. What "
    "shortcuts change is how fast they change from block to block."
)


def _panel(rows: Rows, family: str, words: str) -> Panel:
    nets: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["net"].startswith(family):
            nets.setdefault(row["net"], []).append(row)
    series = []
    for look, (net, each) in enumerate(sorted(nets.items(), key=lambda item: int(item[0].removeprefix(family)))):
        norms = mean_of_curves([[math.nan if norm is None else norm for norm in row["norms"]] for row in each])
        series.append(Series(net, [place / (len(norms) - 1) for place in range(len(norms))], norms, look))
    title = {"plain": "Plain nets", "resnet": "Residual nets"}[family]
    return Panel(f"{title}, {words}", "place in the net (0: after the stem, 1: before the head)",
                 "norm of dL/dx", series, log=True)  # fmt: skip


@EXPERIMENTS.register(
    Claim(
        claim="In a residual net the gradient always has a direct way down, through the shortcuts, whatever the depth.",
        source="arXiv:1512.03385, section 3.1; arXiv:1603.05027, equation 5 (no figure is printed)",
        rule="At every depth, at initialisation and after training, the norms of dL/dx along a residual net span fewer "
        "decades than along the plain net of the same depth (mean over seeds). Where a norm is zero or not finite, "
        "they are infinitely many.",
        scales={
            "smoke": f"Narrow nets of 20, 56 and 110 layers, {PICTURES} digits; those of 20 and 56 trained for 3 "
            "epochs.",
            "small": f"Nets of 20 to 110 layers at initialisation, 20 and 56 trained as in `degradation`; {PICTURES} "
            "training pictures of 16 x 16 pixels, batch statistics.",
            "full": f"The same with nets of 20, 56 and 110 layers trained as published, at 32 x 32; {PICTURES} "
            "pictures.",
        },
        read=_read,
        takes=frozenset({"data", "seeds", "bundle"}),
        nets=_trained,
    )
)
def gradients(bench: Bench) -> None:
    """The norm of the gradient at every block, plain against residual."""
    for depth in DEPTHS[bench.scale]:
        for family in FAMILIES:
            for seed in bench.seeds:
                net = bench.untrained(f"{family}{depth}_cifar", seed)
                bench.once("gradients", partial(_measure, net, bench), **net.key, state="initial")
    for net in bench.nets(*_trained(bench.scale)):
        bench.once("gradients", partial(_measure, net, bench), **net.key, state="trained")
