"""What `--data` names: digits, synthetic pictures, folders, tables, and everything that is none of them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit

from residuum import recipe
from residuum.data.sets import FileSet, ImageSet, ResidentSet
from residuum.data.sources import Parts, open_parts, open_single, statistics, stratified_split
from residuum.errors import DataError, PictureError, UsageError


def write(root: Path, paths: Iterable[str], px: int = 80) -> Path:
    """Writes a small picture at each path; a colour for each."""
    for number, path in enumerate(paths):
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (px, px), (number % 256, 10, 200)).save(target)
    return root


def photos(root: Path, per_class: int = 10, classes: Iterable[str] = ("cat", "dog")) -> Path:
    return write(root, [f"{name}/{number}.png" for name in classes for number in range(per_class)])


def opened(source: Path | str, **changes: object) -> Parts:
    return open_parts(recipe.Data(source=str(source), **changes))  # type: ignore[arg-type]


def names(images: ImageSet | None) -> list[str]:
    return [] if images is None else [images.name(index) for index in range(len(images))]


def refused(source: Path | str, **changes: object) -> DataError:
    with pytest.raises(DataError) as caught:
        opened(source, **changes)
    assert caught.value.exit_code == 3
    assert caught.value.what
    assert caught.value.expected
    assert caught.value.hint
    return caught.value


# --- splitting ---


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=300), st.floats(0, 0.9), st.integers(0, 2**63 - 1))
def test_a_split_is_a_stratified_partition(labels: list[int], fraction: float, seed: int) -> None:
    array = np.array(labels)
    kept, held = stratified_split(array, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    counts = np.bincount(array, minlength=6)
    taken = np.bincount(array[held], minlength=6)
    assert np.all(np.abs(taken - counts * fraction) <= 1)
    assert np.all((counts == 0) | (taken < counts))
    if counts[counts > 0].min() >= 10:  # no class so small that keeping its last picture matters
        assert abs(len(held) - len(labels) * fraction) <= 0.5 + 1e-6
    np.testing.assert_array_equal(held, stratified_split(array, fraction, seed)[1])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.25])
def test_the_classes_are_held_out_as_scikit_learn_holds_them_out(fraction: float) -> None:
    labels = load_digits().target
    _, theirs = next(StratifiedShuffleSplit(1, test_size=fraction, random_state=0).split(labels, labels))
    ours = stratified_split(labels, fraction, 0)[1]
    assert abs(len(ours) - len(theirs)) <= 1
    assert np.abs(np.bincount(labels[ours]) - np.bincount(labels[theirs])).max() <= 1


def test_a_split_never_changes_between_versions() -> None:
    """The indices are written down here: a model's test part must stay its test part."""
    assert stratified_split(np.arange(20) % 2, 0.3, seed=7)[1].tolist() == SPLIT
    assert stratified_split(np.arange(20) % 2, 0.3, seed=8)[1].tolist() != SPLIT


SPLIT = [1, 3, 4, 8, 16, 19]


# --- digits and synthetic pictures ---


def test_digits_are_scikit_learns() -> None:
    images = open_single("digits", None, None)
    bunch = load_digits()
    assert isinstance(images, ResidentSet)
    assert (images.images.shape, images.mode) == ((1797, 8, 8, 1), "L")
    assert images.classes == tuple("0123456789")
    np.testing.assert_array_equal(images.labels, bunch.target)
    np.testing.assert_array_equal(images.images[..., 0], np.rint(bunch.images * 255 / 16))
    assert images.name(17) == "digits[17]"


def test_digits_are_split_into_three_that_share_nothing() -> None:
    parts = opened("digits", val_fraction=0.1, test_fraction=0.2)
    assert parts.val is not None
    assert parts.test is not None
    assert [len(part) for part in (parts.train, parts.val, parts.test)] == [1797 - 180 - 359, 180, 359]
    together = names(parts.train) + names(parts.val) + names(parts.test)
    assert len(set(together)) == 1797
    other = opened("digits", val_fraction=0.4, test_fraction=0.2)
    assert names(other.test) == names(parts.test)  # whatever is held out besides
    assert names(opened("digits", test_fraction=0.2, split_seed=1).test) != names(parts.test)
    assert json.loads(json.dumps(parts.record)) == parts.record
    assert parts.record["split"] == {"seed": 0, "held_out": {"test": 0.2, "val": 0.1}, "found": ["train"]}


def test_nothing_is_held_out_with_fractions_of_zero() -> None:
    parts = opened("digits", val_fraction=0.0)
    assert (len(parts.train), parts.val, parts.test) == (1797, None, None)


def test_fractions_that_leave_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.6 and test_fraction 0\.4"):
        opened("digits", val_fraction=0.6, test_fraction=0.4)


