"""RandAugment and TrivialAugment: every operation at every strength is torchvision's, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from residuum import recipe
from residuum.data.policies import BINS, RAND_AUGMENT, TRIVIAL_AUGMENT, Operation, policy_of
from residuum.data.randomness import Draws

FILL = (120, 110, 100)
POLICIES = [recipe.RandAugment(ops=2, magnitude=9), recipe.TrivialAugment()]
TWINS = {
    "RandAugment": (RAND_AUGMENT, v2.RandAugment(interpolation="bilinear", fill=[120.0, 110.0, 100.0])),
    "TrivialAugmentWide": (
        TRIVIAL_AUGMENT,
        v2.TrivialAugmentWide(interpolation="bilinear", fill=[120.0, 110.0, 100.0]),
    ),
}
CASES = [(kind, name) for kind, (operations, _) in TWINS.items() for name in operations]


def pictures(n: int, channels: int = 3, height: int = 18, width: int = 22) -> torch.Tensor:
    random = np.random.default_rng(0)
    low = torch.from_numpy(random.integers(20, 230, (n, channels, 5, 5), dtype=np.uint8)).float()
    return torch.nn.functional.interpolate(low, size=(height, width), mode="bilinear").round().to(torch.uint8)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_an_operation_is_torchvisions_at_every_strength(kind: str, name: str) -> None:
    operations, twin = TWINS[kind]
    assert list(operations) == list(twin._AUGMENTATION_SPACE)
    operation, images = operations[name], pictures(1)
    magnitudes, signed = twin._AUGMENTATION_SPACE[name]
    strengths = magnitudes(BINS, 18, 22)
    assert operation.signed == signed
    for number in range(BINS if strengths is not None else 1):
        for sign in (1, -1) if signed else (1,):
            magnitude = sign * float(strengths[number]) if strengths is not None else 0.0
            assert operation.strength(number, sign, 18, 22) == magnitude
            wanted = twin._apply_image_or_video_transform(images, name, magnitude, twin.interpolation, twin._fill)
            assert torch.equal(operation.apply(images, magnitude, list(map(float, FILL))), wanted)


def alone(images: torch.Tensor, draws: Draws, policy: recipe.RandAugment | recipe.TrivialAugment) -> torch.Tensor:
    """Each picture by itself, from its own numbers, in a plain loop."""
    operations = list((RAND_AUGMENT if isinstance(policy, recipe.RandAugment) else TRIVIAL_AUGMENT).values())
    ops = policy.ops if isinstance(policy, recipe.RandAugment) else 1
    done = []
    for image, index in zip(images, draws.indices, strict=True):
        own, image = Draws(draws.seed, draws.epoch, np.array([index])), image[None]
        for turn in range(ops):
            operation: Operation = operations[int(own.uniform(f"policy_operation_{turn}")[0] * 14)]
            number = int(own.uniform(f"policy_strength_{turn}")[0] * 31)
            number = policy.magnitude if isinstance(policy, recipe.RandAugment) else number
            sign = -1 if own.uniform(f"policy_sign_{turn}")[0] < 0.5 else 1
            strength = operation.strength(number, sign, image.shape[2], image.shape[3])
            image = operation.apply(image, strength, [float(value) for value in FILL[: image.shape[1]]])
        done.append(image)
    return torch.cat(done)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_batch_is_its_pictures_one_by_one(
    policy: recipe.RandAugment | recipe.TrivialAugment, channels: int, channels_last: bool
) -> None:
    draws = Draws(3, 4, np.random.default_rng(0).permutation(200)[:40])
    images = pictures(40, channels)
    wanted = alone(images, draws, policy)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    state = torch.random.get_rng_state()
    done = policy_of(policy, FILL[:channels])(images.clone(memory_format=layout), draws)
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own random numbers were used"
    assert (done.int() - wanted.int()).abs().max() <= 0
    assert done.dtype == torch.uint8


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: policy.name)
@pytest.mark.parametrize("side", [3, 8])
def test_small_pictures_work(policy: recipe.RandAugment | recipe.TrivialAugment, side: int) -> None:
    images = pictures(60, 1, side, side)
    assert policy_of(policy, (128,))(images, Draws(0, 0, np.arange(60))).shape == images.shape


def test_operations_and_strengths_are_equally_likely() -> None:
    draws = Draws(0, 0, np.arange(20_000))
    chosen = (draws.uniform("policy_operation_0") * 14).astype(int)
    numbers = (draws.uniform("policy_strength_0") * 31).astype(int)
    assert stats.chisquare(np.bincount(chosen * 31 + numbers, minlength=14 * 31)).pvalue > 1e-3
