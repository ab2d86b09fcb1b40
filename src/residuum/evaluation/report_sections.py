"""Sections of reports: what is mistaken for what, class by class, suspicious labels, what the data check found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from residuum import html
from residuum.data.check import Checked
from residuum.data.check_report import findings
from residuum.errors import PictureError
from residuum.evaluation.evaluate import Scores
from residuum.evaluation.label_issues import LabelIssue
from residuum.evaluation.pictures import MAX_PX, encode, is_small, pixels_of, shown_name
from residuum.evaluation.plots import MATRIX_CLASSES
from residuum.html import Html

LISTED_CLASSES = 30
"""Beyond so many classes, the hardest are listed and the others folded away."""

IN_ORDER = 10
"""Up to so many classes, a table has them in their own order; more come with the hardest first."""

SHOWN_ISSUES = 24
"""So many suspicious labels are shown as pictures; all of them are in a table."""

NAMED_ISSUES = 500
"""Of more than so many, the table names the surest."""


def confusions(scores: Scores, png: bytes) -> Html:
    """What is most often mistaken for what: a sentence, and the drawing of `plots.draw_confusion`."""
    names = [score.name for score in scores.classes]
    wrong = scores.confusion - np.diag(np.diag(scores.confusion))
    if not wrong.any():
        said = "Nothing: every picture was recognised."
    else:
        row, column = (int(place) for place in np.unravel_index(int(wrong.argmax()), wrong.shape))
        said = (
            f"Most often it takes {names[row]} for {names[column]}: "
            f"{wrong[row, column]:,} of {scores.confusion[row].sum():,} pictures."
        )
    alt = "Confusion matrix" if len(names) <= MATRIX_CLASSES else "The most frequent confusions"
    return html.join([html.paragraph(said), html.chart(png, f"{alt}. {said}")])


def class_table(scores: Scores) -> Html:
    """Precision, recall and F1 of each class; of many the hardest first, and the others folded away."""
    head = ["Class", "Pictures", "Precision, %", "Recall, %", "F1, %", "Most often taken for"]
    said = "Precision: how many of those it calls so are so. Recall: how many of those that are so it finds."
    every = range(len(scores.classes))
    if len(scores.classes) <= IN_ORDER:
        return html.table(head, _rows(scores, every), caption=said)
    hardest = sorted(every, key=lambda place: (_is_unknown(scores, place), scores.classes[place].f1))
    if len(scores.classes) <= LISTED_CLASSES:
        return html.table(head, _rows(scores, hardest), caption=f"The hardest first. {said}")
    first = hardest[:LISTED_CLASSES]
    return html.join(
        [
            html.table(head, _rows(scores, first), caption=f"The {LISTED_CLASSES} hardest classes. {said}"),
            html.details(
                f"All {len(scores.classes):,} classes, the hardest first",
                html.table(head, _rows(scores, hardest), caption=said),
            ),
        ]
    )


def _is_unknown(scores: Scores, place: int) -> bool:
    """Whether nothing can be said of a class: it is on no picture and on no answer."""
    return not scores.confusion[place].any() and not scores.confusion[:, place].any()


def _rows(scores: Scores, chosen: Sequence[int]) -> list[list[object]]:
    table: list[list[object]] = []
    for place in chosen:
        score = scores.classes[place]
        others = scores.confusion[place].copy()
        others[place] = 0
        worst = int(others.argmax())
        taken = f"{scores.classes[worst].name} ({others[worst]:,})" if others[worst] else ""
        numbers = [score.precision, score.recall, score.f1]
        # Without a picture there is nothing to find, and without an answer nothing to be right about.
        known = [scores.confusion[:, place].any(), scores.confusion[place].any(), not _is_unknown(scores, place)]
        bars = [html.bar(number) if said else _nothing() for number, said in zip(numbers, known, strict=True)]
        table.append([score.name, html.number(score.images), *bars, taken])
    return table


def _nothing() -> Html:
    return html.element("span", "–", class_="bar", style="--part:0%; background: none")


def suspicious_labels(issues: Sequence[LabelIssue], judged: str, more: object = "") -> Html:
    """Pictures whose labels are likely to be wrong, the surest first; `judged` names the pictures that were judged, and
    `more` is what else is to be said."""
    said = (
        "A label is suspicious where the network finds its class little probable, and another class as probable as the "
        f"pictures of that class on average (confident learning, arXiv:1911.00068). Judged were {judged}. "
    )
    if not issues:
        return html.join([html.paragraph(said, "No label among them is suspicious."), more])
    one = len(issues) == 1
    said += (
        f"{len(issues):,} of their labels {'is' if one else 'are'} suspicious. Some are wrong, others belong to "
        "pictures that are hard to tell, the more of them the worse the network is: look at each. Nothing was changed."
    )
    shown = html.gallery([_issue(issue) for issue in issues[:SHOWN_ISSUES]])
    rows = [
        [issue.file, issue.label, issue.suggested, html.bar(100 * issue.prob), html.bar(100 * issue.label_prob)]
        for issue in issues[:NAMED_ISSUES]
    ]
    head = ["File", "Its label", "Suggested", "Suggested, %", "Its label, %"]
    named = "All of them" if len(issues) <= NAMED_ISSUES else f"The surest {NAMED_ISSUES:,} of them"
    table = html.table(head, rows, caption="How probable the network finds the suggested class and the label.")
    return html.join([html.paragraph(said), more, shown, html.details(named, table)])


def _issue(issue: LabelIssue) -> Html:
    lines = (
        html.element("strong", f"{issue.suggested}, {100 * issue.prob:.0f} %"),
        f"labelled {issue.label}, {100 * issue.label_prob:.0f} %",
        shown_name(issue.file),
    )
    alt = f"{issue.file}: labelled {issue.label}, looks like {issue.suggested}"
    try:
        picture = issue.images.open(issue.index, MAX_PX)
    except PictureError:  # it was there when it was judged
        return html.element("figure", html.element("figcaption", *(html.element("div", line) for line in lines)))
    picture.thumbnail((MAX_PX, MAX_PX))
    pixels = pixels_of(picture)
    return html.thumbnail(encode(pixels), alt, *lines, small=is_small(pixels))


def data_check(checked: Checked, unread: str) -> Html:
    """What a check of the pictures found that were trained on; `unread` is why none was read for it, or empty."""
    harms = sum(finding.severity == "harm" for finding in checked.findings)
    if harms:
        said = (
            f"{harms} {'thing' if harms == 1 else 'things'} about the pictures harmed training or made its score too "
            "good: mend that, and train again."
        )
    else:
        said = "Nothing about the pictures harmed training."
    return html.join(
        [
            html.paragraph(said),
            html.paragraph(unread) if unread else "",
            findings(checked),
        ]
    )
