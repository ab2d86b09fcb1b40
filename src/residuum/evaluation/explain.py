"""Why a network says what it says: how much each place of a picture speaks for a class.

Source: Selvaraju et al., arXiv:1610.02391, section 3 (Grad-CAM), which for a network that ends in pooling and one
    linear layer is the class activation map of Zhou et al., arXiv:1512.04150; Jiang et al., LayerCAM, IEEE Transactions
    on Image Processing 30 (2021), equations 6 to 8; Zeiler and Fergus, arXiv:1311.2901, section 4.2 (occlusion).
Departures: the covering square of an occlusion has a seventh of the picture's side and moves by half of its own.
Shapes: N pictures of C channels, S x S pixels; K classes; D channels of h x w places after a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from residuum.errors import DivergedError, UsageError
from residuum.evaluation import metrics
from residuum.evaluation.evaluate import evaluating
from residuum.models.embedding import stage_or_last
from residuum.models.layers import Network

Method = Literal["grad-cam", "layer-cam", "occlusion"]
Maps = NDArray[np.float32]
"""How much each pixel speaks for a class, from 0 on; float32 [N, S, S]."""
Probabilities = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""Logits -> probabilities, [N, K] both: `metrics.softmax`, or `multilabel.probabilities` where a picture may have
several classes."""

COVERED = 7
"""The side of the square that occlusion covers is the picture's, divided by this."""

_AT_A_TIME = 64  # covered pictures


class Answers(NamedTuple):
    """What the network says: `logits` [N, K], and for whom the `maps` speak: `classes` [N]."""

    logits: NDArray[np.float32]
    classes: NDArray[np.int64]
    maps: Maps


def explain(
    model: Network,
    images: Tensor,
    classes: Sequence[int] | None = None,
    *,
    method: Method = "grad-cam",
    stage: int | None = None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    probabilities: Probabilities = metrics.softmax,
) -> Answers:
    """Returns the maps of `images` [N, C, S, S], on the network's device, for `classes`, or for the predicted ones.

    A map is what speaks for the class, in the method's own unit, and 0 where nothing does. Grad-CAM weighs the
    channels after `stage` (1 is the first; None is the last) by the mean gradient of the class's logit; LayerCAM
    weighs every place by its own positive gradient, which keeps maps of early stages sharp. Both are as fine as the
    stage's map, and enlarged bilinearly. Occlusion covers one place after the other with the mean colour, and maps by
    how much the class's probability falls, as `probabilities` has it of logits; it knows no stages.

    Raises:
        UsageError: there is no such method or stage.
        DivergedError: the network answers with numbers that are not finite.
    """
    stage = stage_of(model, method, stage)
    with evaluating(model), _no_gradients_of(model):
        if stage is None:
            logits, chosen, maps = _occlusion(model, images, classes, autocast, probabilities)
        else:
            logits, chosen, maps = _activation(model, images, classes, method, stage, autocast)
    if not np.isfinite(logits).all() or not np.isfinite(maps).all():
        raise DivergedError(
            "The network's answer is not finite.",
            expected="Expected numbers.",
            hint="Use the weights of an earlier checkpoint, or compute in float32.",
        )
    return Answers(logits, chosen, maps)


def stage_of(model: Network, method: str, stage: int | None) -> int | None:
    """Returns the stage whose map is read, counted from 1; None for a method that reads none.

    Raises:
        UsageError: there is no such method or stage.
    """
    if method not in get_args(Method):
        raise UsageError(
            f"No method is called {method!r}.",
            expected=f"Expected one of {', '.join(get_args(Method))}.",
            hint="Leave it out for grad-cam.",
        )
    if method == "occlusion":
        if stage is not None:
            raise UsageError(
                f"Occlusion does not look at stage {stage}.",
                expected="Expected no stage: it covers the picture itself.",
                hint="Leave the stage out, or use grad-cam or layer-cam.",
            )
        return None
    return stage_or_last(model, stage)


def _activation(
    model: Network,
    images: Tensor,
    classes: Sequence[int] | None,
    method: Method,
    stage: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> tuple[NDArray[np.float32], NDArray[np.int64], Maps]:
    taken: list[Tensor] = []

    def take(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Begins the graph here, so that nothing is kept of what comes before."""
        taken.append(output.detach().requires_grad_())
        return taken[-1]

    handle = model.stages[stage - 1].register_forward_hook(take)
    try:
        with torch.enable_grad(), autocast():
            answered: Tensor = model(images)
    finally:
        handle.remove()
    logits = _numbers(answered)
    chosen = _chosen(logits, classes)
    [features] = taken
    with torch.enable_grad():
        score = answered.gather(1, torch.from_numpy(chosen)[:, None].to(answered.device)).sum()
    (gradient,) = torch.autograd.grad(score, features)
    gradient, features = gradient.float(), features.detach().float()
    weights = gradient.mean((2, 3), keepdim=True) if method == "grad-cam" else gradient.relu()
    coarse = (weights * features).sum(1, keepdim=True).relu()
    size = (images.shape[2], images.shape[3])
    maps = functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
    return logits, chosen, _numbers(maps[:, 0])


def _occlusion(
    model: Network,
    images: Tensor,
    classes: Sequence[int] | None,
    autocast: Callable[[], AbstractContextManager[Any]],
    probabilities: Probabilities,
) -> tuple[NDArray[np.float32], NDArray[np.int64], Maps]:
    def answer(pictures: Tensor) -> NDArray[np.float32]:
        with torch.no_grad(), autocast():
            return _numbers(model(pictures))

    logits = answer(images)
    chosen = _chosen(logits, classes)
    whole = probabilities(logits)
    height, width = images.shape[2], images.shape[3]
    places = [(rows, columns) for rows in _spans(height) for columns in _spans(width)]
    maps = np.zeros((len(images), height, width))
    covers = np.zeros((height, width))
    for rows, columns in places:
        covers[rows, columns] += 1
    for at, image in enumerate(images):
        for first in range(0, len(places), _AT_A_TIME):
            now = places[first : first + _AT_A_TIME]
            covered = image.repeat(len(now), 1, 1, 1)
            for row, (rows, columns) in enumerate(now):
                covered[row, :, rows, columns] = 0  # the mean colour, once it is normalised
            probs = probabilities(answer(covered.contiguous(memory_format=torch.channels_last)))
            for (rows, columns), prob in zip(now, probs[:, chosen[at]], strict=True):
                maps[at, rows, columns] += whole[at, chosen[at]] - prob
    return logits, chosen, (maps / covers).clip(0).astype(np.float32)


def _spans(side_px: int) -> list[slice]:
    """Returns the places of a square along one side: they overlap by half, and leave nothing out."""
    square_px = max(1, side_px // COVERED)
    starts = [*range(0, side_px - square_px, max(1, square_px // 2)), side_px - square_px]
    return [slice(start, start + square_px) for start in starts]


def _chosen(logits: NDArray[np.float32], classes: Sequence[int] | None) -> NDArray[np.int64]:
    return metrics.ranked(logits, 1)[:, 0] if classes is None else np.asarray(classes, dtype=np.int64)


def _numbers(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().float().cpu().numpy()


@contextmanager
def _no_gradients_of(model: nn.Module) -> Iterator[None]:
    """Spares the memory of the parameters' gradients, which nobody asks for."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
