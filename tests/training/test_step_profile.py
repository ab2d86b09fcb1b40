"""Where a step's time goes: the parts add up to the step, and each operation is in its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from residuum.models import functions
from residuum.recipe import Recipe
from residuum.training import step_profile as parts
from residuum.training.build import build
from residuum.training.step_profile import StepProfile, added_up, profile


@dataclass
class Event:
    """What is read of one of the profiler's events. Times are in microseconds."""

    name: str
    self_cpu_time_total: float = 0.0
    cpu_children: Sequence[Event] = ()
    self_device_time_total: float = 0.0
    cpu_parent: Event | None = None
    device_type: str = "DeviceType.CPU"
    time_range: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(start=1.0, end=2.0))


def epoch(*children: Event, own: float = 0.0) -> Event:
    return Event("residuum: epoch", own, children)


NODE = "autograd::engine::evaluate_function: "


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (Event("aten::conv2d", 1, [Event("aten::convolution", 2, [Event("aten::add_", 4)])]), {parts.FORWARD: 7}),
        (Event("aten::conv2d", 1, [Event("aten::to", 2, [Event("aten::copy_", 4)])]),
         {parts.FORWARD: 1, parts.FORMATS: 6}),
        (Event("aten::batch_norm", 1, [Event("aten::to", 2)]), {parts.NORMS: 3}),
        (Event("NormActivation", 5), {parts.NORMS: 5}),
        (Event(f"{NODE}NormActivationBackward", 1, [Event("NormActivationBackward", 2, [Event("aten::empty", 4)])]),
         {parts.NORMS_BACKWARD: 7}),
        (Event("NormActivationConv", 1, [Event("aten::to", 2), Event("aten::conv2d", 4)]),
         {parts.NORMS: 1, parts.FORMATS: 2, parts.FORWARD: 4}),
        (Event(f"{NODE}NormActivationConvBackward", 1,
               [Event("NormActivationConvBackward", 2, [Event("aten::convolution_backward", 4)])]),
         {parts.NORMS_BACKWARD: 3, parts._BACKWARD: 4}),
        (Event(f"{NODE}NormActivationConvBackward", 1, [Event("NormActivationConvBackward", 2, [
            Event("residuum: convolution's gradient of data", 4, [Event("residuum: convolution", 8)]),
            Event("residuum: convolution's gradient of weights", 16)])]),
         {parts.NORMS_BACKWARD: 3, parts.TO_INPUTS: 12, parts.TO_WEIGHTS: 16}),
        (Event(f"{NODE}ExpandedBackward", 1, [Event("ExpandedBackward", 2, [
            Event("aten::conv2d", 4), Event("aten::convolution_backward", 8)])]),  # the first is computed again
         {parts.NORMS_BACKWARD: 3, parts.FORWARD: 4, parts._BACKWARD: 8}),
        (Event("Conv", 1, [Event("residuum: convolution", 2)]), {parts.FORWARD: 3}),
        (Event("_MaxPool", 1, [Event("aten::empty", 2)]), {parts.POOLING: 3}),
        (Event(f"{NODE}AddBackward0", 1, [Event("AddBackward0", 2)]), {parts.ADDITIONS: 3}),
        (Event(f"{NODE}NativeBatchNormBackward0", 1, [Event("aten::add", 2)]),  # gradients of two branches
         {parts.NORMS_BACKWARD: 1, parts.ADDITIONS: 2}),
        (Event(f"{NODE}torch::autograd::AccumulateGrad", 1, [Event("torch::autograd::AccumulateGrad", 2)]),
         {parts.OTHER: 3}),
        (Event("Optimizer.step#SGD.step", 1, [Event("aten::add_", 2), Event("aten::to", 4)]), {parts.OPTIMIZER: 7}),
        (Event("residuum: the loss", 1, [Event("aten::linear", 2)]), {parts.LOSS: 3}),
        (Event("residuum: augmentation", 1, [Event("aten::add", 2)]), {parts.AUGMENTATION: 3}),
        (Event("residuum: loading", 8), {parts.LOADING: 8}),
        (Event("Torch-Compiled Region: 0/0", 1, [Event("CompiledFunction", 2, [Event("aten::mkldnn_convolution", 4)])]),
         {parts.COMPILED: 3, parts.FORWARD: 4}),
        (Event("aten::outer", 1, [Event("aten::mul", 2)]), {parts.OTHER: 3}),
    ],
)  # fmt: skip
def test_an_operation_is_in_the_group_that_its_name_says(event: Event, expected: dict[str, float]) -> None:
    sums, _ = added_up([epoch(event, own=16)])
    assert {name: value for name, value in sums.items() if value} == {**expected, parts.PYTHON: 16}


def test_every_group_has_a_name_in_the_order_of_a_step() -> None:
    assert {*parts._GROUP_OF.values()} - {parts._BACKWARD} <= {*parts.GROUPS}
    assert len({*parts.GROUPS}) == len(parts.GROUPS)


def test_what_comes_before_the_epoch_does_not_count() -> None:
    sums, was_fused = added_up([Event("aten::conv2d", 100), epoch(own=3)])
    assert (sums, was_fused) == ({parts.PYTHON: 3}, False)


