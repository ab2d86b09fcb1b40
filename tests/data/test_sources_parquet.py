"""Parquet shards as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from residuum import recipe
from residuum.data import parquet, row_groups
from residuum.data.check import check
from residuum.data.sets import BytesSet, ResidentSet, StreamedSet, subset
from residuum.data.sources import find, open_parts, open_single, statistics
from residuum.errors import DataError, PictureError, ResourceError
from residuum.memory import available_bytes


def png(level: int, px: int = 80) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (px, px), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def shard(
    path: Path,
    labels: list[object],
    *,
    names: list[str] | None = None,
    image: str = "img",
    label: str = "label",
    struct: bool = True,
    px: int = 80,
) -> None:
    contents = [png(level, px) for level in range(len(labels))]
    rows: list[object] = [{"bytes": body, "path": "x.png"} for body in contents] if struct else list(contents)
    features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    found = pa.table({image: rows, label: labels, "other": labels})
    if names is not None:
        found = found.replace_schema_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, path, row_group_size=3)


def opened(source: Path | str, **changes: object) -> list[int]:
    parts = open_parts(recipe.Data(source=str(source), **changes))  # type: ignore[arg-type]
    return [len(part) if part is not None else 0 for part in (parts.train, parts.val, parts.test)]


def test_shards_are_joined_and_parts_are_told_by_their_names(tmp_path: Path) -> None:
    names = ["zebra", "ant"]
    shard(tmp_path / "train-00000-of-00002.parquet", [0, 1, 1, 0, 1], names=names)
    shard(tmp_path / "train-00001-of-00002.parquet", [1, 0, 0], names=names)
    shard(tmp_path / "validation-00000-of-00001.parquet", [1, 0], names=names)
    shard(tmp_path / "test-00000-of-00001.parquet", [1], names=names)
    parts = open_parts(recipe.Data(source=str(tmp_path)))
    assert opened(tmp_path) == [8, 2, 1]
    assert parts.train.classes == ("zebra", "ant")  # the schema's order, which is what the labels mean
    assert parts.train.labels.tolist() == [0, 1, 1, 0, 1, 1, 0, 0]
    assert isinstance(parts.train, BytesSet)
    assert [parts.train.open(index).getpixel((0, 0))[0] for index in range(8)] == [0, 1, 2, 3, 4, 0, 1, 2]  # type: ignore[index]
    assert parts.train.name(6) == f"{tmp_path.name}/train[6]"
    for source, counts in [
        (tmp_path / "*.parquet", [8, 2, 1]),
        (tmp_path / "train-*.parquet", [6, 2, 0]),
        (tmp_path / "train-00000-of-00002.parquet", [4, 1, 0]),
    ]:
        assert opened(source) == counts
    assert len(open_single(str(tmp_path), "test", None)) == 1


def test_shards_of_a_configuration_are_found(tmp_path: Path) -> None:
    """The hub's CIFAR-10 lies in plain_text/, its CIFAR-100 in cifar100/."""
    hub = tmp_path / "cifar10"
    names = ["airplane", "cat"]
    shard(hub / "plain_text" / "train-00000-of-00001.parquet", [0, 1, 1, 0], names=names)
    shard(hub / "plain_text" / "test-00000-of-00001.parquet", [1], names=names)
    (hub / "README.md").write_text("# Dataset card", encoding="utf-8")
    (hub / ".cache").mkdir()
    found = find(str(hub))
    assert (found.kind, {name: len(part) for name, part in found.parts.items()}) == ("parquet", {"train": 4, "test": 1})
    assert found.parts["train"].classes == ("airplane", "cat")
    assert found.parts["train"].name(0) == "cifar10/train[0]"
    assert check(str(hub)).splits == {"train": 4, "test": 1}

    shard(hub / "other" / "train-00000-of-00001.parquet", [0, 1], names=names)
    with pytest.raises(DataError, match="in several folders: other, plain_text") as caught:
        find(str(hub))
    assert caught.value.hint == f"Name one of them: --data {hub}/other"
    shard(hub / "train.parquet", [0, 1, 1], names=names)
    assert len(find(str(hub)).parts["train"]) == 3


def test_parquet_in_a_class_folder_makes_no_set_of_shards(tmp_path: Path) -> None:
    shard(tmp_path / "ant" / "train-00000-of-00001.parquet", [0, 1], names=["a", "b"])
    for number in range(3):
        (tmp_path / "bee").mkdir(exist_ok=True)
        (tmp_path / "bee" / f"{number}.PNG").write_bytes(png(number))
    assert find(str(tmp_path)).kind == "folder"
    shard(tmp_path / "other" / "wasp" / "vectors.parquet", [0, 1], names=["a", "b"])
    with pytest.raises(DataError):
        open_single(str(tmp_path / "other"), None, None)  # vectors of pictures, and no set


