"""`residuum calibrate`, and `--unknown-below` of the commands that know it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from speaking import Say, Trained, every_file

import residuum
from residuum import bundle

CHOSEN = ["temperature", "unknown_below", "found"]


@pytest.fixture(scope="module")
def below(trained: Trained, pictures: Path) -> float:
    """A probability that, at a temperature of 1.5, divides the answers to the pictures."""
    files = sorted(str(file) for file in pictures.rglob("*.png"))
    answers = residuum.load(trained.bundle, device="cpu").predict(files)
    powers = [[guess.prob ** (1 / 1.5) for guess in answer.top] for answer in answers]
    probs = sorted(row[0] / sum(row) for row in powers)
    return (probs[5] + probs[6]) / 2


@pytest.fixture(scope="module")
def careful(trained: Trained, below: float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained bundle with a temperature of 1.5 and that threshold."""
    tensors, card = bundle.read(trained.bundle)
    folder = tmp_path_factory.mktemp("careful") / "bundle"
    found = {"temperature": 1.5, "unknown_below": below, "found": {}}
    bundle.write(folder, tensors, {**card, "calibration": found})
    return folder


def test_it_writes_a_bundle_and_says_what_it_is_worth(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    said = say("calibrate", trained.bundle, "--data", "synthetic:90x3x16", "-o", tmp_path / "a", "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["bundle", *CHOSEN, "skipped"]
    assert said.json["bundle"] == str(tmp_path / "a")
    found = said.json["found"]
    assert list(found) == ["pictures", "images", "top1", "loss", "ece", "uncalibrated", "cross_fitted"]
    assert found["images"] == 90
    assert found["loss"] <= found["uncalibrated"]["loss"]
    assert said.json["unknown_below"] is None
    card = json.loads((tmp_path / "a" / "model.json").read_text("utf-8"))
    assert card["calibration"] == {key: said.json[key] for key in CHOSEN}
    words = say("calibrate", trained.bundle, "--data", pictures, "--unknown-below", "auto", "-o", tmp_path / "b")
    assert (words.code, words.err) == (0, "")
    first, second = words.out.splitlines()
    assert first.startswith(f"12 pictures of {pictures} are too few to choose a temperature: it stays at 1")
    assert "Unknown below a probability of" in first
    assert second == f"Next: residuum predict {tmp_path / 'b'} PICTURE"
    assert say("predict", tmp_path / "b", pictures, "--unknown-below", "auto").code == 0


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-b", "5"], "batch_size", 5), (["-j", "2"], "workers", 2), (["--device", "cpu"], "device", "cpu"),
        (["--precision", "auto"], "precision", "auto"), (["--on-bad-image", "skip"], "on_bad_image", "skip"),
        (["--unknown-below", "auto"], "unknown_below", "auto"), (["--unknown-below", "0.5"], "unknown_below", 0.5),
        (["--unknown-below", "none"], "unknown_below", "none"), ([], "unknown_below", "none"),
    ],
)  # fmt: skip
def test_a_flag_arrives(
    words: list[str], name: str, value: object, trained: Trained, say: Say, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from residuum.evaluation import calibrate as room

    seen: dict[str, Any] = {}
    calibrate = room.calibrate

    def spy(*places: Any, **named: Any) -> object:
        seen.update(named)
        return calibrate(*places, **named)

    monkeypatch.setattr(room, "calibrate", spy)
    assert say("calibrate", trained.bundle, "-o", tmp_path / "new", *words).code == 0
    assert seen[name] == value


def test_bad_pictures_are_skipped_and_named_if_asked(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    for kind in range(3):
        (tmp_path / "set" / f"class{kind}").mkdir(parents=True)
        for number in range(10):
            target = pictures / f"class{kind}" / f"{number % 4}.png"
            (tmp_path / "set" / f"class{kind}" / f"{number}.png").symlink_to(target)
    bad = tmp_path / "set" / "class1" / "torn.png"
    bad.write_bytes((pictures / "class1" / "0.png").read_bytes()[:100])
    words = ["calibrate", trained.bundle, "--data", tmp_path / "set", "-o", tmp_path / "new"]
    assert say(*words).code == 3
    assert not (tmp_path / "new").exists()
    said = say(*words, "--on-bad-image", "skip", "-v")
    assert said.code == 0
    assert said.err.splitlines()[0] == f"Calibrated {trained.bundle} on {tmp_path / 'set'}, in fp32."
    assert said.err.splitlines()[1].startswith(f"Skipped {bad}: ")


@pytest.mark.parametrize(
    ("words", "code", "value"),
    [
        (["--unknown-below", "sure"], 2, "'sure'"),
        (["--unknown-below", "1.5"], 2, "'1.5'"),
        (["--unknown-below", "nan"], 2, "'nan'"),
        (["--split", "train"], 2, "'train'"),
        (["--split", "test"], 3, "'test'"),
        (["--data", "nothing"], 3, "nothing"),
        (["--device", "abacus"], 2, "'abacus'"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(
    words: list[str], code: int, value: str, trained: Trained, say: Say, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said = say("calibrate", trained.bundle, "--out", "new", *words)
    assert (said.code, said.out) == (code, "")
    assert said.err.startswith("Error: ")
    assert len(said.err.splitlines()) == 3
    assert value in said.err
    assert every_file(tmp_path) == {}


def test_nothing_is_overwritten_and_what_is_no_bundle_is_refused(trained: Trained, say: Say, tmp_path: Path) -> None:
    before = every_file(trained.bundle)
    said = say("calibrate", trained.bundle, "--out", trained.bundle)
    assert said.code == 2
    assert "a bundle is never overwritten" in said.err
    assert every_file(trained.bundle) == before
    assert say("calibrate", tmp_path, "--out", tmp_path / "new").code == 4
    (tmp_path / "file").touch()
    assert say("calibrate", trained.bundle, "--out", tmp_path / "file" / "new").code == 5


def test_predict_says_unknown_in_words_in_json_and_in_the_table(
    careful: Path, below: float, pictures: Path, say: Say, tmp_path: Path
) -> None:
    said = say("predict", careful, pictures, "--json", "--csv", tmp_path / "a.csv", "--top", "2", "-v")
    assert f"Temperature 1.500. Unknown below {below:.4g}." in said.err
    answers = said.json["predictions"]
    unknown = [answer["prob"] < below for answer in answers]
    assert sum(unknown) == 6
    assert [answer["unknown"] for answer in answers] == unknown
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "prob", "label_2", "prob_2", "unknown", "best", "error"]
    lines = say("predict", careful, pictures).out.splitlines()
    for answer, row, line in zip(answers, rows, lines, strict=True):
        best = answer["top"][0]["label"]
        assert answer["label"] == row["label"] == ("unknown" if answer["unknown"] else best)
        assert (row["best"], row["unknown"]) == (best, str(answer["unknown"]))
        assert float(row["prob"]) == answer["prob"]
        begins = f"{answer['file']}: unknown ({best} " if answer["unknown"] else f"{answer['file']}: {best} "
        assert line.startswith(begins)
    always = say("predict", careful, pictures, "--unknown-below", "none", "--json").json["predictions"]
    assert [answer["label"] for answer in always] == [answer["top"][0]["label"] for answer in answers]
    never = say("predict", careful, pictures, "--unknown-below", "1", "--json").json["predictions"]
    assert all(answer["unknown"] for answer in never)


def test_evaluate_says_coverage_and_what_it_is_without_temperature(
    careful: Path, below: float, pictures: Path, say: Say
) -> None:
    words = ["evaluate", careful, "--data", pictures]
    said = say(*words, "--json").json
    assert said["calibration"]["temperatures"] == [1.5]
    plain = said["calibration"]["uncalibrated"]
    assert plain["top1"] == said["top1"]
    assert plain["loss"] != said["loss"]
    answers = say("predict", careful, pictures, "--json").json["predictions"]
    answered = [answer for answer in answers if not answer["unknown"]]
    assert said["coverage"]["unknown_below"] == below
    assert said["coverage"]["answered"] == pytest.approx(100 * len(answered) / 12)
    right = sum(answer["label"] == Path(answer["file"]).parent.name for answer in answered)
    assert said["coverage"]["accuracy"] == pytest.approx(100 * right / len(answered))
    lines = say(*words).out.splitlines()
    without = f"without: loss {plain['loss']:.4f}, calibration error {plain['ece']:.2f} %"
    assert f"Temperature         1.500 ({without})" in lines
    answered_line = (
        f"Answered            {said['coverage']['answered']:.2f} % (unknown below {below:.4g}); "
        f"{said['coverage']['accuracy']:.2f} % of these are right"
    )
    assert answered_line in lines


def test_a_table_says_which_answers_are_unknown(careful: Path, pictures: Path, say: Say, tmp_path: Path) -> None:
    assert say("evaluate", careful, "--data", pictures, "--csv", tmp_path / "a.csv").code == 0
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label", "predicted", "prob", "correct", "unknown"]
    assert {row["unknown"] for row in rows} == {"True", "False"}
    answers = say("predict", careful, pictures, "--json").json["predictions"]
    assert {row["file"]: row["unknown"] for row in rows} == {
        answer["file"]: str(answer["unknown"]) for answer in answers
    }
    assert all(row["correct"] == str(row["predicted"] == row["label"]) for row in rows)


def test_evaluate_says_what_the_same_pictures_chose(
    trained: Trained, careful: Path, pictures: Path, say: Say, tmp_path: Path
) -> None:
    words = ["--data", pictures, "--unknown-below", "auto", "-o", tmp_path / "own", "-q"]
    assert say("calibrate", trained.bundle, *words).code == 0
    said = say("evaluate", tmp_path / "own", "--data", pictures)
    line = "                    These pictures also chose the threshold: expect a little less of new ones."
    assert line in said.out.splitlines()
    assert say("evaluate", tmp_path / "own", "--data", pictures, "--json").json["chosen_here"] == ["threshold"]
    for bundle_, more in ((careful, ["--data", pictures]), (tmp_path / "own", [])):
        assert "also chose" not in say("evaluate", bundle_, *more).out


def test_training_takes_a_threshold(say: Say, tmp_path: Path) -> None:
    words = ["--data", "synthetic:60x3x16", "--model", "resnet20_cifar", "--img-size", "8", "--epochs", "1"]
    shown = say("train", *words, "--unknown-below", "auto", "--dry-run", "--json").json
    assert shown["unknown_below"] == "auto"
    assert say("train", *words, "--unknown-below", "0.5", "--dry-run", "--json").json["unknown_below"] == 0.5
    for wrong in ("maybe", "2"):
        said = say("train", *words, "--unknown-below", wrong, "--dry-run")
        assert said.code == 2
        assert "Expected none, auto, or a number" in said.err
    none_held_out = ["--unknown-below", "auto", "--set", "data.val_fraction=0", "-o", tmp_path / "run", "-q"]
    said = say("train", *words, *none_held_out)
    assert (said.code, len(said.err.splitlines())) == (2, 3)
    assert "is chosen on validation pictures, and there are none" in said.err
    assert not (tmp_path / "run").exists()
