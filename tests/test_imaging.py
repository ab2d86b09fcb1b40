"""Preprocessing against torchvision, and its way into and out of a bundle."""

from __future__ import annotations

import json
import resource
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from residuum.errors import WeightsError
from residuum.imaging import Mode, Preprocessing, normalise, prepare


def preprocessing(mode: Mode = "RGB", **changes: Any) -> Preprocessing:
    channels = 3 if mode == "RGB" else 1
    values: dict[str, Any] = {"img_size": 24, "resize_px": 32, "interpolation": "bilinear"}
    values |= {"mean": (0.4,) * channels, "std": (0.25,) * channels}
    return Preprocessing(mode, **{**values, **changes})


def noise(mode: Mode, width: int, height: int, seed: int = 0) -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@given(
    st.integers(3, 90),
    st.integers(3, 90),
    st.integers(4, 48),
    st.integers(0, 20),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from(["RGB", "L"]),
)
@settings(deadline=None)
def test_resize_and_crop_are_torchvisions(
    w: int, h: int, img_size: int, margin: int, interpolation: str, mode: Mode
) -> None:
    if max(w, h) > 16 * min(w, h):
        w = h
    wanted = preprocessing(mode, img_size=img_size, resize_px=img_size + margin, interpolation=interpolation)
    picture = noise(mode, w, h, seed=w * h)
    twin = v2.Compose(
        [
            v2.Resize(img_size + margin, v2.InterpolationMode(interpolation), antialias=True),
            v2.CenterCrop(img_size),
            v2.PILToTensor(),
        ]
    )
    np.testing.assert_array_equal(prepare(picture, wanted), twin(picture).numpy())


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = noise("RGB", 32, 32)
    same = prepare(picture, preprocessing(img_size=32))
    np.testing.assert_array_equal(same, np.asarray(picture).transpose(2, 0, 1))
    assert same.flags.c_contiguous


def test_nothing_is_padded_where_the_crop_is_larger_than_the_resize() -> None:
    assert prepare(Image.new("L", (9, 7), 200), preprocessing("L", img_size=40)).min() == 200


@given(st.integers(1, 3), st.integers(17, 5000), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_strip_of_any_length_becomes_its_centre(width: int, length: int, upright: bool) -> None:
    strip = np.zeros((length, width, 3), np.uint8)
    middle = slice(max(0, length // 2 - 8 * width - 1), length // 2 + 8 * width + 2)
    strip[middle] = 255
    picture = Image.fromarray(strip if upright else strip.transpose(1, 0, 2))
    assert prepare(picture, preprocessing()).min() == 255


def test_a_strip_costs_little_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    prepare(
        Image.new("RGB", (1, 2_000_000)), preprocessing(img_size=224, resize_px=256)
    )  # 131 gigapixels if resized whole
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_normalisation_is_torchvisions(mode: Mode) -> None:
    wanted = preprocessing(mode, mean=(0.485, 0.456, 0.406)[: 3 if mode == "RGB" else 1])
    images = np.random.default_rng(0).integers(0, 256, (5, wanted.channels, 6, 7), dtype=np.uint8)
    twin = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(wanted.mean, wanted.std)])
    found = normalise(images, wanted)
    assert found.dtype == np.float32
    # Three roundings of numbers up to 1, the first two of which are divided by std afterwards.
    bound = (2 / 0.25 + 3) * np.finfo(np.float32).eps
    np.testing.assert_allclose(found, twin(torch.from_numpy(images)).numpy(), rtol=0, atol=2 * bound)
    exact = (images / 255 - np.array(wanted.mean)[:, None, None]) / np.array(wanted.std)[:, None, None]
    np.testing.assert_allclose(found, exact, rtol=0, atol=bound)


def test_a_bundle_gives_back_the_same_preprocessing() -> None:
    for wanted in (preprocessing(), preprocessing("L", interpolation="bicubic")):
        assert Preprocessing.from_dict(json.loads(json.dumps(wanted.as_dict()))) == wanted


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "CMYK"},
        {"mode": ["RGB"]},
        {"img_size": 0},
        {"img_size": 32.0},
        {"img_size": True},
        {"resize_px": "32"},
        {"interpolation": "nearest"},
        {"mean": [0.5]},
        {"mean": 0.5},
        {"mean": [0.5, 0.5, "0.5"]},
        {"std": [0.5, 0.5, 0.0]},
        {"std": [0.5, 0.5, float("nan")]},
        {"extra": 1},
        {"std": None},
    ],
    ids=str,
)
def test_a_malformed_preprocessing_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WeightsError, match=next(iter(change))):
        Preprocessing.from_dict({**preprocessing().as_dict(), **change})


def test_a_missing_key_is_refused() -> None:
    values = preprocessing().as_dict()
    del values["mean"]
    with pytest.raises(WeightsError, match="mean"):
        Preprocessing.from_dict(values)


@given(st.integers(3, 60), st.integers(3, 60), st.sampled_from(["bilinear", "bicubic"]), st.sampled_from(["RGB", "L"]))
@settings(deadline=None, max_examples=40)
def test_squashed_is_torchvisions_resize_to_a_square(w: int, h: int, interpolation: str, mode: Mode) -> None:
    if h > 16 * w:
        w = h
    picture = noise(mode, w, h, seed=w * h)
    twin = v2.Compose([v2.Resize((24, 24), v2.InterpolationMode(interpolation), antialias=True), v2.PILToTensor()])
    wanted = preprocessing(mode, interpolation=interpolation, resize="squash")
    np.testing.assert_array_equal(prepare(picture, wanted), twin(picture).numpy())


@given(st.integers(3, 60), st.integers(3, 60), st.sampled_from(["RGB", "L"]))
@settings(deadline=None, max_examples=40)
def test_padded_is_pillows_with_the_mean_colour_beside_it(w: int, h: int, mode: Mode) -> None:
    picture = noise(mode, w, h, seed=w * h)
    found = prepare(picture, preprocessing(mode, resize="pad"))
    scale = 24 / max(w, h)
    tall, wide = max(1, round(h * scale)), max(1, round(w * scale))
    top, left = (24 - tall) // 2, (24 - wide) // 2
    inner = found[:, top : top + tall, left : left + wide]
    expected = np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR)).reshape(tall, wide, -1)
    np.testing.assert_array_equal(inner, expected.transpose(2, 0, 1))
    outside = np.ones((24, 24), dtype=bool)
    outside[top : top + tall, left : left + wide] = False
    assert set(found[:, outside].ravel().tolist()) <= {102}  # 0.4 of 255


@pytest.mark.parametrize("how", ["squash", "pad"])
def test_a_strip_costs_little_memory_however_it_becomes_a_square(how: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for size in ((1, 1_000_000), (1_000_000, 1)):
        assert prepare(Image.new("RGB", size, (9, 9, 9)), preprocessing(resize=how)).shape == (3, 24, 24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_a_bundle_from_before_there_was_a_choice_crops() -> None:
    values = preprocessing().as_dict()
    del values["resize"]
    assert Preprocessing.from_dict(values).resize == "shorter-crop"
    with pytest.raises(WeightsError, match="resize is 'stretch'"):
        Preprocessing.from_dict({**values, "resize": "stretch"})
