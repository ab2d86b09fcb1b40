"""Identity shortcuts smooth the loss surface: slices along two filter-normalised random directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from residuum.lab.bench import Bench
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Claim, Drawing, Finding, Measure, Rows, below, change, means
from residuum.lab.nets import Net
from residuum.lab.plots import draw_contours, draw_surfaces
from residuum.lab.slices import losses_along, random_direction, share_not_convex

NETS = ("plain56_cifar", "resnet56_cifar")
POINTS = {"smoke": 5, "small": 21, "full": 51}
"""Points along each side of a slice, from -1 to 1."""
PICTURES = {"smoke": 64, "small": 500, "full": 10_000}


def coordinates(points: int) -> list[float]:
    """Returns so many coordinates from -1 to 1."""
    return [round(2 * place / (points - 1) - 1, 6) for place in range(points)]


def _slice(net: Net, bench: Bench) -> None:
    """Measures a slice row by row, each of which is kept."""
    images, labels = bench.pictures(net, PICTURES[bench.scale], "train")
    batches = list(zip(torch.split(images, 250), torch.split(labels, 250), strict=True))
    x, y = (random_direction(net.model, 2 * net.seed + number) for number in range(2))
    steps = coordinates(POINTS[bench.scale])
    for at in steps:

        def measure(at: float = at) -> dict[str, Any]:
            losses = losses_along(net.model, x, y, steps, at, batches)
            return {"losses": [float(f"{loss:.5g}") for loss in losses]}

        bench.once("slice", measure, **net.key, at=at)


def _grids(rows: Rows) -> dict[str, dict[int, NDArray[np.float64]]]:
    """Returns net -> seed -> its slice; those that are not complete are left out."""
    lines: dict[str, dict[int, dict[float, list[float]]]] = {}
    for row in rows:
        if row["kind"] == "slice":
            lines.setdefault(row["net"], {}).setdefault(row["seed"], {})[row["at"]] = row["losses"]
    return {
        net: {
            seed: np.array([found[at] for at in sorted(found)])
            for seed, found in seeds.items()
            if len(found) == len(next(iter(found.values())))
        }
        for net, seeds in lines.items()
    }


def _read(rows: Rows) -> Finding:
    grids = _grids(rows)
    bends = {net: [share_not_convex(grid.tolist()) for grid in seeds.values()] for net, seeds in grids.items()}
    rises = {
        net: [float(np.median(grid) / max(grid[len(grid) // 2, len(grid) // 2], 1e-3)) for grid in seeds.values()]
        for net, seeds in grids.items()
    }
    checks = [below(means(bends), "resnet56", "plain56", "share of the slice that is not convex, %")]
    measures = [Measure(f"{net}: share of the slice that is not convex", v, "%", 1) for net, v in bends.items()]
    measures += [Measure(f"{net}: median loss over the loss at the centre", v, "", 1) for net, v in rises.items()]
    shown = {net: seeds[min(seeds)] for net, seeds in grids.items()}
    sides = coordinates(len(next(iter(shown.values()))))
    drawings = [
        Drawing("contours", "Contours of the loss around plain-56 and ResNet-56", lambda: draw_contours(shown, sides)),
        Drawing("surfaces", "The loss around plain-56 and ResNet-56 as surfaces", lambda: draw_surfaces(shown, sides)),
    ]
    remarks = [f"The drawings are of seed {min(next(iter(grids.values())))}; batch norm keeps its running statistics."]
    what = "share of the slice that is not convex, plain-56 → ResNet-56"
    headlines = [change(what, bends, ("plain56", "resnet56"), decimals=1)]
    return Finding(measures, checks, headlines, drawings, remarks=remarks)


@EXPERIMENTS.register(
    Claim(
        claim="Identity shortcuts make the loss surface smooth: around a deep residual net it is a bowl, around a "
        "plain net "
        "as deep it is not.",
        source="arXiv:1712.09913, Figures 1 and 5 (drawings: no number is printed)",
        rule="The share of the slice's inner points where the loss bends down along a row or column, by more than 1 "
        "% of "
        "itself, is smaller around ResNet-56 than around plain-56 (means over seeds).",
        scales={
            "smoke": "Narrow nets of 56 layers, trained for 3 epochs on the digits; 5 x 5 points, 64 pictures.",
            "small": "Plain-56 and ResNet-56 trained as in `degradation`; 21 x 21 points, 500 training pictures.",
            "full": "Plain-56 and ResNet-56 trained as published; 51 x 51 points, 10,000 training pictures.",
        },
        read=_read,
        seeds={"smoke": 1, "small": 1, "full": 1},
        takes=frozenset({"data", "seeds", "bundle"}),
        nets=lambda scale: NETS,  # noqa: ARG005
    )
)
def landscape(bench: Bench) -> None:
    """Two-dimensional slices of the loss surface, as contours and as surfaces."""
    for net in bench.nets(*NETS):
        _slice(net, bench)
