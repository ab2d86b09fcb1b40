"""A cache holds the pictures of the set that it was made of, and is refused where it is not what it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import shards
import torch
from cached import AUGMENTS, RGB, batches, drawn, folder_of, same

from residuum import imaging, pixels, recipe
from residuum.data import cache
from residuum.data.cache_writer import write
from residuum.data.check import check
from residuum.data.mapped import MappedSet
from residuum.data.sets import ResidentSet
from residuum.data.sources import find, open_parts, open_single
from residuum.errors import DataError
from residuum.evaluation.trained import evaluate
from residuum.imaging import Preprocessing
from residuum.recipe import Recipe
from residuum.training.run import Run
from residuum.training.train import train


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 PNG in two parts and two classes, which no test changes."""
    return folder_of(tmp_path_factory.mktemp("made") / "photos")


@pytest.fixture(scope="module")
def whole(made: Path) -> Path:
    """Its cache, of every picture as large as it is."""
    return write(str(made), made.parent / "whole", px=0).folder


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    """The same folder, which a test may change; its files keep their times."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


def refused(source: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        find(str(source))
    assert caught.value.expected
    assert caught.value.hint
    return caught.value


# --- the same pictures ---


@pytest.mark.parametrize("compiled", [True, False], ids=["with a compiler", "without"])
@pytest.mark.parametrize("kind", AUGMENTS)
def test_batches_are_those_of_the_files_bit_for_bit(
    made: Path, whole: Path, kind: str, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = open_single(str(whole), "train", None), open_single(str(made), "train", None)
    assert isinstance(ours, MappedSet)
    if not compiled:
        monkeypatch.setattr(pixels, "library", lambda: None)
    assert same(batches(ours, AUGMENTS[kind]), batches(theirs, AUGMENTS[kind]))
    for seen in (RGB, replace(RGB, resize="pad"), replace(RGB, resize="squash", interpolation="bicubic")):
        assert same(batches(ours, None, seen), batches(theirs, None, seen))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_what_was_resized_once_is_what_evaluation_would_have_seen(
    made: Path, tmp_path: Path, interpolation: pixels.Interpolation
) -> None:
    """Kept at the length that evaluation resizes to, the pictures are its own, to the last bit."""
    small = write(str(made), tmp_path / "small", px=RGB.resize_px, interpolation=interpolation)
    ours, theirs = open_single(str(small.folder), "val", None), open_single(str(made), "val", None)
    seen = replace(RGB, interpolation=interpolation)
    assert same(batches(ours, None, seen), batches(theirs, None, seen))
    assert {min(ours.open(index).size) for index in range(len(ours))} == {RGB.resize_px}


@pytest.mark.parametrize("kind", ["resized", "scale"])
def test_random_crops_of_smaller_pictures_are_close(made: Path, tmp_path: Path, kind: str) -> None:
    """Resized twice, once before the crop: less than 10 of 255 levels away in the mean, and than a quarter of what
    mirrored pictures are."""
    small = write(str(made), tmp_path / "small", px=48)
    ours, theirs = open_single(str(small.folder), "train", None), open_single(str(made), "train", None)
    augment, plain = replace(AUGMENTS[kind], flip="none", rotate=0.0), replace(RGB, mean=(0.0,) * 3, std=(1 / 255,) * 3)
    pairs = list(zip(batches(ours, augment, plain), batches(theirs, augment, plain), strict=True))
    apart = torch.cat([(one.images - other.images).abs().mean(dim=(1, 2, 3)) for one, other in pairs])
    mirrored = torch.cat([(one.images.flip(-1) - other.images).abs().mean(dim=(1, 2, 3)) for one, other in pairs])
    assert float(apart.mean()) < min(10, float(mirrored.mean()) / 4)


def test_a_cache_divides_as_its_source_does(made: Path, whole: Path, class_folders: Path, tmp_path: Path) -> None:
    undivided = write(str(class_folders), tmp_path / "undivided").folder
    for source, folder in ((made, whole), (class_folders, undivided)):
        how = recipe.Data(str(source), val_fraction=0.2, test_fraction=0.2, split_seed=5)
        ours, theirs = open_parts(replace(how, source=str(folder))), open_parts(how)
        assert ours.record["names"] == theirs.record["names"]
        assert ours.record["counts"] == theirs.record["counts"]
        assert ours.record["kind"] == "cache"
        for part in ("train", "val", "test"):
            one, other = getattr(ours, part), getattr(theirs, part)
            assert np.array_equal(one.labels, other.labels)
            assert [one.name(i) for i in range(len(one))] == [other.name(i) for i in range(len(other))]
            assert one.classes == other.classes


def test_training_from_a_cache_gives_the_same_weights(
    finished: Run, tiny: Recipe, class_folders: Path, tmp_path: Path
) -> None:
    folder = write(str(class_folders), tmp_path / "cache").folder
    run = train(tiny, data=str(folder), out=tmp_path / "run", device="cpu")
    ours, theirs = ((each.folder / "best" / "model.safetensors").read_bytes() for each in (run, finished))
    assert ours == theirs
    wanted = evaluate(finished.folder / "best", device="cpu").loss
    assert evaluate(run.folder / "best", device="cpu").loss == wanted
    # Either set is known as the one that was trained on, so that what was held out is what is scored.
    assert evaluate(run.folder / "best", str(class_folders), device="cpu").loss == wanted
    assert evaluate(finished.folder / "best", str(folder), device="cpu").loss == wanted
    shutil.rmtree(folder)
    assert evaluate(run.folder / "best", str(class_folders), device="cpu").loss == wanted


@pytest.mark.parametrize("source", ["digits", "synthetic:30x3x16"])
def test_small_pictures_become_resident_from_a_cache_too(source: str, tmp_path: Path) -> None:
    folder = write(source, tmp_path / "cache").folder
    ours, theirs = open_parts(recipe.Data(str(folder))), open_parts(recipe.Data(source))
    assert isinstance(ours.train, ResidentSet)
    assert isinstance(theirs.train, ResidentSet)
    assert np.array_equal(ours.train.images, theirs.train.images)
    assert np.array_equal(ours.train.labels, theirs.train.labels)
    assert ours.record["names"] == theirs.record["names"]
    assert ours.train.mode == theirs.train.mode


def test_a_set_may_be_seen_in_the_other_mode(made: Path, whole: Path) -> None:
    ours, theirs = (open_single(str(source), "train", None, mode="L") for source in (whole, made))
    grey = Preprocessing("L", 32, 36, "bilinear", (0.5,), (0.25,))
    assert same(batches(ours, None, grey), batches(theirs, None, grey))


@pytest.mark.data
def test_photos_from_a_cache_are_close_to_decoded_ones(data_folder: Path, tmp_path: Path) -> None:
    """At the default size evaluation sees the same bits, random crops are within 6 levels in the mean (5)."""
    source = data_folder / "hymenoptera"
    folder = write(str(source), tmp_path / "cache").folder
    ours, theirs = open_single(str(folder), "val", None), open_single(str(source), "val", None)
    seen = Preprocessing("RGB", 224, 256, "bilinear", (0.0,) * 3, (1 / 255,) * 3)
    assert same(batches(ours, None, seen), batches(theirs, None, seen))
    augment = recipe.Augment(crop=recipe.ResizedCrop())
    pairs = list(zip(batches(ours, augment, seen), batches(theirs, augment, seen), strict=True))
    assert np.mean([float((one.images - other.images).abs().mean()) for one, other in pairs]) < 6


# --- what is not what it was ---


def test_a_set_that_changed_is_refused_and_one_that_is_gone_is_not_missed(photos: Path, tmp_path: Path) -> None:
    folder = write(str(photos), tmp_path / "cache", px=20).folder
    first = photos / "train" / "cat" / "1.png"
    kept, status = first.read_bytes(), first.stat()

    drawn(99).save(photos / "train" / "cat" / "new.png")
    assert "1 picture is new, such as /train/cat/new.png" in refused(folder).what
    (photos / "train" / "cat" / "new.png").rename(photos / "train" / "cat" / "newer.png")
    first.unlink()
    assert "1 picture is new, 1 picture is gone" in refused(folder).what
    (photos / "train" / "cat" / "newer.png").unlink()
    first.write_bytes(kept)
    assert "1 picture is different, such as" in refused(folder).what
    os.utime(first, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(find(str(folder)).parts["train"]) == 32
    (photos / "train" / "cat").rename(photos / "train" / "lion")
    (photos / "val" / "cat").rename(photos / "val" / "lion")
    assert "new" in refused(folder).what
    shutil.rmtree(photos)
    assert find(str(folder)).parts["train"].classes == ("cat", "dog 2")


def test_other_labels_in_a_table_are_a_change(tmp_path: Path) -> None:
    for number in range(6):
        drawn(number).save(tmp_path / f"{number}.png")
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + "".join(f"{number}.png,{'ab'[number % 2]}\n" for number in range(6)))
    folder = write(str(table), tmp_path / "out" / "cache").folder
    assert np.array_equal(open_single(str(folder), None, None).labels, [0, 1, 0, 1, 0, 1])
    table.write_text(table.read_text().replace("0.png,a", "0.png,b"))
    assert "its classes or labels are others" in refused(folder).what


def test_shards_that_changed_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [imaging_bytes(number) for number in range(6)]
    table = pa.table({"image": pa.array([{"bytes": file} for file in files]), "label": [0, 1] * 3})
    shard = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(table, shard)
    folder = write(str(tmp_path), tmp_path.parent / f"{tmp_path.name}-cache").folder
    ours, theirs = open_single(str(folder), None, None), open_single(str(tmp_path), None, None)
    assert ours.name(3) == theirs.name(3)
    assert np.array_equal(np.asarray(ours.open(3)), np.asarray(theirs.open(3)))
    pq.write_table(table.slice(0, 4), shard)
    assert "1 file is different" in refused(folder).what


def test_tar_shards_keep_their_parts_and_names(tmp_path: Path) -> None:
    source = tmp_path / "shards"
    shards.write(source / "train-000000.tar", shards.samples(range(6)))
    shards.write(source / "val-000000.tar", shards.samples(range(6, 9)))
    folder = write(str(source), tmp_path / "cache").folder
    for part in ("train", "val"):
        ours, theirs = open_single(str(folder), part, None), open_single(str(source), part, None)
        assert np.array_equal(ours.labels, theirs.labels)
        assert [ours.name(i) for i in range(len(ours))] == [theirs.name(i) for i in range(len(theirs))]
        assert np.array_equal(np.asarray(ours.open(2)), np.asarray(theirs.open(2)))
    shards.write(source / "val-000000.tar", shards.samples(range(6, 8)))
    assert "1 file is different" in refused(folder).what


def imaging_bytes(number: int) -> bytes:
    from io import BytesIO

    file = BytesIO()
    drawn(number).save(file, "PNG")
    return file.getvalue()


def test_a_damaged_cache_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def damaged(name: str, content: bytes | None) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)
        return refused(folder).what

    stored = (whole / cache.PIXELS).read_bytes()
    assert "has" in damaged(cache.PIXELS, stored[:-1])
    assert "cannot be read" in damaged(cache.PIXELS, None)
    assert "the content of index.safetensors is not what" in damaged(
        cache.INDEX, (whole / cache.INDEX).read_bytes() + b" "
    )
    assert "SHA256SUMS is missing" in damaged(cache.SUMS, None)
    assert "does not list" in damaged(cache.SUMS, b"")
    assert "is not what SHA256SUMS says" in damaged(cache.CARD, b"{}")
    # One bit of a pixel is what only reading everything can find.
    shutil.rmtree(folder)
    shutil.copytree(whole, folder)
    (folder / cache.PIXELS).write_bytes(bytes([stored[0] ^ 1]) + stored[1:])
    find(str(folder))
    with pytest.raises(DataError, match=r"the content of pixels\.bin is not what SHA256SUMS says"):
        check(str(folder))


@pytest.mark.parametrize("what", ["starts", "sizes", "labels", "ends", "format", "parts"])
def test_a_forged_index_leads_nowhere(whole: Path, tmp_path: Path, what: str) -> None:
    """Right hashes of wrong numbers: nothing outside of the file is ever read."""
    folder = Path(shutil.copytree(whole, tmp_path / "cache"))
    index, card = safetensors.numpy.load_file(folder / cache.INDEX), json.loads((folder / cache.CARD).read_text())
    if what == "format":
        card["format"] = 99
    elif what == "parts":
        card["parts"]["train"] += 1
    else:
        index[what] = index[what].copy()
        index[what][-1] = 10**6
    for name, content in ((cache.INDEX, safetensors.numpy.save(index)), (cache.CARD, json.dumps(card).encode())):
        (folder / name).write_bytes(content)
    sums = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in cache._FILES)
    (folder / cache.SUMS).write_text("".join(sums))
    assert "malformed" in refused(folder).what or "layout is 99" in refused(folder).what


def test_only_a_sample_of_a_large_set_is_asked_for_its_times(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "ASKED_LIMIT", 7)
    monkeypatch.setattr(cache, "ASKED_SAMPLE", 3)
    folder = write(str(photos), tmp_path / "cache", px=20).folder
    asked: list[str] = []
    monkeypatch.setattr(cache, "stamp", lambda path: asked.append(path) or (1, 2))
    assert "6 pictures are different" in refused(folder).what
    assert len(asked) == 6  # three of each part


def test_the_view_of_evaluation_is_taken_without_a_copy(whole: Path) -> None:
    images = open_single(str(whole), "train", None)
    assert isinstance(images, MappedSet)
    shown = images.seen(0)
    assert isinstance(shown, pixels.Pixels)
    assert shown.array.base is not None
    assert not shown.array.flags.owndata
    assert np.array_equal(np.asarray(images.open(0)), shown.array)
    assert np.array_equal(imaging.prepare(shown, RGB), imaging.prepare(images.open(0), RGB))
