"""What counts as the same picture: what is found, what is not, and the search against comparing every pair."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import jpeg, photo, reopened
from PIL import Image
from scipy.fft import dctn

from residuum.data import similarity
from residuum.data.similarity import Features, exact_groups, near_groups


def features_of(pictures: Iterable[Image.Image]) -> Features:
    listed = list(pictures)
    features = Features(len(listed))
    for row, picture in enumerate(listed):
        features.remember(row, picture)
    return features


def groups_of(*pictures: Image.Image) -> tuple[list[list[int]], list[list[int]]]:
    features = features_of(pictures)
    return [g.tolist() for g in exact_groups(features)], [g.tolist() for g in near_groups(features)]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(30, 95), st.floats(0.5, 2))
def test_a_picture_saved_again_or_resized_is_found(seed: int, quality: int, scale: float) -> None:
    picture = photo(seed, 200, 150)
    other = picture.resize((round(200 * scale), round(150 * scale)), Image.Resampling.LANCZOS)
    assert groups_of(picture, photo(seed + 1), reopened(jpeg(other, quality))) == ([], [[0, 2]])


def test_no_two_of_many_photos_are_taken_for_one_another() -> None:
    assert near_groups(features_of(photo(seed, 48, 36) for seed in range(1500))) == []


def test_exact_copies_are_not_near_copies_but_join_them() -> None:
    picture = photo(0)
    assert groups_of(picture, photo(1), picture.copy()) == ([[0, 2]], [])
    again = reopened(jpeg(picture, 60))
    assert groups_of(picture, photo(1), picture.copy(), again) == ([[0, 2]], [[0, 2, 3]])


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        lambda p: p.rotate(180),
        lambda p: p.resize((p.height, p.width)),
        lambda p: _recoloured(p),
        lambda p: _with_a_patch(p),
        lambda p: p.point(lambda value: value - 40),
        lambda p: _shaded(p),
    ],
    ids=["mirrored", "turned", "stretched", "recoloured", "something added", "dark", "shaded"],
)
def test_another_picture_is_another_picture(change: Callable[[Image.Image], Image.Image]) -> None:
    picture = photo(7, 160, 128)
    assert groups_of(picture, change(picture)) == ([], [])


def _recoloured(picture: Image.Image) -> Image.Image:
    """The same brightness everywhere, and other colours."""
    luma, blue, red = picture.convert("YCbCr").split()
    return Image.merge("YCbCr", (luma, red, blue)).convert("RGB")


def _with_a_patch(picture: Image.Image) -> Image.Image:
    """One of 256 places is a good deal darker or brighter."""
    pixels = np.asarray(picture).astype(np.int16)
    place = pixels[64:72, 80:90]
    place += -70 if place.mean() > 128 else 70
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _shaded(picture: Image.Image) -> Image.Image:
    """Up to 30 darker on the left, up to 30 brighter on the right: little at each place, and much in all."""
    shade = -30 * np.cos(np.pi * (np.arange(picture.width) + 0.5) / picture.width)
    return Image.fromarray((np.asarray(picture) + shade[:, np.newaxis]).clip(0, 255).astype(np.uint8))


def test_flat_pictures_are_copies_only_to_the_pixel() -> None:
    flat = [Image.new("RGB", (40, 30), (value, 10, 200)) for value in (10, 11, 12, 10)]
    assert groups_of(*flat) == ([[0, 3]], [])


def test_the_hash_is_the_signs_of_the_cosine_transform() -> None:
    luma = np.random.default_rng(0).integers(0, 256, (50, 16, 16), dtype=np.uint8)
    spectrum = dctn(luma.astype(np.float64), axes=(1, 2))
    low = [(u, v) for u in range(16) for v in range(16) if u or v]
    low = sorted(low, key=lambda uv: (uv[0] + uv[1], uv[0]))[:64]
    wanted = [sum(picture[u, v] > 0 for u, v in low) for picture in spectrum]
    np.testing.assert_array_equal(np.bitwise_count(similarity.hashes(luma)), wanted)


def test_the_tables_propose_every_close_pair_and_no_other() -> None:
    noise = np.random.default_rng(1)
    codes = noise.integers(0, 2**63, 400, dtype=np.uint64)
    for target in range(200):  # neighbours at every distance
        for bit in noise.choice(64, target % 12, replace=False).tolist():
            codes[target] ^= np.uint64(1 << bit)
        codes[399 - target] = codes[target] ^ np.uint64(sum(1 << int(b) for b in noise.choice(64, target % 12, False)))
    proposed = {
        tuple(sorted(pair))
        for a, b in similarity._candidates(codes)
        for pair in zip(a.tolist(), b.tolist(), strict=True)
    }
    distance = np.bitwise_count(codes[:, None] ^ codes[None, :])
    close = {(int(a), int(b)) for a, b in np.argwhere(distance <= similarity.MOST_BITS) if a < b}
    assert proposed == close
    assert len(close) >= 100


@pytest.mark.data
def test_photos_saved_again_are_found_among_photos(data_folder: Path) -> None:
    files = sorted((data_folder / "hymenoptera/val").rglob("*.jpg"))
    photos = [Image.open(file).convert("RGB") for file in files]
    again = [reopened(jpeg(p.resize((p.width * 3 // 4, p.height * 3 // 4)), 60)) for p in photos]
    found = [group.tolist() for group in near_groups(features_of([*photos, *again]))]
    assert found == [[row, row + len(photos)] for row in range(len(photos))]
