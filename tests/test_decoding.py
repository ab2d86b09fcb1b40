"""Pictures of every mode, size and kind against Pillow and arithmetic; hostile bytes; preprocessing against
torchvision."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from residuum import decoding
from residuum.decoding import Mode, examine, open_picture
from residuum.errors import PictureError

PLAIN = ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"]
ALPHA = ["LA", "La", "PA", "RGBA", "RGBa"]
DEEP = ["I;16", "I;16L", "I;16B", "I", "F"]

LOSSLESS = [
    *[("PNG", mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "I;16")],
    *[("BMP", mode) for mode in ("1", "L", "P", "RGB")],
    *[("TIFF", mode) for mode in ("1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16", "F")],
    *[("WEBP", mode) for mode in ("RGB", "RGBA")],
    *[("GIF", mode) for mode in ("1", "L", "P")],
]
FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


def drawn(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Returns a picture of random pixels."""
    noise = np.random.default_rng(seed)
    if mode == "F":
        return Image.fromarray(noise.random((height, width), dtype=np.float32))
    if mode in ("I", "I;16", "I;16L", "I;16B"):
        words = noise.integers(0, 65_536, (height, width)).astype(np.uint16)
        if mode == "I":
            return Image.fromarray(words.astype(np.int32))
        little = Image.frombytes("I;16", (width, height), words.astype("<u2").tobytes())
        return (
            little
            if mode == "I;16"
            else Image.frombytes(mode, (width, height), words.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
        )
    if mode in ("P", "PA"):
        indices = Image.fromarray(noise.integers(0, 256, (height, width), dtype=np.uint8))
        indices.putpalette(noise.integers(0, 256, 768, dtype=np.uint8).tobytes())
        return indices if mode == "P" else indices.convert("PA")
    size = len(Image.new(mode, (width, height)).tobytes())
    return Image.frombytes(mode, (width, height), noise.integers(0, 256, size, dtype=np.uint8).tobytes())


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}), **options)
    return file.getvalue()


def over_white(picture: Image.Image) -> NDArray[np.float64]:
    """The definition: colour * alpha + white * (1 - alpha). Shapes: [H, W, 3]."""
    pixels = np.asarray(
        picture.convert("LA").convert("RGBA") if picture.mode == "La" else picture.convert("RGBA"), float
    )
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + 255 * (1 - alpha)


sizes = st.integers(1, 33)
wanted = st.sampled_from(["RGB", "L"])


@given(st.sampled_from(PLAIN), sizes, sizes, st.integers(0, 2**32), wanted)
def test_a_picture_without_alpha_is_what_pillow_converts_it_to(
    stored: str, w: int, h: int, seed: int, mode: Mode
) -> None:
    picture = drawn(stored, w, h, seed)
    through_rgb = picture if stored in ("1", "L") else picture.convert("RGB")
    found = open_picture(picture, mode)
    assert (found.mode, found.size) == (mode, (w, h))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(through_rgb.convert(mode)))


@given(st.sampled_from(ALPHA), sizes, sizes, st.integers(0, 2**32))
def test_alpha_lies_over_white(stored: str, w: int, h: int, seed: int) -> None:
    picture = drawn(stored, w, h, seed)
    found = np.asarray(open_picture(picture))
    assert np.abs(found - over_white(picture)).max() <= 1  # Pillow rounds once, to whole numbers
    np.testing.assert_array_equal(
        np.asarray(open_picture(picture, "L")), np.asarray(Image.fromarray(found).convert("L"))
    )


@given(st.sampled_from(DEEP), sizes, sizes, st.integers(0, 2**32), wanted)
def test_deep_grey_is_scaled_and_rounded_not_clipped(stored: str, w: int, h: int, seed: int, mode: Mode) -> None:
    picture = drawn(stored, w, h, seed)
    values = np.asarray(picture).astype(np.float64)
    grey = np.rint(values * 255 if stored == "F" else values / 257)
    found = np.asarray(open_picture(picture, mode))
    np.testing.assert_array_equal(found, np.repeat(grey[..., np.newaxis], 3, axis=2) if mode == "RGB" else grey)


@given(st.sampled_from(LOSSLESS), sizes, sizes, st.integers(0, 2**32), wanted)
def test_a_lossless_format_gives_back_the_picture(kind: tuple[str, str], w: int, h: int, seed: int, mode: Mode) -> None:
    file_format, stored = kind
    picture = drawn(stored, w, h, seed)
    found = open_picture(encoded(picture, file_format), mode)
    np.testing.assert_array_equal(np.asarray(found), np.asarray(open_picture(picture, mode)))


