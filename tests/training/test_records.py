"""What a run writes down: one JSON object a line, a table, a log; and what a resumed run takes back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from residuum.training.records import COLUMNS, Record, Records, line

STEP = {"kind": "step", "epoch": 0, "step": 2, "loss": 0.1 + 0.2, "lr": 1e-9, "grad_norm": 3.0, "images_per_s": 7.5}
EPOCH = {"kind": "epoch", "epoch": 1, "step": 4, "loss": 0.25, "lr": 0.1, "images_per_s": 8.0, "val_top1": 50.0}


def test_lines_are_json_and_read_back_exactly(tmp_path: Path) -> None:
    heard: list[Record] = []
    records = Records(tmp_path / "new" / "run", heard.append)
    for record in (STEP, EPOCH):
        records.write(**record)
    lines = records.jsonl.read_text(encoding="utf-8").splitlines()
    assert [json.loads(text) for text in lines] == [STEP, EPOCH] == heard == records.history
    assert records.epochs() == [EPOCH]


def test_what_is_for_people_goes_to_the_log_alone(tmp_path: Path) -> None:
    heard: list[Record] = []
    records = Records(tmp_path, heard.append)
    records.note("Ignored ä.gif.")
    records.write(kind="start", recipe="digits", images={"train": 3})
    records.write(**STEP)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert len(log) == 3 == len(heard)
    assert log[0].endswith(" Ignored ä.gif.")
    assert "recipe digits" in log[1]
    assert "loss 0.3 " in log[2]
    assert [json.loads(text)["kind"] for text in records.jsonl.read_text().splitlines()] == ["step"]


def test_the_table_has_the_same_numbers(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for record in (STEP, EPOCH):
        records.write(**record)
    records.write_csv()
    with (tmp_path / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [name for name in COLUMNS if name != "text"]
    for row, record in zip(rows, (STEP, EPOCH), strict=True):
        assert {name: text for name, text in row.items() if text} == {
            name: str(value) for name, value in record.items()
        }


def test_a_resumed_run_takes_back_what_comes_after_its_checkpoint(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for step in range(1, 6):
        records.write(**{**STEP, "step": step})
    with records.jsonl.open("a", encoding="utf-8") as file:
        file.write('{"kind": "step", "ep')  # a writer that was killed
    again = Records(tmp_path)
    again.rewind(3, 0)
    again.write(**{**STEP, "step": 4, "loss": 9.0})
    kept = [json.loads(text) for text in again.jsonl.read_text(encoding="utf-8").splitlines()]
    assert [(record["step"], record["loss"]) for record in kept] == [
        (1, 0.1 + 0.2),
        (2, 0.1 + 0.2),
        (3, 0.1 + 0.2),
        (4, 9),
    ]
    assert kept == again.history


def test_what_is_behind_a_checkpoint_depends_on_its_kind(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for step in (4, 5, 6):
        records.write(kind="not_applied", epoch=0, step=step, loss=None, grad_norm=None, files=[])
    for epoch in (1, 2):
        records.write(**{**EPOCH, "epoch": epoch, "step": 5 * epoch})
    records.rewind(5, 0)  # saved after the epoch's last step, before its evaluation
    assert [(record["kind"], record["step"]) for record in records.history] == [("not_applied", 4)]


def test_there_may_be_nothing_to_take_back(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.rewind(3, 0)
    assert records.history == []
    assert not records.jsonl.exists()


def test_a_line_for_people_is_short() -> None:
    assert line({"kind": "step", "loss": 0.123456, "step": 12}) == "loss 0.1235  step 12"
    assert line({"kind": "note", "text": "x"}) == "x"
