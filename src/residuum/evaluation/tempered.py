"""Scores of networks with their temperatures and, in the same pass, without.

Shapes: N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from residuum.distributed import ALONE, World
from residuum.evaluation.evaluate import Batch, Predictions, Scores, predict_each, score
from residuum.evaluation.reliance import Reliance, reliance_of
from residuum.evaluation.views import Averaged


class Tempered(nn.Module):
    """A network whose logits are divided by its temperature: pictures -> float64 [N, K] in the processor's memory.

    In float64 no two logits that differ become equal, so that the order of the classes stays.
    """

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperatures = network, (temperature,)

    def forward(self, images: Tensor) -> Tensor:
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, ...]:
        """Returns the logits with the temperature and, where it is not 1, without."""
        (temperature,) = self.temperatures
        logits = self.network(images).float().cpu().double()
        return (logits,) if temperature == 1 else (logits / temperature, logits)


def evaluate_both(
    model: Tempered | Averaged,
    batches: Iterable[Batch],
    classes: Sequence[str],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    world: World = ALONE,
    *,
    unknown_below: float | None = None,
) -> tuple[Scores, Predictions, Reliance]:
    """Returns what `evaluate` returns, with the temperatures, and what these and a threshold do to the scores.

    Raises: what `evaluate` raises.
    """
    ways = predict_each(model, model.both, batches, classes, autocast, world)
    scores = [score(way, classes) for way in ways]
    bins = ways[-1].calibration
    return scores[0], ways[0], reliance_of(ways[0], scores[-1], bins, model.temperatures, unknown_below)