@given(st.sampled_from(["L", "RGB", "CMYK"]), sizes, sizes, st.integers(0, 2**32))
def test_a_jpeg_is_what_pillow_decodes(stored: str, w: int, h: int, seed: int) -> None:
    content = encoded(drawn(stored, w, h, seed), "JPEG")
    np.testing.assert_array_equal(
        np.asarray(open_picture(content)), np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    )


def test_adobe_jpeg_in_cmyk_is_not_inverted() -> None:
    """Pillow writes CMYK as Adobe does, inverted; a white page must come back white."""
    content = encoded(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")
    assert b"Adobe" in content
    assert np.asarray(open_picture(content)).min() == 255


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = drawn("RGB", 24, 16, seed=orientation)
    content = encoded(picture, kind, exif=exif)
    found, facts = examine(content)
    np.testing.assert_array_equal(
        np.asarray(found), np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    )
    assert found.size == ((16, 24) if orientation >= 5 else (24, 16))
    assert (facts.orientation, facts.width, facts.height) == (orientation, 24, 16)


def test_broken_exif_does_not_make_a_picture_unusable_nor_warn() -> None:
    picture = drawn("RGB", 8, 8, 0)
    tag = struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    beyond = struct.pack("<HHII", 0x010E, 2, 400, 9999)  # a text that would lie behind the end of the file
    content = encoded(picture, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + tag + beyond + bytes(4))
    with pytest.warns(UserWarning):
        Image.open(io.BytesIO(content)).getexif()
    assert open_picture(content).size == (8, 8)


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "I;16"])
def test_a_transparent_colour_becomes_white(mode: str) -> None:
    picture = drawn(mode, 9, 7, seed=3)
    key = picture.getpixel((4, 3))
    content = encoded(picture, "PNG", transparency=key)
    plain = np.asarray(open_picture(encoded(picture, "PNG"))).copy()
    plain[(np.asarray(picture).reshape(7, 9, -1) == np.array(key)).all(axis=2)] = 255
    np.testing.assert_array_equal(np.asarray(open_picture(content)), plain)


def test_a_gif_and_a_webp_show_their_first_frame() -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        found, facts = examine(content)
        assert np.asarray(found).reshape(-1, 3).tolist() == [[255, 0, 0]] * 30
        assert (facts.format, facts.frames) == (kind, 3)


