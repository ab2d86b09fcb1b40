"""What experiments that train have in common: the curves of their nets as panels, and a table of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from residuum.lab.findings import Rows, Table
from residuum.lab.plots import Panel, Series


def nets_of(rows: Rows, *names: str) -> dict[str, list[Mapping[str, Any]]]:
    """Returns net -> its rows, one for each seed, of the nets whose name begins with one of `names`, as first met."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "net" and row["net"].startswith(names or ("",)):
            found.setdefault(row["net"], []).append(row)
    return found


def panel(title: str, nets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Panel:
    """Returns the test error by epoch (bold, with a band of one standard deviation over seeds) and the training error
    (thin, with open markers), the mean over seeds of each net."""
    series = []
    for look, (net, rows) in enumerate(nets.items()):
        for part, faint in (("test", False), ("train", True)):
            epochs, mean, spread = _mean_curve(rows, f"{part}_error")
            words = f"{net}, {'test' if part == 'test' else 'training'}"
            series.append(Series(words, epochs, mean, look, () if faint else spread, faint))
    return Panel(title, "epoch", "error, %", series)


def table(rows: Rows) -> Table:
    """Returns every net that was trained, seed by seed."""
    head = ("net", "seed", "parameters", "training error, %", "training loss", "test error, %", "seconds")
    lines = [
        [
            row["net"],
            row["seed"],
            f"{row['params']:,}",
            f"{row['train_error']:.2f}",
            f"{row['train_loss']:.4f}",
            f"{row['test_error']:.2f}",
            f"{row['seconds']:,.0f}",
        ]
        for row in rows
        if row["kind"] == "net" and "train_error" in row
    ]
    return Table("Every net that was trained, at the end of its schedule.", head, lines, long=len(lines) > 12)


def how_measured(rows: Rows) -> list[str]:
    """Returns on which pictures errors were measured, in a sentence."""
    trained = [row for row in rows if row["kind"] == "net" and "train_error" in row]
    if not trained:
        return []
    row = trained[0]
    return [
        f"Training errors at the end are measured on {row['train_pictures']:,} training pictures as they are, without "
        f"augmentation, and test errors on all {row['test_pictures']:,} test pictures, of {row['img_size']} x "
        f"{row['img_size']} pixels; the points of the curves on fewer."
    ]


def _mean_curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float], list[float]]:
    """Returns epochs, mean and standard deviation of the points that every seed has."""
    curves = [{point["epoch"]: point[key] for point in row["curve"]} for row in rows]
    epochs = sorted(set.intersection(*(set(curve) for curve in curves)))
    values = [[curve[epoch] for curve in curves] for epoch in epochs]
    spread = [statistics.stdev(each) if len(each) > 1 else 0.0 for each in values]
    return [float(epoch) for epoch in epochs], [statistics.fmean(each) for each in values], spread