def test_synthetic_pictures_are_the_same_everywhere_and_can_be_learned() -> None:
    images = open_single("synthetic:90x3x16", None, None)
    assert isinstance(images, ResidentSet)
    assert images.images.shape == (90, 16, 16, 3)
    assert int(images.images.astype(np.int64).sum()) == SYNTHETIC_SUM
    means = images.images.mean(axis=(1, 2))
    centres = np.stack([means[images.labels == label].mean(axis=0) for label in range(3)])
    nearest = np.linalg.norm(means[:, np.newaxis] - centres, axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, images.labels)
    assert len(open_single("synthetic", None, None)) == 512
    for wrong in ("synthetic:3", "synthetic:0x2x8", "synthetic:axbxc"):
        refused(wrong)


SYNTHETIC_SUM = 6_761_525


# --- folders ---


def test_a_folder_of_class_folders_is_split_by_class(tmp_path: Path) -> None:
    parts = opened(photos(tmp_path, 10, ["10", "2", "1"]), val_fraction=0.2)
    assert parts.train.classes == ("1", "2", "10")
    assert isinstance(parts.train, FileSet)
    assert parts.record["counts"] == {"train": {"1": 8, "2": 8, "10": 8}, "val": {"1": 2, "2": 2, "10": 2}}
    for part in (parts.train, parts.val):
        assert part is not None
        for index in range(len(part)):
            assert Path(part.name(index)).parent.name == part.classes[part.labels[index]]
    assert sorted(names(parts.train) + names(parts.val)) == sorted(map(str, tmp_path.rglob("*.png")))


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_a_folder_of_parts_is_taken_as_it_is(tmp_path: Path, val: str) -> None:
    for part, count in (("train", 6), (val, 3), ("test", 2)):
        photos(tmp_path / part, count)
    parts = opened(tmp_path, val_fraction=0.5, test_fraction=0.5)
    assert [len(part or ()) for part in (parts.train, parts.val, parts.test)] == [12, 6, 4]
    assert parts.record["split"] == {"seed": 0, "held_out": {}, "found": ["train", "val", "test"]}
    for split, count in (("train", 12), ("val", 6), ("validation", 6), ("test", 4), (None, 4)):
        assert len(open_single(str(tmp_path), split, None)) == count


def test_what_is_missing_is_held_out_of_train(tmp_path: Path) -> None:
    photos(tmp_path / "train", 10)
    photos(tmp_path / "test", 2)
    parts = opened(tmp_path, val_fraction=0.2)
    assert [len(part or ()) for part in (parts.train, parts.val, parts.test)] == [16, 4, 4]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert opened(photos(tmp_path, 5, ["bus", "car", "train"])).train.classes == ("bus", "car", "train")


def test_a_class_may_be_called_test_beside_train(tmp_path: Path) -> None:
    """With `train` there it is a part; without it, a class."""
    assert opened(photos(tmp_path, 5, ["test", "control"])).train.classes == ("control", "test")


def test_what_is_hidden_or_no_picture_is_left_out_with_a_word(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    photos(tmp_path, 2, [".ipynb_checkpoints", "__MACOSX"])
    write(tmp_path, ["cat/.thumbnail.png", "cat/deep/er/4.JPG"])
    for path in ("cat/notes.txt", "cat/Thumbs.db", "dog/more.TXT", "readme.md", "dog/none"):
        (tmp_path / path).write_text("no picture")
    parts = opened(tmp_path, val_fraction=0.0)
    assert parts.train.classes == ("cat", "dog")
    assert parts.record["counts"] == {"train": {"cat": 4, "dog": 3}}
    assert parts.record["hidden"]["count"] == 3  # type: ignore[index]
    ignored = parts.record["ignored"]
    assert isinstance(ignored, dict)
    assert {extension: entry["count"] for extension, entry in ignored.items()} == {
        ".txt": 2, ".db": 1, ".md": 1, "(none)": 1,
    }  # fmt: skip
    assert ignored[".txt"]["examples"] == ["cat/notes.txt", "dog/more.TXT"]
    assert any(".txt" in warning for warning in parts.record["warnings"])  # type: ignore[attr-defined]


def test_pictures_and_folders_that_belong_to_nothing_are_named(tmp_path: Path) -> None:
    photos(tmp_path / "train")
    photos(tmp_path / "val", 2)
    write(tmp_path, ["more/cat/1.png", "train/stray.png"])
    record = opened(tmp_path).record
    assert record["warnings"] == [
        "Pictures that lie outside the class folders were ignored: 1.",
        "Folders beside train, val were ignored: more.",
    ]
    reason = "a picture that lies outside the class folders"
    assert record["ignored"] == {".png": {"count": 1, "reason": reason, "examples": ["train/stray.png"]}}


def test_a_few_gifs_among_photos_are_graphics_and_many_are_pictures(tmp_path: Path) -> None:
    photos(tmp_path, 20)
    write(tmp_path, ["cat/notfound.gif"])
    parts = opened(tmp_path, val_fraction=0.0)
    assert not [name for name in names(parts.train) if name.endswith(".gif")]
    assert len(parts.train) == 40
    assert parts.record["ignored"][".gif"]["examples"] == ["cat/notfound.gif"]  # type: ignore[index]
    assert any("cat/notfound.gif" in warning for warning in parts.record["warnings"])  # type: ignore[attr-defined]
    write(tmp_path, [f"dog/{number}.gif" for number in range(2)])
    parts = opened(tmp_path, val_fraction=0.0)
    assert len(parts.train) == 43
    assert parts.record["ignored"] == {}


def test_links_are_followed_once(tmp_path: Path) -> None:
    photos(tmp_path / "set", 3)
    write(tmp_path, ["elsewhere/5.png"])
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "cat" / "round").symlink_to(tmp_path / "set" / "cat")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "set" / "cat")
    assert opened(tmp_path / "set", val_fraction=0.0).record["counts"] == {"train": {"cat": 4, "dog": 3}}


