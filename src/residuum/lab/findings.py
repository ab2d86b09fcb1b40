"""What an experiment found, as a pure function of its rows: figures beside the paper's, checks, verdict, drawings.

A verdict is never an impression: an experiment states its rule as checks, each of which holds or does not.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Scale = Literal["smoke", "small", "full"]
SCALES: tuple[Scale, ...] = get_args(Scale)

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]

Takes = Literal["data", "seeds", "bundle"]


@dataclass(frozen=True)
class Measure:
    """One figure: `values` has one for each seed (or one alone), `paper` is the paper's figure in words, if any."""

    what: str
    values: Sequence[float]
    unit: str = ""
    decimals: int = 2
    paper: str = ""

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return statistics.fmean(self.values)

    def in_words(self) -> str:
        """Returns '8.75 ± 0.12 % (3 seeds)': mean and standard deviation (of the sample)."""
        unit = f" {self.unit}" if self.unit else ""
        mean = f"{self.mean:,.{self.decimals}f}"
        if len(self.values) == 1:
            return f"{mean}{unit}"
        spread = statistics.stdev(self.values)
        return f"{mean} ± {spread:,.{self.decimals}f}{unit} ({len(self.values)} seeds)"


@dataclass(frozen=True)
class Headline:
    """What is said of an experiment where there is little room: in README's table, and on top of its page. `spread` is
    that of `measured` over seeds, in words."""

    what: str
    measured: str
    paper: str = ""
    spread: str = ""


def change(
    what: str,
    values: Mapping[str, Sequence[float]],
    nets: Sequence[str],
    *,
    unit: str = "%",
    decimals: int = 2,
    paper: str = "",
) -> Headline:
    """Returns the headline of a figure from net to net, of those that were measured: '8.75 → 6.97 %', and its spread,
    '± 0.12, 0.20; 3 seeds'."""
    found = [Measure("", values[net]) for net in nets if values.get(net)]
    said = " → ".join(f"{each.mean:,.{decimals}f}" for each in found) + (f" {unit}" if unit else "")
    seeds = max((len(each.values) for each in found), default=1)
    spreads = [f"{statistics.stdev(each.values):,.{decimals}f}" if len(each.values) > 1 else "-" for each in found]
    spread = f"± {', '.join(spreads)}; {seeds} seeds" if seeds > 1 else ""
    return Headline(what, said if found else "-", paper, spread)


@dataclass(frozen=True)
class Check:
    """One part of the rule of a verdict, whether it holds, and the nets that it compares."""

    what: str
    holds: bool
    nets: Sequence[str] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure: the name of its file without extension, what it shows in words, and how it is drawn (as PNG)."""

    name: str
    alt: str
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Table:
    """A table of text and numbers; a `long` one is folded away on the page."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    long: bool = False


@dataclass(frozen=True)
class Finding:
    """What an experiment found. In its `headlines` the claim is seen to hold, or not to."""

    measures: Sequence[Measure]
    checks: Sequence[Check]
    headlines: Sequence[Headline] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    remarks: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """'reproduced' where every check holds, 'not reproduced' where none does, 'partly reproduced' between."""
        held = sum(check.holds for check in self.checks)
        if held == len(self.checks):
            return "reproduced"
        return "partly reproduced" if held else "not reproduced"


def _no_nets(scale: Scale) -> Sequence[str]:  # noqa: ARG001
    return ()


@dataclass(frozen=True)
class Claim:
    """An experiment's card: what is claimed and where, the rule of the verdict, and what each scale does.

    `read` turns the rows that were measured into a finding. `seeds` are the default numbers of seeds; `takes` says
    which of --data, --seeds and --bundle mean anything to it, and `nets` the networks of a scale for which a bundle may
    stand in.
    """

    claim: str
    source: str
    rule: str
    scales: Mapping[Scale, str]
    read: Callable[[Rows], Finding]
    seeds: Mapping[Scale, int] = field(default_factory=lambda: {"smoke": 1, "small": 3, "full": 5})
    takes: frozenset[Takes] = frozenset()
    nets: Callable[[Scale], Sequence[str]] = _no_nets


def verdict_in_words(finding: Finding, scale: Scale) -> str:
    """Returns the verdict; a smoke run shows only that the experiment works."""
    if scale == "smoke":
        return f"a smoke run, too small to judge by (the rule alone says: {finding.verdict})"
    return finding.verdict


def by_net(rows: Rows, kind: str, key: str) -> dict[str, list[float]]:
    """Returns net -> the values of `key` in its rows of `kind`, in the order of the seeds; no value that is missing."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        if row["kind"] == kind and row.get(key) is not None:
            found.setdefault(row["net"], []).append((row.get("seed", 0), float(row[key])))
    return {net: [value for _, value in sorted(values)] for net, values in found.items()}


def means(values: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Returns the mean of each list."""
    return {name: statistics.fmean(each) for name, each in values.items()}


def mean_of_curves(curves: Sequence[Sequence[float]]) -> list[float]:
    """Returns the mean of equally long curves, point by point; the shortest decides the length."""
    return [statistics.fmean(points) for points in zip(*curves, strict=False)]


def below(values: Mapping[str, float], smaller: str, larger: str, what: str) -> Check:
    """Checks that the value of one net is below that of another; what was not measured does not hold."""
    first, second = values.get(smaller, math.nan), values.get(larger, math.nan)
    return Check(f"{what}: {smaller} {first:.4g} below {larger} {second:.4g}", first < second, (smaller, larger))
