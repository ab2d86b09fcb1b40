"""The file of vectors: what any reader of Parquet finds in it, and that it is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from residuum.deploy import vectors
from residuum.deploy.vectors import Made, Row, read, writing
from residuum.errors import DataError, ResourceError, UsageError
from residuum.imaging import Preprocessing

LOOK = Preprocessing("RGB", 8, 8, "bilinear", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def made(dim: int = 3) -> Made:
    return Made(
        bundle="best", model={"name": "resnet20_cifar", "num_classes": 3}, weights=None, fingerprint="0" * 64, stage=3,
        pooled=True, dim=dim, precision="fp32", preprocessing=LOOK, sources=({"files": 4},), folder="somewhere",
        id="ab", residuum="0.1.0",
    )  # fmt: skip


ROWS = [
    Row("a.png", "ant", np.array([1, 2, 3], np.float32)),
    Row("b.png", None, None, "it is torn"),
    Row("b\udce4r.png", None, np.array([4, 5, 6], np.float32)),
    Row("c.png", "bee", None, "it is empty"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with writing(tmp_path / "v.parquet", made()) as write:
        write(ROWS[:1])
        write(ROWS[1:])
    return tmp_path / "v.parquet"


def test_any_reader_of_parquet_finds_rows_and_columns(file: Path) -> None:
    table = pq.read_table(file)
    assert table.column_names == ["file", "label", "vector", "error"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 3)
    assert table.to_pydict() == {
        "file": ["a.png", "b.png", "b\\xe4r.png", "c.png"],
        "label": ["ant", None, None, "bee"],
        "vector": [[1, 2, 3], None, [4, 5, 6], None],
        "error": [None, "it is torn", None, "it is empty"],
    }


def test_what_is_written_is_read(file: Path) -> None:
    found = read(file)
    assert found.made == made()
    assert found.vectors.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.rows.tolist() == [0, 2]
    assert [found.file(at) for at in range(2)] == ["a.png", "b\\xe4r.png"]
    assert [found.label(at) for at in range(2)] == ["ant", None]
    assert [block.tolist() for block in vectors.blocks(file)] == [[[1, 2, 3], [4, 5, 6]]]
    assert read(file, with_vectors=False).vectors.shape == (0, 3)


def test_many_row_groups_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_BUFFERED_BYTES", 4 * 5 * 10)
    expected = np.arange(500, dtype=np.float32).reshape(100, 5)
    with writing(tmp_path / "v.parquet", made(5)) as write:
        for number, vector in enumerate(expected):
            write([Row(f"{number}.png", None, vector if number % 7 else None, None if number % 7 else "torn")])
    assert pq.ParquetFile(tmp_path / "v.parquet").num_row_groups > 5
    found = read(tmp_path / "v.parquet")
    kept = [number for number in range(100) if number % 7]
    assert found.rows.tolist() == kept
    assert (found.vectors == expected[kept]).all()


def test_no_pictures_are_a_file_without_rows(tmp_path: Path) -> None:
    with writing(tmp_path / "v.parquet", made()):
        pass
    assert len(read(tmp_path / "v.parquet")) == 0


def test_an_older_file_stays_until_the_new_one_is_whole(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(KeyboardInterrupt), writing(file, made()) as write:
        write(ROWS)
        raise KeyboardInterrupt
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["v.parquet"]


def test_what_is_something_else_is_not_replaced(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"precious")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "theirs.parquet")
    for path in (photo, tmp_path / "theirs.parquet", tmp_path):
        with pytest.raises(UsageError, match="not a file of vectors"), writing(path, made()):
            pass
    assert photo.read_bytes() == b"precious"
    with pytest.raises(ResourceError, match="no such folder"), writing(tmp_path / "nowhere" / "v.parquet", made()):
        pass


def test_a_full_disk_is_told_and_leaves_nothing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"), writing(file, made()) as write:
        write(ROWS)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["v.parquet"]


def test_other_files_are_refused(tmp_path: Path, file: Path) -> None:
    (tmp_path / "text.parquet").write_text("hello", encoding="utf-8")
    (tmp_path / "cut.parquet").write_bytes(file.read_bytes()[:-20])
    table = pq.read_table(file)
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "stranger.parquet")
    pq.write_table(table.replace_schema_metadata({"residuum": b"{}"}), tmp_path / "empty.parquet")
    pq.write_table(table.replace_schema_metadata({"residuum": made(4).as_json()}), tmp_path / "dim.parquet")
    for name in ("text", "cut", "stranger", "empty", "dim", "missing"):
        with pytest.raises(DataError, match=r"Cannot use .* as an index") as caught:
            read(tmp_path / f"{name}.parquet")
        assert "residuum embed" in caught.value.hint


def test_vectors_that_do_not_fit_into_memory_are_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "available_bytes", lambda: 10)
    with pytest.raises(ResourceError, match="memory are available"):
        read(file)
