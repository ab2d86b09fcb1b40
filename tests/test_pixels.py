"""Crop, resize, mirror and normalise by the kernel: the bits of Pillow and of torch."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residuum import imaging, pixels
from residuum.data import transforms
from residuum.imaging import Preprocessing

here = pytest.mark.skipif(pixels.library() is None, reason="no C compiler here")


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> PIL.Image.Image:
    channels = (3,) if mode == "RGB" else ()
    values = np.random.default_rng(seed).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return PIL.Image.fromarray(values)


def lying(picture: PIL.Image.Image) -> pixels.Pixels:
    """The same picture as bytes with spare ones behind, as in a mapped file."""
    array = np.asarray(picture).reshape(picture.height, picture.width, -1)
    memory = np.full(array.nbytes + pixels.SPARE_BYTES, 7, dtype=np.uint8)
    memory[: array.nbytes] = array.ravel()
    return pixels.Pixels(memory[: array.nbytes].reshape(array.shape))


def pillows(
    picture: PIL.Image.Image,
    size: tuple[int, int],
    kind: str,
    part: pixels.Part | None,
    box: pixels.Box | None,
    window: pixels.Part | None,
) -> np.ndarray:
    cropped = picture if part is None else picture.crop(part)
    resized = cropped.resize(size, PIL.Image.Resampling[kind.upper()], box)
    shown = np.asarray(resized if window is None else resized.crop(window))
    return shown.reshape(shown.shape[0], shown.shape[1], -1)


@here
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_it_resizes_as_pillow_does_to_the_last_bit(data: st.DataObject) -> None:
    side = st.integers(1, 90)
    mode, kind = data.draw(st.sampled_from(["RGB", "L"])), data.draw(st.sampled_from(["bilinear", "bicubic"]))
    width, height, to = data.draw(side), data.draw(side), (data.draw(side), data.draw(side))
    picture = noise(width, height, mode, data.draw(st.integers(0, 9)))
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    right, bottom = data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height))
    part = data.draw(st.sampled_from([None, (left, top, right, bottom)]))
    wide, high = (width, height) if part is None else (right - left, bottom - top)
    begin, length = data.draw(st.floats(0, 0.5)), data.draw(st.floats(0.1, 0.5))
    floating = (begin * wide, begin * high, (begin + length) * wide, (begin + length) * high)
    box = data.draw(st.sampled_from([None, floating]))
    x, y = data.draw(st.integers(0, to[0] - 1)), data.draw(st.integers(0, to[1] - 1))
    window = data.draw(st.sampled_from([None, (x, y, to[0], to[1]), (0, 0, x + 1, y + 1)]))
    wanted = pillows(picture, to, kind, part, box, window)
    for shown in (picture, lying(picture)):
        found = pixels.resample(shown, to, kind, part=part, box=box, window=window)  # type: ignore[arg-type]
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize("size", [(500, 375), (37, 1200)])
@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
def test_it_resizes_as_pillow_does_with_a_compiler_and_without(
    size: tuple[int, int], kind: pixels.Interpolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = noise(*size)
    wanted = pillows(picture, (224, 224), kind, (5, 3, 37, 370), None, (1, 2, 200, 100))
    for _ in range(2):
        for shown in (picture, lying(picture)):
            found = pixels.resample(shown, (224, 224), kind, part=(5, 3, 37, 370), window=(1, 2, 200, 100))
            assert np.array_equal(found, wanted)
        monkeypatch.setattr(pixels, "library", lambda: None)


def test_a_picture_in_several_pieces_of_memory_is_pillows_to_resize() -> None:
    """Pillow keeps large pictures in blocks of 16 MB, which have no one address."""
    picture = PIL.Image.linear_gradient("L").resize((3000, 2000)).convert("RGB")
    found = pixels.resample(picture, (30, 20), "bilinear")
    assert np.array_equal(found, pillows(picture, (30, 20), "bilinear", None, None, None))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("side", [16, 21])
def test_batches_are_mirrored_and_normalised_to_torchs_bits(
    mode: imaging.Mode, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = 3 if mode == "RGB" else 1
    how = Preprocessing(
        mode, side, side, "bilinear", (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    )
    batch = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (5, side, side, channels), dtype=np.uint8))
    which = np.array([True, False, True, True, False])
    normalise = transforms.Normalise(how, torch.device("cpu"), channels_last=True)
    found = []
    for _ in range(2):
        images = batch.clone().permute(0, 3, 1, 2)
        mirrored = transforms._mirrored(images, which)
        found.append((mirrored, normalise(mirrored)))
        monkeypatch.setattr(pixels, "library", lambda: None)
    (ours, ours_normalised), (torchs, torchs_normalised) = found
    assert torch.equal(ours, torchs)
    assert torch.equal(ours[0], batch[0].permute(2, 0, 1).flip(-1))
    assert torch.equal(ours_normalised, torchs_normalised)
    assert ours_normalised.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(ours_normalised.numpy(), imaging.normalise(ours.contiguous().numpy(), how))


def test_every_value_of_a_byte_is_normalised_to_torchs_bits() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3).contiguous()
    how = Preprocessing("RGB", 16, 16, "bilinear", (0.1, 0.5, 0.9), (0.3, 0.013, 1.7))
    found = transforms.Normalise(how, torch.device("cpu"), channels_last=True)(values.permute(0, 3, 1, 2))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (how.mean, how.std))
    assert torch.equal(found, (values.permute(0, 3, 1, 2).float() / 255 - mean) / std)
