"""The report of a run: one self-contained page that says what was learnt, how well, from what, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from residuum import html
from residuum.data.check import Checked
from residuum.evaluation import metrics
from residuum.evaluation.coverage_plot import draw_coverage
from residuum.evaluation.evaluate import Predictions, Scores
from residuum.evaluation.heat import side_by_side
from residuum.evaluation.label_issues import LabelIssue
from residuum.evaluation.pictures import (
    MAX_PX,
    Mistake,
    Picture,
    draw_mistakes,
    draw_pictures,
    encode,
    is_small,
    shown_name,
)
from residuum.evaluation.plots import draw_calibration, draw_confusion, draw_curves
from residuum.evaluation.reliance import Reliance
from residuum.evaluation.reliance_report import how_many, how_sure
from residuum.evaluation.report_sections import LISTED_CLASSES, class_table, confusions, data_check, suspicious_labels
from residuum.html import Html, Section

PARTS: Mapping[str, tuple[str, str]] = {
    "test": ("test pictures", "which it had never seen, and which decided nothing"),
    "val": (
        "validation pictures",
        "on which the weights that were kept were chosen: expect a little less on new pictures",
    ),
    "train": (
        "training pictures",
        "which it was trained on: that says nothing about new pictures (hold some out: data.val_fraction)",
    ),
}
"""Part of the set -> what its pictures are called, and what their score is worth."""


S = TypeVar("S")
P = TypeVar("P")


@dataclass(frozen=True)
class Content(Generic[S, P]):
    """All that a report says, with scores and predictions of a kind.

    `part` names the pictures that `scores` and `predictions` are about: "test", "val" or "train". `images` counts those
    that were trained on. `records` are those of metrics.jsonl. `class_counts` is part -> class -> pictures;
    `data_facts` say where the set came from and how it was split. `skipped` and `ignored` are file -> reason,
    `next_commands` are purpose -> command. `reliance` is what temperature and threshold do to the scores, and
    `threshold_chosen_here` whether these very pictures chose the threshold. `checked` is
    what is odd about the pictures, and `unread` why none was read for it. `label_issues` are those of the pictures that
    were scored (None where these were trained on), and `label_commands` look for those of the others. `lr_search` is
    the drawing of a search for the learning rate.
    """

    title: str
    part: str
    scores: S
    predictions: P
    model: str
    parameters: int
    images: int
    epochs: int
    seconds: float
    records: Sequence[Mapping[str, object]]
    recipe_toml: str
    command: str
    class_counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    data_facts: Mapping[str, object] = field(default_factory=dict)
    environment: Mapping[str, object] = field(default_factory=dict)
    next_commands: Mapping[str, str] = field(default_factory=dict)
    training_pictures: Sequence[Picture] = ()
    mistakes: Sequence[Mistake] = ()
    warnings: Sequence[str] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, str] = field(default_factory=dict)
    reliance: Reliance | None = None
    threshold_chosen_here: bool = False
    checked: Checked | None = None
    unread: str = ""
    label_issues: Sequence[LabelIssue] | None = None
    label_commands: Mapping[str, str] = field(default_factory=dict)
    lr_search: bytes = b""


ReportContent: TypeAlias = Content[Scores, Predictions]
"""All that the report of a run says where a picture has one class."""


def draw(content: ReportContent) -> dict[str, bytes]:
    """Draws the plots of a run: file name -> PNG."""
    names = [score.name for score in content.scores.classes]
    drawn = {
        "curves.png": draw_curves(content.records),
        "confusion.png": draw_confusion(content.scores.confusion, names),
    }
    drawn |= _draw_reliance(content)
    if content.training_pictures:
        drawn["pictures.png"] = draw_pictures(content.training_pictures)
    if content.mistakes:
        drawn["mistakes.png"] = draw_mistakes(content.mistakes)
    return drawn


def _draw_reliance(content: ReportContent) -> dict[str, bytes]:
    told, bins = content.reliance, content.predictions.calibration
    if told is None:
        return {"calibration.png": draw_calibration(bins)}
    return {
        "calibration.png": draw_calibration(bins, told.uncalibrated_bins if told.tempered else None),
        "coverage.png": draw_coverage(told.curve, len(content.predictions), told.chosen),
    }


def write_report(path: Path, content: ReportContent, plots: Path | None = None) -> None:
    """Writes the report, and its drawings as files into the folder `plots`, which is created."""
    drawn = draw(content)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for name, png in drawn.items():
            (plots / name).write_bytes(png)
    html.write(path, compose(content, drawn))


def compose(content: ReportContent, drawn: Mapping[str, bytes]) -> str:
    """Returns the report as a document, with the drawings that `draw` returned."""
    return html.page(
        content.title,
        list(_sections(content, drawn)),
        lead=_lead(content),
        top=html.join([_tiles(content), *(html.note(warning) for warning in content.warnings)]),
        foot="Written by residuum. This file needs no network and no other file.",
    )


def duration(seconds: float) -> str:
    """Returns a time in words: '31 s', '4 min 12 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _right(scores: Scores) -> int:
    return int(np.trace(scores.confusion))


