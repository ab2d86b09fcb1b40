"""Scores a trained network: accuracy, loss, calibration, every class, the confusion matrix.

Without --data it is the set that the network was trained on, with the same pictures held out. Accuracies are in
percent. Loss and calibration error are of probabilities with the bundle's temperature, and are said without it too;
it is said where the same pictures chose temperature or threshold, so that new ones fare a little worse.
Where a picture may have several classes: average precision, F1 at the thresholds of the classes, and how many pictures
have all their answers right.

With --views and --ensemble each picture is looked at more than once, as in the papers' best figures: ten crops (four
corners, the centre, their mirrors), or the whole picture at five scales and its mirrors.

examples:
  residuum evaluate runs/digits-1/best
  residuum evaluate runs/photos-1/best --data more_photos --json
  residuum evaluate runs/photos-1/best --data cifar10 --knn 20
  residuum evaluate runs/photos-1/best --views ten --ensemble runs/photos-2/best runs/photos-3/best
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from residuum.cli import console, flags
from residuum.errors import UsageError

if TYPE_CHECKING:
    from residuum.evaluation.evaluate import Scores
    from residuum.evaluation.multilabel import LabelScores
    from residuum.evaluation.reliance import Reliance
    from residuum.evaluation.trained import Evaluation, Knn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    add = parser.add_argument
    flags.add_bundle(parser)
    text = "digits, cifar10, cifar100, a folder, a .csv, or .parquet or .tar shards (default: what it was trained on)"
    add("--data", metavar="DATA", help=text)
    add("--split", metavar="PART", help="train, val or test (default: test, else val, else everything)")
    text = "what is seen of each picture: one (the centre, default), mirror (it and its mirror), shift (moved a little "
    text += "too), ten (crops) or multiscale; probabilities averaged"
    kinds = ("one", "mirror", "shift", "ten", "multiscale")
    add("--views", choices=kinds, default="one", metavar="|".join(kinds), help=text)
    text = "more networks of the same classes, whose probabilities are averaged with the first one's"
    add("--ensemble", nargs="+", default=[], metavar="BUNDLE", help=text)
    flags.add_precision(parser)
    flags.add_batch_size(parser, 256)
    flags.add_workers(parser)
    text = "score the vectors and not the classes: by the votes of the K most similar training pictures (20 is usual)"
    add("--knn", type=flags.whole_number(1), metavar="K", help=text)
    text = "the stage that --knn takes vectors from, from 1 (default: the last, as the classifier sees it)"
    add("--stage", type=flags.whole_number(1), metavar="N", help=text)
    flags.add_on_bad_image(parser, "left out and named")
    flags.add_device(parser)
    add("--csv", metavar="FILE", help="also write what was predicted for each picture, as a table")
    flags.add_offline(parser, "a set")
    flags.add_json(parser, "the scores")
    flags.add_loudness(parser, "what is evaluated")


def run(arguments: argparse.Namespace) -> int:
    """Evaluates."""
    from residuum.cli import progress
    from residuum.cli.changes import go_offline
    from residuum.cli.csvfile import csv_writer
    from residuum.distributed import announced
    from residuum.evaluation.knn import evaluate_knn
    from residuum.evaluation.trained import evaluate_in_full, rows_of

    watched = progress.watching("evaluating", quiet=arguments.quiet)
    _refuse_contradictions(arguments)
    go_offline(arguments.offline)
    with csv_writer(arguments.csv if announced().is_main else None, None) as write:
        if arguments.knn:
            how = partial(evaluate_knn, k=arguments.knn, stage=arguments.stage)
        else:
            how = partial(evaluate_in_full, kind=arguments.views, ensemble=arguments.ensemble)
        done = how(
            arguments.bundle,
            arguments.data,
            arguments.split,
            precision=arguments.precision,
            batch_size=arguments.batch_size,
            device=arguments.device,
            workers=arguments.workers,
            on_bad_image=arguments.on_bad_image,
            watch=watched,
        )
        if arguments.csv is not None:
            for row in rows_of(done):
                write(row)
    if done.world.is_main:
        _tell(done, arguments)
    return 0


def _refuse_contradictions(arguments: argparse.Namespace) -> None:
    if arguments.stage is not None and arguments.knn is None:
        raise UsageError(
            f"--stage {arguments.stage} is where --knn takes vectors from, which is not asked for.",
            expected="Expected --knn K with it.",
            hint="Leave out --stage: the classifier takes the last one.",
        )
    if arguments.knn is not None and (arguments.views != "one" or arguments.ensemble):
        raise UsageError(
            "--knn scores the vectors of one network, of the centre of each picture.",
            expected="Expected it without --views and --ensemble.",
            hint="Leave out one of them.",
        )


def _tell(done: Evaluation, arguments: argparse.Namespace) -> None:
    if arguments.verbose:
        where = ", ".join((arguments.bundle, *arguments.ensemble))
        console.note(f"Evaluated {' and '.join(done.models)} in {where} on {done.what}, in {arguments.precision}.")
    if not arguments.quiet:
        for name, reason in done.skipped.items():
            console.note(f"Skipped {name}: {reason}.")
    if arguments.json:
        console.answer_json({**_about(done), "skipped": done.skipped})
    else:
        console.answer(_in_words(done))


def _about(done: Evaluation) -> dict[str, object]:
    """Returns the scores in JSON's types; votes of neighbours have neither loss nor calibration."""
    scores = done.scores.as_dict()
    if done.knn is None:
        told = done.reliance.as_dict() if done.reliance else {}
        return {**scores, **told, "chosen_here": done.chosen_here, "views": done.kind, "models": done.models}
    return {"knn": asdict(done.knn), **{name: scores[name] for name in scores if name not in ("loss", "ece")}}


