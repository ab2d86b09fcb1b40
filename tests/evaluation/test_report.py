"""The report of a run: it says what was measured, on what, and is safe whatever the names are."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from residuum.evaluation import metrics
from residuum.evaluation.evaluate import Predictions, score
from residuum.evaluation.pictures import Mistake, Picture
from residuum.evaluation.report import ReportContent, compose, duration, write_report


class Text(HTMLParser):
    """The text of a page as a person reads it, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.tags: list[str] = []
        self.feed(page)
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.parts.append(data)


def content_of(classes: list[str], images: int = 200, accuracy: float = 0.9, part: str = "test") -> ReportContent:
    """A report on predictions of which the fraction `accuracy` is right."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), images)
    logits = rng.normal(size=(images, len(classes)))
    right = np.arange(images) < accuracy * images
    logits[np.arange(images), np.where(right, labels, (labels + 1) % len(classes))] += 9
    log_probs = metrics.log_softmax(logits)
    top = metrics.ranked(logits, 5)
    probs = np.exp(np.take_along_axis(log_probs, top, axis=1))
    predictions = Predictions(np.arange(images), labels, top, probs, metrics.cross_entropy(log_probs, labels))
    pixels = rng.integers(0, 256, (8, 8, 1), dtype=np.uint8)
    wrong = predictions.confident_mistakes(5)
    return ReportContent(
        title="digits",
        part=part,
        scores=score(predictions, classes),
        predictions=predictions,
        model="resnet20_cifar",
        parameters=272_474,
        images=1077,
        epochs=2,
        seconds=31.4,
        records=[
            {"kind": "epoch", "epoch": e, "step": 9 * e, "loss": 1 / e, "lr": 0.1, "val_top1": 90.0} for e in (1, 2)
        ],
        recipe_toml='name = "digits"\n',
        command="residuum train digits --set seed=3",
        class_counts={"train": dict.fromkeys(classes, 7), "test": dict.fromkeys(classes, 3)},
        data_facts={"source": "digits", "held_out": {"test": 0.2, "val": 0.1}, "found": ["train"]},
        environment={"device_type": "cpu", "bf16": True, "gpu": None, "versions": {"torch": "2.15.0", "numpy": "2.4"}},
        next_commands={"Predict": "residuum predict runs/digits-1/best PICTURE"},
        training_pictures=[Picture(pixels, classes[0])],
        mistakes=[
            Mistake(pixels, f"digits[{row}]", classes[labels[row]], classes[top[row, 0]], probs[row, 0])
            for row in wrong
        ],
        skipped={"a/broken.jpg": "it ends too early"},
        ignored={"a/notes.txt": "not a picture"},
    )


DRAWN = dict.fromkeys(("curves.png", "confusion.png", "calibration.png"), b"\x89PNG" + bytes(30))
"""Stands in for the drawings, which take longer than the rest."""


def read(content: ReportContent) -> Text:
    return Text(compose(content, DRAWN))


TEN = [str(digit) for digit in range(10)]


def test_a_report_says_what_matters() -> None:
    content = content_of(TEN)
    text = read(content).text
    low, high = metrics.wilson_interval(180, 200)
    for expected in (
        "It is right on 180 of 200 test pictures, which it had never seen",
        "90.00 %",
        f"95 % interval {100 * low:.1f} to {100 * high:.1f} %",
        "1,077",
        "31 s",
        "residuum train digits --set seed=3",
        "residuum predict runs/digits-1/best PICTURE",
        "a/broken.jpg it ends too early",
        "a/notes.txt not a picture",
        "5 of the 20 test pictures that it mistakes",
        "Versions torch 2.15.0, numpy 2.4",
        "Device type cpu Bf16 yes",
        "Held out test 0.2, val 0.1 Found train",
        f"{content.scores.ece:.2f} %",
    ):
        assert expected in text


@pytest.mark.parametrize(("part", "caution"), [("val", "were chosen"), ("train", "says nothing about new pictures")])
def test_a_score_on_other_parts_is_qualified(part: str, caution: str) -> None:
    content = content_of(TEN, part=part)
    assert caution in read(content).text


def test_names_cannot_become_markup() -> None:
    hostile = ["<script>alert(1)</script>", '"><img src=x>', "$x^", "caf\udce9 \x00"]
    content = replace(
        content_of(hostile),
        title=hostile[0],
        command=hostile[1],
        skipped={hostile[0]: hostile[1]},
        warnings=[hostile[0]],
        data_facts={hostile[0]: hostile[1]},
        environment={hostile[1]: hostile[0]},
    )
    page = compose(content, DRAWN)
    page.encode("utf-8")
    harmless = content_of(["a", "b", "c", "d"])
    harmless = replace(harmless, warnings=["w"], data_facts={"a": "b"}, environment={"a": "b"})
    assert sorted(Text(page).tags) == sorted(read(harmless).tags)
    assert "<script>alert(1)</script>" in Text(page).text


def test_many_classes_are_folded_away_and_all_there() -> None:
    names = [f"class {k}" for k in range(120)]
    page = read(content_of(names, images=600))
    assert all(name in page.text for name in names)
    assert page.tags.count("details") == 3
    assert "The 30 hardest classes" in page.text


def test_a_perfect_network_and_an_empty_history_can_be_reported() -> None:
    content = replace(content_of(["ant", "bee"], accuracy=1.0), records=[], mistakes=(), training_pictures=())
    text = read(content).text
    assert "Nothing: every picture was recognised." in text
    assert "There are none." in text
    assert "How it learnt" not in text
    assert "Among the best five" not in text, "with two classes it is always 100 %"


def test_mistakes_stand_beside_what_spoke_for_them() -> None:
    content = content_of(TEN)
    without = read(content)
    heat = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    explained = replace(content, mistakes=[replace(mistake, heat=heat) for mistake in content.mistakes])
    page = read(explained)
    assert "Grad-CAM" in page.text
    assert "Grad-CAM" not in without.text
    assert page.tags.count("img") == without.tags.count("img")
    both = compose(explained, DRAWN)
    assert "gallery wide" in both
    assert "gallery wide" not in compose(content, DRAWN)


def test_files_are_written_beside_the_report(tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", content_of(TEN), plots=tmp_path / "plots")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {"curves.png", "confusion.png", "calibration.png", "pictures.png", "mistakes.png"}
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["plots", "report.html"]
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (252, "4 min 12 s"), (7500, "2 h 05 min")],
)
def test_times_are_said_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
