"""How far the answers to a set of pictures can be relied on: with their temperatures and without, all and the surest.

Shapes: N pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from residuum.evaluation.coverage import ACCURACIES, Curve, Point, at_accuracy, at_threshold, curve_of
from residuum.evaluation.evaluate import Predictions, Scores
from residuum.evaluation.metrics import CalibrationBins


@dataclass(frozen=True)
class Reliance:
    """What temperatures and thresholds do to the scores of networks with these `temperatures`.

    `uncalibrated` and `uncalibrated_bins` are the scores and how sure it was without the temperatures, `curve` is
    accuracy against coverage with them. Where answers may be "unknown", `chosen` is the point of that threshold.
    """

    temperatures: tuple[float, ...]
    uncalibrated: Scores
    uncalibrated_bins: CalibrationBins
    curve: Curve
    chosen: Point | None

    @property
    def tempered(self) -> bool:
        """Whether a temperature changes anything."""
        return any(temperature != 1 for temperature in self.temperatures)

    def at_accuracy(self, accuracy: float) -> Point | None:
        """Returns the point of the largest coverage with at least this accuracy (0..1), or None where there is none."""
        return at_accuracy(self.curve, accuracy)

    def as_dict(self) -> dict[str, object]:
        """In JSON's types: coverages and accuracies in percent, thresholds as probabilities in 0..1."""
        without = self.uncalibrated
        told: list[dict[str, float | None]] = []
        for accuracy in ACCURACIES:
            point = self.at_accuracy(accuracy)
            told.append(
                {
                    "accuracy": 100 * accuracy,
                    "coverage": 100 * point.coverage if point else 0.0,
                    "threshold": point.threshold if point else None,
                }
            )
        return {
            "calibration": {
                "temperatures": list(self.temperatures),
                "uncalibrated": {"top1": without.top1, "loss": without.loss, "ece": without.ece},
            },
            "coverage": {
                "unknown_below": self.chosen.threshold if self.chosen else None,
                "answered": 100 * self.chosen.coverage if self.chosen else 100.0,
                "accuracy": 100 * (self.chosen.accuracy if self.chosen else float(self.curve.accuracy[-1])),
                "at_accuracy": told,
            },
        }


def reliance_of(
    predictions: Predictions,
    uncalibrated: Scores,
    uncalibrated_bins: CalibrationBins,
    temperatures: Sequence[float],
    unknown_below: float | None,
) -> Reliance:
    """Returns how far predictions of at least one picture can be relied on."""
    confidence, correct = predictions.probs[:, 0], predictions.correct
    chosen = None if unknown_below is None else at_threshold(confidence, correct, unknown_below)
    return Reliance(tuple(temperatures), uncalibrated, uncalibrated_bins, curve_of(confidence, correct), chosen)
