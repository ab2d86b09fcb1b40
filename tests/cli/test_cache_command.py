"""`residuum cache`: what it prints, the exit codes, and what training says of what it wrote."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from residuum.cli.main import main
from residuum.data import cache_writer


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_it_says_what_it_takes_what_it_did_and_what_to_type_next(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = answered(capsys, "cache", str(class_folders), "--out", "fast")
    assert code == 0
    assert err.startswith(f"66 pictures of {class_folders} will take about 0.00 GB in fast; ")
    assert out.startswith("Cached 66 pictures, 0.00 GB, in fast, in ")
    assert out.endswith("Next: residuum train --data fast\n")
    code, out, err = answered(capsys, "cache", str(class_folders), "--out", "fast", "--json")
    told = json.loads(out)
    assert (code, err, told["made"], told["pictures"], told["bad"]) == (0, "", False, 66, {})
    assert answered(capsys, "cache", str(class_folders), "--out", "fast")[1].startswith("fast is up to date: 66")
    code, out, _ = answered(capsys, "check", "fast", "--no-report")
    assert out.splitlines()[0].split() == ["class", "pictures"]
    small = ["--model", "resnet20_cifar", "--set", "model.width=0.25", "--img-size", "8", "--epochs", "1"]
    code, _, err = answered(capsys, "train", "--data", "fast", "--device", "cpu", "--weights", "none", *small)
    assert code == 0
    assert "on fast: 3 classes" in err


def test_what_is_wrong_has_its_exit_code(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert answered(capsys, "cache", str(class_folders))[0] == 2  # no --out
    assert answered(capsys, "cache", str(class_folders), "--out", "x", "--px", "-1")[0] == 2
    assert answered(capsys, "cache", str(class_folders), "--out", str(class_folders / "x"))[0] == 2
    assert answered(capsys, "cache", "missing", "--out", "x")[0] == 3
    monkeypatch.setattr(cache_writer, "free_bytes", lambda folder: 10)  # noqa: ARG005
    code, _, err = answered(capsys, "cache", str(class_folders), "--out", "x")
    assert code == 5
    assert "Free some space" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_leaves_nothing(
    class_folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sent: int
) -> None:
    write_rest = cache_writer._write_rest

    def struck(*given: object) -> None:
        os.kill(os.getpid(), sent)
        write_rest(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_writer, "_write_rest", struck)
    former = signal.getsignal(signal.SIGTERM)
    code, _, err = answered(capsys, "cache", str(class_folders), "--out", str(tmp_path / "x"))
    assert code == 130
    assert "Interrupted" in err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == former
