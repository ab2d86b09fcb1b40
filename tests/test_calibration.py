"""What a bundle's card says of its probabilities: read strictly, and the word for an answer that names no class."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from residuum.calibration import Calibration, checked, of_card, threshold_of, unknown_for
from residuum.errors import UsageError, WeightsError


def test_a_card_that_says_nothing_has_the_temperature_one() -> None:
    assert of_card({}, Path("best")) == Calibration(temperature=1.0, unknown_below=None)


@given(st.floats(0.01, 100), st.none() | st.floats(0, 1))
def test_a_calibration_survives_json(temperature: float, below: float | None) -> None:
    found = Calibration(temperature, below, {"images": 3, "uncalibrated": {"ece": 1.5}})
    assert of_card({"calibration": json.loads(json.dumps(found.as_dict()))}, Path("best")) == found


@pytest.mark.parametrize(
    "said",
    [
        [], "warm", {}, {"temperature": None}, {"temperature": 0}, {"temperature": -1.0}, {"temperature": True},
        {"temperature": "1"}, {"temperature": math.inf}, {"temperature": math.nan},
        {"temperature": 1.0, "unknown_below": 1.5}, {"temperature": 1.0, "unknown_below": "auto"},
        {"temperature": 1.0, "unknown_below": None, "found": 3},
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_is_refused_and_the_bundle_named(said: Any) -> None:
    with pytest.raises(WeightsError, match="runs/a/best") as caught:
        of_card({"calibration": said}, Path("runs/a/best"))
    assert caught.value.expected
    assert "residuum calibrate" in caught.value.hint


@given(st.lists(st.sampled_from(["unknown", "(unknown)", "((unknown))", "ants"]), unique=True))
def test_the_word_for_unknown_is_never_a_class(classes: list[str]) -> None:
    word = unknown_for(classes)
    assert word not in classes
    assert "unknown" in word
    assert (word == "unknown") == ("unknown" not in classes)


def test_a_threshold_is_the_bundles_own_unless_another_is_asked_for() -> None:
    own, none = Calibration(unknown_below=0.7), Calibration()
    assert [threshold_of(own, wanted) for wanted in (None, "auto", "none", 0.2, 1)] == [0.7, 0.7, None, 0.2, 1.0]
    assert [threshold_of(none, wanted) for wanted in (None, "none", 0.2)] == [None, None, 0.2]
    with pytest.raises(UsageError, match="no threshold of its own") as caught:
        threshold_of(none, "auto")
    assert "residuum calibrate" in caught.value.hint


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, "sure", True, None])
def test_what_is_no_probability_is_no_threshold(wrong: object) -> None:
    with pytest.raises(UsageError, match="unknown_below cannot be"):
        checked(wrong)
