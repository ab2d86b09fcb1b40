"""Measures what weights that others trained on CIFAR-10 are worth on other pictures, against random weights.

    python benchmarks/transfer.py --weights resnet20.th --model resnet20_cifar --photos hymenoptera [ARM ...]

Two sets at 32 pixels: scikit-learn's digits, and the ants and bees of PyTorch's transfer-learning tutorial. Budgets:
from scratch and fine-tuned, for as many updates of as many pictures; and with every picture seen once, a linear probe
and from scratch.
Each arm's learning rate is the best of four on validation pictures, with a seed that is not measured; the test pictures
are scored once, with the weights of the best epoch on the validation pictures. Writes docs/results/transfer.csv.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from measure import write

import residuum
from residuum.models.convert import convert
from residuum.recipe import AdamW, Augment, Cosine, Data, Model, OneCycle, PadCrop, Recipe, Sgd, Transfer
from residuum.training import summary

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARMS = ("scratch", "fine-tuned", "scratch, once", "probe")
RATES = {
    "scratch": (0.03, 0.1, 0.3, 1.0),
    "fine-tuned": (0.03, 0.1, 0.3, 1.0),
    "scratch, once": (0.03, 0.1, 0.3, 1.0),
    "probe": (1e-2, 3e-2, 1e-1, 3e-1),
}
TRIAL_SEED = 1000


def main() -> None:
    """Measures both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="*", metavar="ARM", help=f"of {'; '.join(ARMS)} (default: all)")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="resnet20_cifar")
    parser.add_argument("--photos", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    summary.write_summary = lambda *_: None  # a report of each run is not what is measured
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        convert(arguments.weights, arguments.model, bundle, CIFAR10)
        for name, recipe in sets(arguments.model, arguments.photos).items():
            for arm in arguments.arms or ARMS:
                measure(name, arm, as_arm(recipe, arm, bundle), Path(folder) / f"{name}-{arm}", arguments.seeds)


def sets(model: str, photos: str) -> dict[str, Recipe]:
    """Returns what the arms have in common on each set: its pictures, its augmentation and the updates."""
    data = Data("digits", img_size=32, resize_px=32, mode="RGB", normalise="imagenet", batch_size=32, test_fraction=0.2)
    digits = Recipe(epochs=3, model=Model(model), data=data, augment=Augment(crop=PadCrop(px=4)), precision="fp32")
    bees = replace(data, source=photos, test_fraction=0.0, folds=5)
    return {
        "digits": digits,
        "ants and bees": replace(digits, epochs=15, data=bees, augment=replace(digits.augment, flip="random")),
    }


def as_arm(recipe: Recipe, arm: str, bundle: Path) -> Recipe:
    """Returns the recipe of an arm."""
    if arm.startswith("scratch"):
        recipe = replace(recipe, epochs=1) if arm == "scratch, once" else recipe
        return replace(recipe, optim=Sgd(nesterov=True, weight_decay=5e-4), schedule=OneCycle())
    started = replace(recipe, model=replace(recipe.model, weights=str(bundle)))
    if arm == "fine-tuned":
        transfer = Transfer(head="new", layer_decay=0.8)
        return replace(started, transfer=transfer, optim=Sgd(nesterov=True, weight_decay=5e-4), schedule=OneCycle())
    return replace(
        started,
        epochs=40,
        save_every_epochs=40,
        transfer=Transfer(head="new", freeze="all"),
        augment=Augment(),
        optim=AdamW(weight_decay=0.01),
        schedule=Cosine(),
    )


def measure(name: str, arm: str, recipe: Recipe, folder: Path, seeds: int) -> None:
    """Chooses the rate of an arm and writes a row for each seed."""
    trials = {lr: trained(recipe, lr, TRIAL_SEED, folder / f"trial-{lr}") for lr in RATES[arm]}
    rate = max(trials, key=lambda lr: trials[lr].best)
    for seed in range(seeds):
        started = time.perf_counter()
        run = trained(recipe, rate, seed, folder / f"seed-{seed}")
        seconds = time.perf_counter() - started
        scores = residuum.evaluate(run.folder / "best", split="test", device="cpu")
        write(
            "transfer.csv",
            instead_of=("set", "arm", "model", "seed"),
            set=name,
            arm=arm,
            model=recipe.model.name,
            seed=seed,
            epochs=recipe.epochs,
            lr=rate,
            train_images=len(run.parts.train),
            test_images=scores.images,
            top1=round(scores.top1, 3),
            train_seconds=round(run.seconds, 2),
            command_seconds=round(seconds, 2),
        )


def trained(recipe: Recipe, lr: float, seed: int, folder: Path) -> residuum.Run:
    """Returns a finished run."""
    return residuum.train(replace(recipe, seed=seed), out=folder, lr=lr, device="cpu")


if __name__ == "__main__":
    main()
