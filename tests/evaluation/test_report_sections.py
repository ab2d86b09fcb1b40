"""Sections of a report: classes hardest first, what was never seen is unknown, labels with their pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support
from test_report import DRAWN, TEN, Text, content_of, read

from residuum.data.builtin import digits
from residuum.data.check import check
from residuum.data.sources import find
from residuum.evaluation.evaluate import ClassScore, Scores
from residuum.evaluation.label_issues import LabelIssue
from residuum.evaluation.report import compose
from residuum.evaluation.report_sections import SHOWN_ISSUES, class_table, data_check, suspicious_labels


def scores_of(confusion: NDArray[np.int64]) -> Scores:
    """Scores with the percentages that scikit-learn computes of a matrix."""
    true, said = (np.repeat(axis.ravel(), confusion.ravel()) for axis in np.indices(confusion.shape))
    table = precision_recall_fscore_support(true, said, labels=np.arange(len(confusion)), zero_division=0)
    classes = tuple(
        ClassScore(f"class {k}", int(images), 100 * p, 100 * r, 100 * f)
        for k, (p, r, f, images) in enumerate(zip(*table, strict=True))
    )
    return Scores(int(confusion.sum()), 0.0, 0.0, 0.0, 0.0, classes, confusion)


def matrix(classes: int) -> NDArray[np.int64]:
    """A matrix in which every class is recognised a little better than the one before."""
    confusion = np.diag(np.arange(1, classes + 1)).astype(np.int64)
    confusion[np.arange(classes), (np.arange(classes) + 1) % classes] = classes
    return confusion


@pytest.mark.parametrize(("classes", "first"), [(3, 0), (11, 10), (100, 99)])
def test_many_classes_come_with_the_hardest_first(classes: int, first: int) -> None:
    confusion = matrix(classes)[::-1, ::-1].copy() if classes > 10 else matrix(classes)
    table = Text(class_table(scores_of(confusion)))
    names = [part for part in table.parts if part.startswith("class ") and "(" not in part]
    assert names[0] == f"class {first}"
    assert set(names) == {f"class {k}" for k in range(classes)}
    assert table.tags.count("details") == (classes > 30)


def test_a_class_without_a_picture_is_neither_hard_nor_easy() -> None:
    confusion = matrix(40)
    confusion[7], confusion[:, 7] = 0, 0
    text = Text(class_table(scores_of(confusion)))
    hardest = text.text.split("All 40 classes")[0]
    assert "class 7 " not in hardest
    assert "class 7 0 – – –" in text.text
    confusion[3, 3] = 0
    confusion[2, 3] = 0
    assert "– 0.0 0.0" in Text(class_table(scores_of(confusion))).text, "never said, and so never wrongly"


def issues(count: int) -> list[LabelIssue]:
    images = digits().parts["train"]
    return [LabelIssue(images, k, "3", "8", 0.9, 0.01 + k / 1000) for k in range(count)]


def test_suspicious_labels_are_shown_and_all_of_them_listed() -> None:
    page = Text(suspicious_labels(issues(40), "all 1,797 digits"))
    assert "Judged were all 1,797 digits. 40 of their labels are suspicious." in page.text
    assert page.tags.count("img") == SHOWN_ISSUES
    assert "8, 90 % labelled 3, 1 % digits[0]" in page.text
    assert page.text.count("digits[39]") == 1
    assert "1 of their labels is suspicious." in Text(suspicious_labels(issues(1), "all")).text
    assert "No label among them is suspicious." in Text(suspicious_labels([], "all")).text


def test_a_picture_that_has_gone_since_is_named(class_folders: Path, tmp_path: Path) -> None:
    file = tmp_path / "set" / "a" / "1.png"
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "1.png").write_bytes((class_folders / "2" / "1.png").read_bytes())
    images = find(str(tmp_path / "set")).parts["train"]
    file.unlink()
    page = Text(suspicious_labels([LabelIssue(images, k, "a", "b", 0.9, 0.1) for k in range(2)], "all"))
    assert page.tags.count("img") == 1
    assert page.text.count("a/1.png") == 2, "under its place in the gallery, and in the table"
    assert str(file) in page.text


def test_a_report_has_a_section_for_each_only_where_there_is_something_to_say() -> None:
    plain = read(content_of(TEN)).text
    for title in ("Suspicious labels", "What the data check found", "How its learning rate was found"):
        assert title not in plain
    content = replace(
        content_of(TEN),
        label_issues=issues(2),
        label_commands={"All": "residuum train --data digits --folds 5"},
        lr_search=b"\x89PNG" + bytes(30),
        checked=check("digits"),
        unread="It is large.",
    )
    text = Text(compose(content, DRAWN)).text
    for words in (
        "Judged were the 200 test pictures alone, on which the network was not trained, and of which it recognises",
        "residuum train --data digits --folds 5",
        "a tenth of that with the lowest loss",
        "Nothing about the pictures harmed training.",
        "It is large.",
    ):
        assert words in text
    assert "No label among them" in Text(compose(replace(content, label_issues=[]), DRAWN)).text


def test_what_the_check_found_is_there_with_its_pictures(class_folders: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(11):
            (tmp_path / name / f"{number}.png").write_bytes(
                (class_folders / ("2" if name == "a" else "10") / f"{number}.png").read_bytes()
            )
    (tmp_path / "b" / "again.png").write_bytes((tmp_path / "a" / "3.png").read_bytes())
    (tmp_path / "a" / "empty.png").touch()
    page = Text(data_check(check(str(tmp_path)), ""))
    assert "2 things about the pictures harmed training" in page.text
    assert "1 file is empty: 0 bytes." in page.text
    assert page.tags.count("img") == 2, "the two copies, side by side"
