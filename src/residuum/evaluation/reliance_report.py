"""The part of a run's report on how far its answers can be relied on: how sure it is, and how many answers to take."""

from __future__ import annotations

from residuum import html
from residuum.evaluation.coverage import Point
from residuum.evaluation.evaluate import Predictions, Scores
from residuum.evaluation.reliance import Reliance
from residuum.html import Html

WANTED = 0.99
"""The accuracy whose coverage a report names."""

_CHOSEN_HERE = {"val": " These pictures also chose the temperature."}


def how_sure(scores: Scores, predictions: Predictions, reliance: Reliance | None, part: str, png: bytes) -> Html:
    """How often the network is right against how sure it is, with its temperature and without."""
    sure = 100 * float(predictions.probs[:, 0].mean())
    gap = sure - scores.top1
    verdict = (
        "too sure of itself"
        if gap > 1
        else "less sure than it could be"
        if gap < -1
        else "about as sure as it should be"
    )
    said = (
        f"On average it is {sure:.1f} % sure and {scores.top1:.1f} % right: {verdict}. "
        f"The expected calibration error is {scores.ece:.2f} % (15 equal-width bins)."
    )
    if reliance is not None and reliance.tempered:
        (temperature,) = reliance.temperatures
        said += (
            f" Its logits are divided by a temperature of {temperature:.3f}, chosen on validation pictures; without it "
            f"the error is {reliance.uncalibrated.ece:.2f} %.{_CHOSEN_HERE.get(part, '')}"
        )
    return html.join([html.paragraph(said), html.chart(png, f"Reliability diagram. {said}")])


def how_many(reliance: Reliance, png: bytes, chosen_here: bool = False) -> Html:
    """How right the surest answers are, and where "unknown" begins, which these pictures may have `chosen_here`."""
    said = f"{_in_words(reliance.at_accuracy(WANTED))} {threshold_in_words(reliance.chosen, chosen_here)}"
    return html.join([html.paragraph(said), html.chart(png, f"Accuracy against coverage. {said}")])


def _in_words(point: Point | None) -> str:
    if point is None:
        return f"However sure the network is, {100 * WANTED:g} % of its answers are never right."
    if point.coverage == 1:
        return f"All its answers together are at least {100 * WANTED:g} % right."
    return (
        f"The surest {100 * point.coverage:.1f} % of its answers, those with a probability of {point.threshold:.4g} or "
        f"more, are at least {100 * WANTED:g} % right."
    )


def threshold_in_words(chosen: Point | None, chosen_here: bool) -> str:
    """Returns where "unknown" begins and what it is worth, in a sentence or two."""
    if chosen is None:
        return (
            "It answers always. To be told \u201cunknown\u201d where it is not sure enough, train with "
            "--unknown-below, or give that to residuum predict."
        )
    return (
        f"Below a probability of {chosen.threshold:.4g} its answer is \u201cunknown\u201d: it answers "
        f"{100 * chosen.coverage:.1f} % of these pictures, and {100 * chosen.accuracy:.1f} % of the answers are right."
        f"{' These pictures also chose the threshold.' if chosen_here else ''}"
    )
