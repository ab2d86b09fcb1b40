"""What residuum promises of interrupted runs, tried many times."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "reliability.py"
COUNTS = {
    "resumes": 21, "signals": 20, "kills": 200, "flips": 100, "truncations": 50, "full_disks": 30, "read_only": 1,
    "worlds": 1050, "stops": 50, "lost": 10, "restarts": 6, "names": 10, "memory": 3,
}  # fmt: skip


def rows_of(file: Path) -> dict[str, dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["what"]: row for row in csv.DictReader(lines)}


@pytest.mark.slow
@pytest.mark.parametrize("what", COUNTS)
def test_a_promise_is_kept_each_time(what: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(SCRIPT.parent)])}
    out = tmp_path / "reliability.csv"
    done = subprocess.run(
        [sys.executable, str(SCRIPT), what, "--out", str(out)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (rows_of(out)[what]["tried"], rows_of(out)[what]["kept"]) == (str(COUNTS[what]), str(COUNTS[what]))


def test_every_trial_is_tested() -> None:
    table = SCRIPT.read_text(encoding="utf-8").split("for trial in (")[1].split(")")[0]
    assert set(re.findall(r"(?:alone|together)\.([a-z_]+)", table)) == set(COUNTS)


def test_every_trial_is_in_the_table_and_every_promise_kept() -> None:
    rows = rows_of(ROOT / "docs" / "results" / "reliability.csv")
    counted = {what: (row["tried"], row["kept"]) for what, row in rows.items()}
    assert counted == {what: (str(count), str(count)) for what, count in COUNTS.items()}
