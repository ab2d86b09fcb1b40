"""Measures pictures that may have several classes: handwritten digits, up to three to a picture, named in a table.

    python benchmarks/multilabel.py [--seeds 3]

A picture of 16 x 16 pixels has scikit-learn's digits of 8 x 8 in none to three of its quarters, and as classes those
that are there. No digit of the test pictures is in a training or validation picture. Twice: all digits as often as each
other, and each less often than the one before, with and without weights of the classes. ResNet-20 is trained by
`residuum.train` on the table, whose validation pictures choose the epoch and the thresholds; the test pictures are
scored once, at these thresholds and at one half. Writes docs/results/multilabel.csv.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
from measure import write
from sklearn.datasets import load_digits

import residuum
from residuum.evaluation import multilabel
from residuum.recipe import Augment, Data, Model, OneCycle, PadCrop, Recipe, Sgd
from residuum.training import summary
from residuum.training.run import LabelResult

PICTURES = {"train": 1500, "val": 400, "test": 1000}
FALL = 0.7
"""How often a digit comes, as a part of the one before, where they are uneven."""
ARMS = {"even": {}, "uneven": {}, "uneven, class_weights = 1": {"class_weights": 1.0}}


def main() -> None:
    """Measures all arms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    summary.write_summary = lambda *_: None  # a report of each run is not what is measured
    with tempfile.TemporaryDirectory() as folder:
        tables = {arm: draw(Path(folder) / arm, uneven=arm.startswith("uneven")) for arm in ARMS}
        for seed in range(arguments.seeds):
            for arm, changes in ARMS.items():
                out = Path(folder) / f"{arm}-{seed}"
                run = residuum.train(recipe(tables[arm]), out=out, seed=seed, changes=dict(changes))
                measured(arm, seed, run)


def recipe(table: Path) -> Recipe:
    """Returns how the network is trained: as digits are, without flips."""
    return Recipe(
        epochs=12,
        model=Model("resnet20_cifar"),
        data=Data(str(table), img_size=16, resize_px=16, batch_size=32),
        augment=Augment(crop=PadCrop(px=2)),
        optim=Sgd(lr=0.2, nesterov=True, weight_decay=5e-4),
        schedule=OneCycle(),
    )


def draw(folder: Path, *, uneven: bool) -> Path:
    """Writes the pictures and the table of them, which it returns."""
    folder.mkdir()
    random = np.random.default_rng(int(uneven))
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    order = random.permutation(len(pixels))
    own = {"test": order[:600], "val": order[600:900], "train": order[900:]}
    share = FALL ** np.arange(10) if uneven else np.ones(10)
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for part, count in PICTURES.items():
            for number in range(count):
                picture = np.zeros((16, 16), np.uint8)
                kinds = random.choice(10, size=random.integers(0, 4), p=share / share.sum())
                quarters = random.permutation(4)[: len(kinds)]
                for kind, quarter in zip(kinds, quarters, strict=True):
                    chosen = random.choice(own[part][digits.target[own[part]] == kind])
                    top, left = 8 * (quarter // 2), 8 * (quarter % 2)
                    picture[top : top + 8, left : left + 8] = pixels[chosen]
                name = f"{part}-{number}.png"
                PIL.Image.fromarray(picture).save(folder / name)
                writer.writerow((name, "|".join(str(kind) for kind in sorted(set(kinds.tolist()))), part))
    return folder / "labels.csv"


def measured(arm: str, seed: int, run: residuum.Run) -> None:
    """Writes a row."""
    assert isinstance(run.result, LabelResult)
    scores = run.result.scores
    classes = [score.name for score in scores.classes]
    half = multilabel.score(run.result.predictions, classes, [0.5] * len(classes))
    rarest = min(scores.classes, key=lambda score: score.images)
    write(
        "multilabel.csv",
        arm=arm,
        model=run.recipe.model.name,
        seed=seed,
        epochs=run.epoch,
        train_images=len(run.parts.train),
        test_images=scores.images,
        map=round(scores.map, 3),
        rarest_ap=round(rarest.ap or 0.0, 3),
        rarest_images=rarest.images,
        macro_f1=round(scores.macro_f1, 3),
        macro_f1_at_half=round(half.macro_f1, 3),
        micro_f1=round(scores.micro_f1, 3),
        subset_accuracy=round(scores.subset_accuracy, 3),
        precision=run.precision,
    )


if __name__ == "__main__":
    main()
