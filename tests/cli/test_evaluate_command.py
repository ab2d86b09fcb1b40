"""`residuum evaluate`: its flags, its JSON, its words."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sklearn.metrics
from speaking import Say, Trained, every_file, terminal, without_codes

import residuum
from residuum.cli import progress


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_json_has_the_keys_that_were_promised_and_nothing_else_is_on_stdout(trained: Trained, say: Say) -> None:
    said = say("evaluate", trained.bundle, "--json")
    assert (said.code, said.err) == (0, "")
    scores = ["images", "top1", "top5", "loss", "ece", "classes", "confusion"]
    assert list(said.json) == [*scores, "calibration", "coverage", "chosen_here", "views", "models", "skipped"]
    assert (said.json["views"], said.json["models"]) == ("one", ["resnet20_cifar"])
    assert said.json["images"] == 12
    assert said.json["top5"] == 100.0
    assert said.json["skipped"] == {}
    assert [list(score) for score in said.json["classes"]] == [["name", "images", "precision", "recall", "f1"]] * 3
    assert [score["name"] for score in said.json["classes"]] == ["class0", "class1", "class2"]


def test_the_scores_are_those_of_the_table_by_scikit_learn(trained: Trained, say: Say, tmp_path: Path) -> None:
    scores = say("evaluate", trained.bundle, "--split", "train", "--json", "--csv", tmp_path / "a.csv").json
    rows = table(tmp_path / "a.csv")
    assert list(rows[0]) == ["file", "label", "predicted", "prob", "correct"]
    assert len(rows) == scores["images"] == 48
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    assert scores["top1"] == pytest.approx(100 * sklearn.metrics.accuracy_score(labels, predicted))
    expected = sklearn.metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    for place, score in enumerate(scores["classes"]):
        found = [score["precision"] / 100, score["recall"] / 100, score["f1"] / 100, score["images"]]
        assert found == pytest.approx([column[place] for column in expected])
    assert scores["confusion"] == sklearn.metrics.confusion_matrix(labels, predicted).tolist()
    assert every_file(tmp_path).keys() == {"a.csv"}


def test_the_words_say_what_was_scored(trained: Trained, say: Say) -> None:
    said = say("evaluate", trained.bundle)
    assert (said.code, said.err) == (0, "")
    scores = say("evaluate", trained.bundle, "--json").json
    head = [(line[:20].rstrip(), line[20:]) for line in said.out.splitlines()[:5]]
    assert head == [
        ("Set", "synthetic:60x3x16, part val as in training"),
        ("Pictures", "12"),
        ("Accuracy (top-1)", f"{scores['top1']:.2f} %"),
        ("Loss", f"{scores['loss']:.4f}"),
        ("Calibration error", f"{scores['ece']:.2f} %"),
    ]
    header, *classes = said.out.partition("\n\n")[2].splitlines()[:4]
    assert header.split() == ["class", "pictures", "precision", "%", "recall", "%", "F1", "%"]
    assert [line.split()[0] for line in classes] == ["class0", "class1", "class2"]
    matrix = np.array(scores["confusion"])
    np.fill_diagonal(matrix, 0)
    counts = [int(line.split()[0]) for line in said.out.partition("confusions")[2].splitlines()[1:]]
    assert counts == sorted(matrix[matrix > 0].tolist(), reverse=True)[:5]


def test_views_and_ensembles_are_scored_and_said(trained: Trained, say: Say) -> None:
    plain = say("evaluate", trained.bundle, "--json").json
    found = {views: say("evaluate", trained.bundle, "--views", views, "--json").json for views in ("one", "ten")}
    assert found["one"] == plain
    assert found["ten"]["views"] == "ten"
    assert found["ten"]["loss"] == residuum.evaluate(trained.bundle, views="ten").loss != plain["loss"]
    twice = say("evaluate", trained.bundle, "--ensemble", trained.bundle.parent / "last", "--json").json
    assert twice["models"] == ["resnet20_cifar", "resnet20_cifar"]
    words = say("evaluate", trained.bundle, "--views", "multiscale", "--ensemble", trained.bundle.parent / "last").out
    assert words.splitlines()[2:4] == [
        "Networks            resnet20_cifar, resnet20_cifar",
        "Views               the whole picture at 5 scales, and its mirrors",
    ]
    said = say("evaluate", trained.bundle, "--views", "eleven")
    assert said.code == 2
    assert "one, mirror, shift, ten, multiscale" in said.err


def test_eval_and_val_are_evaluate(trained: Trained, say: Say) -> None:
    said = say("evaluate", trained.bundle, "--json")
    assert say("eval", trained.bundle, "--json") == said
    assert say("val", trained.bundle, "--json") == said


def test_another_set_is_scored_whole(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    said = say("evaluate", trained.bundle, "--data", pictures, "--csv", tmp_path / "a.csv")
    assert said.out.splitlines()[0] == f"Set                 {pictures}"
    rows = table(tmp_path / "a.csv")
    assert [row["file"] for row in rows] == sorted(str(path) for path in pictures.rglob("*.png"))
    assert all(Path(row["file"]).parent.name == row["label"] for row in rows)


def test_a_class_alone_can_be_scored(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "class1").symlink_to(pictures / "class1")
    said = say("evaluate", trained.bundle, "--data", tmp_path / "one", "--json")
    assert said.code == 0
    assert [score["images"] for score in said.json["classes"]] == [0, 4, 0]
    assert said.json["top1"] == said.json["classes"][1]["recall"]


def test_a_bad_picture_ends_it_or_is_skipped_and_named(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    for kind in range(3):
        (tmp_path / f"class{kind}").mkdir()
        for number in range(10):
            (tmp_path / f"class{kind}" / f"{number}.png").symlink_to(pictures / f"class{kind}" / f"{number % 4}.png")
    bad = tmp_path / "class1" / "torn.png"
    bad.write_bytes((pictures / "class1" / "0.png").read_bytes()[:100])
    said = say("evaluate", trained.bundle, "--data", tmp_path, "--json", "--csv", tmp_path / "a.csv")
    assert (said.code, said.out) == (3, "")
    assert str(bad) in said.err
    assert not (tmp_path / "a.csv").exists()
    said = say("evaluate", trained.bundle, "--data", tmp_path, "--json", "--on-bad-image", "skip")
    assert said.code == 0
    assert said.json["images"] == 30
    assert list(said.json["skipped"]) == [str(bad)]
    assert said.err == f"Skipped {bad}: {said.json['skipped'][str(bad)]}.\n"
    quiet = say("evaluate", trained.bundle, "--data", tmp_path, "--json", "--on-bad-image", "skip", "-q")
    assert (quiet.out, quiet.err) == (said.out, "")
    words = say("evaluate", trained.bundle, "--data", tmp_path, "--on-bad-image", "skip").out
    assert "Pictures            30 (1 skipped)" in words


def test_precision_changes_the_digits_and_not_the_answer(trained: Trained, say: Say) -> None:
    exact, rounded = (
        say("evaluate", trained.bundle, "--json", "--precision", precision).json["loss"]
        for precision in ("fp32", "bf16")
    )
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=0.05)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-b", "5"], "batch_size", 5), (["-j", "2"], "workers", 2), (["--device", "cpu"], "device", "cpu"),
        (["--views", "ten"], "kind", "ten"), (["--ensemble", "last"], "ensemble", ["last"]), ([], "ensemble", []),
        (["--precision", "auto"], "precision", "auto"), (["--on-bad-image", "skip"], "on_bad_image", "skip"),
        ([], "batch_size", 256), ([], "precision", "fp32"), ([], "device", "auto"), ([], "on_bad_image", "error"),
    ],
)  # fmt: skip
def test_a_flag_arrives(
    words: list[str], name: str, value: object, trained: Trained, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    from residuum.evaluation import trained as room

    seen: dict[str, Any] = {}
    evaluate = room.evaluate_in_full

    def spy(*places: Any, **named: Any) -> object:
        seen.update(named)
        return evaluate(*places, **named)

    monkeypatch.setattr(room, "evaluate_in_full", spy)
    monkeypatch.chdir(trained.bundle.parent)
    assert say("evaluate", trained.bundle, *words).code == 0
    assert seen[name] == value


def test_offline_downloads_nothing(trained: Trained, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("socket.create_connection", lambda *_, **__: pytest.fail("the network was asked"))
    said = say("evaluate", trained.bundle, "--data", "cifar10", "--offline")
    assert said.code == 4
    assert "nothing is downloaded offline" in said.err


def test_verbose_says_with_what(trained: Trained, say: Say) -> None:
    said = say("evaluate", trained.bundle, "-v", "--json")
    what = "synthetic:60x3x16, part val as in training"
    assert said.err == f"Evaluated resnet20_cifar in {trained.bundle} on {what}, in fp32.\n"
    assert said.json["images"] == 12


def test_a_terminal_is_shown_how_far_it_is(trained: Trained, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for words, shown in (([], True), (["-q"], False)):
        with terminal() as (stream, end), monkeypatch.context() as patch:
            patch.setattr("sys.stderr", stream)
            assert say("evaluate", trained.bundle, *words).code == 0
            screen = without_codes(end())
        assert ("12/12" in screen) == shown
        assert ("evaluating" in screen) == shown


def test_elsewhere_a_long_evaluation_says_so_every_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.monotonic", lambda: clock.now)
    with progress.counting("evaluating", 5000, quiet=False) as tell:
        for _ in range(5):
            clock.now += 4.0
            tell(1000)
    assert capsys.readouterr().err.splitlines() == ["evaluating: 3,000 of 5,000 pictures"]


def test_neighbours_take_the_place_of_the_classifier(trained: Trained, say: Say, tmp_path: Path) -> None:
    said = say("evaluate", trained.bundle, "--knn", "3", "--json", "--csv", tmp_path / "a.csv")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["knn", "images", "top1", "top5", "classes", "confusion", "skipped"]
    assert said.json["knn"] == {"k": 3, "known": 48, "stage": 3, "temperature": 0.07}
    rows = table(tmp_path / "a.csv")
    right = sum(row["correct"] == "True" for row in rows)
    assert said.json["top1"] == pytest.approx(100 * right / len(rows))
    words = say("evaluate", trained.bundle, "--knn", "3", "--stage", "2").out.splitlines()
    assert words[3] == "Neighbours          3 of 48 training pictures, by stage 2"
    assert not any(line.startswith(("Loss", "Calibration")) for line in words)
    alone = say("evaluate", trained.bundle, "--stage", "2")
    assert (alone.code, alone.err.splitlines()[0]) == (
        2,
        "Error: --stage 2 is where --knn takes vectors from, which is not asked for.",
    )
    both = say("evaluate", trained.bundle, "--knn", "3", "--views", "ten")
    assert (both.code, both.err.splitlines()[0]) == (
        2,
        "Error: --knn scores the vectors of one network, of the centre of each picture.",
    )
