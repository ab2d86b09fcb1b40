"""Verdicts by rule, figures in words, and the drawings' manners."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from residuum.lab import plots
from residuum.lab.experiments import EXPERIMENTS
from residuum.lab.findings import SCALES, Check, Finding, Measure, below, by_net, change, verdict_in_words


@pytest.mark.parametrize(
    ("held", "verdict"),
    [
        ([True, True], "reproduced"),
        ([True, False], "partly reproduced"),
        ([False, False], "not reproduced"),
    ],
)
def test_the_verdict_follows_the_checks(held: list[bool], verdict: str) -> None:
    finding = Finding([], [Check("", each) for each in held])
    assert finding.verdict == verdict
    assert verdict_in_words(finding, "small") == verdict
    assert verdict_in_words(finding, "smoke").startswith("a smoke run, too small to judge by")


def test_a_measure_says_mean_spread_and_seeds() -> None:
    assert Measure("", [8.0, 9.0, 10.0], "%").in_words() == "9.00 ± 1.00 % (3 seeds)"
    assert Measure("", [25557032], "", 0).in_words() == "25,557,032"


def test_what_was_not_measured_holds_nowhere() -> None:
    assert not below({"a": 1.0}, "a", "b", "").holds
    assert not below({"b": 1.0}, "a", "b", "").holds
    assert below({"a": 1.0, "b": 2.0}, "a", "b", "").holds


def test_values_of_a_net_are_in_the_order_of_seeds() -> None:
    rows = [{"kind": "net", "net": "x", "seed": seed, "e": 10.0 - seed} for seed in (2, 0, 1)]
    assert by_net([*rows, {"kind": "net", "net": "x", "seed": 3, "e": None}], "net", "e") == {"x": [10.0, 9.0, 8.0]}


def test_every_experiment_has_a_whole_card() -> None:
    assert set(EXPERIMENTS.names()) == {
        "degradation", "depth", "shortcuts", "bottleneck", "architecture", "responses", "gradients", "paths",
        "landscape", "reuse",
    }  # fmt: skip
    for entry in EXPERIMENTS.entries():
        assert entry.summary.endswith(".")
        assert "arXiv:" in entry.card.source
        assert entry.card.rule.endswith(".")
        assert tuple(entry.card.scales) == tuple(entry.card.seeds) == SCALES


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(PIL.Image.open(io.BytesIO(png)).convert("L"), dtype=np.float64)


def test_lines_are_told_apart_without_colour() -> None:
    looks = [(str(style), marker) for _, style, marker in plots._LOOKS]
    assert len({style for style, _ in looks}) == len({marker for _, marker in looks}) == len(looks)


def test_drawings_are_pictures_that_depend_on_what_they_show() -> None:
    def panels(height: float) -> list[plots.Panel]:
        line = plots.Series("net", [0, 1, 2], [1, height, 3], 0, band=[0.1, 0.1, 0.1])
        return [plots.Panel("a", "x", "y", [line]), plots.Panel("b", "x", "y", [line], log=True)]

    grid = np.array([[3.0, 2, 3], [2, 1, 2], [3, 2, 3]])
    lines = pixels(plots.draw_lines(panels(1.0)))
    drawn = [
        lines,
        pixels(plots.draw_bars(["a", "b"], {"one": [1, 2], "two": [2, 3]}, title="t", y="y")),
        pixels(plots.draw_matrices({"a": grid / 3}, axis="block", value="similarity")),
        pixels(plots.draw_contours({"a": grid}, [-1, 0, 1])),
        pixels(plots.draw_surfaces({"a": grid}, [-1, 0, 1])),
    ]
    assert all(each.min() < 100 and each.max() > 250 for each in drawn)
    assert (lines != pixels(plots.draw_lines(panels(2.0)))).any()


def test_a_headline_goes_from_net_to_net_with_the_spread_beside() -> None:
    values = {"a": [8.0, 9.0, 10.0], "b": [5.0], "c": []}
    found = change("error", values, ("a", "b", "c"), decimals=1, paper="8.7 → 7.0 %")
    assert (found.measured, found.spread, found.paper) == ("9.0 → 5.0 %", "± 1.0, -; 3 seeds", "8.7 → 7.0 %")
    assert change("error", values, ("c",)).measured == "-"
