"""`residuum predict`: its flags, its JSON, its table, and pictures that cannot be used."""

from __future__ import annotations

import csv
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from speaking import Say, Trained, every_file, picture

import residuum
from residuum.cli.main import main
from residuum.deploy.predict import Predictor


def feed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_json_has_the_keys_that_were_promised(trained: Trained, pictures: Path, say: Say) -> None:
    file = pictures / "class0" / "1.png"
    said = say("predict", trained.bundle, file, "--json")
    assert (said.code, said.err) == (0, "")
    assert list(said.json) == ["predictions"]
    [row] = said.json["predictions"]
    assert list(row) == ["file", "label", "prob", "unknown", "top", "error"]
    assert row["file"] == str(file)
    assert row["error"] is None
    assert [list(guess) for guess in row["top"]] == [["label", "prob"]] * 3
    assert row["top"][0] == {"label": row["label"], "prob": row["prob"]}
    probs = [guess["prob"] for guess in row["top"]]
    assert probs == sorted(probs, reverse=True)
    assert sum(probs) == pytest.approx(1)
    assert row == residuum.load(trained.bundle).predict(file).as_dict()


def test_one_line_a_picture_in_natural_order_without_hidden_ones(trained: Trained, say: Say, tmp_path: Path) -> None:
    for number, name in enumerate(("10.png", "2.PNG", "b/1.png", ".hidden.png", ".cache/3.png")):
        picture(tmp_path / name, number)
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    said = say("predict", trained.bundle, tmp_path, "--top", "1")
    assert (said.code, said.err) == (0, "")
    names = [line.partition(": ")[0] for line in said.out.splitlines()]
    assert names == [str(tmp_path / name) for name in ("2.PNG", "10.png", "b/1.png")]
    assert all(line.count("%") == 1 for line in said.out.splitlines())


def test_top_is_how_many_classes_are_named(trained: Trained, pictures: Path, say: Say) -> None:
    for top, named in ((1, 1), (2, 2), (9, 3)):
        found = say("predict", trained.bundle, pictures / "class0", "--json", "--top", top).json["predictions"]
        assert [len(row["top"]) for row in found] == [named] * 4


