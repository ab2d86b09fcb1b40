"""Parquet shards as the Hugging Face hub has them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from residuum import recipe
from residuum.data import parquet
from residuum.data.sets import BytesSet, ResidentSet
from residuum.data.sources import find, open_parts, open_single, statistics
from residuum.errors import DataError, ResourceError


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


def test_shards_larger_than_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard(tmp_path / "train.parquet", [0, 1], names=["a", "b"])
    assert parquet._available_bytes() > 2**20
    monkeypatch.setattr(parquet, "_available_bytes", lambda: 1000)
    with pytest.raises(ResourceError, match="1 shards take"):
        opened(tmp_path)


def test_a_row_without_bytes_is_a_bad_picture(tmp_path: Path) -> None:
    rows = [{"bytes": png(0, 8), "path": None}] * 30 + [None, {"bytes": None, "path": "elsewhere.png"}]
    pq.write_table(pa.table({"img": rows, "label": [0, 1] * 16}), tmp_path / "train.parquet")
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
