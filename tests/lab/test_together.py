"""Nets that are trained side by side: the same as one after the other, and stopped, refused and gone on with."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from residuum.errors import ResourceError, Stopped, UsageError
from residuum.lab import together
from residuum.lab.experiments import degradation
from residuum.lab.reproduce import reproduce
from residuum.lab.together import Request, Wanted
from residuum.training import checkpoint
from residuum.training.records import Record


def children() -> list[int]:
    """The processes that this one has started and that run."""
    tasks = Path(f"/proc/{os.getpid()}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stopped:
    """What an experiment raises that a signal stops after the first epoch of two nets that are trained at once."""
    monkeypatch.setitem(degradation.DEPTHS, "smoke", (20,))
    notes: list[str] = []
    at_first = set(children())

    def listener(record: Record) -> None:
        notes.append(str(record["text"]))
        if "epoch 1" in notes[-1] and sum("epoch 1" in note for note in notes) == 1:
            assert set(children()) - at_first
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped) as raised:
        reproduce("degradation", out=tmp_path, device="cpu", jobs=2, listener=listener)
    assert notes[0] == "degradation: training 2 nets, 2 at once"
    assert set(children()) <= at_first, "a process was left running"
    return raised.value


def test_a_signal_stops_all_of_them_and_what_they_learnt_is_saved(stopped: Stopped, tmp_path: Path) -> None:
    assert stopped.what == "Stopped by SIGTERM; what was measured is saved."
    assert stopped.hint.endswith("--device cpu --jobs 2")
    assert any(checkpoint.is_run(folder) for folder in (tmp_path / "nets").iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("stopped")
def test_nets_side_by_side_are_those_trained_one_after_the_other(tmp_path: Path) -> None:
    done = reproduce("degradation", out=tmp_path, device="cpu", jobs=2)
    alone = reproduce("degradation", out=tmp_path / "alone", device="cpu", jobs=1)
    found, expected = ([row for row in each.rows if row["kind"] == "net"] for each in (done, alone))
    assert [(row["net"], row["seed"], row["recipe"]) for row in found] == [
        (row["net"], row["seed"], row["recipe"]) for row in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert other["at_once"] == 1
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-3)
        assert [point["epoch"] for point in one["curve"]] == [point["epoch"] for point in other["curve"]] == [1, 2, 3]
    at_once = {row["at_once"] for row in found}
    assert at_once <= {1, 2}
    assert done.seconds == pytest.approx(sum(row["seconds"] / row["at_once"] for row in found))


def request(out: Path, net: Wanted) -> Request:
    return Request("degradation", "smoke", str(out), "digits", "cpu", 2, net)


def test_what_a_process_refuses_is_refused_here(tmp_path: Path) -> None:
    nobody = Wanted("resnet21_cifar", 0)
    with pytest.raises(UsageError, match="resnet21_cifar") as refused:
        together.train([request(tmp_path, nobody)], ["resnet21"], lambda text: None)  # noqa: ARG005
    assert refused.value.exit_code == 2
    assert "resnet20_cifar" in str(refused.value)


def test_a_process_that_the_system_ends_is_named(tmp_path: Path) -> None:
    at_first = set(children())

    def note(text: str) -> None:
        if text.endswith("begins"):
            for pid in set(children()) - at_first:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(ResourceError, match="resnet20, seed 0 was ended by SIGKILL") as ended:
        together.train([request(tmp_path, Wanted("resnet20_cifar", 0))], ["resnet20, seed 0"], note)
    assert "--jobs 1" in ended.value.hint
