"""Explanations of a loaded bundle: any source, the predicted or a named class, places in the picture's own pixels."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import residuum
from residuum.deploy import explain_page
from residuum.deploy.explain import Explanation
from residuum.deploy.explain_page import Page
from residuum.deploy.predict import Predictor
from residuum.errors import PictureError, UsageError
from residuum.training.run import Run


@pytest.fixture(scope="module")
def predictor(finished: Run) -> Predictor:
    return residuum.load(finished.folder / "best", device="cpu")


@pytest.fixture(scope="module")
def files(class_folders: Path) -> list[Path]:
    return sorted(class_folders.rglob("*.png"))[::13]


def test_it_says_what_prediction_says(predictor: Predictor, files: list[Path]) -> None:
    for file in files:
        explanation, prediction = predictor.explain(file), predictor.predict(file)
        assert (explanation.file, explanation.label) == (str(file), prediction.label)
        assert explanation.prob == pytest.approx(prediction.prob, abs=1e-6)
        assert (explanation.asked, explanation.asked_prob) == (explanation.label, explanation.prob)
        assert explanation.heat is not None
        assert explanation.heat.shape == (8, 8)
        assert explanation.stage == 3
        with PIL.Image.open(file) as picture:
            assert explanation.size == picture.size
        assert json.loads(json.dumps(explanation.as_dict(), allow_nan=False))["class"] == prediction.label


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "occlusion"])
def test_a_named_class_has_its_own_map(predictor: Predictor, files: list[Path], method: Any) -> None:
    maps = {}
    for label in predictor.classes:
        explanation = predictor.explain(files[0], label=label, method=method)
        probs = {guess.label: guess.prob for guess in predictor.predict(files[0]).top}
        assert explanation.asked == label
        assert explanation.asked_prob == pytest.approx(probs[label], abs=1e-6)
        maps[label] = explanation.heat
    assert len({np.asarray(values).tobytes() for values in maps.values()}) == 3
    with pytest.raises(UsageError, match="'bees'") as caught:
        predictor.explain(files[0], label="bees")
    assert caught.value.expected == "Did you mean bee?"


def test_every_stage_has_its_map(predictor: Predictor, files: list[Path]) -> None:
    maps = [predictor.explain(files[0], method="layer-cam", stage=stage).heat for stage in (1, 2, 3)]
    assert len({np.asarray(values).tobytes() for values in maps}) == 3
    with pytest.raises(UsageError, match="no stage 4"):
        predictor.explain(files[0], stage=4)


def test_what_cannot_be_used_is_a_row_in_a_list_and_an_error_alone(
    predictor: Predictor, files: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    rows = predictor.explain([files[0], bad, files[1]])
    assert [row.error is None for row in rows] == [True, False, True]
    assert (rows[1].file, rows[1].label, rows[1].heat, rows[1].peak) == (str(bad), None, None, None)
    with pytest.raises(UsageError, match="nothing to draw"):
        rows[1].save(tmp_path / "a.png")
    with pytest.raises(PictureError):
        predictor.explain(bad)


def test_a_callers_picture_is_left_alone(predictor: Predictor) -> None:
    picture = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8))
    before = picture.tobytes()
    explanation = predictor.explain(picture)
    assert (picture.size, picture.tobytes() == before) == ((900, 700), True)
    assert explanation.pixels is not None
    assert max(explanation.pixels.shape[:2]) == 640
    assert explanation.size == (900, 700)


def test_the_peak_is_in_the_pictures_own_pixels() -> None:
    values = np.zeros((10, 10), dtype=np.float32)
    values[2, 7] = 1.0
    seen = (0.25, 0.0, 0.75, 1.0)  # the central square of a picture twice as wide as high
    explanation = Explanation("a.png", "grad-cam", 3, heat=values, seen=seen, size=(400, 200))
    assert explanation.peak == (100 + 150, 50)
    assert Explanation("a.png", "grad-cam", 3, heat=0 * values, size=(400, 200)).peak is None


@pytest.mark.parametrize("size", [(40, 10), (10, 40), (12, 12), (300, 11)])
def test_the_part_that_is_seen_is_the_one_that_is_prepared(finished: Run, size: tuple[int, int]) -> None:
    """Painted green outside of it and red inside, a picture is prepared all red, but for the resizing's fringe."""
    from residuum import imaging

    how = finished.preprocessing
    left, top, right, bottom = imaging.seen_part(size, how)
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[..., 1] = 255
    rows, columns = (
        slice(round(top * size[1]), round(bottom * size[1])),
        slice(round(left * size[0]), round(right * size[0])),
    )
    pixels[rows, columns] = (255, 0, 0)
    prepared = imaging.prepare(PIL.Image.fromarray(pixels), how)
    assert prepared[0, 1:-1, 1:-1].min() > 100
    assert prepared[0].mean() > 225
    assert (bottom - top) * size[1] == pytest.approx((right - left) * size[0])


@pytest.mark.parametrize("size", [(40, 10), (10, 40)])
def test_borders_that_are_padded_lie_beside_the_picture(finished: Run, size: tuple[int, int]) -> None:
    from residuum import imaging

    side = max(size)
    expected = (0.5 - side / size[0] / 2, 0.5 - side / size[1] / 2, 0.5 + side / size[0] / 2, 0.5 + side / size[1] / 2)
    assert imaging.seen_part(size, replace(finished.preprocessing, resize="pad")) == pytest.approx(expected)
    assert imaging.seen_part(size, replace(finished.preprocessing, resize="squash")) == (0, 0, 1, 1)
    values = np.zeros((4, 4), dtype=np.float32)
    values[0, 0] = 1.0  # in a border
    peak = Explanation("a.png", "grad-cam", 3, heat=values, seen=expected, size=size).peak
    assert peak == ((5, 0) if size == (40, 10) else (0, 5))


class Read(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_holds_every_picture_and_every_error(predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    page = Page("resnet20_cifar", "runs/<a>", "layer-cam", 2)
    for explanation in predictor.explain([*files, b"nothing"], method="layer-cam", stage=2):
        page.add(explanation)
    page.write(tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    read = Read(text)
    assert read.tags.count("img") == len(files)
    for said in ("runs/<a>", "after stage 2", "Cannot be used", "LayerCAM", *map(str, files)):
        assert said in read.text
    assert "http" not in text.replace("http-equiv", "")


def test_a_page_of_very_many_shows_the_first(
    predictor: Predictor, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain_page, "SHOWN", 4)
    page = Page("resnet20_cifar", "best", "grad-cam", 3)
    explanation = predictor.explain(files[0])
    for _ in range(7):
        page.add(explanation)
    page.write(tmp_path / "a.html")
    read = Read((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert read.tags.count("img") == 4
    assert "7 pictures, explained" in read.text
    assert "the folder has a file for each" in read.text


def test_drawings_are_pictures(predictor: Predictor, files: list[Path], tmp_path: Path) -> None:
    explanation = predictor.explain(files[0], label="2")
    explanation.save(tmp_path / "a.png")
    assert PIL.Image.open(io.BytesIO((tmp_path / "a.png").read_bytes())).format == "PNG"
