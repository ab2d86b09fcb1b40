"""A training loader as those see it who measure it: fewer batches an epoch, and a name for what it does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing

from torch import Tensor

from residuum.data.loading import Fed, Indices, TrainLoader, _Feed
from residuum.data.randomness import Draws
from residuum.data.transforms import Stage

Within = Callable[[str], AbstractContextManager[object]]
"""Called with "loading" or "augmentation"; what is done inside of the context is just that."""


class Excerpt(TrainLoader):
    """The first `steps` batches of every epoch of another loader, or all where there are fewer."""

    def __init__(self, loader: TrainLoader, steps: int) -> None:
        self.__dict__.update(vars(loader))  # it is the other one in all but its length
        self._steps = min(steps, len(loader))

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return self._steps


def observed(loader: TrainLoader, within: Within) -> TrainLoader:
    """Returns the same loader, each part of whose work happens inside of a context of its name."""
    other = copy.copy(loader)
    other._feed = _ObservedFeed(loader._feed, within)
    other._stages = [_observed_stage(stage, within) for stage in loader._stages]
    other._normalise = _observed_last(loader._normalise, within)
    return other


class _ObservedFeed:
    def __init__(self, feed: _Feed, within: Within) -> None:
        self._feed, self._within = feed, within

    def batches(self, batches: Sequence[Indices], seed: int, epoch: int) -> Fed:
        with closing(self._feed.batches(batches, seed, epoch)) as fed:
            while True:
                with self._within("loading"):
                    item = next(fed, None)
                if item is None:
                    return
                yield item


def _observed_stage(stage: Stage, within: Within) -> Stage:
    def observed_stage(images: Tensor, draws: Draws) -> Tensor:
        with within("augmentation"):
            return stage(images, draws)

    return observed_stage


def _observed_last(normalise: Callable[[Tensor], Tensor], within: Within) -> Callable[[Tensor], Tensor]:
    def observed_last(images: Tensor) -> Tensor:
        with within("augmentation"):
            return normalise(images)

    return observed_last