@pytest.mark.parametrize(("image", "label", "struct"), [("image", "fine_label", True), ("img", "labels", False)])
def test_columns_have_several_names_and_labels_may_be_words(
    tmp_path: Path, image: str, label: str, struct: bool
) -> None:
    shard(tmp_path / "data" / "train.parquet", ["b10", "b2", "a"], image=image, label=label, struct=struct)
    images = open_single(str(tmp_path), None, None)
    assert images.classes == ("a", "b2", "b10")
    assert images.labels.tolist() == [2, 1, 0]


def test_numbers_without_names_are_their_own_names(tmp_path: Path) -> None:
    shard(tmp_path / "train.parquet", [10, 9, 300])
    assert open_single(str(tmp_path), None, None).classes == ("9", "10", "300")


def test_a_test_part_without_labels_is_left_out_with_a_word(tmp_path: Path) -> None:
    shard(tmp_path / "train-00000-of-00001.parquet", [0, 1, 0, 1], names=["a", "b"])
    shard(tmp_path / "test-00000-of-00001.parquet", [-1, -1], names=["a", "b"])
    parts = open_parts(recipe.Data(source=str(tmp_path), val_fraction=0.0))
    assert parts.test is None
    assert any("no labels" in warning for warning in parts.record["warnings"])  # type: ignore[attr-defined]


