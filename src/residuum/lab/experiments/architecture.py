"""Table 1: every layer's output size, parameters and multiply-adds, from the modules themselves."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from residuum.lab.bench import Bench
from residuum.lab.costs import SIZES, TABLE_1, anatomy
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Check, Claim, Drawing, Finding, Headline, Measure, Rows, Table
from residuum.lab.plots import draw_bars

TOLERANCE = 0.02
"""Table 1 cuts its multiply-adds off after two digits."""


def _read(rows: Rows) -> Finding:
    nets = {row["net"]: row for row in rows if row["kind"] == "anatomy"}
    checks, measures, tables = [], [], []
    for name, row in nets.items():
        paper = TABLE_1[name]
        giga = row["multiply_adds"] / 1e9
        close = abs(giga / paper.giga_multiply_adds - 1) <= TOLERANCE
        sizes = ", ".join(f"{where} {px}" for where, px in row["sizes"].items())
        checks.append(Check(f"{name}: output sizes {sizes} as in Table 1", row["sizes"] == SIZES))
        checks.append(Check(f"{name}: {giga:.2f} within 2 % of {paper.giga_multiply_adds} G multiply-adds", close))
        checks.append(Check(f"{name}: {row['params']:,} parameters, exactly", row["params"] == paper.params))
        measures.append(Measure(f"{name}: multiply-adds", [giga], "G", 3, f"{paper.giga_multiply_adds} G"))
        measures.append(Measure(f"{name}: parameters", [row["params"]], "", 0, f"{paper.params / 1e6:.1f} M"))
        layers = [
            [place, kind, " x ".join(map(str, shape)), f"{params:,}", f"{operations:,}"]
            for place, kind, shape, params, operations in row["layers"]
        ]
        head = ("layer", "kind", "output", "parameters", "multiply-adds")
        tables.append(Table(f"{name}: its {len(layers)} layers", head, layers, long=True))
    measured = [row["multiply_adds"] / 1e9 for row in nets.values()]
    bars = {"measured": measured, "Table 1": [TABLE_1[name].giga_multiply_adds for name in nets]}

    def draw() -> bytes:
        return draw_bars(list(nets), bars, title="Multiply-adds for one picture", y="10^9 multiply-adds")

    drawing = Drawing("multiply-adds", "Multiply-adds of five residual nets, measured and in Table 1", draw)
    return Finding(measures, checks, _headlines(nets), [drawing], tables)


def _headlines(nets: Mapping[str, Mapping[str, Any]]) -> list[Headline]:
    names = "ResNet-" + ", ".join(name.removeprefix("resnet") for name in nets)
    printed = [TABLE_1[name] for name in nets]
    return [
        Headline(
            f"multiply-adds of {names}",
            ", ".join(f"{row['multiply_adds'] / 1e9:.2f}" for row in nets.values()) + " G",
            ", ".join(f"{paper.giga_multiply_adds}" for paper in printed) + " G",
        ),
        Headline(
            "their parameters",
            ", ".join(f"{row['params'] / 1e6:.2f}" for row in nets.values()) + " M",
            ", ".join(f"{paper.params / 1e6:.1f}" for paper in printed) + " M",
        ),
    ]


_EVERYWHERE = "ResNet-18, 34, 50, 101 and 152 for one picture of 224 x 224 pixels; no pictures are needed."


@EXPERIMENTS.register(
    Claim(
        claim="The five networks of Table 1 have the output sizes, parameters and multiply-adds that are printed "
        "there.",
        source="arXiv:1512.03385, Table 1 (parameters: torchvision's metadata of the same networks)",
        rule="Output sizes and parameters are exactly the same; multiply-adds lie within 2 % of the two printed "
        "digits.",
        scales={"smoke": _EVERYWHERE, "small": _EVERYWHERE, "full": _EVERYWHERE},
        read=_read,
    )
)
def architecture(bench: Bench) -> None:
    """Table 1, layer by layer, from the modules."""
    for name in TABLE_1:
        bench.once("anatomy", partial(anatomy, name), net=name)
