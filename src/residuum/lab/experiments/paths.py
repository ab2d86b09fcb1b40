"""An ensemble of many paths, of which the short ones do the work: deleting and swapping blocks, gradients of paths."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from residuum.lab.bench import Bench
from residuum.lab.blocks import blocks_of, error_of, keeps_shape, path_gradient, without
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import (
    Check,
    Claim,
    Drawing,
    Finding,
    Headline,
    Measure,
    Rows,
    by_net,
    change,
    mean_of_curves,
    means,
)
from residuum.lab.nets import Net
from residuum.lab.plots import Panel, Series, draw_lines

NETS = ("plain20_cifar", "plain56_cifar", "resnet20_cifar", "resnet56_cifar")
PICTURES = {"smoke": 64, "small": 1_000, "full": 10_000}
DRAWS = {"smoke": 1, "small": 10, "full": 50}
"""How many sets of blocks, orders and paths are drawn of each number."""
GRADIENT_PICTURES = 100
FALLS, RISES, LARGEST_STEP = 1.0, 10.0, 1 / 3
"""Smooth is an error that falls by no more than so many points from one number of deleted blocks to the next, rises by
so many in all, and does at most that part of it in one step."""


def _deletions(net: Net, bench: Bench) -> dict[str, Any]:
    """The error without each block in turn, and without several, drawn at random among those that keep the shape."""
    images, labels = bench.pictures(net, PICTURES[bench.scale])
    blocks = blocks_of(net.model)
    whole = error_of(net.model, blocks, images, labels)
    single = [
        error_of(net.model, [without(b) if k == number else b for k, b in enumerate(blocks)], images, labels)
        for number in range(len(blocks))
    ]
    movable = [number for number, block in enumerate(blocks) if keeps_shape(block)]
    random = np.random.default_rng(net.seed)
    several = []
    counts = range(1, len(movable), max(1, len(movable) // 10))
    for count in counts:
        errors = []
        for _ in range(DRAWS[bench.scale]):
            gone = set(random.choice(movable, count, replace=False).tolist())
            steps = [without(block) if k in gone else block for k, block in enumerate(blocks)]
            errors.append(error_of(net.model, steps, images, labels))
        several.append(round(statistics.fmean(errors), 4))
    rises = [single[number] - whole for number in movable]
    return {
        "error": whole,
        "single": [round(error, 4) for error in single],
        "keeps_shape": movable,
        "median_rise": statistics.median(rises),
        "counts": [0, *counts],
        "several": [round(whole, 4), *several],
    }


def _swaps(net: Net, bench: Bench) -> dict[str, Any]:
    """The error after swapping more and more pairs of blocks of the same shape, against Kendall's tau of the order;
    and how much of it a single swap costs."""
    images, labels = bench.pictures(net, PICTURES[bench.scale])
    blocks = blocks_of(net.model)
    stages = [set(stage.children()) for stage in net.model.stages]
    groups = [[k for k, block in enumerate(blocks) if block in stage and keeps_shape(block)] for stage in stages]
    groups = [group for group in groups if len(group) > 1]
    random = np.random.default_rng(net.seed)
    taus, errors = [1.0], [error_of(net.model, blocks, images, labels)]
    most = 2 * len(blocks)
    for pairs in sorted({1, 2, 4, *range(6, most, max(2, most // 8))}):
        for _ in range(DRAWS[bench.scale] if pairs == 1 else max(1, DRAWS[bench.scale] // 2)):
            order = list(range(len(blocks)))
            for _ in range(pairs):
                group = groups[int(random.integers(len(groups)))]
                first, second = random.choice(group, 2, replace=False).tolist()
                order[first], order[second] = order[second], order[first]
            taus.append(round(kendall_tau(order), 6))
            errors.append(round(error_of(net.model, [blocks[k] for k in order], images, labels), 4))
    one = statistics.fmean(errors[1 : 1 + DRAWS[bench.scale]]) - errors[0]
    return {"taus": taus, "errors": errors, "one_swap": round(one, 4)}


def kendall_tau(order: list[int]) -> float:
    """Returns Kendall's rank correlation of a permutation with the order 0, 1, 2, ..."""
    n = len(order)
    inversions = sum(order[j] < order[i] for i in range(n) for j in range(i + 1, n))
    return 1 - 4 * inversions / (n * (n - 1))


