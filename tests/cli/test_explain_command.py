"""`residuum explain`: its flags, its JSON, its files, and pictures that cannot be used."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
from speaking import Say, Trained, every_file, picture

import residuum
from residuum.deploy.explain import Explainer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_json_has_the_keys_that_were_promised(trained: Trained, pictures: Path, say: Say, place: Path) -> None:
    file = pictures / "class0" / "1.png"
    said = say("explain", trained.bundle, file, "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["explanations", "page"]
    [row] = said.json["explanations"]
    keys = ["file", "label", "prob", "class", "class_prob", "method", "stage", "peak", "error", "png"]
    assert list(row) == keys
    assert row == {**residuum.load(trained.bundle).explain(file).as_dict(), "png": "explained/1.png"}
    assert every_file(place).keys() == {"explained", "explained/1.png", "explained/explain.html"}
    assert said.json["page"] == "explained/explain.html"
    assert Path(row["png"]).read_bytes().startswith(b"\x89PNG")


def test_one_line_a_picture_and_the_page(trained: Trained, pictures: Path, say: Say, place: Path) -> None:
    files = [pictures / "class0" / "1.png", pictures / "class1" / "1.png"]
    said = say("explain", trained.bundle, *files, "--out", "a/b", "--class", "class2")
    assert (said.code, said.err) == (0, "")
    predicted = [residuum.load(trained.bundle).predict(file) for file in files]
    *lines, page = said.out.splitlines()
    assert page == "Page: a/b/explain.html"
    for line, file, prediction, name in zip(lines, files, predicted, ("1.png", "1-2.png"), strict=True):
        assert line.startswith(f"{file}: {prediction.label}, {100 * (prediction.prob or 0):.1f} %")
        assert line.endswith(f": a/b/{name}")
        assert ("what speaks for class2 (" in line) == (prediction.label != "class2")
        assert (place / "a" / "b" / name).exists()


def test_nothing_is_overwritten(trained: Trained, pictures: Path, say: Say, place: Path) -> None:
    file = pictures / "class0" / "1.png"
    for name in ("explained", "explained-2"):
        assert say("explain", trained.bundle, file).out.splitlines()[-1] == f"Page: {name}/explain.html"
    before = every_file(place)
    said = say("explain", trained.bundle, file, "--out", "explained")
    assert said.code == 2
    assert "not empty" in said.err
    assert every_file(place) == before
    (place / "new").mkdir()
    assert say("explain", trained.bundle, file, "--out", "new").code == 0


def test_bad_pictures_are_rows_and_the_others_are_explained(
    trained: Trained, pictures: Path, say: Say, place: Path
) -> None:
    good = pictures / "class0" / "1.png"
    torn = place / "torn.png"
    torn.write_bytes(good.read_bytes()[:100])
    said = say("explain", trained.bundle, torn, good, place / "missing.jpg", "--json")
    assert said.code == 3
    rows = said.json["explanations"]
    assert [row["error"] is None for row in rows] == [False, True, False]
    assert [row["png"] for row in rows] == [None, "explained/1.png", None]
    assert said.err.startswith(f"Error: 2 of 3 pictures cannot be used; the first is {torn}: {rows[0]['error']}.\n")
    assert len(said.err.splitlines()) == 3
    assert str(torn) in (place / "explained" / "explain.html").read_text(encoding="utf-8")
    words = say("explain", trained.bundle, torn, good)
    assert words.code == 3
    assert words.out.splitlines()[0] == f"{torn}: cannot be used: {rows[0]['error']}"


def test_nothing_but_bad_pictures_leaves_nothing(trained: Trained, say: Say, place: Path) -> None:
    said = say("explain", trained.bundle, "missing.jpg", "--json", "--out", "a/b")
    assert said.code == 3
    assert said.json["page"] is None
    assert every_file(place) == {}
    assert (
        say("explain", trained.bundle, "missing.jpg").out
        == f"missing.jpg: cannot be used: {said.json['explanations'][0]['error']}\n"
    )


def test_standard_input_folders_and_names(
    trained: Trained, pictures: Path, say: Say, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (pictures / "class2" / "3.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    picture(place / "set" / "b" / "Ä b.png", 1)
    shutil.copy(place / "set" / "b" / "Ä b.png", place / "ä_B.png")
    said = say("explain", trained.bundle, "-", "set", "ä_B.png", "--json")
    assert said.code == 0
    assert [row["file"] for row in said.json["explanations"]] == ["-", "set/b/Ä b.png", "ä_B.png"]
    names = [Path(row["png"]).name for row in said.json["explanations"]]
    assert names == ["standard-input.png", "Ä_b.png", "ä_B-2.png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ("grad-cam", None, None)), (["--method", "layer-cam", "--stage", "2"], ("layer-cam", 2, None)),
        (["--class", "class1"], ("grad-cam", None, "class1")), (["--method", "occlusion"], ("occlusion", None, None)),
    ],
)  # fmt: skip
def test_a_flag_arrives(
    words: list[str], expected: tuple[object, ...], trained: Trained, pictures: Path, say: Say, place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: list[Any] = []
    begin = Explainer.__init__

    def spy(self: Explainer, predictor: Any, *given: Any) -> None:
        seen.append(given)
        begin(self, predictor, *given)

    monkeypatch.setattr(Explainer, "__init__", spy)
    assert say("explain", trained.bundle, pictures / "class1" / "0.png", *words).code == 0
    assert seen == [expected]
    assert (place / "explained" / "0.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stage", "4"], "no stage 4"), (["--stage", "0"], "'0'"), (["--method", "cam"], "'cam'"),
        (["--method", "occlusion", "--stage", "1"], "stage 1"), (["--class", "klass1"], "'klass1'"),
        (["--device", "abacus"], "'abacus'"),
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused_before_anything_is_written(
    words: list[str], said: str, trained: Trained, pictures: Path, say: Say, place: Path
) -> None:
    answer = say("explain", trained.bundle, pictures / "class1" / "0.png", *words)
    assert answer.code == 2
    assert said in answer.err
    assert len(answer.err.splitlines()) == 3
    assert every_file(place) == {}


def test_verbose_says_with_what(trained: Trained, pictures: Path, say: Say, place: Path) -> None:
    said = say("explain", trained.bundle, pictures / "class1" / "0.png", "-v")
    assert said.err == f"Explaining with resnet20_cifar in {trained.bundle}: Grad-CAM, stage 3, on cpu.\n"
    assert (place / "explained").is_dir()
