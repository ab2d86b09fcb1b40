"""Times that can be compared: arms measured in turns, their medians and spread, ratios within a turn. No torch.

A machine that others use too gets slower and faster from minute to minute. So arms are measured one after the other in
every turn, and a ratio is that of two measurements of the same turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

Measure = Callable[[], float]
"""Measures once, and returns what it found: pictures a second, seconds, bytes."""


@dataclass(frozen=True)
class Figure:
    """What was measured `count` times: the median, the smallest and the largest."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Figure:
        """Returns the figure of these values, of which there is at least one.

        Raises:
            ValueError: there are none.
        """
        every = sorted(values)
        if not every:
            raise ValueError("nothing was measured")
        return cls(statistics.median(every), every[0], every[-1], len(every))

    @property
    def spread(self) -> float:
        """How far the smallest and the largest lie apart, as a part of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0

    def times(self, factor: float) -> Figure:
        """Returns the same in another unit; `factor` is above 0."""
        return Figure(factor * self.median, factor * self.low, factor * self.high, self.count)


def in_turns(
    arms: Mapping[str, Measure], turns: int, *, warm_up: int = 1, tell: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Measures every arm once a turn, and returns the values of each in the order of the turns.

    Turns go forwards and backwards, so that a machine that slows down is not in favour of the first. `warm_up` turns
    come before and are forgotten. `tell` is told the name of what is about to be measured.
    """
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(warm_up + turns):
        for name in list(arms) if turn % 2 == 0 else list(arms)[::-1]:
            if tell is not None:
                tell(name)
            value = arms[name]()
            if turn >= warm_up:
                found[name].append(value)
    return found


def ratio(first: Sequence[float], second: Sequence[float]) -> Figure:
    """Returns how many times `second` the first is, turn by turn.

    Raises:
        ValueError: not as many of one as of the other, or none.
        ZeroDivisionError: one of `second` is 0.
    """
    return Figure.of(one / other for one, other in zip(first, second, strict=True))
