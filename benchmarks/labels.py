"""Measures how many wrong labels are found, and how many of those found are wrong, where it is known which are.

    python benchmarks/labels.py [--weights resnet20.th] [--seeds 3] [--epochs 12]

Of scikit-learn's 1,797 digits 2 % or 5 %, drawn by the seed, lie in the folder of another digit. Three ways to find
them: `residuum train --folds 5`; `residuum check --bundle` with the network of the first fold, which was trained on
most of these labels; and, where `--weights` names a ResNet-20 that others have trained on CIFAR-10, with that one.
What is found and was not planted counts as wrong, though it may be hard to tell for people too. Writes
docs/results/labels.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure import write
from PIL import Image

from residuum.data.builtin import digits
from residuum.data.class_names import CLASS_NAMES
from residuum.data.survey import survey
from residuum.evaluation.label_check import neighbours_issues
from residuum.evaluation.label_issues import LabelIssue
from residuum.models import saved
from residuum.models.convert import convert
from residuum.training import summary
from residuum.training.folds import cross_validate

SHARES = (0.02, 0.05)
CPU = torch.device("cpu")


def main() -> None:
    """Measures both shares with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    summary.write_summary = lambda *_: None  # a report of each fold is not what is measured
    with tempfile.TemporaryDirectory() as folder:
        foreign = None
        if arguments.weights is not None:
            foreign = Path(folder) / "cifar"
            convert(arguments.weights, "resnet20_cifar", foreign, CLASS_NAMES["cifar10"])
        for share in SHARES:
            for seed in range(arguments.seeds):
                measure(Path(folder) / f"{share}-{seed}", share, seed, arguments.epochs, foreign)


def measure(place: Path, share: float, seed: int, epochs: int, foreign: Path | None) -> None:
    """Plants wrong labels and looks for them in each way; writes a row for each."""
    planted = write_digits(place / "digits", share, seed)
    started = time.perf_counter()
    changes: dict[str, object] = {"epochs": epochs, "seed": seed, "data.mode": "L", "data.test_fraction": 0.0}
    done = cross_validate(
        "digits", folds=5, data=str(place / "digits"), out=place / "folds", device="cpu", changes=changes
    )
    row = {"flipped": share, "seed": seed}
    took = time.perf_counter() - started
    report("folds", done.label_issues, planted, took, **row, epochs=epochs, top1=round(float(np.mean(done.top1)), 2))
    ways = {"neighbours, own network": place / "folds" / "fold-1" / "best"}
    if foreign is not None:
        ways["neighbours, ResNet-20 of CIFAR-10"] = foreign
    for way, bundle in ways.items():
        started = time.perf_counter()
        parts = list(survey(str(place / "digits")).parts.values())
        issues = neighbours_issues(saved.load(bundle), parts, CPU)
        report(way, issues, planted, time.perf_counter() - started, **row)


def write_digits(folder: Path, share: float, seed: int) -> set[str]:
    """Writes the digits as files in the folder of their label; returns those whose label is wrong."""
    images = digits().parts["train"]
    count = round(share * len(images))
    random = np.random.default_rng(seed)
    flipped = set(random.choice(len(images), count, replace=False).tolist())
    wrong = set()
    for name in images.classes:
        (folder / name).mkdir(parents=True)
    for index, label in enumerate(images.labels.tolist()):
        given = (label + int(random.integers(1, len(images.classes)))) % len(images.classes)
        file = folder / images.classes[given if index in flipped else label] / f"{index}.png"
        picture: Image.Image = images.open(index)
        picture.save(file)
        if index in flipped:
            wrong.add(str(file))
    return wrong


def report(way: str, issues: Sequence[LabelIssue], planted: set[str], seconds: float, **row: object) -> None:
    """Writes a row: precision and recall in percent."""
    found = {issue.file for issue in issues}
    right = len(found & planted)
    write(
        "labels.csv",
        way=way,
        **row,
        planted=len(planted),
        found=len(found),
        right=right,
        precision=round(100 * right / max(len(found), 1), 2),
        recall=round(100 * right / len(planted), 2),
        seconds=round(seconds, 1),
    )


if __name__ == "__main__":
    main()
