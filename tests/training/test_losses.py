"""Losses against their formulas, written out in float64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from residuum.training.losses import build

SMOOTHING = [0.0, 0.1, 0.5]


@pytest.fixture
def logits() -> Tensor:
    return 3 * torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def labels() -> Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0, 2])


@pytest.fixture
def mixed(labels: Tensor) -> Tensor:
    targets = functional.one_hot(labels, 5).double()
    return 0.3 * targets + 0.7 * targets.roll(1, 0)


def smoothed(targets: Tensor, smoothing: float) -> Tensor:
    return torch.stack([(1 - smoothing) * row + smoothing / len(row) for row in targets])


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> None:
    log_probs = logits - logits.exp().sum(dim=1, keepdim=True).log()
    rows = [
        (1 - smoothing) * -row[label] - smoothing * row.mean() for row, label in zip(log_probs, labels, strict=True)
    ]
    torch.testing.assert_close(build("cross_entropy", smoothing)(logits, labels), torch.stack(rows).mean())


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_cross_entropy_of_mixed_targets(logits: Tensor, mixed: Tensor, smoothing: float) -> None:
    log_probs = logits - logits.exp().sum(dim=1, keepdim=True).log()
    expected = -(smoothed(mixed, smoothing) * log_probs).sum() / len(logits)
    torch.testing.assert_close(build("cross_entropy", smoothing)(logits, mixed), expected)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_every_class_as_a_question(logits: Tensor, mixed: Tensor, smoothing: float) -> None:
    yes = 1 / (1 + torch.exp(-logits))
    targets = smoothed(mixed, smoothing)
    expected = -(targets * yes.log() + (1 - targets) * (1 - yes).log()).sum() / logits.numel()
    torch.testing.assert_close(build("bce", smoothing)(logits, mixed), expected)


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_labels_are_targets_with_one_class(logits: Tensor, labels: Tensor, kind: str, smoothing: float) -> None:
    criterion = build(kind, smoothing)  # type: ignore[arg-type]
    torch.testing.assert_close(criterion(logits, labels), criterion(logits, functional.one_hot(labels, 5).double()))


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_the_mean_over_pictures_adds_up_from_parts(logits: Tensor, labels: Tensor, kind: str) -> None:
    criterion = build(kind, 0.1)  # type: ignore[arg-type]
    parts = [criterion(logits[at], labels[at]) * len(labels[at]) for at in (slice(0, 3), slice(3, 7))]
    torch.testing.assert_close(criterion(logits, labels), sum(parts) / 7)


@pytest.mark.parametrize("smoothing", SMOOTHING)
def test_weights_of_classes_are_torchs_divided_by_the_pictures(
    logits: Tensor, labels: Tensor, smoothing: float
) -> None:
    """Where nothing is smoothed: torch smooths with the weights of all classes, here a picture has one weight."""
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0], dtype=torch.float64)
    each = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    found = build("cross_entropy", smoothing, weights)(logits, labels)
    torch.testing.assert_close(found, (each * weights[labels]).sum() / len(labels))
    if smoothing == 0:
        torchs = functional.cross_entropy(logits, labels, weight=weights, reduction="sum") / len(labels)
        torch.testing.assert_close(found, torchs)


@pytest.mark.parametrize("kind", ["cross_entropy", "bce"])
def test_weighted_parts_of_a_batch_add_up(logits: Tensor, labels: Tensor, mixed: Tensor, kind: Literal["bce"]) -> None:
    weights = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0], dtype=torch.float64)
    criterion = build(kind, 0.1, weights)
    for targets in (labels, mixed):
        parts = sum(criterion(logits[at], targets[at]) * len(logits[at]) for at in (slice(0, 3), slice(3, 7)))
        torch.testing.assert_close(criterion(logits, targets), parts / 7)
    same = build(kind, 0.1, torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(same(logits, mixed), build(kind, 0.1)(logits, mixed))