def test_shards_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    def refused(name: str) -> str:
        with pytest.raises(DataError) as caught:
            find(str(tmp_path / name))
        assert caught.value.expected
        assert caught.value.hint
        return caught.value.what

    shard(tmp_path / "gap" / "train-00001-of-00003.parquet", [0, 1], names=["a", "b"])
    assert "lacks 2 of the 3 shards train-*: number 0" in refused("gap")
    shard(tmp_path / "far.parquet", [0, 1, 2], names=["a", "b"])
    assert "outside the classes, such as 2" in refused("far.parquet")
    shard(tmp_path / "null.parquet", [0, None], names=["a", "b"])
    assert "1 labels are missing" in refused("null.parquet")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "text.parquet")
    assert "has the columns text" in refused("text.parquet")
    pq.write_table(pa.table({"img": ["a"], "label": [0]}), tmp_path / "words.parquet")
    assert "without pictures" in refused("words.parquet")
    whole = (tmp_path / "far.parquet").read_bytes()
    for number, content in enumerate([b"", b"no", whole[: len(whole) // 2], whole[:-8] + b"\xff" * 8]):
        (tmp_path / f"{number}.parquet").write_bytes(content)
        assert "cannot be read as Parquet" in refused(f"{number}.parquet")


def with_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if 8,000 bytes were free and shards streamed from 2,000 on: more than a row group of these tests, less than a
    shard.
    """
    assert available_bytes() > 2**20
    monkeypatch.setattr(parquet, "available_bytes", lambda: 8000)
    monkeypatch.setattr(parquet, "RESIDENT_BYTES", 2000)


@pytest.mark.parametrize("struct", [True, False])
def test_shards_larger_than_memory_are_streamed_and_hold_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, struct: bool
) -> None:
    shard(tmp_path / "train-0.parquet", list("abcabca"), struct=struct)
    shard(tmp_path / "train-1.parquet", list("cabca"), struct=struct)
    shard(tmp_path / "test-0.parquet", list("bb"), struct=struct)
    kept = find(str(tmp_path)).parts
    checked = check(str(tmp_path)).as_dict()
    with_little_memory(monkeypatch)
    streamed = find(str(tmp_path)).parts
    assert list(kept) == list(streamed)
    for part, images in streamed.items():
        other = kept[part]
        assert isinstance(images, StreamedSet)
        assert isinstance(other, BytesSet)
        assert (images.classes, images.labels.tolist()) == (other.classes, other.labels.tolist())
        for index in reversed(range(len(images))):
            assert images.name(index) == other.name(index)
            assert images.source(index) == other.source(index) is not None
            assert images.open(index) == other.open(index)
    train = streamed["train"]
    assert isinstance(train, StreamedSet)
    assert train.store.starts.tolist() == [0, 3, 6, 7, 10]  # row groups of three
    order = train.order(buffer=1, seed=0, epoch=0, batch_size=4, rank_count=1)
    groups = np.searchsorted(train.store.starts, order, side="right")
    assert np.count_nonzero(np.diff(groups)) == 4
    assert check(str(tmp_path)).as_dict() == checked
    assert statistics(train) == statistics(kept["train"])


def test_a_row_group_larger_than_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "train.parquet", [0, 1], names=["a", "b"])
    monkeypatch.setattr(parquet, "available_bytes", lambda: 1000)
    monkeypatch.setattr(parquet, "RESIDENT_BYTES", 0)
    with pytest.raises(ResourceError, match=r"train\.parquet has a row group .*row_group_size"):
        opened(tmp_path)


def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train-0.parquet"
    shard(path, [0, 1] * 6, names=["a", "b"])
    whole = path.read_bytes()
    images = find(str(path)).parts["train"]
    with_little_memory(monkeypatch)
    streamed = find(str(path)).parts["train"]
    assert len(images) == len(streamed) == 12
    for place in np.linspace(0, len(whole) - 1, 20).astype(int):
        path.write_bytes(whole[:place])
        with pytest.raises(DataError, match=r"train-0\.parquet.* cannot be read as Parquet"):
            find(str(path))
    path.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"train-0\.parquet.* cannot be read as Parquet") as caught:
        streamed.open(11)  # cut short while it is used
    assert not isinstance(caught.value, PictureError)
    path.write_bytes(whole)
    assert streamed.open(11) == images.open(11)  # a failure is not remembered


def reading_counts(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each row group is read from now on."""
    counts: Counter[tuple[str, int]] = Counter()
    original = row_groups.Shard.read

    def read(shard: row_groups.Shard, group: int) -> pa.ChunkedArray:
        counts[shard.path.name, group] += 1
        time.sleep(0.001)
        return original(shard, group)

    monkeypatch.setattr(row_groups.Shard, "read", read)
    return counts


def test_an_epoch_reads_each_row_group_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        shard(tmp_path / f"train-{number}.parquet", list("abc") * 20, px=16)
    with_little_memory(monkeypatch)
    size = len(png(0, 16))
    monkeypatch.setattr(row_groups, "WINDOW_BYTES", 30 * size)
    counts = reading_counts(monkeypatch)
    images = find(str(tmp_path)).parts["train"]
    assert isinstance(images, StreamedSet)
    assert len(images.store.starts) == 80
    for part in (images, subset(images, np.arange(0, 240, 2))):  # of every second picture as many row groups are read
        assert isinstance(part, StreamedSet)
        counts.clear()
        order = part.order(buffer=10_000, seed=1, epoch=1, batch_size=8, rank_count=1)
        assert np.count_nonzero(np.diff(order // 3)) > len(order) / 2  # mixed, and not simply in the order of the disk
        held = images.store._held  # type: ignore[attr-defined]
        for index in order.tolist():
            part.source(index)
            assert held.held_bytes <= 60 * size
        assert len(counts) == 80
        assert sum(counts.values()) <= 84


def test_the_row_group_that_was_used_last_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "train.parquet", list("abc") * 4)
    with_little_memory(monkeypatch)
    images = find(str(tmp_path)).parts["train"]
    assert isinstance(images, StreamedSet)
    counts = reading_counts(monkeypatch)
    held = images.store._held  # type: ignore[attr-defined]
    for index in (0, 3, 1, 6, 2, 5):  # the row groups 0, 1, 0, 2, 0, 1
        images.source(index)
        if index == 3:
            held._capacity_bytes = held.held_bytes + len(png(0))
    assert [counts["train.parquet", group] for group in range(3)] == [1, 2, 1]


def test_threads_that_want_the_same_row_group_wait_for_one_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard(tmp_path / "train.parquet", list("abc") * 10)
    wanted = [png(level) for level in range(30)]
    with_little_memory(monkeypatch)
    counts = reading_counts(monkeypatch)
    images = find(str(tmp_path)).parts["train"]
    assert isinstance(images, StreamedSet)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(images.source, list(range(30)) * 3)) == wanted * 3
    assert set(counts.values()) == {1}
    assert len(counts) == 10


@pytest.mark.parametrize("little", [True, False])
def test_a_row_without_bytes_is_a_bad_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, little: bool) -> None:
    rows = [{"bytes": png(0, 8), "path": None}] * 30 + [None, {"bytes": None, "path": "elsewhere.png"}]
    pq.write_table(pa.table({"img": rows, "label": [0, 1] * 16}), tmp_path / "train.parquet", row_group_size=8)
    if little:
        with_little_memory(monkeypatch)
    assert isinstance(find(str(tmp_path)).parts["train"], StreamedSet if little else BytesSet)
    with pytest.raises(DataError, match=r"train\[30\].*no bytes"):
        opened(tmp_path, val_fraction=0.0)
    with pytest.raises(DataError, match="2 of 32"):
        opened(tmp_path, val_fraction=0.0, on_bad_image="skip")


@pytest.mark.data
def test_cifar10_is_what_its_readme_says(data_folder: Path) -> None:
    parts = open_parts(recipe.Data(source=str(data_folder / "cifar10"), val_fraction=0.0))
    assert parts.test is not None
    assert (len(parts.train), parts.val, len(parts.test)) == (50_000, None, 10_000)
    assert " ".join(parts.train.classes) == "airplane automobile bird cat deer dog frog horse ship truck"
    assert isinstance(parts.train, ResidentSet)
    assert np.bincount(parts.train.labels).tolist() == [5000] * 10
    mean, std = statistics(parts.train)
    np.testing.assert_allclose(mean, (0.49140, 0.48216, 0.44653), atol=5e-6)
    np.testing.assert_allclose(std, (0.24703, 0.24349, 0.26159), atol=5e-6)
    table = pq.read_table(data_folder / "cifar10" / "train-00001-of-00002.parquet").slice(24_990)
    for index, row in enumerate(table.to_pylist(), start=49_990):
        theirs = Image.open(io.BytesIO(row["img"]["bytes"]))
        np.testing.assert_array_equal(parts.train.images[index], np.asarray(theirs))
        assert parts.train.labels[index] == row["label"]
