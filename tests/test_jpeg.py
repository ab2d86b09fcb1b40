"""Parts of JPEGs against Pillow's full decode: the same bits, the same refusals, and never a crash."""

from __future__ import annotations

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from residuum import imaging, jpeg, pixels, recipe
from residuum.data.crops import crop_of
from residuum.data.randomness import Draws
from residuum.decoding import Mode, open_picture
from residuum.errors import PictureError
from residuum.imaging import Preprocessing

here = pytest.mark.skipif(jpeg.library() is None, reason="no C compiler or no libjpeg-turbo here")

KINDS: tuple[dict[str, object], ...] = (
    {"subsampling": 0},
    {"subsampling": 1},
    {"subsampling": 2},
    {"progressive": True},
    {"progressive": True, "subsampling": 0},
    {"restart_marker_blocks": 3},
    {"restart_marker_rows": 1, "optimize": True},
)


def encoded(width: int, height: int, mode: str = "RGB", seed: int = 0, **options: object) -> bytes:
    """A JPEG of noise with detail at several scales."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(noise).resize((width, height)).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def kept_of(content: bytes, part: pixels.Part, at_least_px: int | None = None) -> np.ndarray | None:
    """A part as we decode it; None where all of the picture is Pillow's to decode."""
    photo = jpeg.photo_of(content, "RGB", at_least_px)
    cut = None if photo is None else photo.part(part)
    return None if cut is None else cut.of(part)


def cut_of(picture: PIL.Image.Image, part: pixels.Part) -> np.ndarray:
    return np.asarray(picture)[part[1] : part[3], part[0] : part[2]]


def outcome(content: bytes, opener: object, numbers: np.ndarray) -> bytes | str:
    """The crop of a picture, or the reason why there is none."""
    seen = Preprocessing("RGB", 32, 32, "bilinear", (0.5,) * 3, (0.25,) * 3)
    crop = crop_of(recipe.ResizedCrop(), seen)
    try:
        return crop(lambda px: opener(content, "RGB", name="it", at_least_px=px), numbers).tobytes()  # type: ignore[operator]
    except PictureError as error:
        return error.reason


