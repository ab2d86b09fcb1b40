"""Labels of one class each and of several: what they say, and how a table of either kind is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from labelled import CLASSES, write_pictures
from residuum import recipe
from residuum.data import labels
from residuum.data.balance import balanced_order, quotas, yes_weights
from residuum.data.check import check
from residuum.data.loading import EvalLoader, TrainLoader
from residuum.data.mixing import Mix
from residuum.data.sets import FileSet, ResidentSet
from residuum.data.sources import find, open_parts, open_single
from residuum.errors import DataError
from residuum.imaging import Preprocessing

CPU = torch.device("cpu")
LOOK = Preprocessing("RGB", 8, 8, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("labelled"))


def written(table: Path) -> list[set[str]]:
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    return [set(line.split(",")[1].split("|")) - {""} for line in lines]


def other(table: Path, text: str) -> str:
    """Returns another table of the same pictures."""
    path = table.parent / f"other{abs(hash(text))}.csv"
    path.write_text(f"path,label\n{text}", encoding="utf-8")
    return str(path)


def test_names_between_bars() -> None:
    classes, rows = labels.named(["b|a10", "", "a2", " b | b|", "a2|a10"])
    assert classes == ("a2", "a10", "b")
    assert rows.tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]]
    assert [labels.in_words(row, classes) for row in rows] == ["a10|b", "", "a2", "b", "a2|a10"]
    assert labels.in_words(np.int64(1), classes) == "a10"


def test_both_kinds_are_counted_grouped_and_renumbered() -> None:
    one, several = np.array([2, 0, 2]), np.array([[1, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 1]], np.uint8)
    assert labels.counts(one, 4).tolist() == [1, 0, 2, 0]
    assert labels.counts(several, 3).tolist() == [2, 1, 3]
    assert labels.group_numbers(one).tolist() == one.tolist()
    numbers = labels.group_numbers(several)
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3
    assert labels.renumbered(one, np.array([1, 3, 0]), 4).tolist() == [0, 1, 0]
    assert labels.renumbered(several, np.array([1, 3, 0]), 4).tolist() == [
        [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 0, 1],
    ]  # fmt: skip
    assert labels.rarest(one).tolist() == one.tolist()
    assert labels.rarest(several).tolist() == [0, 3, 0, 1]  # the rarest is class 1; 3 is none


def test_a_table_with_bars_gives_pictures_several_classes(table: Path) -> None:
    parts = open_parts(recipe.Data(source=str(table), val_fraction=0.25, test_fraction=0.25))
    assert isinstance(parts.train, ResidentSet)
    assert parts.val is not None
    assert parts.test is not None
    said = written(table)
    for part in (parts.train, parts.val, parts.test):
        assert part.classes == CLASSES
        assert part.labels.shape == (len(part), 3)
        for at in range(len(part)):
            number = int(Path(part.name(at)).stem)
            assert set(labels.in_words(part.labels[at], CLASSES).split("|")) - {""} == said[number]
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [48, 24, 24]
    counts = parts.record["counts"]
    assert isinstance(counts, dict)
    assert {name: sum(counts[part][name] for part in counts) for name in CLASSES} == {
        name: sum(name in each for each in said) for name in CLASSES
    }
    assert parts.record["labels"] == "several"


def test_folds_hold_every_picture_once_and_classes_evenly(table: Path) -> None:
    seen: list[str] = []
    for fold in range(5):
        parts = open_parts(recipe.Data(source=str(table), folds=5, fold=fold))
        assert parts.val is not None
        seen += [parts.val.name(at) for at in range(len(parts.val))]
        assert (np.abs(parts.val.labels.sum(axis=0) - np.array([16, 48, 32]) / 5) <= 1).all()
    assert len(seen) == len(set(seen)) == 96


def test_one_class_each_stays_what_it_was(table: Path) -> None:
    train = find(other(table, "0.png,a\n1.png,b\n2.png,a\n")).parts["train"]
    assert train.labels.dtype == np.int64
    assert train.labels.tolist() == [0, 1, 0]


def test_the_recipe_says_what_a_bar_means(table: Path) -> None:
    bars = other(table, "0.png,a|b\n1.png,a\n2.png,b\n3.png,a|b\n")
    assert find(bars).parts["train"].classes == ("a", "b")
    one = open_parts(recipe.Data(source=bars, labels="one", val_fraction=0.0)).train
    assert one.classes == ("a", "a|b", "b")
    assert one.labels.tolist() == [1, 0, 2, 1]
    plain = other(table, "0.png,a\n1.png,\n2.png,b\n")
    several = open_parts(recipe.Data(source=plain, labels="several", val_fraction=0.0)).train
    assert several.labels.tolist() == [[1, 0], [0, 0], [0, 1]]
    single = open_parts(recipe.Data(source=other(table, "0.png,a\n1.png,\n"), labels="several", val_fraction=0.0)).train
    assert single.labels.tolist() == [[1], [0]]  # one class is a question too


def test_columns_may_be_called_in_the_plural(table: Path) -> None:
    path = table.parent / "tags.csv"
    path.write_text("image,size,tags\n0.png,3,a|b\n1.png,4,b\n", encoding="utf-8")
    assert find(str(path)).parts["train"].labels.tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("text", "reading", "what"),
    [
        ("0.png,a\n1.png,\n2.png,b\n", "auto", "no label in line 3"),
        ("0.png,a|b\n1.png,\n", "one", "no label in line 3"),
        ("0.png,\n1.png,\n", "several", "no class: all its labels are empty"),
        ("0.png,\n1.png,|\n", "auto", "no class: all its labels are empty"),
    ],
)
def test_labels_that_are_not_there(table: Path, text: str, reading: str, what: str) -> None:
    with pytest.raises(DataError) as caught:
        open_parts(recipe.Data(source=other(table, text), labels=reading, val_fraction=0.0))  # type: ignore[arg-type]
    assert what in caught.value.what
    assert caught.value.expected
    assert caught.value.hint


def test_a_set_of_the_other_kind_is_refused(table: Path) -> None:
    with pytest.raises(DataError, match="gives each picture one class"):
        open_parts(recipe.Data(source="synthetic:8x2x8", labels="several"))
    with pytest.raises(DataError, match="gives each picture one class"):
        open_single("synthetic:8x2x8", None, ("class0", "class1"), labels="several")
    with pytest.raises(DataError, match="any number of classes"):
        open_single(str(table), None, CLASSES)
    wider = open_single(str(table), None, ("black", *CLASSES), labels="several")
    assert wider.labels[:, 0].tolist() == [0] * 96
    assert wider.labels[:, 1:].tolist() == find(str(table)).parts["train"].labels.tolist()


@pytest.mark.parametrize("vary_px", [0, 3])
def test_batches_have_a_number_for_every_class(tmp_path: Path, vary_px: int) -> None:
    table = write_pictures(tmp_path, 12, vary_px=vary_px)
    data = recipe.Data(str(table), img_size=8, resize_px=8, batch_size=5, val_fraction=0.0)
    train = open_parts(data).train
    assert isinstance(train, FileSet if vary_px else ResidentSet)
    loader = TrainLoader(train, data, recipe.Augment(), LOOK, seed=0, device=CPU, channels_last=False)
    batches = [*loader.epoch(0), *EvalLoader(train, LOOK, 5, device=CPU, channels_last=False)]
    assert sum(len(batch.labels) for batch in batches) == 24
    for batch in batches:
        assert batch.labels.dtype == torch.float32
        assert batch.labels.tolist() == train.labels[batch.indices].tolist()


def test_mixtures_of_several_classes() -> None:
    targets = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    pictures = torch.rand(4, 3, 8, 8)
    for mix in (Mix(0.4, 0.0, 3, seed=0), Mix(0.0, 1.0, 3, seed=0)):
        share, _ = mix.plan(5, 8, 8)
        assert 0.01 < share < 0.99
        _, mixed = mix(pictures, targets, 5)
        torch.testing.assert_close(mixed, share * targets + (1 - share) * targets[[1, 0, 3, 2]])


def test_a_picture_comes_as_often_as_its_rarest_class(table: Path) -> None:
    several = find(str(table)).parts["train"].labels
    rarest = labels.rarest(several)
    order = balanced_order(rarest, 1.0, seed=0, epoch=3)
    pictures = order % len(several)
    assert np.bincount(rarest[pictures]).tolist() == quotas(np.bincount(rarest), 1.0).tolist()
    blue = several[:, 0] == 1
    assert blue[pictures].mean() > 1.3 * blue.mean()
    data = recipe.Data(str(table), img_size=8, resize_px=8, batch_size=48, val_fraction=0.0, balanced_sampling=1.0)
    train = open_parts(data).train
    loader = TrainLoader(train, data, recipe.Augment(), LOOK, seed=0, device=CPU, channels_last=False)
    seen = np.concatenate([batch.indices for batch in loader.epoch(3)])
    assert seen.tolist() == pictures.tolist()


def test_the_yes_of_a_rare_class_counts_as_much_as_its_no() -> None:
    counts = np.array([10, 50, 90])
    np.testing.assert_allclose(yes_weights(counts, 100, 1.0), [9.0, 1.0, 1 / 9])
    np.testing.assert_allclose(yes_weights(counts, 100, 0.5), [3.0, 1.0, 1 / 3])
    assert yes_weights(np.array([100]), 100, 1.0).tolist() == [0.01]  # and never 0


def test_a_check_says_that_there_are_several_classes(table: Path) -> None:
    checked = check(str(table))
    found = {finding.kind: finding for finding in checked.findings}
    assert not checked.harmful
    assert "several of the 3 classes" in found["several-labels"].what
    none = [number for number, each in enumerate(written(table)) if not each]
    assert [Path(name).stem for name in found["no-class"].files] == [str(number) for number in none]
    assert checked.images == 96
    assert checked.counts == {"blue": {"train": 16}, "green": {"train": 48}, "red": {"train": 32}}


def test_copies_with_other_labels_are_found(table: Path) -> None:
    source = other(table, "0.png,a|b\n1.png,a\n0.png,b|a\n1.png,b\n2.png,\n")
    found = {finding.kind: finding for finding in check(source).findings}
    assert [len(group) for group in found["conflicting-duplicates"].groups] == [2]
    assert Path(found["conflicting-duplicates"].files[0]).name == "1.png"
    assert [Path(name).name for name in found["duplicates"].files] == ["0.png", "0.png"]
