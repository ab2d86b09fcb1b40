"""Where the time of a training step goes, in words: `profile(run, steps)`.

torch's profiler watches the loop itself (`train_epoch`). Each moment of the thread that trains belongs to the innermost
operation that it is in, and an operation to a group by its name; what belongs to none is Python between operations. So
the groups add up to the step. On a GPU they are the times of the GPU's own kernels, and what is left is the time in
which it waits for the host.

Departures: a convolution's two gradients are one operation of torch's on CPUs. They are told apart in the proportion
    that the same convolutions have when each gradient is computed by itself.
"""

from __future__ import annotations

import functools
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch.autograd.profiler import record_function
from torch.profiler import ProfilerActivity

from residuum.data.observed import Excerpt, observed
from residuum.models import winograd
from residuum.models.gradients import input_share
from residuum.training.loop import train_epoch
from residuum.training.run import Run

WAITING, LOADING, AUGMENTATION = "waiting for pictures", "loading", "augmentation"
FORWARD = "convolutions, forward"
TO_INPUTS, TO_WEIGHTS = "convolutions, backward to their data", "convolutions, backward to their weights"
NORMS, NORMS_BACKWARD = "norms, forward", "norms, backward"
ADDITIONS = "additions and activations"
POOLING, PRODUCTS, LOSS = "pooling", "matrix products", "loss"
FORMATS = "changes of number format"
COMPILED = "compiled code"
OPTIMIZER = "optimizer and clipping"
KEPT = "statistics kept, averaged weights"
OTHER = "other operations"
PYTHON, IDLE = "Python in between", "the GPU waits"

GROUPS = (
    WAITING, LOADING, AUGMENTATION, FORWARD, TO_INPUTS, TO_WEIGHTS, NORMS, NORMS_BACKWARD, ADDITIONS, POOLING, PRODUCTS,
    LOSS, FORMATS, COMPILED, OPTIMIZER, KEPT, OTHER, PYTHON, IDLE,
)  # fmt: skip
"""The groups, in the order of a step."""

FUSED = "with the addition and the activation that come after"
"""What is also in the norms where the fused kernel computes them."""

_BACKWARD = "convolutions, backward"  # until its two parts are told apart
_RANGE, _WHOLE = "residuum: ", "residuum: epoch"
_NODE = "autograd::engine::evaluate_function: "

_BY_NAME = {
    FORWARD: "conv2d convolution _convolution mkldnn_convolution cudnn_convolution mkldnn::_convolution_pointwise Conv",
    _BACKWARD: "ConvolutionBackward0 convolution_backward",
    NORMS: "batch_norm native_batch_norm _batch_norm_impl_index cudnn_batch_norm group_norm native_group_norm "
    "layer_norm native_layer_norm NormActivation NormActivationConv Expanded",
    NORMS_BACKWARD: "NativeBatchNormBackward0 CudnnBatchNormBackward0 NativeGroupNormBackward0 "
    "NativeLayerNormBackward0 NormActivationBackward NormActivationConvBackward ExpandedBackward "
    "native_batch_norm_backward cudnn_batch_norm_backward",
    ADDITIONS: "add add_ relu relu_ gelu threshold_backward AddBackward0 ReluBackward0 GeluBackward0",
    POOLING: "max_pool2d avg_pool2d adaptive_avg_pool2d mean _MaxPool _MaxPoolBackward MaxPool2DWithIndicesBackward0 "
    "AvgPool2DBackward0 AdaptiveAvgPool2DBackward0 MeanBackward1",
    PRODUCTS: "linear addmm mm matmul AddmmBackward0 MmBackward0 TBackward0",
    LOSS: "NllLossBackward0 LogSoftmaxBackward0 BinaryCrossEntropyWithLogitsBackward0",
    FORMATS: "to _to_copy ToCopyBackward0",
    COMPILED: "CompiledFunction CompiledFunctionBackward",
    OPTIMIZER: "_foreach_norm linalg_vector_norm _foreach_mul_ stack",
    KEPT: "_foreach_copy_ _foreach_lerp_",
    TO_INPUTS: "ConvBackward",
    LOADING: "loading",
    AUGMENTATION: "augmentation",
}
_GROUP_OF = {name: group for group, names in _BY_NAME.items() for name in names.split()} | {
    "the loss": LOSS,
    "convolution's gradient of data": TO_INPUTS,
    "convolution's gradient of weights": TO_WEIGHTS,
}
_WITH_OTHERS = (
    "NormActivationConv", "NormActivationConvBackward", "Expanded", "ExpandedBackward", "ConvBackward",
)  # fmt: skip
_FUSED = ("NormActivation", "NormActivationConv", "Expanded")
_WITH_CASTS = (FORWARD, PRODUCTS)  # of which autocast's changes of format are told apart

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class StepProfile:
    """Milliseconds of a step by group, largest first; `step_ms` is their sum, `without_profiler_ms` the time of a step
    that nobody watches. `fused` is whether norms include what comes after them."""

    steps: int
    step_ms: float
    without_profiler_ms: float
    groups: dict[str, float]
    fused: bool

    def as_dict(self) -> dict[str, object]:
        """The profile in JSON's types; shares in percent."""
        rows = [
            {"what": name, "ms": round(ms, 4), "percent": round(100 * ms / self.step_ms, 2)}
            for name, ms in self.groups.items()
        ]
        return {
            "steps": self.steps,
            "step_ms": round(self.step_ms, 4),
            "without_profiler_ms": round(self.without_profiler_ms, 4),
            "norms_include": FUSED if self.fused else "",
            "groups": rows,
        }