def test_the_facts_of_a_file() -> None:
    def facts(mode: str, kind: str) -> decoding.Facts:
        return examine(encoded(drawn(mode, 5, 4, 1), kind))[1]

    assert facts("RGBA", "PNG") == decoding.Facts("PNG", 5, 4, "RGBA", 8, True, 1, 1)
    assert facts("I;16", "PNG").bits == facts("I;16", "TIFF").bits == 16
    assert facts("1", "TIFF").bits == 1
    assert facts("F", "TIFF").bits == 32
    assert facts("CMYK", "JPEG").mode == "CMYK"
    assert not facts("L", "BMP").alpha
    deep = png(8, 8, b"\x10\x00" * 3 * 8, bits=16, colour=2)
    assert examine(deep)[1].bits == 16  # Pillow calls its mode RGB, and keeps the high byte
    assert np.asarray(examine(deep)[0]).max() == 0x10


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 80))
@settings(max_examples=50)
def test_a_jpeg_is_reduced_only_as_far_as_asked(w: int, h: int, at_least_px: int) -> None:
    found = open_picture(encoded(Image.new("RGB", (w, h), "teal"), "JPEG"), at_least_px=at_least_px)
    shorter = min(found.size)
    assert shorter >= min(w, h, at_least_px)
    assert shorter * 16 > min(w, h) or shorter < 2 * at_least_px  # at an eighth, nothing smaller is left
    assert found.size in [(-(-w // scale), -(-h // scale)) for scale in (1, 2, 4, 8)]


def test_a_picture_of_the_caller_is_never_reduced() -> None:
    lazy = Image.open(io.BytesIO(encoded(Image.new("RGB", (64, 64)), "JPEG")))
    assert open_picture(lazy, at_least_px=8).size == (64, 64)


@given(st.sampled_from([np.uint8, np.uint16]), st.sampled_from([None, 1, 2, 3, 4]), sizes, sizes, st.integers(0, 2**32))
def test_arrays_are_pictures(dtype: type, channels: int | None, w: int, h: int, seed: int) -> None:
    shape = (h, w) if channels is None else (h, w, channels)
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    in_bytes = np.rint(pixels / (257 if dtype is np.uint16 else 1)).astype(np.uint8)
    stored = {None: "L", 1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    same = Image.frombytes(stored, (w, h), in_bytes.tobytes())
    np.testing.assert_array_equal(np.asarray(open_picture(pixels)), np.asarray(open_picture(same)))


def png(width: int, height: int, row: bytes = b"", bits: int = 8, colour: int = 0) -> bytes:
    """Returns a PNG that says it is `width` x `height`, with only `height` or 64 rows in it, whichever is less."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = zlib.compress((b"\0" + (row or bytes(min(width, 64)))) * min(height, 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "it is not an image of a known format"),
        (encoded(Image.new("RGB", (4, 4)), "PPM"), "it is not an image of a known format"),
        (encoded(Image.new("RGB", (32, 32)), "ICO"), "it is not an image of a known format"),
        (png(60_000, 60_000), "more pixels than the limit"),
        (png(14_000, 13_000), "more pixels than the limit of 178,956,970"),
        (np.broadcast_to(np.uint8(0), (13_000, 14_000)), "14000 x 13000 pixels, more than the limit of 178,956,970"),
        (png(12_000, 12_000), "truncated"),  # below our limit, above the size from which Pillow warns
        (np.zeros((4, 4, 5), np.uint8), "shape [4, 4, 5]"),
        (np.zeros((4,), np.uint8), "shape [4]"),
        (np.zeros((4, 4), np.float32), "float32"),
        (np.zeros((0, 4), np.uint8), "no pixels"),
        (Image.fromarray(np.full((2, 2), 2.0, np.float32)), "outside 0..1"),
        (Image.fromarray(np.full((2, 2), np.nan, np.float32)), "outside 0..1"),
        (Image.fromarray(np.full((2, 2), 70_000, np.int32)), "outside 0..65535"),
        ("a\0b.png", "cannot be a file's name"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else "",
)
def test_what_is_no_picture_is_refused_with_its_name_and_the_reason(source: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        open_picture(source, name="the-name")
    assert caught.value.name == "the-name"
    assert reason in caught.value.reason
    assert "the-name" in str(caught.value)


def test_what_is_no_file_is_refused_with_its_path(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for path, reason in [(tmp_path / "none.jpg", "no such file"), (tmp_path, "a folder"), (pipe, "not a regular file")]:
        with pytest.raises(PictureError) as caught:
            open_picture(path)
        assert caught.value.name == str(path)
        assert reason in caught.value.reason


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused(kind: str) -> None:
    content = encoded(drawn("RGB", 64, 64, 1).convert("P" if kind == "GIF" else "RGB"), kind)
    for kept in (0.2, 0.5, 0.9):
        with pytest.raises(PictureError):
            open_picture(content[: int(len(content) * kept)])


@given(st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_hostile_bytes_give_a_picture_or_the_one_error(data: st.DataObject) -> None:
    kind, stored = data.draw(st.sampled_from([*LOSSLESS, ("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK")]))
    options: dict[str, object] = {}
    if kind == "TIFF":
        options["compression"] = data.draw(st.sampled_from([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"]))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    if kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        options["exif"] = exif
    content = bytearray(encoded(drawn(stored, 12, 9, 5), kind, **options))
    places = st.one_of(st.integers(0, min(len(content), 200) - 1), st.integers(0, len(content) - 1))
    for place in data.draw(st.lists(places, max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    hostile = bytes(content[: data.draw(st.integers(1, len(content)))] if data.draw(st.booleans()) else content)
    at_least_px = data.draw(st.sampled_from([None, 4]))
    try:
        found = open_picture(hostile, name="hostile", at_least_px=at_least_px)
    except PictureError as error:
        assert error.reason
    else:
        assert found.mode == "RGB"
        assert len(found.tobytes()) == 3 * found.width * found.height
    try:
        examine(hostile)
    except PictureError as error:
        assert error.name == "<bytes>"


@given(
    st.binary(max_size=200),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"GIF89a", b"BM", b"II*\0", b"MM\0*"]),
)
@example(b"", b"BM")
def test_garbage_behind_a_signature_gives_the_one_error(rest: bytes, signature: bytes) -> None:
    try:
        open_picture(signature + rest)
    except PictureError as error:
        assert error.reason


def test_opening_changes_nothing_and_works_in_threads(tmp_path: Path) -> None:
    paths = []
    for number, (kind, stored) in enumerate([*LOSSLESS, ("JPEG", "RGB")]):
        paths.append(tmp_path / f"{number}.{kind.lower()}")
        paths[-1].write_bytes(encoded(drawn(stored, 20, 30, number), kind))
        paths[-1].chmod(0o444)
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths]
    alone = [open_picture(path).tobytes() for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda path: open_picture(path).tobytes(), paths * 10))
    assert together == alone * 10
    assert [(path.read_bytes(), path.stat().st_mtime_ns) for path in paths] == before
    assert len(list(tmp_path.iterdir())) == len(paths)
