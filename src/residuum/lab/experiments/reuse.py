"""Features are passed on: how alike the blocks of a net represent pictures (CKA), plain against residual."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from residuum.lab.bench import Bench
from residuum.lab.blocks import blocks_of
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import Check, Claim, Drawing, Finding, Measure, Rows, by_net, change, means
from residuum.lab.nets import Net
from residuum.lab.plots import draw_matrices
from residuum.lab.similarity import MinibatchCka

NETS = ("plain56_cifar", "resnet56_cifar")
PICTURES = {"smoke": 128, "small": 1_000, "full": 5_000}
BATCH = 125


@torch.inference_mode()
def _measure(net: Net, bench: Bench) -> dict[str, Any]:
    images, _ = bench.pictures(net, PICTURES[bench.scale])
    cka = MinibatchCka()
    for batch in torch.split(images, BATCH):
        if len(batch) < 4:
            continue
        x = net.model.stem(batch)
        outputs = []
        for block in blocks_of(net.model):
            x = block(x)
            outputs.append(x)
        cka.add(outputs)
    matrix = cka.matrix().clamp(0, 1).numpy()
    apart = matrix[~np.eye(len(matrix), dtype=bool)]
    return {
        "matrix": np.round(matrix, 4).tolist(),
        "all_pairs": float(apart.mean()),
        "neighbours": float(np.diagonal(matrix, 1).mean()),
    }


def _read(rows: Rows) -> Finding:
    measures, checks, headlines = [], [], []
    words = {"all_pairs": "all pairs of blocks", "neighbours": "neighbouring blocks"}
    for key, pairs in words.items():
        found = by_net(rows, "similarity", key)
        mean = means(found)
        measures += [Measure(f"{net}: mean CKA of {pairs}", values, "", 3) for net, values in found.items()]
        plain, residual = mean["plain56"], mean["resnet56"]
        what = f"{pairs}: resnet56 {residual:.3f} above plain56 {plain:.3f}"
        checks.append(Check(what, residual > plain, ("resnet56", "plain56")))
        headlines.append(
            change(f"mean CKA of {pairs}, plain-56 → ResNet-56", found, ("plain56", "resnet56"), unit="", decimals=3)
        )
    matrices = {
        net: np.mean([row["matrix"] for row in rows if row["kind"] == "similarity" and row["net"] == net], axis=0)
        for net in by_net(rows, "similarity", "all_pairs")
    }

    def draw() -> bytes:
        return draw_matrices(matrices, axis="block", value="similarity of two blocks (linear CKA)")

    alt = "Linear CKA between all pairs of blocks, plain-56 and ResNet-56"
    remarks = [] if checks[0].holds else [_of_the_plain_net(means(by_net(rows, "net", "test_error")))]
    return Finding(measures, checks, headlines, [Drawing("similarity", alt, draw)], remarks=remarks)


def _of_the_plain_net(errors: Mapping[str, float]) -> str:
    """Says what the blocks of the plain net are worth that are so alike."""
    found = ", ".join(f"{net} {errors[net]:.1f} %" for net in ("plain56", "resnet56") if net in errors)
    return (
        "Unlike in the claim, the plain net's blocks are more alike over all pairs. Blocks are alike too where the "
        f"later ones find nothing new{f' (test errors: {found})' if found else ''}: likeness says that something is "
        "passed on, not that it is of use."
    )


@EXPERIMENTS.register(
    Claim(
        claim="Features are passed on: through the shortcuts, later blocks of a residual net read what earlier ones "
        "found.",
        source="a reason that is given for arXiv:1512.03385; measured by the CKA of arXiv:1905.00414 (no figure is "
        "printed)",
        rule="The mean CKA between the outputs of blocks is greater in ResNet-56 than in plain-56, over all pairs "
        "and over "
        "neighbours (means over seeds).",
        scales={
            "smoke": "Narrow nets of 56 layers, trained for 3 epochs on the digits; 128 test pictures.",
            "small": "Plain-56 and ResNet-56 trained as in `degradation`; 1,000 test pictures in batches of 125, "
            "unbiased.",
            "full": "Plain-56 and ResNet-56 trained as published; 5,000 test pictures in batches of 125, unbiased.",
        },
        read=_read,
        takes=frozenset({"data", "seeds", "bundle"}),
        nets=lambda scale: NETS,  # noqa: ARG005
    )
)
def reuse(bench: Bench) -> None:
    """Similarity (CKA) between all pairs of blocks, plain against residual."""
    for net in bench.nets(*NETS):
        bench.once("similarity", partial(_measure, net, bench), **net.key)