def test_small_pictures_of_one_size_become_resident(tmp_path: Path) -> None:
    write(tmp_path, [f"{name}/{number}.png" for name in ("a", "b") for number in range(30)], px=12)
    parts = opened(tmp_path)
    assert isinstance(parts.train, ResidentSet)
    assert parts.train.images.shape == (48, 12, 12, 3)
    first = Path(names(parts.train)[0])
    np.testing.assert_array_equal(parts.train.images[0], np.asarray(Image.open(first)))
    bad = Path(names(parts.train)[5])
    bad.write_bytes(bad.read_bytes()[:50])
    with pytest.raises(PictureError, match=re.escape(str(bad))):
        opened(tmp_path)
    parts = opened(tmp_path, on_bad_image="skip")
    assert list(parts.record["skipped"]) == [str(bad)]  # type: ignore[call-overload]
    assert len(parts.train) == 47
    write(tmp_path, ["a/odd.png"], px=13)
    assert isinstance(opened(tmp_path, on_bad_image="skip").train, FileSet)


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path) -> None:
    assert "no image set" in refused(tmp_path / "missing").what
    (tmp_path / "empty").mkdir()
    assert "no class folders" in refused(tmp_path / "empty").what
    assert "one class only: cat" in refused(photos(tmp_path / "one", 3, ["cat"])).what
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    (tmp_path / "hollow" / "dog").mkdir()
    assert "no pictures" in refused(tmp_path / "hollow").what
    photos(tmp_path / "gap", 3)
    (tmp_path / "gap" / "eel").mkdir()
    assert "eel" in refused(tmp_path / "gap").what
    photos(tmp_path / "untrained" / "val", 3)
    assert "no training pictures" in refused(tmp_path / "untrained").what
    write(tmp_path, ["flat/1.png", "flat/2.png"])
    assert "no class folders" in refused(tmp_path / "flat").what
    assert "not an image set" in refused(write(tmp_path, ["single.png"]) / "single.png").what
    assert "Did you mean digits" in str(refused("digit"))
    assert ".parquet" in refused(str(tmp_path / "*.png")).what


def test_parts_that_differ_in_their_classes_are_refused(tmp_path: Path) -> None:
    photos(tmp_path / "train", 3, ["cat", "dog"])
    photos(tmp_path / "val", 3, ["cat", "dogs"])
    what = refused(tmp_path).what
    assert "val/ lacks dog" in what
    assert "train/ lacks dogs" in what
    photos(tmp_path / "valid", 3)
    assert "both" in refused(tmp_path).what


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    (tmp_path / "cat").chmod(0)
    assert "cannot be read" in refused(tmp_path).what
    (tmp_path / "cat").chmod(0o755)


def test_a_model_scores_a_set_by_its_own_classes(tmp_path: Path) -> None:
    photos(tmp_path, 3, ["cat", "dog"])
    images = open_single(str(tmp_path), None, ["ant", "dog", "cat"], mode="L")
    assert (images.classes, images.mode) == (("ant", "dog", "cat"), "L")
    assert images.labels.tolist() == [2, 2, 2, 1, 1, 1]
    assert images.open(0).mode == "L"
    with pytest.raises(DataError, match="does not know: dog"):
        open_single(str(tmp_path), None, ["ant", "cat"])
    with pytest.raises(DataError, match="no part called 'test'"):
        open_single(str(tmp_path), "test", None)


@pytest.mark.data
def test_ants_and_bees(data_folder: Path) -> None:
    parts = opened(data_folder / "hymenoptera")
    assert parts.val is not None
    assert (len(parts.train), len(parts.val), parts.test) == (244, 153, None)
    assert parts.train.classes == ("ants", "bees")
    assert isinstance(parts.train, FileSet)
    assert parts.record["ignored"][".gif"]["examples"] == ["train/ants/imageNotFound.gif"]  # type: ignore[index]
    assert any("imageNotFound.gif" in warning for warning in parts.record["warnings"])  # type: ignore[attr-defined]
    assert parts.train.open(0, at_least_px=64).mode == "RGB"
    mean, _ = statistics(parts.train, limit=50)
    np.testing.assert_allclose(mean, (0.5, 0.47, 0.36), atol=0.05)