@here
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_part_has_the_bits_of_a_full_decode(data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    mode, options = data.draw(st.sampled_from([("L", {}), *(("RGB", kind) for kind in KINDS)]))
    content = encoded(width, height, mode, data.draw(st.integers(0, 9)), quality=90, **options)
    at_least_px = data.draw(st.sampled_from([None, 5, 16, 40]))
    whole = open_picture(content, at_least_px=at_least_px)
    left, top = data.draw(st.integers(0, whole.width - 1)), data.draw(st.integers(0, whole.height - 1))
    right, bottom = data.draw(st.integers(left + 1, whole.width)), data.draw(st.integers(top + 1, whole.height))
    kept = kept_of(content, (left, top, right, bottom), at_least_px)
    assert kept is not None
    assert np.array_equal(kept, cut_of(whole, (left, top, right, bottom)))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("how", ["shorter-crop", "squash", "pad"])
@pytest.mark.parametrize("kind", [recipe.ScaleCrop(24, 80), recipe.ResizedCrop(), recipe.CenterCrop()])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_every_crop_is_what_it_was(mode: Mode, how: str, kind: recipe.Crop, interpolation: str) -> None:
    values = (0.5,) * (3 if mode == "RGB" else 1)
    crop = crop_of(kind, Preprocessing(mode, 24, 30, interpolation, values, values, how))  # type: ignore[arg-type]
    pictures = [encoded(200, 90, "RGB"), encoded(61, 133, "L"), encoded(333, 257, subsampling=0), encoded(7, 3)]
    for number, numbers in enumerate(Draws(0, 0, np.arange(16)).table(crop.streams)):
        content = pictures[number % len(pictures)]
        old = crop(lambda px: open_picture(content, mode, at_least_px=px), numbers)  # noqa: B023 (called here)
        new = crop(lambda px: jpeg.seen(content, mode, at_least_px=px), numbers)  # noqa: B023
        assert np.array_equal(old, new)


@pytest.mark.data
def test_the_crops_of_real_photos_are_what_they_were(data_folder: Path) -> None:
    files = sorted((data_folder / "hymenoptera").rglob("*.jpg"))
    assert files
    for kind in (recipe.ResizedCrop(), recipe.ScaleCrop(256, 480), recipe.CenterCrop()):
        crop = crop_of(kind, Preprocessing("RGB", 224, 256, "bilinear", (0.5,) * 3, (0.25,) * 3))
        for file, numbers in zip(files, Draws(0, 0, np.arange(len(files))).table(crop.streams), strict=True):
            old = crop(lambda px: open_picture(file, at_least_px=px), numbers)  # noqa: B023 (called here)
            new = crop(lambda px: jpeg.seen(file, at_least_px=px), numbers)  # noqa: B023
            assert np.array_equal(old, new), file


@here
@pytest.mark.parametrize("options", KINDS[:6])
def test_a_file_cut_short_behind_the_part_is_refused_as_before(options: dict[str, object]) -> None:
    content = encoded(150, 130, **options)
    numbers = np.full(22, 0.4)
    numbers[:2] = 0.0  # the part lies in the upper left corner
    numbers[2:12] = 0.1
    assert kept_of(content, (0, 0, 40, 40)) is not None
    for length in [*range(1, len(content), len(content) // 60), *range(len(content) - 12, len(content))]:
        cut = content[:length]
        found = [outcome(cut, opener, numbers) for opener in (open_picture, jpeg.seen)]
        assert found[0] == found[1]
        assert kept_of(cut, (0, 0, 40, 40)) is None


@here
def test_what_follows_the_end_does_not_matter_and_a_marker_before_it_does() -> None:
    content, part = encoded(150, 130), (0, 0, 40, 40)
    assert kept_of(content + b"\0trailing \xff bytes", part) is not None
    for marker in (b"\xff\xc0", b"\xff\xda", b"\xff\x01"):
        assert kept_of(content[:-40] + marker + content[-38:], part) is None
    assert kept_of(content[:-2], part) is None


@here
@pytest.mark.parametrize("seed", range(8))
def test_damaged_files_give_what_they_gave(seed: int) -> None:
    """Refused is what was refused; where there are pixels, they are Pillow's, unless the damage lies behind them."""
    random = np.random.default_rng(seed)
    content = encoded(90, 70, "L" if seed == 7 else "RGB", seed, **KINDS[seed % len(KINDS)])
    start = content.rindex(b"\xff\xda")
    for numbers in np.asarray(random.random((40, 22))):
        damaged = bytearray(content)
        for place in random.integers(2, start + 12 if random.random() < 0.6 else len(content), random.integers(1, 4)):
            damaged[place] = random.integers(0, 256)
        old, new = (outcome(bytes(damaged), opener, numbers) for opener in (open_picture, jpeg.seen))
        if isinstance(old, str) or isinstance(new, str) or damaged[start:] == content[start:]:
            assert old == new


@pytest.mark.parametrize("orientation", [1, 6])
def test_which_way_up_a_picture_is_counts(orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    content = encoded(80, 60, exif=exif)
    found = jpeg.seen(content)
    assert found.size == open_picture(content).size
    assert isinstance(found, pixels.Undecoded) == (orientation == 1 and jpeg.library() is not None)
    assert np.array_equal(np.asarray(pixels.image_of(found)), np.asarray(open_picture(content)))


@here
@pytest.mark.parametrize(
    "content",
    [
        encoded(80, 60, "CMYK"),
        encoded(80, 60, xmp=b'<x tiff:Orientation="3"/>'),
        encoded(80, 60)[:2] + b"\xff\xe2\x00\x08MPF\0xx" + encoded(80, 60)[2:],
        encoded(80, 60)[:2] + b"\xff" + encoded(80, 60)[2:],
    ],
    ids=["CMYK", "turned by XMP", "MPF", "a byte of padding"],
)
def test_anything_else_is_pillows_to_decode(content: bytes) -> None:
    found, wanted = jpeg.seen(content), open_picture(content)
    assert not isinstance(found, pixels.Undecoded) or found.part((0, 0, 9, 9)) is not None
    assert np.array_equal(np.asarray(pixels.image_of(found)), np.asarray(wanted))


def test_what_is_no_file_or_no_picture_is_refused_as_before(tmp_path: Path) -> None:
    pipe, empty, text, loop = (tmp_path / name for name in ("pipe.jpg", "empty.jpg", "text.jpg", "loop.jpg"))
    os.mkfifo(pipe)
    empty.touch()
    text.write_text("<html>404</html>")
    loop.symlink_to(loop)
    for path in (pipe, empty, text, loop, tmp_path, tmp_path / "none.jpg", "a\0b.jpg"):
        errors = []
        for opener in (open_picture, jpeg.seen):
            with pytest.raises(PictureError) as caught:
                opener(path)
            errors.append((caught.value.name, caught.value.reason))
        assert errors[0] == errors[1]


def test_without_a_compiler_pillow_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(80, 60)
    monkeypatch.setattr(jpeg, "library", lambda: None)
    assert isinstance(jpeg.seen(content), PIL.Image.Image)
    monkeypatch.undo()
    found = jpeg.seen(content)
    monkeypatch.setattr(pixels, "library", lambda: None)
    resampled = partial(pixels.resample, size=(20, 20), interpolation="bilinear")
    assert np.array_equal(resampled(found), resampled(imaging.open_picture(content)))
