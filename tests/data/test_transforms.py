"""Operations on whole batches, against plain loops in numpy and torchvision's functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from residuum import imaging, recipe
from residuum.data import transforms
from residuum.data.randomness import Draws
from residuum.data.transforms import AlternateFlip, Erasing, Lighting, Normalise, PaddedCrop, RandomFlip, stages_of
from residuum.errors import RecipeError
from residuum.imaging import Preprocessing

FILL = (125, 123, 114)
CPU = torch.device("cpu")


def preprocessing(mode: str = "RGB", img_size: int = 16) -> Preprocessing:
    mean, std = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)) if mode == "RGB" else ((0.3,), (0.37,))
    return Preprocessing(mode, img_size, img_size, "bilinear", mean, std)  # type: ignore[arg-type]


def batch(n: int, channels: int = 3, side: int = 16, channels_last: bool = True) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    return torch.from_numpy(pixels).contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def draws(n: int, seed: int = 0, epoch: int = 0) -> Draws:
    return Draws(seed, epoch, np.arange(n))


@pytest.mark.parametrize("px", [1, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_padded_crop_is_pad_and_cut_picture_by_picture(px: int, channels: int, channels_last: bool) -> None:
    images, random = batch(50, channels, channels_last=channels_last), draws(50, seed=3, epoch=2)
    at_y = np.floor(random.uniform("crop_y") * (2 * px + 1)).astype(int)
    at_x = np.floor(random.uniform("crop_x") * (2 * px + 1)).astype(int)
    wanted = np.empty((50, channels, 16, 16), np.uint8)
    for n in range(50):
        for channel in range(channels):
            padded = np.pad(images[n, channel].numpy(), px, constant_values=FILL[channel])
            wanted[n, channel] = padded[at_y[n] : at_y[n] + 16, at_x[n] : at_x[n] + 16]
    cropped = PaddedCrop(px, FILL[:channels])(images, random)
    assert cropped.dtype == torch.uint8
    assert np.array_equal(cropped.numpy(), wanted)


@pytest.mark.parametrize("px", [2, 9])
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_margin_may_be_the_mirrored_picture(px: int, channels_last: bool) -> None:
    images, random = batch(50, 3, channels_last=channels_last)[:, :, :, :7], draws(50, seed=3, epoch=2)
    at_y = np.floor(random.uniform("crop_y") * (2 * px + 1)).astype(int)
    at_x = np.floor(random.uniform("crop_x") * (2 * px + 1)).astype(int)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (px, px), (px, px)), mode="reflect")
    wanted = [padded[n, :, at_y[n] : at_y[n] + 16, at_x[n] : at_x[n] + 7] for n in range(50)]
    assert np.array_equal(PaddedCrop(px, None)(images, random).numpy(), np.stack(wanted))


def test_padded_crop_cuts_oblong_pictures_too() -> None:
    images = torch.arange(2 * 3 * 4 * 6, dtype=torch.uint8).reshape(2, 3, 4, 6)
    assert PaddedCrop(2, FILL)(images, draws(2)).shape == (2, 3, 4, 6)


def test_every_place_of_a_padded_crop_is_equally_likely() -> None:
    """The place is read off the pixels: picture values are their own coordinates."""
    n, px = 20_000, 4
    rows, columns = np.mgrid[1:9, 1:9]
    images = torch.from_numpy(np.stack([rows, columns]).astype(np.uint8)).expand(n, 2, 8, 8)
    cropped = PaddedCrop(px, (0, 0))(images, draws(n))
    y, x = (cropped[:, axis, 4, 4].numpy().astype(int) - 1 for axis in (0, 1))  # 0..8, but -1 for both outside
    inside = (y >= 0) & (x >= 0)
    counts = np.bincount(y[inside] * 8 + x[inside], minlength=64)
    # The middle pixel shows row 0 to 8 of a picture that has 0 to 7: of 81 places, 8 * 8 can be told apart.
    assert abs(inside.mean() - 64 / 81) < 4 * math.sqrt(64 / 81 * 17 / 81 / n)
    assert stats.chisquare(counts).pvalue > 1e-3
    places = np.floor(np.stack([draws(n).uniform("crop_y"), draws(n).uniform("crop_x")]) * 9).astype(int)
    assert stats.chisquare(np.bincount(places[0] * 9 + places[1], minlength=81)).pvalue > 1e-3


def mirrored(before: torch.Tensor, after: torch.Tensor) -> np.ndarray:
    """Which pictures are mirrored; every other one must be as it was."""
    flags = np.array([torch.equal(functional.horizontal_flip(a), b) for a, b in zip(before, after, strict=True)])
    assert all(torch.equal(a, b) for a, b, flag in zip(before, after, flags, strict=True) if not flag)
    return flags


def test_random_flip_mirrors_half_of_the_pictures_anew_in_every_epoch() -> None:
    images = batch(1000, side=4)
    flags = [mirrored(images, RandomFlip()(images.clone(), draws(1000, epoch=epoch))) for epoch in range(3)]
    for epoch_flags in flags:
        assert stats.binomtest(int(epoch_flags.sum()), 1000).pvalue > 1e-3
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert stats.binomtest(int((flags[one] ^ flags[other]).sum()), 1000).pvalue > 1e-3


def test_alternate_flip_mirrors_every_picture_in_every_second_epoch() -> None:
    images = batch(1000, side=4)
    flags = [mirrored(images, AlternateFlip()(images.clone(), draws(1000, epoch=epoch))) for epoch in range(4)]
    assert stats.binomtest(int(flags[0].sum()), 1000).pvalue > 1e-3
    for epoch in (1, 2, 3):
        assert np.array_equal(flags[epoch], ~flags[epoch - 1])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_normalise_gives_the_same_bits_as_imaging(mode: str, channels_last: bool) -> None:
    images = batch(40, 3 if mode == "RGB" else 1)
    normalised = Normalise(preprocessing(mode), CPU, channels_last)(images)
    assert np.array_equal(normalised.numpy(), imaging.normalise(images.numpy(), preprocessing(mode)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert normalised.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_mean_colour_is_nearly_zero_once_normalised(mode: str) -> None:
    fill = preprocessing(mode).mean_colour
    images = torch.tensor(fill, dtype=torch.uint8)[None, :, None, None].expand(1, -1, 16, 16)
    normalised = Normalise(preprocessing(mode), CPU, True)(images)
    assert normalised.abs().max() <= 0.5 / 255 / min(preprocessing(mode).std) * 1.001


@pytest.mark.parametrize("side", [8, 16, 17])
@pytest.mark.parametrize("channels", [1, 3])
def test_rotation_is_torchvisions_of_a_padded_picture(side: int, channels: int) -> None:
    """With a margin, so that torchvision's own way with a picture's edge, which counts its weights twice, is not
    seen."""
    images, angles = batch(12, channels, side), np.linspace(-180, 180, 12)
    turned = transforms.rotated(images, np.radians(angles), FILL[:channels])
    fill = [float(value) for value in FILL[:channels]]
    for image, angle, result in zip(images, angles, turned, strict=True):
        padded = functional.pad(image.float(), [side], fill=fill)
        twin = functional.rotate(padded, float(angle), InterpolationMode.BILINEAR)[:, side:-side, side:-side]
        assert (result.float() - twin).abs().max() < 0.51  # ours is rounded to whole levels


def test_angles_cover_their_range() -> None:
    """A line through the centre tells the angle."""
    images = torch.zeros(400, 1, 33, 33, dtype=torch.uint8)
    images[:, :, 16, 17:] = 255
    turned = transforms.Rotation(30.0, (0,))(images, draws(400)).double().squeeze(1)
    rows, columns = torch.meshgrid(torch.arange(33.0) - 16, torch.arange(33.0) - 16, indexing="ij")
    angles = -torch.rad2deg(torch.atan2((turned * rows).sum((1, 2)), (turned * columns).sum((1, 2)))).numpy()
    assert stats.kstest(angles, stats.uniform(-30, 60).cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("stage", "stream", "twin"),
    [
        (transforms.Brightness(0.4), "brightness", functional.adjust_brightness),
        (transforms.Contrast(0.4), "contrast", functional.adjust_contrast),
        (transforms.Saturation(0.4), "saturation", functional.adjust_saturation),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_jitter_is_torchvisions_on_float_pictures(stage, stream, twin, channels: int) -> None:  # type: ignore[no-untyped-def]
    images = batch(40, channels)
    factors = 0.6 + 0.8 * draws(40).uniform(stream)
    for image, factor, result in zip(images, factors, stage(images, draws(40)), strict=True):
        wanted = 255 * twin(image.double() / 255, float(factor))
        assert (result.double() - wanted).abs().max() < 0.501  # ours is rounded to whole levels


def test_lighting_adds_fb_resnet_torchs_colour() -> None:
    """datasets/transforms.lua: rgb = (eigvec * alpha * eigval) summed over the components, added to each channel."""
    eigenvalues = [0.2175, 0.0188, 0.0045]
    eigenvectors = [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    images, random = batch(30), draws(30)
    alphas = np.stack([0.1 * random.normal(f"lighting_{component}") for component in range(3)], axis=1)
    lit = Lighting(0.1)(images, random)
    for n in range(30):
        for channel in range(3):
            shift = sum(eigenvectors[channel][k] * alphas[n, k] * eigenvalues[k] for k in range(3))
            wanted = np.clip(images[n, channel].numpy() / 255 + shift, 0, 1) * 255
            assert np.abs(lit[n, channel].numpy() - wanted).max() < 0.501


@pytest.mark.parametrize("side", [8, 32])
def test_erased_rectangles_are_distributed_like_torchvisions(side: int) -> None:
    n = 3000
    top, left, height, width = Erasing(1.0, FILL).rectangles(draws(n), side, side)
    assert max(height.max(), width.max()) < side
    twin, image = v2.RandomErasing(p=1.0), torch.zeros(3, side, side)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [twin.make_params([image]) for _ in range(n)]
    for ours, key in ((top, "i"), (left, "j"), (height, "h"), (width, "w")):
        theirs = [params[key] for params in drawn]
        assert stats.ks_2samp(ours, theirs, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.25, 1.0])
def test_erasing_fills_its_rectangle_and_nothing_else(probability: float) -> None:
    n, stage = 600, Erasing(probability, FILL)
    images, random = batch(n), draws(n)
    erased = stage(images, random)
    rectangles = np.stack(stage.rectangles(random, 16, 16), axis=1)
    for before, after, (top, left, height, width) in zip(images, erased, rectangles, strict=True):
        wanted = functional.erase(
            before, top, left, height, width, torch.tensor(FILL, dtype=torch.uint8)[:, None, None]
        )
        assert torch.equal(after, wanted)
    count = int((rectangles[:, 2] > 0).sum())
    assert count == n if probability == 1 else stats.binomtest(count, n, probability).pvalue > 1e-3


EVERYTHING = recipe.Augment(
    crop=recipe.PadCrop(px=2),
    flip="random",
    policy=recipe.TrivialAugment(),
    rotate=15.0,
    brightness=0.4,
    contrast=0.4,
    saturation=0.4,
    lighting=0.1,
    erasing=0.25,
)


def test_stages_are_chosen_once_in_the_recipes_order() -> None:
    assert stages_of(recipe.Augment(), preprocessing()) == []
    assert stages_of(recipe.Augment(crop=recipe.PadCrop(px=0)), preprocessing()) == []
    names = [type(stage).__name__ for stage in stages_of(EVERYTHING, preprocessing())]
    assert names == [
        "PaddedCrop",
        "RandomFlip",
        "Policy",
        "Rotation",
        "Brightness",
        "Contrast",
        "Saturation",
        "Lighting",
        "Erasing",
    ]


@pytest.mark.parametrize(
    "stage", [*stages_of(EVERYTHING, preprocessing()), AlternateFlip()], ids=lambda s: type(s).__name__
)
def test_what_happens_to_a_picture_does_not_depend_on_its_batch(stage: transforms.Stage) -> None:
    images, order = batch(32), np.random.default_rng(1).permutation(32)
    whole = stage(images.clone(), Draws(7, 3, np.arange(32)))
    parts = [stage(images[order[k : k + 5]].clone(), Draws(7, 3, order[k : k + 5])) for k in range(0, 32, 5)]
    assert torch.equal(torch.cat(parts), whole[order])
    assert whole.dtype == torch.uint8
    assert whole.shape == images.shape


@pytest.mark.parametrize("key", ["saturation", "lighting"])
def test_colour_operations_are_refused_for_grey_pictures(key: str) -> None:
    with pytest.raises(RecipeError, match=f"augment.{key}.* grey pictures") as refused:
        stages_of(recipe.Augment(**{key: 0.1}), preprocessing("L"))
    assert refused.value.hint == f"Set augment.{key}=0."


def test_everything_else_works_on_grey_digits_of_8_pixels() -> None:
    augment = recipe.Augment(
        crop=recipe.PadCrop(px=1), flip="alternate", policy=recipe.RandAugment(), rotate=15.0, contrast=0.4, erasing=0.5
    )
    images = batch(64, 1, 8)
    for stage in stages_of(augment, preprocessing("L", 8)):
        images = stage(images, draws(64))
    assert images.shape == (64, 1, 8, 8)
    assert images.dtype == torch.uint8
