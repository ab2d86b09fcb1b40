"""Captured steps: the same updates as the loop's own, the same records, stopped and resumed; what they refuse.

On a CPU a captured step is called instead of replayed: the step itself, its rehearsal and all around it are what a GPU
runs. The tests marked `gpu` replay.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from residuum.errors import DivergedError, RecipeError, Stopped
from residuum.recipe import AdamW, Augment, Cosine, Data, Model, Muon, OneCycle, PadCrop, Recipe, Sgd, Steps, Transfer
from residuum.training import captured, optim
from residuum.training import train as training
from residuum.training.build import build
from residuum.training.loop import fit
from residuum.training.run import Run
from residuum.training.train import train

CPU = torch.device("cpu")
SMALL = Recipe(
    name="small",
    epochs=2,
    precision="fp32",
    label_smoothing=0.1,
    log_every_steps=2,
    model=Model("resnet20_cifar", width=0.25),
    data=Data("synthetic:60x3x8", img_size=8, resize_px=8, batch_size=8, val_fraction=0.2),
    augment=Augment(crop=PadCrop(px=1), flip="random"),
    optim=Sgd(lr=0.05, weight_decay=5e-4),
    schedule=Steps(at_epochs=(0.5, 1)),
)
"""48 training pictures, so that an epoch has six steps."""

SWIFT = replace(SMALL, model=Model("swift_resnet10_cifar", width=0.0625))

RECIPES = {
    "as in 2015": replace(SMALL, optim=Sgd(lr=0.05, decay_all=True)),
    "AdamW, average": replace(SMALL, optim=AdamW(lr=1e-3), schedule=Cosine(warmup_epochs=1), average_decay=0.9),
    "Muon, growing pictures": replace(
        SMALL, optim=Muon(), augment=Augment(crop=PadCrop(px=1), flip="alternate", start_px=4, grow_until=0.3)
    ),
    "Nesterov, clipped, an odd last batch, erased": replace(
        SMALL,
        optim=Sgd(lr=0.05, nesterov=True, clip_norm=0.5),
        schedule=OneCycle(),
        data=replace(SMALL.data, source="synthetic:58x3x8", batch_size=10),
        augment=replace(SMALL.augment, erasing=0.5),
    ),
    "fewer steps than rehearsals": replace(SMALL, data=replace(SMALL.data, batch_size=24), loss="bce"),
    "a whitened stem": replace(SWIFT, optim=Muon(weight_decay=1.0, bias_factor=20.0)),
    "weights of fixed length": replace(
        SWIFT,
        optim=Muon(weight_decay=0.0, fixed_length=True, bias_factor=20.0, bias_weight_decay=1e-3),
        augment=Augment(crop=PadCrop(px=1, fill="reflect"), flip="alternate"),
    ),
}


def fitted(wanted: Recipe, folder: Path, device: torch.device = CPU) -> Run:
    run = build(wanted, folder, device)
    fit(run)
    return run


def distance(left: Run, right: Run) -> float:
    """The largest difference of any weight or statistic, as a part of the largest of that tensor."""
    theirs = right.averaged.model.state_dict()
    return max(
        float((mine - theirs[name]).abs().max() / theirs[name].abs().max().clamp(min=1e-3))
        for name, mine in left.averaged.model.state_dict().items()
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_whole_run_is_that_of_the_loop(name: str, tmp_path: Path) -> None:
    """Rates are float32 on the device and Python's floats in the loop, which is all that differs; Muon's iteration
    makes what is small in a gradient, rounding too, up to 500 times as large."""
    plain = fitted(RECIPES[name], tmp_path / "plain")
    replayed = fitted(replace(RECIPES[name], capture=True), tmp_path / "captured")
    rough = isinstance(RECIPES[name].optim, Muon)
    assert distance(replayed, plain) < (2e-2 if rough else 2e-5)
    assert (replayed.step, replayed.epoch, replayed.best_epoch) == (plain.step, plain.epoch, plain.best_epoch)
    mine, theirs = replayed.records.history, plain.records.history
    assert [record["kind"] for record in mine] == [record["kind"] for record in theirs]
    for left, right in zip(mine, theirs, strict=True):
        keys = {"step", "epoch", "loss", "lr", "val_top1"} & right.keys()
        expected = pytest.approx([right[key] for key in keys], rel=1e-2 if rough else 1e-4, abs=1e-6)
        assert [left[key] for key in keys] == expected


@pytest.mark.parametrize("name", ["as in 2015", "a whitened stem"])
def test_one_step_from_the_same_batch_is_the_same_update(name: str, tmp_path: Path) -> None:
    """To 1e-6 in float32."""
    wanted = replace(RECIPES[name], epochs=1, data=replace(RECIPES[name].data, batch_size=48))
    plain, replayed = build(wanted, tmp_path / "a", CPU), build(replace(wanted, capture=True), tmp_path / "b", CPU)
    assert len(plain.train_loader) == 1
    before = {name: parameter.detach().clone() for name, parameter in plain.model.named_parameters()}
    fit(plain)
    fit(replayed)
    for (key, old), left, right in zip(
        before.items(), plain.model.parameters(), replayed.model.parameters(), strict=True
    ):
        # Between norms, a convolution that still is the identity passes scales on that the second norm takes back.
        assert (wanted.model == SWIFT.model and key.endswith("branch.norm1.weight")) or not torch.equal(old, left)
        assert float((left - right).detach().abs().max()) <= 1e-6 * max(1.0, float(left.detach().abs().max()))


def test_a_rehearsal_leaves_nothing_behind(tmp_path: Path) -> None:
    run = build(replace(SMALL, capture=True, optim=AdamW()), tmp_path, CPU)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    captured.Epochs(run)
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())
    state = [value for each in run.optimizer.state.values() for value in each.values()]
    assert state
    assert not any(value.any() for value in state)  # as if it had never taken a step


def test_a_step_is_recorded_for_each_kind_of_batch(tmp_path: Path) -> None:
    wanted = replace(
        SMALL,
        capture=True,
        data=replace(SMALL.data, source="synthetic:58x3x8", batch_size=10),
        augment=Augment(start_px=4, grow_until=0.5),
    )
    epochs = captured.Epochs(build(wanted, tmp_path, CPU))
    assert {count for count, _ in epochs._steps_of} == {10, 6}
    assert {side for _, side in epochs._steps_of} == {4, 8}


def test_a_rate_that_only_the_device_knows(tmp_path: Path) -> None:
    """Every optimizer takes a tensor as its rate, and moves as with the number."""
    for number, wanted in enumerate((Sgd(lr=0.1), Sgd(lr=0.1, nesterov=True), AdamW(), Muon(bias_factor=3.0))):
        runs = [build(replace(SMALL, optim=wanted), tmp_path / f"{number}{which}", CPU) for which in "ab"]
        for run, rate in zip(runs, (0.03, torch.tensor(0.03)), strict=True):
            torch.manual_seed(1)
            for parameter in run.model.parameters():
                parameter.grad = torch.randn_like(parameter)
            for _ in range(2):
                optim.set_lr(run.optimizer, rate)
                run.optimizer.step()
        assert distance(*runs) < 1e-6


class _StopAt:
    """Asks a run to stop after some of its steps, as a signal would."""

    def __init__(self, run: Run, step: int) -> None:
        self._run, self._step, self._update = run, step, run.averaged.update

    def __call__(self, model: torch.nn.Module) -> None:
        self._update(model)
        if self._run.step + 1 == self._step:
            self._run.stop.signal = signal.SIGTERM


def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "finish", lambda _: None)
    wanted = replace(RECIPES["AdamW, average"], capture=True)
    undisturbed = fitted(wanted, tmp_path / "undisturbed")
    (tmp_path / "stopped").mkdir()
    beginning = training.start(wanted, tmp_path / "stopped", CPU, None, training.Stop())
    monkeypatch.setattr(beginning.averaged, "update", _StopAt(beginning, 8))
    with pytest.raises(Stopped):
        fit(beginning)
    assert (beginning.step, beginning.epoch) == (8, 1)
    resumed = train(resume=tmp_path / "stopped", device="cpu")
    assert resumed.step == undisturbed.step
    for name, value in undisturbed.averaged.model.state_dict().items():
        assert torch.equal(value, resumed.averaged.model.state_dict()[name]), name
    losses = [[r["loss"] for r in run.records.history] for run in (undisturbed, resumed)]
    assert losses[0] == losses[1]


def test_a_run_that_diverges_ends(tmp_path: Path) -> None:
    wanted = replace(SMALL, capture=True, optim=Sgd(lr=1e30), data=replace(SMALL.data, val_fraction=0.0))
    with pytest.raises(DivergedError, match="capture=false"):
        fitted(wanted, tmp_path)


REFUSED: dict[str, Callable[[Recipe], Recipe]] = {
    "augment.rotate": lambda r: replace(r, augment=replace(r.augment, rotate=5.0)),
    "augment.mixup": lambda r: replace(r, augment=replace(r.augment, mixup=0.2)),
    "drop-path": lambda r: replace(r, model=replace(r.model, drop_path=0.1)),
    "accumulate = 2": lambda r: replace(r, accumulate=2),
    "transfer": lambda r: replace(r, transfer=Transfer(layer_decay=0.9)),
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_it_cannot_do_is_refused_by_name(word: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=word) as caught:
        fitted(REFUSED[word](replace(SMALL, capture=True)), tmp_path)
    assert "--set capture=false" in str(caught.value)


def test_files_are_refused(class_folders: Path, tmp_path: Path) -> None:
    wanted = replace(SMALL, capture=True, data=replace(SMALL.data, source=str(class_folders)))
    with pytest.raises(RecipeError, match="not in memory"):
        fitted(wanted, tmp_path)


def test_a_step_is_rehearsed_then_repeated() -> None:
    calls: list[int] = []
    step = captured.recorded(lambda: calls.append(1), CPU)
    assert len(calls) == captured.REHEARSALS
    step()
    assert len(calls) == captured.REHEARSALS + 1


def test_a_graph_is_recorded_on_the_stream_of_its_rehearsals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which torch's documentation wants it, with stand-ins for the device."""
    said: list[str] = []

    class Stream:
        def __init__(self, _: object, name: str = "side") -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            said.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self) -> None:
            said.append("replay")

    @contextlib.contextmanager
    def stream(which: Stream) -> Iterator[None]:
        said.append(f"on {which.name}")
        yield
        said.append("off")

    @contextlib.contextmanager
    def graph(of: Graph, stream: Stream) -> Iterator[None]:
        said.append(f"records on {stream.name}")
        assert isinstance(of, Graph)
        yield
        said.append("recorded")

    for name, stand_in in {
        "Stream": Stream, "CUDAGraph": Graph, "stream": stream, "graph": graph,
        "current_stream": lambda _: Stream(None, "main"),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, stand_in)
    replay = captured.recorded(lambda: said.append("step"), torch.device("cuda"))
    rehearsed = ["step"] * captured.REHEARSALS
    assert said[:-3] == ["side waits for main", "on side", *rehearsed, "off", "main waits for side"]
    assert said[-3:] == ["records on side", "step", "recorded"]
    replay()
    assert said[-1] == "replay"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("name", RECIPES)
def test_a_replayed_run_is_that_of_the_loop(name: str, tmp_path: Path) -> None:
    device = torch.device("cuda:0")
    plain = fitted(RECIPES[name], tmp_path / "plain", device)
    replayed = fitted(replace(RECIPES[name], capture=True), tmp_path / "captured", device)
    assert distance(replayed, plain) < 1e-3
    losses = [[float(str(r["loss"])) for r in run.records.epochs()] for run in (plain, replayed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert all(math.isfinite(loss) for loss in losses[1])