def _lead(content: ReportContent) -> str:
    scores = content.scores
    pictures, worth = PARTS[content.part]
    return (
        f"{content.model} learnt to tell {len(scores.classes)} classes apart from {content.images:,} pictures "
        f"in {duration(content.seconds)}. It is right on {_right(scores):,} of {scores.images:,} {pictures}, {worth}."
    )


def _tiles(content: ReportContent) -> Html:
    scores = content.scores
    low, high = metrics.wilson_interval(_right(scores), scores.images)
    pictures, _ = PARTS[content.part]
    interval = f"on {scores.images:,} {pictures}; 95 % interval {100 * low:.1f} to {100 * high:.1f} %"
    numbers = [("Accuracy", f"{scores.top1:.2f} %", interval)]
    if len(scores.classes) > 5:
        numbers.append(("Among the best five", f"{scores.top5:.2f} %", "of the same pictures"))
    return html.tiles(
        [
            *numbers,
            ("Training pictures", f"{content.images:,}", f"in {len(scores.classes)} classes"),
            ("Training time", duration(content.seconds), f"{content.epochs:,} epochs"),
            ("Parameters", _in_millions(content.parameters), content.model),
        ]
    )


def _in_millions(count: int) -> str:
    return f"{count / 1e6:.3g} M" if count >= 1e5 else f"{count:,}"


def _sections(content: ReportContent, drawn: Mapping[str, bytes]) -> Iterator[Section]:
    if content.records:
        alt = "Loss, accuracy and learning rate by epoch"
        yield Section("How it learnt", html.chart(drawn["curves.png"], alt))
    if content.lr_search:
        yield Section("How its learning rate was found", _lr_search(content.lr_search))
    yield Section("What it mistakes for what", confusions(content.scores, drawn["confusion.png"]))
    yield Section("Class by class", class_table(content.scores))
    yield Section("Most confident mistakes", _mistakes(content))
    if content.label_issues is not None:
        yield Section("Suspicious labels", _label_issues(content, content.label_issues))
    if content.training_pictures:
        yield Section("What the network saw", _training_pictures(content.training_pictures))
    png = drawn["calibration.png"]
    yield Section("How sure it is", how_sure(content.scores, content.predictions, content.reliance, content.part, png))
    if content.reliance is not None:
        said = how_many(content.reliance, drawn["coverage.png"], content.threshold_chosen_here)
        yield Section("How many answers to take", said)
    yield Section("The pictures", _data(content))
    if content.checked is not None:
        yield Section("What the data check found", data_check(content.checked, content.unread))
    yield Section("The recipe", _recipe(content))
    if content.next_commands:
        commands = (
            html.join([html.element("h3", what), html.code(line)]) for what, line in content.next_commands.items()
        )
        yield Section("What next", html.join(commands))


def _mistakes(content: ReportContent) -> Html:
    wrong = content.scores.images - _right(content.scores)
    if not content.mistakes:
        return html.paragraph("There are none." if not wrong else f"{wrong:,} pictures are mistaken; none is shown.")
    pictures, _ = PARTS[content.part]
    some = "All" if len(content.mistakes) == wrong else f"{len(content.mistakes)} of"
    said = (
        f"{some} the {wrong:,} {pictures} that it mistakes, the surest first. "
        "Look for wrong labels, for pictures of two things, and for kinds of picture that training had too few of."
    )
    if explained := any(mistake.heat is not None for mistake in content.mistakes):
        said += (
            " Beside each picture, the brighter a place, the more it spoke for the wrong class (Grad-CAM, last stage): "
            "a map that is bright beside the object says that the network goes by something else. "
            "What is darker still is cut off before the network sees the picture."
        )
    return html.join([html.paragraph(said), html.gallery(map(_mistake, content.mistakes), wide=explained)])