def _lengths(net: Net, bench: Bench) -> dict[str, Any]:
    """The gradient of a single path against its length, and what all paths of a length carry."""
    images, labels = bench.pictures(net, min(GRADIENT_PICTURES, PICTURES[bench.scale]))
    total = len(blocks_of(net.model))
    random = np.random.default_rng(net.seed)
    norms = []
    for length in range(total + 1):
        drawn = []
        for _ in range(DRAWS[bench.scale] if 0 < length < total else 1):
            branches = set(random.choice(total, length, replace=False).tolist())
            gradient = path_gradient(net.model, images, labels, branches)
            drawn.append(float(gradient.flatten(1).norm(dim=1).mean()))
        norms.append(statistics.fmean(drawn))
    carried = np.array([math.comb(total, length) * norm for length, norm in enumerate(norms)])
    share = carried / max(carried.sum(), 1e-300)  # of a net that lets no gradient through
    return {
        "norms": [float(f"{norm:.6g}") for norm in norms],
        "share": [float(f"{part:.6g}") for part in share.tolist()],
        "mean_length": float((np.arange(total + 1) * share).sum()),
        "blocks": total,
    }


def is_smooth(errors: Sequence[float]) -> bool:
    """Whether the errors, in percent, rise smoothly: see FALLS, RISES and LARGEST_STEP."""
    steps = [later - earlier for earlier, later in itertools.pairwise(errors)]
    rise = errors[-1] - errors[0]
    return min(steps) >= -FALLS and rise >= RISES and max(steps) <= LARGEST_STEP * rise


def _twice(what: str, costs: Mapping[str, float], depth: int) -> Check:
    """Checks that something costs the plain net more than twice as many points of error as the residual one."""
    plain, residual = f"plain{depth}", f"resnet{depth}"
    said = f"{depth} layers: {what} costs {costs[residual]:.1f} points in the residual net, {costs[plain]:.1f} in the "
    said += "plain one (more than twice as many)"
    return Check(said, costs[plain] > max(2 * costs[residual], 0.0), (plain, residual))


def _read(rows: Rows) -> Finding:
    rises, swaps = by_net(rows, "deletions", "median_rise"), by_net(rows, "swaps", "one_swap")
    checks = [_twice("one block less (median)", means(rises), depth) for depth in (20, 56)]
    several = _mean(rows, "deletions", "several", "resnet56")
    said = f"resnet56: from {several[0]:.1f} to {several[-1]:.1f} % as blocks are deleted, the error falls "
    said += f"nowhere by over {FALLS:.0f} point, rises by {RISES:.0f} or more, a third of that at most in one step"
    checks += [Check(said, is_smooth(several), ("resnet56",)), _twice("swapping two blocks (mean)", means(swaps), 56)]
    lengths = means(by_net(rows, "lengths", "mean_length"))
    blocks = {row["net"]: row["blocks"] for row in rows if row["kind"] == "lengths"}
    for net, length in lengths.items():
        what = f"{net}: the gradient's mean path goes through {length:.1f} of {blocks[net]} branches (under half)"
        checks.append(Check(what, length < blocks[net] / 2, (net,)))
    measures = [Measure(f"{net}: points of error that one block less costs (median)", v) for net, v in rises.items()]
    measures += [Measure(f"{net}: points of error that one swap of two blocks costs", v) for net, v in swaps.items()]
    measures += [
        Measure(f"{net}: branches on the mean path of the gradient", v, f"of {blocks[net]}", 2)
        for net, v in by_net(rows, "lengths", "mean_length").items()
    ]
    drawings = [
        Drawing("deletions", "Error without each block in turn, and without several", lambda: _draw_deletions(rows)),
        Drawing("swaps", "Error after swapping blocks", lambda: _draw_swaps(rows)),
        Drawing("lengths", "Gradient against the length of the path", lambda: _draw_lengths(rows)),
    ]
    remarks = [
        "A plain block that changes the shape has an option-A shortcut in its place when it is deleted; such blocks "
        "are drawn, and left out of the medians and of the deletions of several.",
    ]
    pair, deep = ("plain56", "resnet56"), "resnet56"
    headlines = [
        change("points of error that one block less costs, plain-56 → ResNet-56", rises, pair, unit=""),
        change("that one swap costs", swaps, pair, unit=""),
        Headline("branches on the mean path of the gradient of ResNet-56", f"{lengths[deep]:.1f} of {blocks[deep]}"),
    ]
    return Finding(measures, checks, headlines, drawings, remarks=remarks)


