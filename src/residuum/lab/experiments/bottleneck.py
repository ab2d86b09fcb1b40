"""Section 4.1: a bottleneck of 1x1, 3x3, 1x1 costs as much as two 3x3, and makes deeper nets affordable."""

from __future__ import annotations

from functools import partial

import torch

from residuum.lab.bench import Bench
from residuum.lab.costs import TABLE_1, VGG16_GIGA, as_published, cost
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Check, Claim, Drawing, Finding, Headline, Measure, Row, Rows, Table
from residuum.lab.plots import draw_bars
from residuum.models.layers import Block, basic_branch, bottleneck_branch

BATCH = 32
"""Pictures in the batch whose activations are counted."""

BLOCKS = {"two 3x3 of 64": 64, "two 3x3 of 256": 256, "bottleneck of 256": 256}
"""What is compared on maps of 56 x 56 pixels (Figure 5), with its channels."""


def _block(name: str) -> Block:
    with torch.device("meta"):
        if name.startswith("bottleneck"):
            return Block(bottleneck_branch(256, 64, 1, width=1, groups=1, stride_in="1x1"), "B", 0)
        channels = BLOCKS[name]
        return Block(basic_branch(channels, channels, 1, width=1, groups=1, stride_in="3x3"), "B", 0)


def _cost_of_block(name: str, channels: int) -> Row:
    return cost(_block(name), (channels, 56, 56), BATCH)


def _cost_of_net(name: str) -> Row:
    return cost(as_published(name), (3, 224, 224), BATCH)


def _read(rows: Rows) -> Finding:
    blocks = {row["net"]: row for row in rows if row["kind"] == "block"}
    nets = {row["net"]: row for row in rows if row["kind"] == "net"}
    mega = {name: row["multiply_adds"] / 1e6 for name, row in blocks.items()}
    giga = {name: row["multiply_adds"] / 1e9 for name, row in nets.items()}
    small, wide, narrow = BLOCKS
    ratio = mega[narrow] / mega[small]
    checks = [
        Check(f"a bottleneck of 256 channels costs {ratio:.2f} times two 3x3 of 64 (0.9 to 1.1)", 0.9 <= ratio <= 1.1),
        Check(f"two 3x3 of 256 channels would cost {mega[wide] / mega[narrow]:.1f} times it (over 10)",
              mega[wide] > 10 * mega[narrow]),
        Check(f"ResNet-50 costs {giga['resnet50'] / giga['resnet34']:.2f} times ResNet-34 (at most 1.1)",
              giga["resnet50"] <= 1.1 * giga["resnet34"]),
        Check(f"ResNet-152, of {giga['resnet152']:.1f} G, costs less than VGG-16, of {VGG16_GIGA} G",
              giga["resnet152"] < VGG16_GIGA),
    ]  # fmt: skip
    measures = [
        Measure(f"{name}: multiply-adds", [value], "G", 2, f"{TABLE_1[name].giga_multiply_adds} G")
        for name, value in giga.items()
    ]
    measures += [Measure(f"{name}, 56 x 56: multiply-adds", [value], "M", 1) for name, value in mega.items()]
    table = [
        [name, f"{row['params']:,}", f"{row['multiply_adds'] / 1e6:,.0f} M", f"{row['activation_bytes'] / 2**20:,.0f}"]
        for name, row in {**blocks, **nets}.items()
    ]
    head = ("block or net", "parameters", "multiply-adds", f"MiB kept for the backward pass of {BATCH} pictures")
    bars = {
        "multiply-adds, G": list(giga.values()),
        "parameters, 10 M": [row["params"] / 1e7 for row in nets.values()],
        f"activations of {BATCH} pictures, GiB": [row["activation_bytes"] / 2**30 for row in nets.values()],
    }

    def draw() -> bytes:
        return draw_bars(list(nets), bars, title="What depth costs", y="in the legend's units")

    more = blocks[narrow]["activation_bytes"] / blocks[small]["activation_bytes"]
    remarks = [
        f"A bottleneck saves multiply-adds, not memory: on maps of four times the channels it keeps {more:.1f} "
        "times as "
        "much for its backward pass as the two 3x3 that cost the same."
    ]
    drawing = Drawing("cost", "Multiply-adds, parameters and activations of nets of 18 to 152 layers", draw)
    basic, deeper = giga["resnet34"], giga["resnet50"]
    headlines = [
        Headline("multiply-adds of a bottleneck of 256 channels over those of two 3x3 of 64", f"{ratio:.2f}"),
        Headline("multiply-adds of ResNet-34 → ResNet-50", f"{basic:.2f} → {deeper:.2f} G", "3.6 → 3.8 G"),
        Headline(f"multiply-adds of ResNet-152 (VGG-16: {VGG16_GIGA} G)", f"{giga['resnet152']:.2f} G", "11.3 G"),
    ]
    return Finding(measures, checks, headlines, [drawing], [Table("What blocks and nets cost.", head, table)], remarks)


_EVERYWHERE = "Blocks on maps of 56 x 56 pixels, and nets on pictures of 224 x 224, counted from the modules."


@EXPERIMENTS.register(
    Claim(
        claim="A bottleneck of 1x1, 3x3 and 1x1 convolutions costs about as much as two 3x3 convolutions of a "
        "quarter of "
        "its channels, so that nets of 50 to 152 layers cost less than VGG.",
        source="arXiv:1512.03385, section 4.1, Figure 5 and Table 1",
        rule="The bottleneck costs 0.9 to 1.1 times the two 3x3 of 64, and two 3x3 of its own 256 channels over 10 "
        "times as much as it; ResNet-50 costs at most 1.1 times ResNet-34, and ResNet-152 less than VGG-16.",
        scales={"smoke": _EVERYWHERE, "small": _EVERYWHERE, "full": _EVERYWHERE},
        read=_read,
    )
)
def bottleneck(bench: Bench) -> None:
    """What bottlenecks cost: parameters, multiply-adds, memory."""
    for name, channels in BLOCKS.items():
        bench.once("block", partial(_cost_of_block, name, channels), net=name)
    for name in TABLE_1:
        bench.once("net", partial(_cost_of_net, name), net=name)