def test_on_a_gpu_it_is_the_kernels_time_and_the_rest_is_waiting() -> None:
    """The backward pass runs in another thread, so that its operations are under no epoch."""
    span = SimpleNamespace(start=100.0, end=200.0)
    inside, before = SimpleNamespace(start=150.0, end=160.0), SimpleNamespace(start=50.0, end=60.0)
    forward = Event("aten::conv2d", self_device_time_total=30)
    whole = Event("residuum: epoch", cpu_children=[forward], time_range=span)
    forward.cpu_parent = whole
    backward = Event(f"{NODE}ConvolutionBackward0", self_device_time_total=40, time_range=inside)
    old = Event("aten::conv2d", self_device_time_total=1000, time_range=before)
    kernel = Event("sm90_kernel", self_device_time_total=70, device_type="DeviceType.CUDA", time_range=inside)
    sums, _ = added_up([old, whole, forward, backward, kernel], on_gpu=True)
    assert {name: value for name, value in sums.items() if value} == {
        parts.FORWARD: 30, parts._BACKWARD: 40, parts.IDLE: 30,
    }  # fmt: skip


def test_the_two_gradients_and_waiting_are_told_apart_without_losing_time() -> None:
    told = parts._told_apart({parts._BACKWARD: 100.0, parts.LOADING: 10.0, parts.NORMS: 5.0}, 7.0, lambda: 0.4)
    assert told == {
        parts.TO_INPUTS: 40.0, parts.TO_WEIGHTS: 60.0, parts.WAITING: 7.0, parts.LOADING: 3.0, parts.NORMS: 5.0,
    }  # fmt: skip
    own = {parts._BACKWARD: 100.0, parts.TO_INPUTS: 3.0, parts.TO_WEIGHTS: 5.0}
    told = parts._told_apart(own, 0.0, lambda: 0.4)
    assert told == {parts.TO_INPUTS: 43.0, parts.TO_WEIGHTS: 65.0, parts.WAITING: 0.0, parts.LOADING: 0.0}
    assert parts._told_apart({parts.LOADING: 10.0}, 99.0, lambda: 0.4) == {parts.LOADING: 0.0, parts.WAITING: 10.0}


@pytest.fixture(scope="module")
def watched(tiny: Recipe, tmp_path_factory: pytest.TempPathFactory) -> StepProfile:
    run = build(replace(tiny, precision="auto"), tmp_path_factory.mktemp("run"), torch.device("cpu"))
    loader, mix = run.train_loader, run.mix
    found = profile(run, 3)
    assert (run.train_loader, run.mix) == (loader, mix)
    assert not any(run.folder.glob("last")), "nothing is saved"
    return found


def test_the_groups_of_a_real_step_add_up_to_it(watched: StepProfile) -> None:
    assert sum(watched.groups.values()) == pytest.approx(watched.step_ms)
    assert watched.steps == 3
    # The profiler's own clock goes around the same loop: it makes it slower, not faster, and not tenfold.
    assert 0.5 * watched.without_profiler_ms < watched.step_ms < 20 * watched.without_profiler_ms


def test_a_real_step_has_the_groups_that_it_must_have(watched: StepProfile) -> None:
    assert {*watched.groups} <= {*parts.GROUPS}
    assert {
        parts.LOADING, parts.AUGMENTATION, parts.FORWARD, parts.TO_INPUTS, parts.TO_WEIGHTS, parts.NORMS,
        parts.NORMS_BACKWARD, parts.ADDITIONS, parts.LOSS, parts.OPTIMIZER, parts.KEPT, parts.PYTHON,
    } <= {*watched.groups}  # fmt: skip
    assert list(watched.groups.values()) == sorted(watched.groups.values(), reverse=True)
    if functions.library() is None:
        assert not watched.fused


def test_little_of_a_real_step_has_no_name(watched: StepProfile) -> None:
    assert watched.groups.get(parts.OTHER, 0.0) < 0.35 * watched.step_ms


def test_a_profile_is_a_json_document_whose_shares_are_the_whole(watched: StepProfile) -> None:
    document = watched.as_dict()
    rows = document["groups"]
    assert isinstance(rows, list)
    assert sum(row["percent"] for row in rows) == pytest.approx(100, abs=0.2)
    assert sum(row["ms"] for row in rows) == pytest.approx(document["step_ms"], abs=0.01)


def test_decoding_threads_are_waited_for(tiny: Recipe, class_folders: Path, tmp_path: Path) -> None:
    """Pictures that take long to open are waiting, not loading: the thread that trains does nothing meanwhile."""
    import time

    data = replace(tiny.data, source=str(class_folders), workers=1)
    run = build(replace(tiny, data=data), tmp_path, torch.device("cpu"))
    feed = run.train_loader._feed
    original = feed._decode  # type: ignore[attr-defined]

    def slowly(*arguments: object) -> object:
        time.sleep(0.012)
        return original(*arguments)

    feed._decode = slowly  # type: ignore[attr-defined]
    found = profile(run, 2)
    assert found.groups[parts.WAITING] > found.groups[parts.LOADING] > 0