def _in_words(done: Evaluation) -> str:
    from residuum.evaluation.evaluate import Scores
    from residuum.evaluation.views import WORDS

    scores = done.scores
    if not isinstance(scores, Scores):
        return _labels_in_words(done, scores)
    rows = [
        [score.name, f"{score.images:,}", f"{score.precision:.1f}", f"{score.recall:.1f}", f"{score.f1:.1f}"]
        for score in scores.classes
    ]
    pairs = _confusions(scores)
    skipped = f" ({len(done.skipped):,} skipped)" if done.skipped else ""
    lines = [
        f"Set                 {done.what}",
        f"Pictures            {scores.images:,}{skipped}",
        f"Accuracy (top-1)    {scores.top1:.2f} %",
        f"Top-5               {scores.top5:.2f} %",
        *_beside(done, scores),
        "",
        console.table(("class", "pictures", "precision %", "recall %", "F1 %"), rows, right=(1, 2, 3, 4)),
    ]
    if len(scores.classes) <= 5:
        lines.remove(lines[3])  # it is 100 % of necessity
    if done.kind != "one":
        lines.insert(2, f"Views               {WORDS[done.kind]}")
    if len(done.models) > 1:
        lines.insert(2, f"Networks            {', '.join(done.models)}")
    if pairs:
        lines += ["", "Most frequent confusions (the whole matrix: --json)", *pairs]
    return "\n".join(lines)


def _labels_in_words(done: Evaluation, scores: LabelScores) -> str:
    """Returns the scores where a picture may have several classes."""
    from residuum.evaluation.views import WORDS

    rows = [
        [
            score.name, f"{score.images:,}", "-" if score.ap is None else f"{score.ap:.1f}", f"{score.threshold:.3f}",
            f"{score.precision:.1f}", f"{score.recall:.1f}", f"{score.f1:.1f}",
        ]
        for score in scores.classes
    ]  # fmt: skip
    head = ("class", "pictures", "AP %", "threshold", "precision %", "recall %", "F1 %")
    skipped = f" ({len(done.skipped):,} skipped)" if done.skipped else ""
    lines = [
        f"Set                 {done.what}",
        *([f"Networks            {', '.join(done.models)}"] if len(done.models) > 1 else []),
        *([f"Views               {WORDS[done.kind]}"] if done.kind != "one" else []),
        f"Pictures            {scores.images:,}{skipped}",
        f"mAP                 {scores.map:.2f} %",
        f"F1, mean of classes {scores.macro_f1:.2f} %",
        f"F1, all answers     {scores.micro_f1:.2f} %",
        f"All answers right   {scores.subset_accuracy:.2f} % of the pictures",
        f"Loss                {scores.loss:.4f}" if done.knn is None else _neighbours(done.knn),
        "",
        console.table(head, rows, right=range(1, len(head))),
    ]
    return "\n".join(lines)


def _neighbours(knn: Knn) -> str:
    return f"Neighbours          {knn.k:,} of {knn.known:,} training pictures, by stage {knn.stage}"


def _beside(done: Evaluation, scores: Scores) -> list[str]:
    """What the accuracy is of, in lines: of probabilities, or of neighbours."""
    if done.knn is None:
        lines = [f"Loss                {scores.loss:.4f}", f"Calibration error   {scores.ece:.2f} %"]
        return [*lines, *(_reliance(done.reliance) if done.reliance else []), *_chosen_here(done)]
    return [_neighbours(done.knn)]


def _reliance(told: Reliance) -> list[str]:
    """What temperature and threshold do, in lines."""
    lines = []
    if told.tempered:
        each = ", ".join(f"{temperature:.3f}" for temperature in told.temperatures)
        without = f"without: loss {told.uncalibrated.loss:.4f}, calibration error {told.uncalibrated.ece:.2f} %"
        lines.append(f"Temperature         {each} ({without})")
    sure = told.at_accuracy(0.99)
    if sure is not None:
        who = f"{100 * sure.coverage:.2f} % of the pictures, of a probability from {sure.threshold:.4g}"
        lines.append(f"99 % right          on the surest {who}")
    if told.chosen is not None:
        right = f"{100 * told.chosen.accuracy:.2f} % of these are right"
        below = f"unknown below {told.chosen.threshold:.4g}"
        lines.append(f"Answered            {100 * told.chosen.coverage:.2f} % ({below}); {right}")
    return lines


def _chosen_here(done: Evaluation) -> list[str]:
    """What the pictures chose themselves, so that they say a little too much of it, in a line."""
    if not done.chosen_here:
        return []
    chose = " and the ".join(done.chosen_here)
    return [f"{'':20}These pictures also chose the {chose}: expect a little less of new ones."]


def _confusions(scores: Scores, count: int = 5) -> list[str]:
    names, matrix = [score.name for score in scores.classes], scores.confusion.copy()
    matrix[range(len(names)), range(len(names))] = 0
    worst = (-matrix).ravel().argsort(kind="stable")[:count].tolist()
    pairs = [divmod(place, len(names)) for place in worst]
    return [
        f"  {matrix[true, said]:,} x {names[true]} taken for {names[said]}"
        for true, said in pairs
        if matrix[true, said]
    ]