def test_a_picture_may_come_on_standard_input(
    trained: Trained, pictures: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = pictures / "class2" / "3.png"
    feed(monkeypatch, file.read_bytes())
    first, second = say("predict", trained.bundle, "-", file, "--json").json["predictions"]
    assert first == {**second, "file": "-"}


@pytest.mark.parametrize("content", [b"", b"no picture"])
def test_what_is_no_picture_on_standard_input_is_a_row_with_its_error(
    content: bytes, trained: Trained, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed(monkeypatch, content)
    said = say("predict", trained.bundle, "-", "--json")
    assert said.code == 3
    [row] = said.json["predictions"]
    assert (row["file"], row["label"], row["prob"], row["top"]) == ("-", None, None, [])
    assert said.err.startswith(f"Error: 1 of 1 pictures cannot be used; the first is -: {row['error']}.\n")


def test_a_closed_standard_input_is_an_empty_picture(
    trained: Trained, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    assert say("predict", trained.bundle, "-").code == 3


def test_bad_pictures_are_rows_and_the_others_are_predicted(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    good = sorted((pictures / "class0").iterdir())[:2]
    torn, text, empty, missing = (tmp_path / name for name in ("torn.png", "text.png", "empty.jpg", "missing.jpg"))
    torn.write_bytes(good[0].read_bytes()[:100])
    text.write_text("hello", encoding="utf-8")
    empty.touch()
    files = [good[0], torn, text, empty, missing, good[1]]
    said = say("predict", trained.bundle, *files, "--json", "--csv", tmp_path / "a.csv", "-b", "2")
    assert said.code == 3
    rows = said.json["predictions"]
    assert [row["file"] for row in rows] == [str(file) for file in files]
    assert [row["error"] is None for row in rows] == [True, False, False, False, False, True]
    first, *others = said.err.splitlines()
    assert first == f"Error: 4 of 6 pictures cannot be used; the first is {torn}: {rows[1]['error']}."
    assert len(others) == 2
    for row, alone in ((rows[0], good[0]), (rows[5], good[1])):
        assert row["prob"] == pytest.approx(residuum.load(trained.bundle).predict(alone).prob, abs=1e-5)
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["file", "label", "prob", "label_2", "prob_2", "label_3", "prob_3", "error"]
    assert [line["error"] or None for line in lines] == [row["error"] for row in rows]
    assert [line["label"] or None for line in lines] == [row["label"] for row in rows]
    assert float(lines[5]["prob_3"]) == rows[5]["top"][2]["prob"]
    words = say("predict", trained.bundle, *files)
    assert words.code == 3
    assert words.out.splitlines()[1] == f"{torn}: cannot be used: {rows[1]['error']}"


def test_a_table_takes_the_place_of_an_older_one_only_when_it_is_whole(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.csv"
    target.write_text("older", encoding="utf-8")

    def broken(*_: object, **__: object) -> Any:
        yield from stream(*_, **__)
        raise KeyboardInterrupt

    stream = Predictor.stream
    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "stream", broken)
        assert say("predict", trained.bundle, pictures, "--csv", target).code == 130
    assert target.read_text("utf-8") == "older"
    assert say("predict", trained.bundle, pictures, "--csv", target).code == 0
    assert len(target.read_text("utf-8").splitlines()) == 13
    assert every_file(tmp_path).keys() == {"a.csv"}


def test_a_table_may_go_to_a_pipe(trained: Trained, pictures: Path, say: Say, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert say("predict", trained.bundle, pictures, "--csv", pipe).code == 0
        assert len(os.read(reader, 65536).splitlines()) == 13
    finally:
        os.close(reader)
    assert pipe.is_fifo()


@pytest.mark.parametrize("with_table", [False, True])
def test_a_closed_pipe_ends_it_unless_a_table_is_wanted(
    with_table: bool, trained: Trained, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []
    answer = Predictor._answer
    monkeypatch.setattr(Predictor, "_answer", lambda *given: counted.append(1) or answer(*given))
    reader, writer = os.pipe()
    os.close(reader)
    words = ["predict", str(trained.bundle), str(pictures), "-b", "4"]
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert main([*words, "--csv", str(tmp_path / "a.csv")] if with_table else words) == 0
    assert len(counted) == (3 if with_table else 1)
    assert not with_table or len((tmp_path / "a.csv").read_text("utf-8").splitlines()) == 13


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["-b", "5"], "batch_size", 5), (["-j", "2"], "workers", 2), (["--top", "2"], "top", 2),
        ([], "batch_size", 32), ([], "workers", 0), ([], "top", 5),
    ],
)  # fmt: skip
def test_a_flag_arrives(
    words: list[str], name: str, value: object, trained: Trained, pictures: Path, say: Say,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    seen: dict[str, Any] = {}
    stream = Predictor.stream

    def spy(self: Predictor, sources: Any, **named: Any) -> Any:
        seen.update(named)
        return stream(self, sources, **named)

    monkeypatch.setattr(Predictor, "stream", spy)
    assert say("predict", trained.bundle, pictures, *words).code == 0
    assert seen[name] == value


def test_precision_changes_the_digits_and_not_the_answer(trained: Trained, pictures: Path, say: Say) -> None:
    exact, rounded = (
        say("predict", trained.bundle, pictures / "class1" / "1.png", "--json", "--precision", precision).json
        for precision in ("fp32", "bf16")
    )
    exact, rounded = exact["predictions"][0]["prob"], rounded["predictions"][0]["prob"]
    assert exact != rounded
    assert exact == pytest.approx(rounded, rel=0.05)


def test_verbose_says_with_what_and_quiet_nothing(trained: Trained, pictures: Path, say: Say) -> None:
    said = say("predict", trained.bundle, pictures, "-v")
    assert said.err == f"Predicting with resnet20_cifar in {trained.bundle}: 3 classes, on cpu in fp32.\n"
    quiet = say("predict", trained.bundle, pictures, "-q")
    assert (quiet.out, quiet.err) == (said.out, "")


def test_a_name_that_is_no_text_is_told_all_the_same(
    trained: Trained, pictures: Path, say: Say, tmp_path: Path
) -> None:
    name = tmp_path / os.fsdecode(b"b\xe4r.png")
    try:
        shutil.copy(pictures / "class0" / "0.png", name)
    except OSError:
        pytest.skip("this file system takes no such name")
    said = say("predict", trained.bundle, name)
    assert said.code == 0
    assert said.out.startswith(f"{tmp_path}/b\\udce4r.png: class")
    assert say("predict", trained.bundle, tmp_path, "--json").json["predictions"][0]["file"] == str(name)