def _mistake(mistake: Mistake) -> Html:
    alt = f"{mistake.name}: {mistake.label}, mistaken for {mistake.predicted}"
    return thumbnail_of(mistake, f"{mistake.predicted}, {100 * mistake.prob:.0f} %", alt, "it")


def thumbnail_of(mistake: Mistake, said: str, alt: str, spoken_for: str) -> Html:
    """Returns a mistake's picture, beside it the map of what spoke for the answer where there is one, and what was
    said."""
    lines = [html.element("strong", said), f"is {mistake.label}", shown_name(mistake.name)]
    if mistake.heat is not None:
        both = side_by_side(mistake.pixels, mistake.heat, mistake.seen)
        return html.thumbnail(encode(both, max_px=2 * MAX_PX), f"{alt}, and what spoke for {spoken_for}", *lines)
    return html.thumbnail(encode(mistake.pixels), alt, *lines, small=is_small(mistake.pixels))


def _label_issues(content: ReportContent, issues: Sequence[LabelIssue]) -> Html:
    pictures, _ = PARTS[content.part]
    judged = (
        f"the {content.scores.images:,} {pictures} alone, on which the network was not trained, and of which it "
        f"recognises {content.scores.top1:.1f} %"
    )
    others = (html.join([html.element("h3", what), html.code(line)]) for what, line in content.label_commands.items())
    return html.join([suspicious_labels(issues, judged), *others])


def _lr_search(png: bytes) -> Html:
    said = (
        "In a short trial the rate rose from step to step. The one that was chosen is a tenth of that with the lowest "
        "loss: larger ones learn faster for a while, and then not at all."
    )
    return html.join([html.paragraph(said), html.chart(png, "Loss against a rising learning rate")])


def _training_pictures(pictures: Sequence[Picture]) -> Html:
    said = "Training pictures after cropping and augmentation, exactly as they went in."
    shown = (html.thumbnail(encode(p.pixels), p.label, p.label, small=is_small(p.pixels)) for p in pictures)
    return html.join([html.paragraph(said), html.gallery(shown)])


def _data(content: Content[Any, Any], *, summed: bool = True) -> Html:
    parts = list(content.class_counts)
    names = [score.name for score in content.scores.classes]
    rows = [[name, *(html.number(content.class_counts[part].get(name, 0)) for part in parts)] for name in names]
    total = ["all", *(html.number(sum(content.class_counts[part].values())) for part in parts)]
    titles = {part: PARTS[part][0].split()[0].capitalize() for part in parts if part in PARTS}
    table = html.table(
        ["Class", *(titles.get(part, part) for part in parts)],
        [*rows, total] if summed else rows,
        caption="Pictures by class and part.",
    )
    counts = table if len(names) <= LISTED_CLASSES else html.details(f"Pictures in each of {len(names)} classes", table)
    return html.join(
        [
            _facts(content.data_facts),
            counts if parts else "",
            _left_out("Skipped, because they could not be used", content.skipped),
            _left_out("Ignored, because they are no pictures to train on", content.ignored),
        ]
    )


def _left_out(title: str, files: Mapping[str, str]) -> Html:
    if not files:
        return Html("")
    table = html.table(["File", "Reason"], list(files.items()), caption=f"{title}: {len(files):,}.")
    return table if len(files) <= LISTED_CLASSES else html.details(f"{title}: {len(files):,} files", table)


def _recipe(content: Content[Any, Any]) -> Html:
    return html.join(
        [
            html.paragraph("The command that repeats this run:"),
            html.code(content.command),
            html.details("The whole recipe", html.code(content.recipe_toml)),
            html.element("h3", "Where it ran"),
            _facts(content.environment),
        ]
    )


def _facts(values: Mapping[str, object]) -> Html:
    """Recorded values by name, as a person would write them; what is empty is left out."""
    return html.facts(
        {name.replace("_", " ").capitalize(): said for name, value in values.items() if (said := _in_words(value))}
    )


def _in_words(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {said}" for name, inner in value.items() if (said := _in_words(inner)))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_in_words(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
