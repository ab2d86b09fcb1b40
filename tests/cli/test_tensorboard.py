"""TensorBoard's event files hold what metrics.jsonl holds, also after a run was stopped and went on."""

from __future__ import annotations

import json
import signal
import warnings
from pathlib import Path

import pytest
from speaking import TINY, Say, stop_after_an_epoch

from residuum.errors import UsageError
from residuum.training import tensorboard


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Reads the event files as TensorBoard does: by name, the value of each step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder)).Reload()
        return {name: {e.step: e.value for e in events.Scalars(name)} for name in events.Tags()["scalars"]}


def recorded(run: Path) -> list[dict[str, float]]:
    return [json.loads(text) for text in (run / "metrics.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.usefixtures("without_report")
def test_it_shows_every_number_of_a_run_that_was_stopped_and_went_on(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    stop_after_an_epoch(monkeypatch, signal.SIGTERM)
    assert say("train", *TINY, "--epochs", "2", "--set", "log_every_steps=1", "-o", run, "--tensorboard").code == 75
    monkeypatch.undo()
    said = say("train", "--resume", run, "--tensorboard", "-q")
    assert said.code == 0, said.err
    shown, records = scalars(run / tensorboard.FOLDER), recorded(run)
    for name, kind, key in (
        ("train/loss", "step", "loss"), ("train/lr", "step", "lr"), ("train/grad_norm", "step", "grad_norm"),
        ("epoch/loss", "epoch", "loss"), ("val/top1", "epoch", "val_top1"), ("val/loss", "epoch", "val_loss"),
    ):  # fmt: skip
        wanted = {int(record["step"]): record[key] for record in records if record["kind"] == kind}
        assert len(wanted) >= 2, name
        assert shown[name] == pytest.approx(wanted, rel=1e-6), name


def test_without_the_package_it_says_what_to_install(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensorboard, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match="not installed"):
        tensorboard.TensorBoard()
    said = say("train", *TINY, "-o", tmp_path / "run", "--tensorboard", "-q")
    assert said.code == 2
    assert "pip install 'residuum[tensorboard]'" in said.err
    assert not (tmp_path / "run").exists()
