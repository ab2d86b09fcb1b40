"""Arms in turns, medians, spread and ratios, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residuum.timing import Figure, in_turns, ratio

VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20)


@given(VALUES)
@settings(deadline=None)
def test_a_figure_is_numpys_median_and_its_extremes(values: list[float]) -> None:
    figure = Figure.of(iter(values))
    assert figure.median == pytest.approx(np.median(values))
    assert (figure.low, figure.high, figure.count) == (min(values), max(values), len(values))


def test_a_figure_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Figure.of([])


def test_the_spread_is_a_part_of_the_median_and_a_unit_changes_nothing_of_it() -> None:
    figure = Figure.of([8.0, 10.0, 13.0])
    assert figure.spread == pytest.approx(0.5)
    assert figure.times(1000) == Figure(10_000.0, 8000.0, 13_000.0, 3)
    assert figure.times(1000).spread == pytest.approx(0.5)


def test_turns_go_forwards_and_backwards_and_the_first_is_forgotten() -> None:
    order: list[str] = []
    told: list[str] = []

    def arm(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = in_turns({"a": lambda: arm("a"), "b": lambda: arm("b"), "c": lambda: arm("c")}, 2, tell=told.append)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert told == order
    assert found == {"a": [6.0, 7.0], "b": [5.0, 8.0], "c": [4.0, 9.0]}
    assert in_turns({"a": lambda: arm("a")}, 1, warm_up=0) == {"a": [10.0]}


def test_a_machine_that_slows_down_steadily_favours_no_arm() -> None:
    clock = iter(range(1, 100))
    arms = {"first": lambda: float(next(clock)), "second": lambda: float(next(clock))}
    found = in_turns(arms, 4)
    assert sum(found["first"]) == sum(found["second"])


def test_a_ratio_is_taken_within_a_turn() -> None:
    """One turn in which the whole machine is half as fast changes no ratio."""
    assert ratio([600.0, 300.0, 620.0], [200.0, 100.0, 200.0]) == Figure(3.0, 3.0, pytest.approx(3.1), 3)


def test_a_ratio_needs_a_partner_for_each_value() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        ratio([1.0, 2.0], [1.0])
