"""Random crops of one picture, against Pillow's own resizing and torchvision's RandomResizedCrop."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch
from scipy import stats
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from residuum import imaging, recipe
from residuum.data.crops import CenterCrop, ResizedCrop, ScaleCrop, crop_of
from residuum.data.randomness import Draws
from residuum.errors import RecipeError
from residuum.imaging import Preprocessing


def preprocessing(mode: str = "RGB", img_size: int = 24, interpolation: str = "bilinear") -> Preprocessing:
    channels = 3 if mode == "RGB" else 1
    return Preprocessing(mode, img_size, img_size, interpolation, (0.5,) * channels, (0.25,) * channels)  # type: ignore[arg-type]


def picture(width: int, height: int, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    """A smooth picture with detail at every scale, like a photo."""
    random = np.random.default_rng(seed)
    layers = [
        PIL.Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)).resize((width, height))
        for side in (3, 9, 27)
    ]
    return PIL.Image.fromarray(np.mean([np.asarray(layer) for layer in layers], axis=0).astype(np.uint8)).convert(mode)


def numbers_of(crop: ScaleCrop | ResizedCrop, count: int) -> np.ndarray:
    return Draws(0, 0, np.arange(count)).table(crop.streams)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_centre_is_what_evaluation_sees(mode: str) -> None:
    shown = picture(50, 40, mode)
    for kind in (recipe.CenterCrop(), recipe.PadCrop()):
        crop = crop_of(kind, preprocessing(mode))
        assert isinstance(crop, CenterCrop)
        assert np.array_equal(crop(lambda _: shown, np.empty(0)), imaging.prepare(shown, preprocessing(mode)))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (20, 20), (24, 300)])
def test_scale_crop_is_a_window_of_the_resized_picture(size: tuple[int, int], interpolation: str) -> None:
    """Resizing everything with Pillow and cutting the window out gives the same pixels, but for two passes'
    rounding."""
    crop = ScaleCrop(preprocessing(interpolation=interpolation), 24, 48)
    shown = picture(*size)
    for scale, at_y, at_x in numbers_of(crop, 20):
        shorter = 24 + int(scale * 25)
        width, height = (max(shorter, round(side * shorter / min(size))) for side in size)
        top, left = int(at_y * (height - 23)), int(at_x * (width - 23))
        filter_ = PIL.Image.Resampling[interpolation.upper()]
        resized = np.asarray(shown.resize((width, height), filter_))[top : top + 24, left : left + 24]
        cropped = crop(lambda _: shown, np.array([scale, at_y, at_x]))
        assert np.abs(cropped.transpose(1, 2, 0).astype(int) - resized).max() <= 2


def test_scale_crop_takes_every_length_of_its_range_equally() -> None:
    crop = ScaleCrop(preprocessing(), 24, 31)
    asked: list[int] = []

    def opened(at_least_px: int | None) -> PIL.Image.Image:
        assert at_least_px is not None
        asked.append(at_least_px)
        return shown

    shown = picture(32, 32)
    for numbers in numbers_of(crop, 2000):
        crop(opened, numbers)
    counts = np.bincount(asked, minlength=32)
    assert counts[:24].sum() == 0
    assert stats.chisquare(counts[24:]).pvalue > 1e-3


@pytest.mark.parametrize("size", [(200, 150), (150, 200), (64, 64), (30, 400)])
def test_resized_crops_parts_are_distributed_like_torchvisions(size: tuple[int, int]) -> None:
    crop = ResizedCrop(preprocessing(), 0.08, 1.0, 4 / 3)
    shown, count = picture(*size), 3000
    boxes = np.array([crop.part(shown, numbers)[0] for numbers in numbers_of(crop, count)])
    ours = np.stack([boxes[:, 1], boxes[:, 0], boxes[:, 3] - boxes[:, 1], boxes[:, 2] - boxes[:, 0]])
    twin = v2.RandomResizedCrop(24, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3))
    image = torch.zeros(1, size[1], size[0])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [twin.make_params([image]) for _ in range(count)]
    theirs = np.array([[params[key] for params in drawn] for key in ("top", "left", "height", "width")])
    for one, other in zip(ours, theirs, strict=True):
        assert stats.ks_2samp(one, other, method="asymp").pvalue > 1e-3


@pytest.mark.parametrize("size", [(10, 100), (100, 10), (1, 90), (90, 1)])
def test_resized_crop_takes_torchvisions_centre_where_nothing_fits(size: tuple[int, int]) -> None:
    crop = ResizedCrop(preprocessing(), 1.0, 1.0, 4 / 3)
    box, _ = crop.part(picture(*size), numbers_of(crop, 1)[0])
    params = v2.RandomResizedCrop(24, scale=(1.0, 1.0)).make_params([torch.zeros(1, size[1], size[0])])
    top, left = params["top"], params["left"]
    assert box == (left, top, left + params["width"], top + params["height"])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resized_crop_resizes_like_torchvision(mode: str, interpolation: str) -> None:
    crop = ResizedCrop(preprocessing(mode, interpolation=interpolation), 0.08, 1.0, 4 / 3)
    shown = picture(90, 70, mode)
    for numbers in numbers_of(crop, 20):
        (left, top, right, bottom), _ = crop.part(shown, numbers)
        mode_of = InterpolationMode(interpolation)
        twin = functional.resized_crop(shown, top, left, bottom - top, right - left, [24, 24], mode_of, antialias=True)
        cropped = crop(lambda _: shown, numbers)
        assert np.array_equal(cropped, functional.pil_to_tensor(twin).numpy())


def test_a_reduced_scale_never_makes_a_crop_enlarge_what_it_need_not() -> None:
    """Whatever part is chosen of a JPEG of 1024 x 1024 pixels, the decoder leaves at least S pixels of it each way."""
    file = io.BytesIO()
    picture(1024, 1024).save(file, "JPEG", quality=95)
    crop = ResizedCrop(preprocessing(img_size=64), 0.08, 1.0, 4 / 3)
    full = imaging.open_picture(file.getvalue())
    shorter_sides: list[int] = []

    def reduced(at_least_px: int | None) -> PIL.Image.Image:
        opened.append(imaging.open_picture(file.getvalue(), at_least_px=at_least_px))
        return opened[-1]

    for numbers in numbers_of(crop, 40):
        opened: list[PIL.Image.Image] = []
        cropped = crop(reduced, numbers)
        (left, top, right, bottom), _ = crop.part(opened[-1], numbers)
        assert min(right - left, bottom - top) >= 64 - 1  # sides are rounded to whole pixels of the reduced picture
        averaged = full.resize(opened[-1].size, PIL.Image.Resampling.BOX)  # what libjpeg's scaling is meant to be
        assert np.abs(cropped.astype(int) - crop(lambda _: averaged, numbers)).mean() < 1  # noqa: B023 (called here)
        shorter_sides.append(min(opened[-1].size))
    assert min(shorter_sides) < 1024


def test_a_later_try_that_needs_more_pixels_opens_the_picture_again() -> None:
    crop = ResizedCrop(preprocessing(), 0.01, 1.0, 1.0)
    numbers = np.zeros(22)
    numbers[2], numbers[12:] = (
        0.999,
        0.5,
    )  # a first try of all of the area as a square, which does not fit; then a tiny one
    asked: list[int | None] = []

    def opened(at_least_px: int | None) -> PIL.Image.Image:
        asked.append(at_least_px)
        scale = max(1, 400 // (at_least_px or 400))
        return picture(1600 // scale, 400 // scale)

    crop(opened, numbers)
    assert asked == [25, 240]


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        (recipe.ScaleCrop(min_px=20, max_px=40), "min_px = 20"),
        (recipe.ScaleCrop(min_px=40, max_px=30), "max_px = 30"),
        (recipe.ResizedCrop(area_min=0.9, area_max=0.5), "area_min = 0.9"),
    ],
)
def test_an_impossible_range_is_refused(crop: recipe.Crop, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        crop_of(crop, preprocessing())


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
@pytest.mark.parametrize("kind", [recipe.ScaleCrop(24, 48), recipe.ResizedCrop(), recipe.CenterCrop()])
def test_any_size_of_picture_becomes_a_square(size: tuple[int, int], kind: recipe.Crop) -> None:
    crop = crop_of(kind, preprocessing())
    shown = picture(*size)
    for numbers in Draws(0, 0, np.arange(20)).table(crop.streams):
        cropped = crop(lambda _: shown, numbers)
        assert cropped.shape == (3, 24, 24)
        assert cropped.dtype == np.uint8


@pytest.mark.parametrize(
    "crop", [recipe.ScaleCrop(min_px=16, max_px=16), recipe.ResizedCrop(area_min=1.0, ratio_max=1.0)]
)
@pytest.mark.parametrize("how", ["squash", "pad"])
def test_random_crops_are_of_the_square_that_evaluation_sees(crop: recipe.Crop, how: str) -> None:
    """A crop of everything is what evaluation sees of a picture that is larger than that."""
    seen = replace(preprocessing("RGB", 16), resize=how)  # type: ignore[arg-type]
    ramp = np.linspace(0, 255, 60)[None, :, None] * np.ones((31, 1, 3))
    shown = PIL.Image.fromarray(ramp.astype(np.uint8))
    made = crop_of(crop, seen)
    found = made(lambda _: shown, np.full(len(made.streams), 0.5))
    assert np.abs(found.astype(int) - imaging.prepare(shown, seen)).max() <= 16  # resized in two steps, not one
