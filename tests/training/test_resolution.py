"""Progressive resolution: where it starts, how it grows, and what shrinking does."""

from __future__ import annotations

import torch

from residuum.recipe import Augment
from residuum.training.resolution import build, side_px


def test_it_grows_in_eights_to_the_full_size() -> None:
    augment = Augment(start_px=16, grow_until=0.5)
    sides = [side_px(augment, 32, step / 1000) for step in range(1000)]
    assert sides[0] == 16
    assert sides == sorted(sides)
    assert set(sides) == {16, 24, 32}
    assert all(side == 32 for side in sides[500:])
    assert abs(sum(sides[:500]) / 500 - 24) < 0.5  # linear: half way on average


def test_off_gives_its_input() -> None:
    images = torch.randn(2, 3, 32, 32)
    assert build(Augment(), 32)(images, 0.0) is images
    assert build(Augment(start_px=16, grow_until=0.5), 32)(images, 0.5) is images


def test_a_halved_plain_picture_stays_plain_and_a_halved_ramp_a_ramp() -> None:
    ramp = torch.linspace(0, 1, 32).expand(2, 3, 32, 32).contiguous()
    small = build(Augment(start_px=16, grow_until=1.0), 32)(ramp, 0.0)
    assert small.shape == (2, 3, 16, 16)
    steps = small[0, 0, 0].diff()[2:-2]  # away from the borders
    torch.testing.assert_close(steps, torch.full_like(steps, 2 / 31))
    plain = build(Augment(start_px=16, grow_until=1.0), 32)(torch.full((2, 3, 32, 32), 0.7), 0.0)
    torch.testing.assert_close(plain, torch.full((2, 3, 16, 16), 0.7))