def profile(run: Run, steps: int) -> StepProfile:
    """Trains `run` for three times `steps` steps, the last of them watched, and says where their time went.

    Its epoch moves on, and nothing is saved.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would write its own lines on standard error
    waited = _Waiting(run.device)
    loader = run.train_loader
    run.train_loader = Excerpt(loader, steps)
    run.epoch += 1
    train_epoch(run)
    run.epoch += 1
    started = time.perf_counter()
    train_epoch(run)
    plain_ms = 1000 * (time.perf_counter() - started) / len(run.train_loader)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])]
    run.epoch += 1
    with _named_parts(run), torch.profiler.profile(activities=kinds) as seen:
        run.train_loader = Excerpt(observed(loader, waited.within), 1)
        train_epoch(run)  # the profiler's own first step
        run.epoch += 1
        run.train_loader = Excerpt(observed(loader, waited.within), steps)
        waited.seconds = 0.0
        with record_function(_WHOLE):
            train_epoch(run)
    done = len(run.train_loader)
    run.train_loader = loader
    sums, fused = added_up(seen.events(), on_gpu=run.device.type == "cuda")
    sums = _told_apart(sums, 1e6 * waited.seconds, functools.partial(_input_share, run, apart=TO_WEIGHTS in sums))
    groups = {name: sums[name] / 1000 / done for name in GROUPS if name in sums}
    ordered = dict(sorted(groups.items(), key=lambda item: -item[1]))
    return StepProfile(done, sum(ordered.values()), plain_ms, ordered, fused)


def added_up(events: Iterable[Any], *, on_gpu: bool = False) -> tuple[dict[str, float], bool]:
    """Returns the microseconds of each group within the watched epoch, and whether a fused norm was among its
    operations, from a profiler's `events`."""
    every = list(events)
    whole = [event for event in every if event.name == _WHOLE and str(event.device_type) == "DeviceType.CPU"]
    sums: dict[str, float] = defaultdict(float)
    if not on_gpu:
        for root in whole:
            _add(root, PYTHON, False, sums, "self_cpu_time_total")
    else:  # its backward pass is another thread's
        start, end = whole[0].time_range.start, whole[0].time_range.end
        for event in every:
            is_root = event.cpu_parent is None and str(event.device_type) == "DeviceType.CPU"
            if is_root and start <= event.time_range.start <= end:
                _add(event, PYTHON, False, sums, "self_device_time_total")
        sums[OTHER] += sums.pop(PYTHON, 0.0)
        sums[IDLE] = max(0.0, end - start - sum(sums.values()))
    return dict(sums), any(event.name in _FUSED for event in every)


