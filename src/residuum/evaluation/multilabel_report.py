"""The report of a run whose pictures may have several classes: the same page, with what matters there.

Shapes: K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from matplotlib.figure import Figure

from residuum import html
from residuum.evaluation import report
from residuum.evaluation.multilabel import LabelPredictions, LabelScores
from residuum.evaluation.pictures import Mistake, draw_mistakes, draw_pictures
from residuum.evaluation.plots import BLUE, INK, LINE, QUIET, VERMILION, draw_curves, font_families, png, short
from residuum.evaluation.report import PARTS, Content, duration, thumbnail_of
from residuum.evaluation.report_sections import data_check
from residuum.html import Html, Section

DRAWN_CLASSES = 40
"""Beyond so many classes, the hardest are drawn and listed, and the others folded away."""

LabelContent: TypeAlias = Content[LabelScores, LabelPredictions]
"""All that the report says; `scores` are at the thresholds that the bundle carries."""


def write_label_report(path: Path, content: LabelContent, plots: Path | None = None) -> None:
    """Writes the report, and its drawings as files into the folder `plots`, which is created."""
    drawn = draw(content)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            (plots / name).write_bytes(picture)
    html.write(path, compose(content, drawn))


def draw(content: LabelContent) -> dict[str, bytes]:
    """Draws the plots of a run: file name -> PNG."""
    drawn = {"curves.png": draw_curves(content.records), "classes.png": draw_classes(content.scores)}
    if content.training_pictures:
        drawn["pictures.png"] = draw_pictures(content.training_pictures)
    if content.mistakes:
        drawn["mistakes.png"] = draw_mistakes(content.mistakes)
    return drawn


def draw_classes(scores: LabelScores) -> bytes:
    """Draws the average precision and F1 of each class beside the share of pictures that have it, which is the average
    precision of guessing; hardest last, the hardest 40 of more. Returns a PNG."""
    chosen = _hardest(scores)[::-1]
    figure = Figure(figsize=(8.5, 1.3 + 0.32 * max(len(chosen), 1)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(chosen))
    picked = [scores.classes[place] for place in chosen]
    ap = [np.nan if score.ap is None else score.ap for score in picked]
    axes.plot([100 * s.images / scores.images for s in picked], rows, "|", color=INK, ms=11, mew=2, label="guessing")
    axes.plot([score.f1 for score in picked], rows, "D", color=VERMILION, mfc="white", ms=6, mew=1.6, label="F1")
    axes.plot(ap, rows, "o", color=BLUE, ms=7, label="average precision")
    axes.set_yticks(rows)
    axes.set_yticklabels([short(s.name, 28) for s in picked], parse_math=False, family=font_families())
    axes.set(xlim=(-2, 102), ylim=(len(chosen) - 0.5, -0.5))
    axes.set_xlabel("%", color=QUIET)
    axes.grid(axis="both", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9, colors=INK)
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0.2
    )
    return png(figure)


def compose(content: LabelContent, drawn: Mapping[str, bytes]) -> str:
    """Returns the report as a document, with the drawings that `draw` returned."""
    return html.page(
        content.title,
        list(_sections(content, drawn)),
        lead=_lead(content),
        top=html.join([_tiles(content), *(html.note(warning) for warning in content.warnings)]),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def _lead(content: LabelContent) -> str:
    scores = content.scores
    pictures, worth = PARTS[content.part]
    return (
        f"{content.model} learnt to say which of {len(scores.classes)} classes a picture has, from {content.images:,} "
        f"pictures in {duration(content.seconds)}. Its mean average precision is {scores.map:.1f} % on "
        f"{scores.images:,} {pictures}, {worth}."
    )


def _tiles(content: LabelContent) -> Html:
    scores = content.scores
    pictures, _ = PARTS[content.part]
    return html.tiles(
        [
            ("Mean average precision", f"{scores.map:.2f} %", f"on {scores.images:,} {pictures}"),
            ("F1", f"{scores.macro_f1:.2f} %", f"mean over classes; {scores.micro_f1:.2f} % over all answers"),
            ("All answers right", f"{scores.subset_accuracy:.2f} %", "of the pictures"),
            ("Training pictures", f"{content.images:,}", f"of {len(scores.classes)} classes"),
            ("Training time", duration(content.seconds), f"{content.epochs:,} epochs"),
            ("Parameters", report._in_millions(content.parameters), content.model),
        ]
    )


def _sections(content: LabelContent, drawn: Mapping[str, bytes]) -> Iterator[Section]:
    if content.records:
        alt = "Loss, mean average precision and learning rate by epoch"
        yield Section("How it learnt", html.chart(drawn["curves.png"], alt))
    if content.lr_search:
        yield Section("How its learning rate was found", report._lr_search(content.lr_search))
    yield Section("Class by class", _classes(content.scores, drawn["classes.png"]))
    yield Section("Surest wrong answers", _mistakes(content))
    if content.training_pictures:
        yield Section("What the network saw", report._training_pictures(content.training_pictures))
    yield Section("The pictures", report._data(content, summed=False))  # a picture may be in several rows
    if content.checked is not None:
        yield Section("What the data check found", data_check(content.checked, content.unread))
    yield Section("The recipe", report._recipe(content))
    if content.next_commands:
        commands = (
            html.join([html.element("h3", what), html.code(line)]) for what, line in content.next_commands.items()
        )
        yield Section("What next", html.join(commands))


def _hardest(scores: LabelScores) -> list[int]:
    """Returns the classes to show, hardest first: all, or 40 of more."""
    by_ap = sorted(range(len(scores.classes)), key=lambda place: scores.classes[place].ap or 0.0)
    return by_ap[:DRAWN_CLASSES]


def _classes(scores: LabelScores, drawing: bytes) -> Html:
    def rows(chosen: Sequence[int]) -> list[list[object]]:
        table: list[list[object]] = []
        for score in (scores.classes[place] for place in chosen):
            ap = "no picture has it" if score.ap is None else html.bar(score.ap)
            bars = [html.bar(score.precision), html.bar(score.recall), html.bar(score.f1)]
            table.append([score.name, html.number(score.images), ap, html.number(score.threshold, 3), *bars])
        return table

    head = ["Class", "Pictures", "Average precision, %", "Threshold", "Precision, %", "Recall, %", "F1, %"]
    said = (
        "Average precision: how well its probability ranks the pictures, whatever the threshold; guessing reaches the "
        "share of the pictures that have the class. From the threshold on, which was chosen for the best F1 on "
        "validation pictures, the class is said to be there. Precision: how many of these are so. Recall: how many of "
        "those that are so it finds."
    )
    every = list(range(len(scores.classes)))
    chart = html.chart(drawing, "Average precision and F1 of the classes, and the share of pictures that have each")
    if len(every) <= DRAWN_CLASSES:
        return html.join([html.paragraph(said), chart, html.table(head, rows(every), caption="All classes.")])
    hardest = html.table(head, rows(_hardest(scores)), caption=f"The {DRAWN_CLASSES} hardest classes.")
    folded = html.details(f"All {len(every)} classes", html.table(head, rows(every), caption="All classes."))
    return html.join([html.paragraph(said), chart, hardest, folded])


def _mistakes(content: LabelContent) -> Html:
    scores, found = content.scores, content.predictions
    wrong = found.chosen(scores.thresholds) != found.labels
    if not wrong.any():
        return html.paragraph("There are none.")
    added, missed = int((wrong & ~found.labels).sum()), int((wrong & found.labels).sum())
    pictures, _ = PARTS[content.part]
    said = (
        f"On {int(wrong.any(axis=1).sum()):,} of {scores.images:,} {pictures} an answer is wrong: it adds a class "
        f"{added:,} times, and misses one {missed:,} times. Of each picture shown it is the surest wrong answer, the "
        "surest first. Look for classes that the label forgot, and for kinds of picture that training had too few of."
    )
    if explained := any(mistake.heat is not None for mistake in content.mistakes):
        said += (
            " Beside each picture, the brighter a place, the more it spoke for the class (Grad-CAM, last stage). What "
            "is darker still is cut off before the network sees the picture."
        )
    return html.join([html.paragraph(said), html.gallery(map(_mistake, content.mistakes), wide=explained)])


def _mistake(mistake: Mistake) -> Html:
    alt = f"{mistake.name}: {mistake.label}; the network {mistake.predicted}"
    return thumbnail_of(mistake, f"{mistake.predicted}, {100 * mistake.prob:.0f} % sure", alt, "the class")
