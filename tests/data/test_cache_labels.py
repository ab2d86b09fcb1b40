"""A cache of pictures that may have several classes: the labels of its table, and what it refuses."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from cached import AUGMENTS, batches, same

from labelled import CLASSES, write_pictures
from residuum import recipe
from residuum.data import cache
from residuum.data.cache_writer import write
from residuum.data.mapped import MappedSet
from residuum.data.sets import relabelled, subset
from residuum.data.sources import find, open_parts, open_single
from residuum.errors import DataError


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 40 pictures of different sizes."""
    return write_pictures(tmp_path_factory.mktemp("made") / "set", 40, px=40, vary_px=9)


@pytest.fixture(scope="module")
def made(table: Path) -> Path:
    return write(str(table), table.parent.parent / "cache", px=0).folder


def test_its_labels_and_parts_are_those_of_the_table(table: Path, made: Path) -> None:
    data = recipe.Data(source=str(table), val_fraction=0.2, test_fraction=0.2)
    ours, theirs = open_parts(replace(data, source=str(made))), open_parts(data)
    assert ours.record["labels"] == "several"
    for mine, other in ((ours.train, theirs.train), (ours.val, theirs.val), (ours.test, theirs.test)):
        assert isinstance(mine, MappedSet)
        assert other is not None
        assert mine.classes == other.classes == CLASSES
        assert mine.labels.dtype == np.uint8
        np.testing.assert_array_equal(mine.labels, other.labels)
        assert [mine.name(index) for index in range(len(mine))] == [other.name(index) for index in range(len(other))]


def test_batches_are_those_of_the_files_bit_for_bit(table: Path, made: Path) -> None:
    ours, theirs = open_single(str(made), None, None), open_single(str(table), None, None)
    for augment in (AUGMENTS["resized"], None):
        found = batches(ours, augment)
        assert same(found, batches(theirs, augment))
        assert found[0].labels.shape == (8, 3)
        assert found[0].labels.is_floating_point()


def test_a_part_and_other_classes(made: Path) -> None:
    images = open_single(str(made), None, None)
    part = subset(images, [3, 1])
    np.testing.assert_array_equal(part.labels, images.labels[[3, 1]])
    wider = open_single(str(made), None, ("red", "sea", "blue", "green"), labels="several")
    np.testing.assert_array_equal(wider.labels, images.labels[:, [2, 0, 0, 1]] * np.array([1, 0, 1, 1]))
    assert relabelled(images, images.labels[:, :2], CLASSES[:2]).labels.shape == (40, 2)


def test_a_cache_is_read_as_it_was_made(table: Path, made: Path, tmp_path: Path) -> None:
    assert find(str(made), "several").parts["train"].labels.shape == (40, 3)
    with pytest.raises(DataError, match="several classes") as caught:
        find(str(made), "one")
    assert "--labels one" in caught.value.hint
    assert str(table) in caught.value.hint
    lines = [line for line in table.read_text("utf-8").splitlines() if not line.endswith(",")]
    table = table.with_name("letters.csv")
    table.write_text("\n".join(lines) + "\n", "utf-8")
    letter = write(str(table), tmp_path / "letter", labels="one")
    for reading in ("auto", "one"):
        ours, theirs = find(str(letter.folder), reading).parts["train"], find(str(table), "one").parts["train"]
        assert ours.classes == theirs.classes
        assert any("|" in name for name in ours.classes)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    with pytest.raises(DataError, match="as a letter") as caught:
        find(str(letter.folder), "several")
    assert "--labels several" in caught.value.hint
    assert not write(str(table), letter.folder, labels="one").made
    assert write(str(table), letter.folder).made  # read in another way it is another cache
    assert find(str(letter.folder)).parts["train"].labels.shape == (len(lines) - 1, 3)


def test_a_table_with_other_labels_is_another_one(tmp_path: Path) -> None:
    table = write_pictures(tmp_path / "set", 12)
    made = write(str(table), tmp_path / "cache").folder
    assert len(find(str(made)).parts["train"]) == 12
    table.write_text(table.read_text("utf-8").replace("0.png,red|green", "0.png,red|blue", 1), "utf-8")
    with pytest.raises(DataError, match="has changed since: its classes or labels are others"):
        find(str(made))


@pytest.mark.parametrize(
    "labels",
    [
        np.full((12, 3), 2, np.uint8),
        np.zeros((12, 2), np.uint8),
        np.zeros((11, 3), np.uint8),
        np.zeros((12, 3, 1), np.uint8),
        np.full(12, 3, np.int64),
        np.full(12, -1, np.int64),
    ],
    ids=["two", "narrow", "short", "deep", "beyond", "before"],
)
def test_labels_that_cannot_be_are_refused(tmp_path: Path, labels: np.ndarray) -> None:
    made = write(str(write_pictures(tmp_path / "set", 12)), tmp_path / "cache").folder
    index = safetensors.numpy.load((made / cache.INDEX).read_bytes())
    content = safetensors.numpy.save({**index, "labels": labels})
    (made / cache.INDEX).write_bytes(content)
    sums = (made / cache.SUMS).read_text("ascii").splitlines()
    digest = hashlib.sha256(content).hexdigest()
    sums = [f"{digest}  {cache.INDEX}" if line.endswith(cache.INDEX) else line for line in sums]
    (made / cache.SUMS).write_text("\n".join(sums) + "\n", "ascii")
    with pytest.raises(DataError, match="malformed"):
        find(str(made))