def _add(event: Any, outer: str, closed: bool, sums: dict[str, float], key: str) -> None:
    """Adds the time of an operation, and of those inside of it, to their groups."""
    group, closed = _group(event.name, outer, closed)
    sums[group] += getattr(event, key)
    for child in event.cpu_children:
        _add(child, group, closed, sums, key)


def _group(name: str, outer: str, closed: bool) -> tuple[str, bool]:
    """Returns the group of an operation within one of the group `outer`, and whether all that is inside belongs to
    it too, changes of format within a convolution excepted."""
    short = name.removeprefix(_NODE).removeprefix("aten::").removeprefix(_RANGE)
    own = _GROUP_OF.get(short)
    if closed:
        return (FORMATS, True) if own == FORMATS and outer in _WITH_CASTS else (outer, True)
    if name.startswith("Optimizer."):
        return OPTIMIZER, True
    if name.startswith("Torch-Compiled"):
        return COMPILED, False
    if name.startswith(_NODE):  # in which gradients of several branches are also added
        return own or OTHER, False
    if own == COMPILED or short in _WITH_OTHERS:  # with the operations of libraries inside
        return own or OTHER, False
    if own is not None:
        return own, True
    return (OTHER, False) if name.startswith("aten::") and outer in (PYTHON, OTHER) else (outer, False)


def _told_apart(sums: dict[str, float], waited_us: float, share: Callable[[], float]) -> dict[str, float]:
    """Returns the sums with loading split into work and waiting, and convolutions' gradients into their two parts."""
    found = dict(sums)
    backward = found.pop(_BACKWARD, 0.0)
    if backward:
        to_inputs = share()
        found[TO_INPUTS] = found.get(TO_INPUTS, 0.0) + backward * to_inputs
        found[TO_WEIGHTS] = found.get(TO_WEIGHTS, 0.0) + backward * (1 - to_inputs)
    waiting = min(waited_us, found.get(LOADING, 0.0))
    found[WAITING], found[LOADING] = waiting, found.get(LOADING, 0.0) - waiting
    return found


def _input_share(run: Run, *, apart: bool) -> float:
    """Returns the part of convolutions' gradients that is their data's; with `apart`, of those that torch computes."""
    data = run.recipe.data
    side = (run.preprocessing.channels, data.img_size, data.img_size)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[run.precision]
    images = max(1, data.batch_size // run.parts_of_a_batch)
    without = winograd.knows if apart else None
    return input_share(
        run.model, (images, *side), run.device, dtype, channels_last=run.recipe.channels_last, without=without
    )


class _Waiting:
    """The seconds in which the thread that trains waited for pictures: those of loading in which it did not compute."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._on_gpu = device.type == "cuda"

    @contextmanager
    def within(self, name: str) -> Iterator[None]:
        with record_function(_RANGE + name):
            began, busy = time.perf_counter(), time.thread_time()
            yield
            if name == LOADING and not self._on_gpu:
                self.seconds += max(0.0, (time.perf_counter() - began) - (time.thread_time() - busy))


@contextmanager
def _named_parts(run: Run) -> Iterator[None]:
    """Gives what a run computes beside its network the names of their groups, for the time of the context."""
    kept = run.resize, run.mix, run.criterion
    run.resize, run.mix = _named(AUGMENTATION, run.resize), _named(AUGMENTATION, run.mix)
    run.criterion = _named("the loss", run.criterion)
    try:
        yield
    finally:
        run.resize, run.mix, run.criterion = kept


def _named(name: str, function: F) -> F:
    @functools.wraps(function)
    def named(*arguments: Any) -> Any:
        with record_function(_RANGE + name):
            return function(*arguments)

    return cast(F, named)
