"""Mixup and cutmix, against torchvision's and the Beta distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from residuum import recipe
from residuum.data.mixing import Mix, box_of, mixing_of, partners, unmixed

K = 7


def batch(n: int = 6, channels_last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.normal(size=(n, 3, 12, 16)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, K, n))
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images, labels


def test_nothing_is_mixed_where_nothing_is_asked_for() -> None:
    images, labels = batch()
    assert mixing_of(recipe.Augment(), K, seed=0) is unmixed
    for mix in (unmixed, Mix(0, 0, K, seed=0)):
        mixed, targets = mix(images, labels, 3)
        assert mixed is images
        assert targets is labels


PAIRS = [(0, 1), (2, 3), (4, 5)]


def in_pairs(transform: Callable[[Tensor, dict[str, Any]], Tensor], values: Tensor, params: dict[str, Any]) -> Tensor:
    """What torchvision does with each pair as a batch of its own: its partner is the neighbour, hence the other one."""
    mixed = []
    for pair in PAIRS:
        labels = params["labels"][[*pair]]
        part = labels if values is params["labels"] else values[[*pair]]  # torchvision tells labels by identity
        mixed.append(transform(part, params | {"labels": labels, "batch_size": 2}))
    return torch.cat(mixed)


def test_mixup_is_torchvisions() -> None:
    images, labels = batch()
    mix, twin = Mix(0.4, 0, K, seed=1), v2.MixUp(num_classes=K)
    for step in range(20):
        share, box = mix.plan(step, 12, 16)
        assert box is None
        params = {"labels": labels, "batch_size": 6, "lam": share}
        mixed, targets = mix(images, labels, step)
        torch.testing.assert_close(mixed, in_pairs(twin.transform, images, params))
        torch.testing.assert_close(targets, in_pairs(twin.transform, labels, params))


def test_cutmix_is_torchvisions() -> None:
    images, labels = batch()
    mix, twin = Mix(0, 1.0, K, seed=1), v2.CutMix(num_classes=K)
    for step in range(20):
        share, box = mix.plan(step, 12, 16)
        assert box is not None
        top, bottom, left, right = box
        params = {"labels": labels, "batch_size": 6, "box": (left, top, right, bottom), "lam_adjusted": share}
        mixed, targets = mix(images, labels, step)
        assert torch.equal(mixed, in_pairs(twin.transform, images, params))
        torch.testing.assert_close(targets, in_pairs(twin.transform, labels, params))


def test_boxes_are_distributed_like_torchvisions() -> None:
    mix, twin, image = Mix(0, 1.0, K, seed=0), v2.CutMix(num_classes=K), torch.zeros(1, 3, 12, 16)
    plans = [mix.plan(step, 12, 16) for step in range(3000)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [twin.make_params([image]) for _ in range(3000)]
    ours = np.array([(share, *(box or ())) for share, box in plans])
    theirs = np.array([(d["lam_adjusted"], *(d["box"][place] for place in (1, 3, 0, 2))) for d in drawn])
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(one, other, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_mixups_share_has_its_beta_distribution(alpha: float) -> None:
    shares = [Mix(alpha, 0, K, seed=0).plan(step, 12, 16)[0] for step in range(3000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999, 1.0])
def test_a_boxs_share_is_counted_in_pixels(share: float) -> None:
    for centre in np.random.default_rng(0).random((50, 2)):
        left_over, (top, bottom, left, right) = box_of(share, centre, 12, 16)
        inside = np.zeros((12, 16), bool)
        inside[top:bottom, left:right] = True
        assert left_over == pytest.approx(1 - inside.mean(), abs=1e-12)


def test_both_are_each_used_half_of_the_time() -> None:
    kinds = [Mix(0.2, 1.0, K, seed=0).plan(step, 12, 16)[1] is None for step in range(2000)]
    assert stats.binomtest(sum(kinds), 2000).pvalue > 1e-3


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (0.0, 1.0), (0.2, 1.0)])
def test_a_mixed_batch_is_a_function_of_seed_and_step(mixup: float, cutmix: float) -> None:
    images, labels = batch(channels_last=True)
    before = images.clone()
    mix = mixing_of(recipe.Augment(mixup=mixup, cutmix=cutmix), K, seed=5)
    first, targets = mix(images, labels, 8)
    torch.manual_seed(123)
    again, targets_again = mix(images, labels, 8)
    assert torch.equal(first, again)
    assert torch.equal(targets, targets_again)
    assert torch.equal(images, before)
    assert not all(torch.equal(mix(images, labels, step)[1], targets) for step in range(9, 14))
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("count", range(8))
def test_partners_swap_places(count: int) -> None:
    swapped = partners(torch.arange(count)).tolist()
    assert sorted(swapped) == list(range(count))
    assert [swapped[place] for place in swapped] == list(range(count))
    assert [place for place in swapped if swapped[place] == place] == ([count - 1] if count % 2 else [])
