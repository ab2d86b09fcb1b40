"""Numbers that are not finite, memory that does not suffice, checkpoints within an epoch, runs that hardly began."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from residuum import recipe
from residuum.cli.main import main
from residuum.errors import DivergedError, ResourceError, Stopped
from residuum.recipe import Recipe, Sgd, to_toml
from residuum.training import build as building
from residuum.training import checkpoint, memory
from residuum.training import train as training
from residuum.training.build import build
from residuum.training.loop import fit, train_epoch, train_step
from residuum.training.run import Run
from residuum.training.train import train

CPU = torch.device("cpu")


def everything(run: Run) -> list[Tensor]:
    """All tensors that a step may change."""
    kept = [run.optimizer.state.get(parameter, {}) for parameter in run.model.parameters()]
    states = [value for state in kept for value in state.values() if isinstance(value, Tensor)]
    tensors = [*run.model.state_dict().values(), *run.averaged.model.state_dict().values(), *states]
    return [tensor.clone() for tensor in tensors]


def spoilt(run: Run, steps: set[int], how: Callable[[Tensor], Tensor]) -> None:
    """Lets the loss of some steps come out as `how` makes it."""
    criterion = run.criterion
    run.criterion = lambda logits, targets: (how if run.step in steps else lambda loss: loss)(
        criterion(logits, targets)
    )


def infinite_gradient(loss: Tensor) -> Tensor:
    """A finite loss, through which no finite gradient flows."""
    kept = loss.clone()
    kept.register_hook(lambda gradient: gradient * math.inf)
    return kept


BAD: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda loss: loss * math.nan,
    "infinite": lambda loss: loss * math.inf,
    "minus infinite": lambda loss: loss * -math.inf,
    "gradient": infinite_gradient,
}


@pytest.mark.parametrize("bad", BAD)
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_pictures(
    tiny: Recipe, class_folders: Path, tmp_path: Path, bad: str
) -> None:
    run = build(replace(tiny, data=replace(tiny.data, source=str(class_folders))), tmp_path, CPU)
    spoilt(run, {2}, BAD[bad])
    run.model.train()
    for batch in run.train_loader.epoch(0):
        before = everything(run)
        loss, norm = train_step(run, batch, [len(batch.labels)])
        unchanged = [torch.equal(old, new) for old, new in zip(before, everything(run), strict=False)]
        if run.step == 2:
            assert all(unchanged)
            assert not math.isfinite(loss) or not math.isfinite(norm)
            names = [run.parts.train.name(int(index)) for index in batch.indices]
        elif run.step > 2:
            assert not all(unchanged)
        run.step += 1
    (record,) = [record for record in run.records.history if record["kind"] == "not_applied"]
    assert (record["epoch"], record["step"]) == (1, 2)
    assert record["files"] == names
    log = (tmp_path / "log.txt").read_text()
    assert "Step 2 had a" in log
    assert ", ".join(names[:3]) in log
    assert run.epoch_steps == run.step - 1
    assert math.isfinite(run.epoch_loss)


def test_the_rest_of_a_run_is_that_of_one_without_the_step(tiny: Recipe, tmp_path: Path) -> None:
    """With a rate of zero in that step the other run takes it without going anywhere; momentum is off."""
    plain = replace(tiny, average_decay=0.0, optim=Sgd(lr=0.05, momentum=0.0, weight_decay=0.0))
    left_out, not_taken = (build(plain, tmp_path / name, CPU) for name in ("left_out", "not_taken"))
    spoilt(left_out, {3}, BAD["nan"])
    schedule = not_taken.schedule
    not_taken.schedule = lambda at, errors: 0.0 if not_taken.step == 3 else schedule(at, errors)
    for run in (left_out, not_taken):
        train_epoch(run)
    for one, other in zip(left_out.model.parameters(), not_taken.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_three_in_a_row_end_the_run_with_its_last_checkpoint(tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, save_every_steps=1), tmp_path, CPU)
    spoilt(run, {1, 2, 4, 7, 8, 9}, BAD["nan"])  # two in a row, one, and then three, of which no more is made
    with pytest.raises(DivergedError, match="not finite 3 times in a row, up to step 9") as caught:
        fit(run)
    assert caught.value.exit_code == 6
    again = build(tiny, tmp_path, CPU)
    checkpoint.restore(again, checkpoint.read(tmp_path)[0])
    assert again.step == 9  # it was left after the second of the three
    assert again.not_applied == 2
    assert all(torch.equal(a, b) for a, b in zip(everything(run), everything(again), strict=True))
    assert all(tensor.isfinite().all() for tensor in everything(again))


def test_the_count_survives_a_restart(tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, save_every_steps=1), tmp_path, CPU)
    spoilt(run, {2, 3}, BAD["nan"])
    run.stop.signal = 0
    for batch in run.train_loader.epoch(0):
        train_step(run, batch, [len(batch.labels)])
        run.step += 1
        if run.step == 4:
            break
    run.save({}, best=False)
    again = build(tiny, tmp_path, CPU)
    checkpoint.restore(again, checkpoint.read(tmp_path)[0])
    spoilt(again, {4}, BAD["nan"])
    with pytest.raises(DivergedError):
        train_epoch(again)


def out_of_memory(run: Run, at: list[tuple[int, int]]) -> None:
    """Lets memory run out at some (step, number of parts)."""
    forward = run.forward

    def full(images: Tensor) -> Tensor:
        if (run.step, run.parts_of_a_batch) in at:
            forward(images)  # the norms have seen it already
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(images)

    run.forward = full


def test_out_of_memory_splits_batches_once(tiny: Recipe, tmp_path: Path) -> None:
    whole, split = replace(tiny, accumulate=1), replace(tiny, accumulate=2)
    run, twin = build(whole, tmp_path / "run", CPU), build(split, tmp_path / "twin", CPU)
    out_of_memory(run, [(0, 1)])
    fit(run)
    fit(twin)
    assert run.parts_of_a_batch == 2
    assert all(torch.equal(one, other) for one, other in zip(everything(run), everything(twin), strict=True))
    assert (
        "Out of memory at step 0: batches go through in 2 parts from here on." in (run.folder / "log.txt").read_text()
    )


def test_a_second_time_it_is_an_error(tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, accumulate=1), tmp_path, CPU)
    out_of_memory(run, [(0, 1), (2, 2)])
    with pytest.raises(ResourceError, match="Out of memory on cpu at step 2, with 4 pictures at once") as caught:
        fit(run)
    assert caught.value.exit_code == 5
    assert "accumulate=4" in caught.value.hint


def test_a_resumed_run_keeps_the_parts_that_memory_needed(tiny: Recipe, tmp_path: Path) -> None:
    run = build(replace(tiny, accumulate=1, epochs=1), tmp_path, CPU)
    out_of_memory(run, [(0, 1)])
    fit(run)
    again = build(replace(tiny, accumulate=1), tmp_path, CPU)
    checkpoint.restore(again, checkpoint.read(tmp_path)[0])
    assert again.parts_of_a_batch == 2
    assert again.batch_was_split


def test_checkpoints_within_an_epoch_by_steps(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda run, *_, **__: saved.append(run.step))
    train_epoch(build(replace(tiny, save_every_steps=2), tmp_path, CPU))
    assert saved == [2, 4, 6]


def test_checkpoints_within_an_epoch_by_time(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(checkpoint, "save", lambda run, *_, **__: saved.append(run.step))
    run = build(replace(tiny, save_every_minutes=10.0), tmp_path, CPU)
    clock = [1000.0]
    monkeypatch.setattr("residuum.training.run.time.monotonic", lambda: clock[0])
    run.start_clock()
    step = run.report

    def four_minutes(*arguments: float) -> None:
        clock[0] += 240
        step(*arguments)

    run.report = four_minutes  # type: ignore[method-assign]
    run.recipe = replace(run.recipe, log_every_steps=1)
    train_epoch(run)
    assert saved == [3, 6]


def test_saving_within_an_epoch_changes_nothing(tiny: Recipe, tmp_path: Path) -> None:
    often, never = (replace(tiny, save_every_steps=steps, save_every_minutes=0.0) for steps in (1, 0))
    runs = [build(wanted, tmp_path / str(at), CPU) for at, wanted in enumerate((often, never))]
    for run in runs:
        fit(run)
    assert all(torch.equal(one, other) for one, other in zip(everything(runs[0]), everything(runs[1]), strict=True))


def test_a_signal_while_pictures_are_opened_leaves_a_run_that_begins_when_resumed(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    whole = train(tiny, out=tmp_path / "whole", device="cpu")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped, match="everything is saved") as caught:
        patch.setattr(building, "open_parts", lambda _: os.kill(os.getpid(), signal.SIGUSR1))
        train(tiny, out=tmp_path / "run", device="cpu")
    assert caught.value.exit_code == 75
    assert f"--resume {tmp_path / 'run'}" in caught.value.hint
    run = train(resume=tmp_path / "run", device="cpu")
    assert all(torch.equal(one, other) for one, other in zip(everything(run), everything(whole), strict=True))
    assert "It was stopped before its first checkpoint, and begins anew." in (run.folder / "log.txt").read_text()


def test_a_signal_while_the_report_is_written_loses_nothing(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, run = tmp_path / "recipe.toml", tmp_path / "run"
    file.write_text(to_toml(tiny), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("residuum.training.summary.write_summary", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert main(["train", "-q", "--recipe", str(file), "--out", str(run), "--device", "cpu"]) == 130
    assert f"residuum train --resume {run}" in capsys.readouterr().err
    assert not (run / "report.html").exists()
    assert main(["train", "-q", "--resume", str(run), "--device", "cpu"]) == 0
    assert (run / "report.html").exists()


def test_a_batch_size_of_auto_keeps_the_batch(tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    needed = memory._BACKWARD * memory._kept_bytes(build(tiny, tmp_path / "probe", CPU), 4) / 4
    for share, parts in ((9.0, 1), (4.5, 2), (2.1, 4)):  # of 8 pictures
        monkeypatch.setattr(memory, "available_bytes", lambda share=share: share * needed / memory.CPU_SHARE)
        run = train(replace(tiny, epochs=1), out=tmp_path / str(parts), batch_size="auto", device="cpu")
        assert run.recipe.data.batch_size == tiny.data.batch_size
        assert run.recipe.accumulate == run.parts_of_a_batch == parts
        assert recipe.read(run.folder / "recipe.toml").accumulate == parts
        assert "pictures go through the network" in (run.folder / "log.txt").read_text()
    monkeypatch.setattr(memory, "available_bytes", lambda: needed)
    with pytest.raises(ResourceError, match="two pictures of 8 pixels do not go through"):
        train(tiny, out=tmp_path / "none", batch_size="auto", device="cpu")
    assert not (tmp_path / "none").exists()


def test_what_is_counted_is_what_the_backward_pass_keeps(tiny: Recipe, tmp_path: Path) -> None:
    """It grows with the pictures, one by one, and looking does not change the network."""
    run = build(tiny, tmp_path, CPU)
    before = everything(run)
    few, many = (memory._kept_bytes(run, images) for images in (4, 8))
    assert 1.9 < many / few < 2.1
    widest = 4 * 4 * 8 * 8 * 4  # one map of the first stage: 4 channels of 8 x 8 float32 of 4 pictures
    assert few > 7 * widest
    assert all(torch.equal(old, new) for old, new in zip(before, everything(run), strict=True))
