"""Image sets: names, parts, modes, threads, memory, and the pixels of resident sets."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from residuum.data import folders
from residuum.data.paths import PathsBuilder, displayed, natural_key
from residuum.data.sets import (
    BytesSet,
    FileSet,
    ImageSet,
    ResidentSet,
    common_size,
    in_mode,
    opened,
    relabelled,
    resident,
    subset,
)
from residuum.data.statistics import statistics
from residuum.errors import DataError, PictureError


def content(colour: object, size: tuple[int, int] = (8, 6), kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)  # type: ignore[arg-type]
    return file.getvalue()


def bytes_set(contents: list[bytes | None]) -> BytesSet:
    half = len(contents) // 2
    chunks = tuple(pa.array(part, pa.binary()) for part in (contents[:half], contents[half:]))
    return BytesSet(chunks, np.arange(len(contents)) % 2, ("a", "b"), "shards/train")


def file_set(folder: Path, contents: list[bytes]) -> FileSet:
    builder = PathsBuilder(str(folder))
    for number, body in enumerate(contents):
        (folder / f"{number}.png").write_bytes(body)
        builder.add("", [f"{number}.png"])
    return FileSet(builder.build(), np.arange(len(contents)) % 2, ("a", "b"))


GREYS = [content((level, level, level)) for level in range(20)]


def test_all_kinds_show_the_same_pictures_under_their_own_names(tmp_path: Path) -> None:
    files, encoded = file_set(tmp_path, GREYS), bytes_set(list(GREYS))
    sets: dict[str, ImageSet] = {
        str(tmp_path / "7.png"): files,
        "shards/train[7]": encoded,
    }
    for name, images in sets.items():
        for same in (images, resident(images, 8)):
            assert len(same) == 20
            assert same.name(7) == name
            assert [same.open(index).getpixel((0, 0))[0] for index in (0, 9, 10, 19)] == [0, 9, 10, 19]  # type: ignore[index]
            part = subset(subset(same, np.arange(5, 15)), [2, 0])
            assert (len(part), part.name(0), part.labels.tolist()) == (2, name, [1, 1])
            assert part.open(0).getpixel((3, 3)) == (7, 7, 7)
            assert in_mode(part, "L").open(0).getpixel((3, 3)) == 7
            assert relabelled(part, np.array([0, 0]), ("x",)).classes == ("x",)


def test_a_resident_set_has_exactly_the_decoded_pixels() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 5, 7, 3), dtype=np.uint8)
    contents = []
    for pixels in noise:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        contents.append(file.getvalue())
    loaded = resident(bytes_set(list(contents)), 4)
    np.testing.assert_array_equal(loaded.images, noise)
    np.testing.assert_array_equal(np.asarray(loaded.open(299)), noise[299])


def test_pictures_of_several_sizes_become_squares() -> None:
    images = bytes_set([content("red", (9, 5)), content("lime", (4, 12)), content("blue", (6, 6))])
    assert common_size(images) is None
    loaded = resident(images, 6)
    assert loaded.images.shape == (3, 6, 6, 3)
    assert loaded.images.reshape(3, -1, 3)[:, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]


def test_one_picture_of_another_size_behind_the_sample_is_seen() -> None:
    images = bytes_set([content("red", (6, 6))] * 601 + [content("red", (6, 7))] + [content("red", (6, 6))] * 399)
    assert common_size(images) == (6, 6)
    assert resident(images, 5).images.shape == (1001, 5, 5, 3)


def test_a_bad_picture_ends_it_or_is_left_out_and_named() -> None:
    images = bytes_set([*GREYS, *GREYS[:9], GREYS[0][:-30]])
    with pytest.raises(PictureError, match=r"shards/train\[29\]"):
        resident(images, 8)
    skipped: dict[str, str] = {}
    loaded = resident(images, 8, skipped=skipped)
    assert (len(loaded), list(skipped)) == (29, ["shards/train[29]"])
    assert [loaded.name(index) for index in (0, 28)] == ["shards/train[0]", "shards/train[28]"]


def test_more_than_one_bad_picture_in_twenty_ends_it_always() -> None:
    images = bytes_set([*GREYS[:18], b"nothing", None])
    with pytest.raises(DataError, match="2 of 20 pictures"):
        resident(images, 8, skipped={})
    assert len(resident(bytes_set([*GREYS[:19], None]), 8, skipped={})) == 19


def test_threads_keep_the_order() -> None:
    images = bytes_set(list(GREYS) * 60)
    order = np.random.default_rng(0).permutation(1200)
    found = [(index, picture) for index, picture in opened(images, order)]
    assert [index for index, _ in found] == order.tolist()
    assert all(isinstance(p, Image.Image) and p.getpixel((0, 0)) == (i % 20,) * 3 for i, p in found)


@given(st.lists(st.integers(0, 255), min_size=4, max_size=60), st.sampled_from([1, 3]))
def test_statistics_of_a_resident_set_are_numpys(values: list[int], channels: int) -> None:
    pixels = np.resize(np.array(values, np.uint8), (3, 4, 5, channels))
    images = ResidentSet(pixels, np.zeros(3, np.int64), ("a",), "RGB" if channels == 3 else "L", "x")
    mean, std = statistics(images)
    np.testing.assert_allclose(mean, (pixels / 255).mean(axis=(0, 1, 2)), atol=1e-9)
    np.testing.assert_allclose(std, np.maximum((pixels / 255).std(axis=(0, 1, 2)), 1 / 255), atol=1e-7)


def test_statistics_of_an_encoded_set_are_of_a_sample_that_never_changes() -> None:
    images = bytes_set([*GREYS * 5, b"broken"])
    assert statistics(images, limit=30) == statistics(images, limit=30)
    np.testing.assert_allclose(statistics(images)[0], [9.5 / 255] * 3, atol=1e-12)
    several = bytes_set([content((0, 0, 0), (4, 4)), content((102, 102, 102), (40, 40))])
    np.testing.assert_allclose(
        statistics(several), [[0.2] * 3] * 2, atol=1e-12
    )  # each counts the same, whatever its size
    with pytest.raises(PictureError):
        statistics(bytes_set([b"broken", b"too"]))


names = st.lists(st.text(st.characters(exclude_characters="\0/"), min_size=1, max_size=20), max_size=30)


@given(st.dictionaries(st.sampled_from(["", "a", "b/c", "é"]), names))
def test_paths_come_back_as_they_went_in(entries: dict[str, list[str]]) -> None:
    builder, wanted = PathsBuilder("root"), []
    for folder, inside in entries.items():
        inside = [name for name in inside if not any("\ud800" <= letter <= "\udfff" for letter in name)]
        builder.add(folder, inside)
        wanted += [f"root/{folder}/{name}" if folder else f"root/{name}" for name in inside]
    paths = builder.build()
    assert [paths[index] for index in range(len(paths))] == wanted


def test_a_name_that_is_not_text_can_be_opened_and_shown(tmp_path: Path) -> None:
    (tmp_path / "a\udcff.png").write_bytes(GREYS[3])
    builder = PathsBuilder(str(tmp_path))
    builder.add("", ["a\udcff.png"])
    images = FileSet(builder.build(), np.zeros(1, np.int64), ("a",))
    assert images.open(0).getpixel((0, 0)) == (3, 3, 3)
    assert images.name(0).endswith("a\\xff.png")
    assert json.loads(json.dumps(images.name(0)).encode()) == displayed(str(tmp_path / "a\udcff.png"))


@given(st.lists(st.integers(0, 10**30)), st.sampled_from(["", "n", "Class "]))
def test_numbers_in_names_sort_by_value(numbers: list[int], prefix: str) -> None:
    ordered = sorted((f"{prefix}{number}" for number in numbers), key=natural_key)
    assert ordered == [f"{prefix}{number}" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=12)))
def test_any_names_can_be_sorted_and_the_order_is_total(texts: list[str]) -> None:
    backwards = texts[::-1]
    assert sorted(texts, key=natural_key) == sorted(backwards, key=natural_key)
    assert sorted(["b", "A", "a10", "a2", "10", "2"], key=natural_key) == ["2", "10", "A", "a2", "a10", "b"]


def test_a_million_files_take_less_than_500_mb() -> None:
    """Of the whole process at its highest, with all imported that opens a set; the collecting is the folder scan's own.

    Read from /proc: the kernel's ru_maxrss begins with the memory of the process that started this one.
    """
    program = (
        "import re, residuum.data.sources\n"
        "from residuum.data import folders\n"
        "images = folders.synthetic(1_000_000)\n"
        "assert len(images) == 1_000_000 and len(images.classes) == 1000\n"
        "assert images.name(999_999) == '/synthetic/train/n00000999/n00000999_00000999.JPEG'\n"
        "print(re.search('VmHWM: *([0-9]+) kB', open('/proc/self/status').read().replace(chr(9), ' '))[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 500e6


def test_the_synthetic_scan_is_the_real_scan(tmp_path: Path) -> None:
    images = folders.synthetic(10, classes=3)
    for index in range(10):
        path = tmp_path / Path(images.name(index)).relative_to("/synthetic")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = folders.find(tmp_path).parts["train"]
    assert [found.name(index) for index in range(10)] == [
        images.name(index).replace("/synthetic", str(tmp_path)) for index in range(10)
    ]
    np.testing.assert_array_equal(found.labels, images.labels)
