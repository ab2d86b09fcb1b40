"""Nets that others have trained, in the place of those that an experiment would train: which fit, and what the page
says of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from residuum import bundle
from residuum.errors import DataError, UsageError
from residuum.lab.findings import Check, Finding, Rows
from residuum.lab.scales import label_of
from residuum.models import create_model
from residuum.recipe import Model

MARK = "nets of two trainings"
"""What stands behind a check that compares a net of a bundle with one that was trained here."""

_GIVEN = ("num_classes", "in_channels")  # by the pictures, not by the recipe


@dataclass(frozen=True)
class Foreign:
    """A bundle: its folder, what experiments call its network, its card, and the start of its digest."""

    folder: Path
    label: str
    card: Mapping[str, Any]
    digest: str

    @property
    def name(self) -> str:
        """What rows call the bundle, which no other has: 'resnet56 (0123456789ab)'."""
        return f"{shown(self.folder)} ({self.digest})"


def shown(folder: Path) -> str:
    """Returns what people call a bundle, wherever it lies: its name, or 'photos-1/best' where every run has that."""
    parts = folder.absolute().parts
    return "/".join(parts[-2:] if parts[-1] in ("best", "last") else parts[-1:])


def by_label(bundles: Iterable[str | Path]) -> dict[str, Foreign]:
    """Returns the bundles by what experiments call their networks.

    Raises:
        UsageError: two hold a network of the same name.
        WeightsError: one is not there, or damaged.
    """
    found: dict[str, Foreign] = {}
    for folder in map(Path, bundles):
        _, card = bundle.read(folder)
        label = label_of(str(card["model"]["name"]), {})
        if label in found:
            raise UsageError(
                f"Both {found[label].folder} and {folder} hold the network {label}.",
                expected="Expected one bundle for each network.",
                hint="Leave out one of them, and measure it with an --out of its own.",
            )
        found[label] = Foreign(folder, label, card, bundle.digest(folder)[:12])
    return found


def refuse_misfits(
    bundles: Mapping[str, Foreign], experiment: str, nets: Mapping[str, Model], data: str, classes: Sequence[str]
) -> None:
    """Raises where a bundle cannot stand in for one of `nets`, which are the experiment's own, by label.

    Raises:
        UsageError: the experiment has no net of that name, or one with other options.
        DataError: the bundle tells other classes apart than `data`, or gives a picture any number of them.
    """
    for label, found in bundles.items():
        if label not in nets:
            raise UsageError(
                f"{experiment} has no net {label}, which the bundle {found.folder} holds.",
                expected=f"Expected a bundle of one of its nets{': ' if nets else ''}{', '.join(nets)}.",
                hint="Leave it out.",
            )
        if found.card.get("thresholds") is not None:
            raise of_one_class(f"The network in {found.folder} gives")
        if tuple(found.card["classes"]) != tuple(classes):
            raise DataError(
                f"The bundle {found.folder} tells other classes apart than {data}: "
                f"{', '.join(found.card['classes'][:10])}.",
                expected=f"Expected {', '.join(classes[:10])}.",
                hint="Name the classes when the weights are converted: residuum convert FILE --classes FILE",
            )
        if _network(found.card["model"], {}) != _network(
            {"name": nets[label].name, **nets[label].options()}, found.card["model"]
        ):
            own = _options({key: value for key, value in found.card["model"].items() if key != "name"})
            raise UsageError(
                f"The bundle {found.folder} holds another network than the {label} of {experiment}: {own}.",
                expected=f"Expected {_options(nets[label].options())}.",
                hint="Leave it out, or measure at the scale whose nets are like it.",
            )


def of_one_class(what: str) -> DataError:
    """Returns the refusal of pictures that may have several classes."""
    return DataError(
        f"{what} a picture any number of classes.",
        expected="Expected one class for each picture, as in the paper.",
        hint="Leave out --data for the experiment's own pictures.",
    )


def told(finding: Finding, rows: Rows) -> Finding:
    """Returns a finding that says which nets others have trained, and marks the checks that compare such a net with one
    that was trained here."""
    nets = {row["net"]: row for row in rows if row["kind"] == "net"}
    theirs = {net: row for net, row in nets.items() if row.get("bundle")}
    ours = {net: row for net, row in nets.items() if "epochs" in row}
    if not theirs:
        return finding
    remarks = [
        f"{net} was trained by others (the bundle {row['bundle']}): {row['test_error']:.2f} % error on "
        f"{row['test_pictures']:,} test pictures of {row['img_size']} x {row['img_size']} pixels."
        for net, row in theirs.items()
    ]
    checks = [_marked(check) if _is_mixed(check, ours, theirs) else check for check in finding.checks]
    if any(_is_mixed(check, ours, theirs) for check in finding.checks):
        row = next(iter(ours.values()))
        remarks.append(
            f"{' and '.join(ours)} {'were' if len(ours) > 1 else 'was'} trained here, for {row['epochs']} epochs on "
            f"pictures of {row['img_size']} x {row['img_size']} pixels. A check that compares the one with the other "
            f"also compares the two trainings, and says so: {MARK}."
        )
    return replace(finding, checks=checks, remarks=[*remarks, *finding.remarks])


def _marked(check: Check) -> Check:
    return replace(check, what=f"{check.what} ({MARK})")


def _is_mixed(check: Check, ours: Mapping[str, object], theirs: Mapping[str, object]) -> bool:
    return not {*check.nets}.isdisjoint(ours) and not {*check.nets}.isdisjoint(theirs)


def _network(card: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Returns a network's modules in words; an option that is said and one that is the default are the same there."""
    options = {key: value for key, value in card.items() if key != "name"}
    options |= {key: given[key] for key in _GIVEN if key in given}
    with torch.device("meta"):
        return repr(create_model(card["name"], **options))


def _options(options: Mapping[str, Any]) -> str:
    said = ", ".join(f"{key} = {value}" for key, value in options.items() if key not in _GIVEN)
    return said or "no options"
