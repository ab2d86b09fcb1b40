"""Scores a trained network: accuracy, loss, calibration, every class, the confusion matrix.

Without --data it is the set that the network was trained on, with the same pictures held out. Accuracies are in
percent.

examples:
  residuum evaluate runs/digits-1/best
  residuum evaluate runs/photos-1/best --data more_photos --json
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from residuum.cli import console

if TYPE_CHECKING:
    from residuum.evaluation.evaluate import Scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    from residuum.cli.flags import whole_number

    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="the folder best/ of a run")
    add("--data", metavar="DATA", help="digits, cifar10, cifar100, a folder, a .csv, or .parquet shards")
    add("--split", metavar="PART", help="train, val or test (default: test, else val, else everything)")
    add("--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="what to compute in (fp32)")
    add("-b", "--batch-size", type=whole_number(1), default=256, metavar="N", help="pictures at a time (256)")
    add("-j", "--workers", type=whole_number(0), default=0, metavar="N", help="threads that decode (0: chosen)")
    add("--on-bad-image", choices=("error", "skip"), default="error", help="what to do with one that cannot be used")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--csv", metavar="FILE", help="write the prediction of each picture")
    add("--offline", action="store_true", help="use no network")
    add("--json", action="store_true", help="print the scores as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates."""
    from residuum.cli.changes import go_offline
    from residuum.cli.csvfile import write_csv
    from residuum.evaluation.trained import evaluate_in_full, rows

    go_offline(arguments.offline)
    scores, predictions, images, skipped = evaluate_in_full(
        arguments.bundle,
        arguments.data,
        arguments.split,
        precision=arguments.precision,
        batch_size=arguments.batch_size,
        device=arguments.device,
        workers=arguments.workers,
        on_bad_image=arguments.on_bad_image,
    )
    if arguments.csv:
        names = tuple(score.name for score in scores.classes)
        write_csv(arguments.csv, rows(predictions, images, names))
    for name, reason in skipped.items():
        console.note(f"Skipped {name}: {reason}.")
    if arguments.json:
        console.answer_json({**scores.as_dict(), "skipped": skipped})
    else:
        console.answer(_in_words(scores))
    return 0


def _in_words(scores: Scores) -> str:
    rows = [
        [score.name, f"{score.images:,}", f"{score.precision:.1f}", f"{score.recall:.1f}", f"{score.f1:.1f}"]
        for score in scores.classes
    ]
    pairs = _confusions(scores)
    lines = [
        f"Pictures            {scores.images:,}",
        f"Accuracy (top-1)    {scores.top1:.2f} %",
        f"Top-5               {scores.top5:.2f} %",
        f"Loss                {scores.loss:.4f}",
        f"Calibration error   {scores.ece:.2f} %",
        "",
        console.table(("class", "pictures", "precision %", "recall %", "F1 %"), rows, right=(1, 2, 3, 4)),
    ]
    if pairs:
        lines += ["", "Most frequent confusions (the whole matrix: --json)", *pairs]
    return "\n".join(lines)


def _confusions(scores: Scores, count: int = 5) -> list[str]:
    names = [score.name for score in scores.classes]
    pairs = [
        (int(scores.confusion[true, said]), names[true], names[said])
        for true in range(len(names))
        for said in range(len(names))
        if true != said and scores.confusion[true, said]
    ]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:count]
    return [f"  {times:,} x {true} taken for {said}" for times, true, said in worst]