def _mean(rows: Rows, kind: str, key: str, net: str) -> list[float]:
    return mean_of_curves([row[key] for row in rows if row["kind"] == kind and row["net"] == net])


def _nets(rows: Rows, kind: str) -> list[str]:
    return list(dict.fromkeys(row["net"] for row in rows if row["kind"] == kind))


def _draw_deletions(rows: Rows) -> bytes:
    single, several = [], []
    for look, net in enumerate(_nets(rows, "deletions")):
        errors = _mean(rows, "deletions", "single", net)
        single.append(Series(net, [(k + 1) / len(errors) for k in range(len(errors))], errors, look))
        row = next(row for row in rows if row["kind"] == "deletions" and row["net"] == net)
        share = [100 * count / len(row["single"]) for count in row["counts"]]
        several.append(Series(net, share, _mean(rows, "deletions", "several", net), look))
    y = "test error, %"
    return draw_lines([
        Panel("Without one block", "place of the block in the net (1: the last)", y, single, limits=(0, 100)),
        Panel("Without several blocks", "blocks deleted, % of all", y, several, limits=(0, 100)),
    ])  # fmt: skip


def _draw_swaps(rows: Rows) -> bytes:
    series = []
    for look, net in enumerate(_nets(rows, "swaps")):
        taus: NDArray[np.float64] = np.concatenate(
            [row["taus"] for row in rows if row["kind"] == "swaps" and row["net"] == net]
        )
        errors = np.concatenate([row["errors"] for row in rows if row["kind"] == "swaps" and row["net"] == net])
        bins = np.round(taus * 20) / 20
        x = sorted(set(bins.tolist()), reverse=True)
        series.append(Series(net, x, [float(errors[bins == each].mean()) for each in x], look))
    x_label = "Kendall's tau of the order of blocks (1: as trained)"
    return draw_lines([Panel("Swapped blocks", x_label, "test error, %", series, limits=(0, 100))])


def _draw_lengths(rows: Rows) -> bytes:
    norms, shares = [], []
    for look, net in enumerate(_nets(rows, "lengths"), start=0):
        one = _mean(rows, "lengths", "norms", net)
        norms.append(Series(net, range(len(one)), one, look))
        shares.append(Series(net, range(len(one)), [100 * part for part in _mean(rows, "lengths", "share", net)], look))
        paths = [100 * math.comb(len(one) - 1, k) / 2 ** (len(one) - 1) for k in range(len(one))]
        shares.append(Series(f"{net}: paths of that length", range(len(one)), paths, look, faint=True))
    x = "branches on the path"
    return draw_lines([
        Panel("Gradient of one path", x, "norm at the stem's output", norms, log=True),
        Panel("What all paths of a length carry", x, "share, %", shares),
    ], share_y=False)  # fmt: skip


@EXPERIMENTS.register(
    Claim(
        claim="A residual net behaves like an ensemble of many paths: deleting or swapping blocks of a trained one "
        "barely hurts, while a plain net breaks; short paths carry the gradient.",
        source="arXiv:1605.06431, Figures 3, 5 and 6 (read off the curves: no number is printed)",
        rule="Deleting one block costs the plain net more than twice as many points as the residual one (median over "
        "blocks, 20 and 56 layers), and so does swapping two (mean, 56 layers). ResNet-56's error rises smoothly with "
        f"the number of blocks deleted: it falls nowhere by more than {FALLS:.0f} point, rises by {RISES:.0f} or more, "
        "and by at most a third of that in one step. The gradient's mean path is shorter than half of the blocks.",
        scales={
            "smoke": "Narrow nets of 20 and 56 layers, trained for 3 epochs on the digits; 64 pictures, 1 draw.",
            "small": "Nets of 20 and 56 layers trained as in `degradation`, or bundles; 1,000 test pictures, 10 draws.",
            "full": "Nets of 20 and 56 layers trained as published, or bundles; 10,000 test pictures, 50 draws.",
        },
        read=_read,
        takes=frozenset({"data", "seeds", "bundle"}),
        nets=lambda scale: NETS,  # noqa: ARG005
    )
)
def paths(bench: Bench) -> None:
    """Deleting and swapping blocks, and the gradient against the length of the path."""
    for net in bench.nets(*NETS):
        bench.once("deletions", partial(_deletions, net, bench), **net.key)
        bench.once("swaps", partial(_swaps, net, bench), **net.key)
        if net.label.startswith("resnet"):
            bench.once("lengths", partial(_lengths, net, bench), **net.key)
