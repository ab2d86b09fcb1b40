"""Measures what a temperature and a threshold are worth; writes docs/results/calibration.csv, a row for each bundle.

    python benchmarks/calibration.py --bundle resnet20 resnet56 --data SHARDS [--split test] [--seeds 5]

A bundle: residuum convert resnet20.th --model resnet20_cifar --out resnet20. Networks that others trained saw all
training pictures, so that the test pictures have to choose the temperature too. None of them judges what it chose: they
are divided at random into two halves, each is judged with the temperature and the thresholds of the other, and the
halves are drawn anew for every seed. Figures are means over the seeds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch
from measure import write
from numpy.typing import NDArray

from residuum.data.loading import EvalLoader
from residuum.data.sources import open_single
from residuum.evaluation import metrics
from residuum.evaluation.calibrate import Collected, collect, cross_fitted, halves
from residuum.evaluation.coverage import at_accuracy, curve_of, threshold_for
from residuum.evaluation.temperature import confidence_and_losses, fit_temperature
from residuum.models import saved

ACCURACY = 0.99


def main() -> None:
    """Measures every bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", nargs="+", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    for bundle in arguments.bundle:
        measure(bundle, arguments.data, arguments.split, arguments.seeds)


def measure(bundle: Path, data: str, split: str, seeds: int) -> None:
    """Writes the row of one bundle."""
    trained = saved.load(bundle)
    images = open_single(data, split, trained.classes, mode=trained.preprocessing.mode)
    batches = EvalLoader(images, trained.preprocessing, 256, device=torch.device("cpu"), channels_last=True)
    collected = collect(trained.model, batches, len(trained.classes))
    correct = collected.logits.argmax(axis=1) == collected.labels
    without, losses = confidence_and_losses(collected.logits, collected.labels, 1.0)
    judged = [_judged(collected, correct, seed) for seed in range(seeds)]
    write(
        "calibration.csv",
        model=trained.card["model"]["name"],
        data=Path(data).name,
        part=split,
        images=len(collected.labels),
        seeds=seeds,
        top1=round(100 * float(correct.mean()), 3),
        temperature=round(fit_temperature(collected.logits, collected.labels), 4),
        ece_without=round(_ece(without, correct), 3),
        loss_without=round(float(losses.mean()), 5),
        coverage_at_99_without=round(_coverage(without, correct), 2),
        **{
            f"{name}{suffix}": round(value, 5 if name == "loss" else 3)
            for name in judged[0]
            for suffix, value in _spread([row[name] for row in judged]).items()
        },
    )


def _judged(collected: Collected, correct: NDArray[np.bool_], seed: int) -> dict[str, float]:
    """What two halves of the pictures are worth to each other, in percent: the temperature of each and its thresholds
    of 95 % coverage and of 99 % accuracy, all applied to the other."""
    confidence, losses = confidence_and_losses(collected.logits, collected.labels, cross_fitted(collected, seed))
    auto = np.zeros(len(correct), dtype=bool)
    sure = np.zeros(len(correct), dtype=bool)
    first = halves(len(correct), seed)
    for half in (first, ~first):
        own = fit_temperature(collected.logits[half], collected.labels[half])
        chosen, _ = confidence_and_losses(collected.logits[half], collected.labels[half], own)
        auto[~half] = confidence[~half] >= threshold_for(chosen)
        reached = at_accuracy(curve_of(chosen, correct[half]), ACCURACY)
        sure[~half] = confidence[~half] >= (reached.threshold if reached else np.inf)
    return {
        "ece": _ece(confidence, correct),
        "loss": float(losses.mean()),
        "coverage_at_99": _coverage(confidence, correct),
        "answered_sure": 100 * float(sure.mean()),
        "accuracy_sure": 100 * float(correct[sure].mean()) if sure.any() else 100.0,
        "answered_auto": 100 * float(auto.mean()),
        "accuracy_auto": 100 * float(correct[auto].mean()),
    }


def _spread(values: list[float]) -> dict[str, float]:
    return {"": statistics.fmean(values), "_min": min(values), "_max": max(values)}


def _ece(confidence: metrics.Floats, correct: NDArray[np.bool_]) -> float:
    return 100 * metrics.calibration_error(metrics.calibration_bins(confidence, correct))


def _coverage(confidence: metrics.Floats, correct: NDArray[np.bool_]) -> float:
    """The largest share of the pictures that is answered with an accuracy of 99 %, in percent."""
    reached = at_accuracy(curve_of(confidence, correct), ACCURACY)
    return 100 * reached.coverage if reached else 0.0


if __name__ == "__main__":
    main()
