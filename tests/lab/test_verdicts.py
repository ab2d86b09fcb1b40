"""Verdicts from rows that are made up: of each experiment, rows for which its claim holds, and rows for which nothing
of it does; and what is said of them in README's table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from residuum.lab import tables
from residuum.lab.costs import SIZES, TABLE_1
from residuum.lab.experiments import EXPERIMENTS, gradients, paths
from residuum.lab.findings import Row
from residuum.lab.foreign import MARK, told
from residuum.lab.reproduce import finish

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
AXIS = np.linspace(-1, 1, 5)
BOWL, WAVES = (1 + AXIS[:, None] ** 2 + AXIS**2), (3 + np.cos(6 * AXIS[:, None]) + np.cos(6 * AXIS))


def net(name: str, train: float = 10.0, test: float = 20.0, seed: int = 0, **more: Any) -> Row:
    curve = [{"epoch": epoch, "train_error": train, "test_error": test} for epoch in (1, 2)]
    sizes = {"epochs": 14, "img_size": 16, "train_pictures": 1000, "test_pictures": 1000, "params": 269_722}
    scores = {"train_error": train, "train_loss": 0.5, "test_error": test, "seconds": 1.0}
    return {"kind": "net", "net": name, "seed": seed, "curve": curve, **sizes, **scores, **more}


def degradation(plain: Sequence[float], residual: Sequence[float]) -> list[Row]:
    errors = {"plain": plain, "resnet": residual}
    return [
        net(f"{family}{depth}", error)
        for family, each in errors.items()
        for depth, error in zip((20, 56), each, strict=True)
    ]


def depth(errors: Sequence[float], params: int, loss: float | None, peak: float) -> list[Row]:
    rows = [net(f"resnet{n}", test=e, params=PARAMETERS[n]) for n, e in zip(PARAMETERS, errors, strict=True)]
    deepest = {"kind": "deepest", "params": params, "recipe": "resnet1202_cifar10_2015"}
    return [*rows, deepest, {"kind": "steps", "batch_size": 128, "losses": [loss], "peak_bytes": peak}]


def shortcuts(errors: Sequence[float]) -> list[Row]:
    names = ("resnet20", "resnet20-B", "resnet20-C", "plain20")
    rows = [net(name, test=error) for name, error in zip(names, errors, strict=True)]
    return [*rows, {"kind": "parameters", "net": "resnet20", "A": 100, "B": 110, "C": 150}]


def bottleneck(mega: Sequence[float], giga: Sequence[float]) -> list[Row]:
    size = {"params": 1, "activation_bytes": 2**30}
    blocks = zip(("two 3x3 of 64", "two 3x3 of 256", "bottleneck of 256"), mega, strict=True)
    nets = zip(("resnet34", "resnet50", "resnet152"), giga, strict=True)
    rows = [{"kind": "block", "net": name, "multiply_adds": value * 1e6, **size} for name, value in blocks]
    return rows + [{"kind": "net", "net": name, "multiply_adds": value * 1e9, **size} for name, value in nets]


def architecture(sizes: dict[str, int], params: int, giga: float) -> list[Row]:
    row = {"params": params, "multiply_adds": giga * 1e9, "layers": [["stem.conv", "Conv2d", [64, 112, 112], 1, 1]]}
    return [{"kind": "anatomy", "net": "resnet18", "sizes": sizes, **row}]


def responses(levels: Sequence[float]) -> list[Row]:
    names = ("plain20", "plain56", "resnet20", "resnet56", "resnet110")
    return [
        {"kind": "responses", "net": name, "seed": 0, "stds": [level, level / 2], "mean": 0.75 * level}
        for name, level in zip(names, levels, strict=True)
    ]


def gradient_rows(decades: dict[str, float | None]) -> list[Row]:
    return [
        {"kind": "gradients", "net": name, "seed": 0, "state": state, "norms": [1, value and 10**value],
         "decades": value}
        for name, value in decades.items()
        for state in gradients.STATES
    ]  # fmt: skip


def path_rows(plain: float, residual: float, several: Sequence[float], length: float) -> list[Row]:
    rows: list[Row] = []
    costs = {"plain": plain, "resnet": residual}
    nets = [(f"{family}{6 * n + 2}", cost, 3 * n) for family, cost in costs.items() for n in (3, 9)]
    for name, cost, blocks in nets:
        key = {"net": name, "seed": 0}
        counts = list(range(len(several)))
        single = [10 + cost] * blocks
        rows.append({"kind": "deletions", **key, "median_rise": cost, "single": single, "counts": counts,
                     "several": list(several)})  # fmt: skip
        rows.append({"kind": "swaps", **key, "one_swap": cost, "taus": [1.0, 0.9], "errors": [10.0, 10 + cost]})
        if name.startswith("resnet"):
            share = [1 / (blocks + 1)] * (blocks + 1)
            rows.append({"kind": "lengths", **key, "norms": share, "share": share, "mean_length": length * blocks,
                         "blocks": blocks})  # fmt: skip
    return rows


def landscape(plain: np.ndarray, residual: np.ndarray) -> list[Row]:
    return [
        {"kind": "slice", "net": name, "seed": 0, "at": float(at), "losses": line.tolist()}
        for name, grid in (("plain56", plain), ("resnet56", residual))
        for at, line in zip(AXIS, grid, strict=True)
    ]


def reuse(plain: float, residual: float) -> list[Row]:
    return [
        {"kind": "similarity", "net": name, "seed": 0, "matrix": [[1, v], [v, 1]], "all_pairs": v, "neighbours": v}
        for name, v in (("plain56", plain), ("resnet56", residual))
    ]


SMOOTH = (10.0, 20.0, 35.0, 55.0, 70.0, 80.0)
RESNET18 = TABLE_1["resnet18"]
ROWS: dict[str, tuple[list[Row], list[Row]]] = {
    "architecture": (architecture(SIZES, RESNET18.params, 1.814), architecture({**SIZES, "conv1": 111}, 1, 2.0)),
    "bottleneck": (
        bottleneck((231.2, 3699.4, 218.4), (3.66, 3.86, 11.28)),
        bottleneck((231.2, 2000.0, 300.0), (3.0, 5.0, 20.0)),
    ),
    "degradation": (degradation((10.0, 15.0), (9.0, 6.0)), degradation((15.0, 10.0), (6.0, 9.0))),
    "depth": (
        depth((9.0, 8.0, 7.5, 7.0, 6.5), 19_421_274, 2.3, 9e9),
        depth((6.5, 7.0, 7.5, 8.0, 9.0), 18_000_000, None, 25e9),
    ),
    "gradients": (
        gradient_rows({"plain20": 3.0, "resnet20": 1.0, "plain56": None, "resnet56": 1.5}),
        gradient_rows({"plain20": 1.0, "resnet20": 3.0, "plain56": 1.5, "resnet56": None}),
    ),
    "landscape": (landscape(WAVES, BOWL), landscape(BOWL, WAVES)),
    "paths": (path_rows(60.0, 3.0, SMOOTH, 0.3), path_rows(3.0, 60.0, (10.0, 90.0, 90.0, 90.0), 0.7)),
    "responses": (responses((1.0, 0.9, 0.8, 0.6, 0.4)), responses((0.2, 0.3, 0.4, 0.6, 0.8))),
    "reuse": (reuse(0.3, 0.6), reuse(0.6, 0.3)),
    "shortcuts": (shortcuts((9.0, 8.8, 8.7, 10.0)), shortcuts((8.0, 9.0, 10.0, 8.5))),
}


def test_there_are_rows_of_every_experiment() -> None:
    assert set(ROWS) == set(EXPERIMENTS.names())


@pytest.mark.parametrize("name", ROWS)
def test_the_verdict_is_the_rules(name: str) -> None:
    read = EXPERIMENTS[name].card.read
    holds, fails = map(read, ROWS[name])
    assert [check.what for check in holds.checks if not check.holds] == []
    assert [check.what for check in fails.checks if check.holds] == []
    assert (holds.verdict, fails.verdict) == ("reproduced", "not reproduced")
    assert 0 < len(holds.headlines) <= 4
    assert all(headline.measured != "-" for headline in holds.headlines)
    assert holds.headlines != fails.headlines, "the headlines show whether the claim holds"


def test_the_claim_is_seen_in_readmes_table() -> None:
    begun = {"kind": "start", "scale": "small", "machine": "m", "cores": 2}
    found = {name: finish(name, "small", [begun, *rows], tables.RESULTS) for name, (rows, _) in ROWS.items()}
    _, _, *lines = tables.with_table(f"{tables.BEGIN}{tables.END}", found).split(tables.BEGIN)[1].split("\n")[1:-1]
    said = dict(zip(found, lines, strict=True))
    assert "10.00 → 15.00 %" in said["degradation"]
    assert "9.00 → 6.00 %" in said["degradation"]
    assert "9.00 → 8.00 → 7.50 → 7.00 → 6.50 %" in said["depth"]
    assert "8.75 → 7.51 → 7.17 → 6.97 → 6.61 %" in said["depth"]
    assert "A → B → C: 9.00 → 8.80 → 8.70 %" in said["shortcuts"]
    assert "60.00 → 3.00" in said["paths"]
    assert "0.675 → 0.450" in said["responses"], "plain-56 and ResNet-56"
    assert "infinitely many → 1.50" in said["gradients"]
    assert all(line.count("|") == 5 and line.endswith("| reproduced |") for line in lines)


@pytest.mark.parametrize(
    ("errors", "smooth"),
    [
        (SMOOTH, True),
        ((10.0, 20.0, 19.5, 35.0, 50.0, 62.0), True),  # falls by half a point
        ((10.0, 90.0, 90.0, 90.0, 90.0), False),  # all at once
        ((10.0, 10.0, 11.0, 10.5, 12.0), False),  # hardly at all
        ((10.0, 25.0, 40.0, 38.0, 55.0, 70.0), False),  # falls by two points
        ((10.0, 20.0, 45.0, 55.0, 60.0, 70.0), False),  # 25 of 60 points in a step
    ],
)
def test_smooth_is_neither_a_jump_nor_a_flat_line(errors: Sequence[float], smooth: bool) -> None:
    assert paths.is_smooth(errors) is smooth


def test_a_gradient_that_vanishes_or_overflows_counts_as_infinitely_many_decades(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert gradients.decades_of([1.0, 100.0, 10.0]) == pytest.approx(2)
    assert [gradients.decades_of([1.0, bad]) for bad in (0.0, math.inf, math.nan)] == [None] * 3
    monkeypatch.setattr(gradients, "gradient_norms", lambda *_: [math.inf, 0.0, 2.0, math.nan])

    class Bench:
        def pictures(self, *_: object) -> tuple[None, None]:
            return None, None

    class Net:
        model = None

    found = gradients._measure(Net(), Bench())  # type: ignore[arg-type]
    assert found == {"norms": [None, 0.0, 2.0, None], "decades": None}
    finding = EXPERIMENTS["gradients"].card.read(ROWS["gradients"][0])
    said = "plain56, at initialisation: somewhere the gradient is zero"
    assert any(remark.startswith(said) for remark in finding.remarks)
    assert all(math.isfinite(value) for measure in finding.measures for value in measure.values)
    assert finding.drawings[0].draw().startswith(b"\x89PNG")


def test_a_check_that_compares_two_trainings_says_so() -> None:
    rows = [*ROWS["responses"][0], net("plain20"), net("plain56")]
    rows += [
        {"kind": "net", "net": name, "seed": 0, "bundle": f"{name} (0123456789ab)", "test_error": 8.27,
         "test_pictures": 10_000, "img_size": 32}
        for name in ("resnet20", "resnet56", "resnet110")
    ]  # fmt: skip
    finding = told(EXPERIMENTS["responses"].card.read(rows), rows)
    assert [MARK in check.what for check in finding.checks] == [True, True, False, False]
    assert finding.remarks[0].startswith("resnet20 was trained by others (the bundle resnet20 (0123456789ab)): 8.27 %")
    assert "plain20 and plain56 were trained here, for 14 epochs on pictures of 16 x 16 pixels." in finding.remarks[3]
    alone = told(EXPERIMENTS["responses"].card.read(rows[:-3]), rows[:-3])
    assert not any(MARK in check.what for check in alone.checks)
    assert not alone.remarks


@pytest.mark.parametrize(
    ("name", "holds", "fails", "said"),
    [
        ("degradation", [net("resnet20", test=31), net("resnet56", test=30)],
         [net("resnet20", test=31), net("resnet56", test=33)], "greater test error here, 33.00 % against 31.00 %"),
        ("responses", responses((5, 4, 3, 2, 1)), responses((5, 4, 3, 3.5, 1)), "does not respond less per layer here"),
        ("gradients", ROWS["gradients"][0], ROWS["gradients"][1], "norms along plain20 do not span more decades"),
        ("shortcuts", shortcuts((20, 19, 18, 30)), shortcuts((20, 19, 21, 30)), "projections do not help here"),
        ("reuse", ROWS["reuse"][0], ROWS["reuse"][1], "the plain net's blocks are more alike over all pairs"),
    ],
)  # fmt: skip
def test_what_differs_from_the_claim_is_said_where_it_does(
    name: str, holds: list[Row], fails: list[Row], said: str
) -> None:
    if name == "degradation":
        holds, fails = ([net("plain20"), net("plain56"), *rows] for rows in (holds, fails))
    read = EXPERIMENTS[name].card.read
    assert said in " ".join(read(fails).remarks)
    assert said not in " ".join(read(holds).remarks)
    assert "Unlike in the" not in " ".join(read(holds).remarks)
