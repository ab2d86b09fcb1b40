"""What `--data` names: recognises a source, opens it, and splits it into the parts that training needs.

| `--data`                           | what                                                                          |
|------------------------------------|-------------------------------------------------------------------------------|
| `digits`                           | scikit-learn's handwritten digits                                             |
| `synthetic[:COUNTxCLASSESxPX]`     | noise around a colour for each class, for tests                               |
| `cifar10`, `cifar100`              | found in a cache, or downloaded with a checked hash                           |
| a folder                           | of class folders; of parts (train/, val/, test/) with class folders; of shards |
| `*.parquet`                        | shards in the layout of the Hugging Face hub                                  |
| `*.tar`                            | shards in the layout of WebDataset                                            |
| `train-*.tar`, `{000..123}.tar`    | a pattern of shards: what it matches, or all that its braces say              |
| `*.csv`, `*.tsv`                   | a table of path,label and, optionally, split; `a|b` are several labels        |
| a folder of `residuum cache`     | the pictures of another set, decoded once                                     |
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from residuum import recipe
from residuum.data import builtin, cache, cifar, folders, parquet, patterns, tables, tar
from residuum.data.division import divide, split_warnings
from residuum.data.identity import digests, place_of
from residuum.data.labels import Reading, are_several, counts, renumbered
from residuum.data.parts import (
    ORDER,
    PART_NAMES,
    Found,
    PartName,
    Parts,
    refuse_one_class_each,
    refuse_several,
    stratified_split,
)
from residuum.data.paths import displayed
from residuum.data.places import NAMED, located, root_of
from residuum.data.sets import (
    ImageSet,
    ResidentSet,
    common_size,
    in_mode,
    relabelled,
    resident_exact,
)
from residuum.data.statistics import statistics
from residuum.errors import DataError, did_you_mean
from residuum.imaging import Mode

__all__ = ["Parts", "find", "open_parts", "open_single", "statistics", "stratified_split"]

RESIDENT_PX = 64
"""A set whose pictures have one size, and a shorter side of at most this, is kept in memory ..."""

RESIDENT_BYTES = 2 * 2**30
"""... unless its pixels take more than this."""


def open_parts(data: recipe.Data) -> Parts:
    """Opens `data.source` and returns its parts; what the source does not have apart is held out of the training
    pictures.

    `val_fraction` and `test_fraction` are both shares of the training pictures as they were found. Held-out pictures
    are drawn class by class from `data.split_seed`; the test part does not depend on `val_fraction`. With `data.folds`
    one of them is the validation part; what was that before is the test part, if there is no other. Sets of small
    pictures of one size are decoded here, once; with `on_bad_image = "error"` a bad picture among them ends it here
    too.

    Raises:
        DataError: the source is missing or cannot be used.
        PictureError: a picture of a small set is bad, and `data.on_bad_image` is "error".
        NetworkError: the source must be downloaded and cannot be.
    """
    found, parts, split = _divided(data)
    skipped: dict[str, str] = {}
    total = sum(map(len, parts.values()))
    loaded = {name: _load(part, data, skipped, total) for name, part in parts.items()}
    if data.mode != "auto":
        loaded = {name: in_mode(part, data.mode) for name, part in loaded.items()}
    place = place_of(data.source)
    record: dict[str, object] = {
        "source": data.source,
        **({} if place is None else {"place": place}),
        "kind": found.kind,
        "classes": list(loaded["train"].classes),
        "counts": {name: _counts(part) for name, part in loaded.items()},
        "split": split,
        "names": digests(parts, _root(found, data.source)),
        "resident": {name: isinstance(part, ResidentSet) for name, part in loaded.items()},
        "skipped": skipped,
        "warnings": found.warnings + split_warnings(loaded, data),
        **found.notes,
    }
    return Parts(loaded["train"], loaded.get("val"), loaded.get("test"), record)


def names_of(data: recipe.Data) -> dict[str, str]:
    """Returns what the record of `open_parts` says under "names", without opening a picture.

    Raises: what `open_parts` raises of the source and its division.
    """
    found, parts, _ = _divided(data)
    return digests(parts, _root(found, data.source))


def _divided(data: recipe.Data) -> tuple[Found, dict[PartName, ImageSet], dict[str, object]]:
    """Returns what the source holds, and what `divide` makes of it."""
    found = find(data.source, data.labels)
    if data.labels == "several":
        refuse_one_class_each(found, data.source)
    _check(found, data.source)
    return found, *divide(found, data)


def _root(found: Found, source: str) -> str:
    """Returns what the names of its pictures begin with; those of a cache are called as in the set that it was made
    of."""
    made_of = found.notes.get("made_of")
    return str(made_of["root"]) if isinstance(made_of, dict) else root_of(source)


def parts_in_mode(parts: Parts, mode: Mode) -> Parts:
    """Returns the same parts with their pictures in `mode`."""
    return replace(
        parts,
        train=in_mode(parts.train, mode),
        val=None if parts.val is None else in_mode(parts.val, mode),
        test=None if parts.test is None else in_mode(parts.test, mode),
    )


def open_single(
    source: str,
    split: str | None,
    classes: Sequence[str] | None,
    *,
    mode: Mode | None = None,
    labels: Reading = "auto",
) -> ImageSet:
    """Opens one part of a source as it is, without holding anything out.

    Without `split` it is the test part, else the validation part, else everything. With `classes` the labels become
    indices of those, which a trained network knows; with `mode` the pictures are opened in it. `labels` says how those
    of a table are read: of any set, "several" are wanted then, and no such ones otherwise where there are `classes`.

    Raises:
        DataError: the source or the part is missing, or has classes that `classes` lacks.
        NetworkError: the source must be downloaded and cannot be.
    """
    found = find(source, labels)
    if labels == "several":
        refuse_one_class_each(found, source)
    elif classes is not None:
        refuse_several(found, source)
    name = part_name(found, split, source)
    images = found.parts[name]
    if len(images) == 0:
        raise _empty(source)
    if classes is not None:
        images = _with_classes(images, tuple(classes), source)
    return images if mode is None else in_mode(images, mode)


def find(source: str, labels: Reading = "auto") -> Found:
    """Recognises `source` and returns what it holds, before anything is split or decoded. `labels` says how a table's
    are read.

    Raises:
        DataError: nothing is there, or it is not an image set.
        UsageError: nothing is named.
        NetworkError: it must be downloaded and cannot be.
    """
    if source == "digits":
        return builtin.digits()
    if source.split(":", maxsplit=1)[0] == "synthetic":
        return builtin.synthetic(source)
    if source in cifar.ARCHIVES:
        return cifar.find(source)
    path = located(source)
    if path.is_dir():
        if cache.is_cache(path):
            return cache.find(path, find, labels)
        if shards := parquet.shards_of(path):
            return parquet.find(shards, _title(path))
        tars = tar.shards_of(path)
        return tar.find(tars, path) if tars else folders.find(path)
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return parquet.find([path], path.stem)
        if path.suffix.lower() == tar.SUFFIX:
            return tar.find(tar.grouped([path]), path.parent)
        tar.refuse_if_compressed(path)
        if path.suffix.lower() in tables.SUFFIXES:
            return tables.find(path, labels)
        raise DataError(
            f"{displayed(source)} is a file that is not an image set.",
            expected="Expected a folder, a .csv or .tsv of path,label, or .parquet or .tar shards.",
            hint="To predict single pictures: residuum predict BUNDLE FILE",
        )
    if patterns.is_pattern(source):
        return _find_pattern(source)
    raise DataError(
        f"There is no image set at {displayed(source)!r}.",
        expected=did_you_mean(source, NAMED) or f"Expected a path, or one of {', '.join(NAMED)}.",
        hint="Give the folder that holds one folder for each class: residuum train --data FOLDER",
    )


def _find_pattern(source: str) -> Found:
    files = patterns.files_of(source)
    shards = [file for file in files if file.suffix.lower() == ".parquet"]
    if shards:
        return parquet.find(shards, _title(shards[0].parent))
    shards = [file for file in files if file.suffix.lower() == tar.SUFFIX]
    if shards:
        return tar.find(tar.grouped(shards), Path(os.path.commonpath([shard.parent for shard in shards])))
    raise DataError(
        f"The pattern {displayed(source)!r} matches {len(files)} files, and none of them is .parquet or .tar.",
        expected="Expected shards, such as 'cifar10/*.parquet' or 'train-*.tar'.",
        hint="Quote the pattern, so that the shell leaves it alone.",
    )


def _title(folder: Path) -> str:
    """What pictures of the shards in `folder` are called by."""
    return displayed(folder.resolve().name or "shards")


def _check(found: Found, source: str) -> None:
    """Refuses what cannot be trained on."""
    train = found.parts.get("train")
    if train is None or len(train) == 0:
        if any(len(part) for part in found.parts.values()):
            raise DataError(
                f"{displayed(source)} has no training pictures, only the parts {', '.join(found.parts)}.",
                expected="Expected a part called train.",
                hint="To score a trained model on it: residuum evaluate BUNDLE --data DATA",
            )
        raise _empty(source)
    several = are_several(train.labels)  # of which one is a question too: is it there or not
    if len(train.classes) < 2 - several:
        raise DataError(
            f"{displayed(source)} has one class only: {train.classes[0]}."
            if train.classes
            else f"{displayed(source)} has no class: all its labels are empty.",
            expected="Expected pictures of at least two classes.",
            hint="Add a folder with pictures of something else.",
        )
    missing = [train.classes[k] for k in np.flatnonzero(counts(train.labels, len(train.classes)) == 0)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(train.classes)} classes have no training picture: {_few(missing)}.",
            expected="Expected at least one training picture of every class.",
            hint="Add pictures, or remove the empty classes.",
        )


def _load(images: ImageSet, data: recipe.Data, skipped: dict[str, str], total: int) -> ImageSet:
    """Returns the set resident where it is one of small pictures of one size, else as it is."""
    if isinstance(images, ResidentSet):
        return images
    size = common_size(images, RESIDENT_PX)
    if size is None:
        return images
    if size[0] * size[1] * (3 if images.mode == "RGB" else 1) * len(images) > RESIDENT_BYTES:
        return images
    loaded = resident_exact(images, size, skipped=skipped if data.on_bad_image == "skip" else None, of=total)
    return images if loaded is None else loaded


def _counts(images: ImageSet) -> dict[str, int]:
    return dict(zip(images.classes, counts(images.labels, len(images.classes)).tolist(), strict=True))


def part_name(found: Found, split: str | None, source: str) -> PartName:
    """Returns the part of a source that `split` names; without it, test, else val, else train.

    Raises:
        DataError: there is no such part, or there are no pictures.
    """
    present = [name for name, part in found.parts.items() if len(part)]
    if not present:
        raise _empty(source)
    if split is None:
        return next(name for name in reversed(ORDER) if name in present)
    name = PART_NAMES.get(split.lower())
    if name is None or name not in present:
        raise DataError(
            f"{displayed(source)} has no part called {split!r}.",
            expected=f"It has {', '.join(present)}."
            if found.divided
            else "It is not divided: training holds pictures out by itself.",
            hint="Leave out --split to use everything, or leave out --data for the set that the model was trained on.",
        )
    return name


def _with_classes(images: ImageSet, classes: tuple[str, ...], source: str) -> ImageSet:
    if images.classes == classes:
        return images
    unknown = [name for name in images.classes if name not in classes]
    if unknown:
        raise DataError(
            f"{displayed(source)} has classes that the model does not know: {_few(unknown)}.",
            expected=f"Expected classes among: {_few(list(classes))}.",
            hint="Evaluate on pictures of the classes that the model was trained on.",
        )
    place = {name: number for number, name in enumerate(classes)}
    lookup = np.array([place[name] for name in images.classes], dtype=np.int64)
    return relabelled(images, renumbered(images.labels, lookup, len(classes)), classes)


def _few(names: list[str], count: int = 10) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


def _empty(source: str) -> DataError:
    return DataError(
        f"There are no pictures in {displayed(source)}.",
        expected="Expected one folder for each class, with JPEG, PNG, WebP, BMP or TIFF files in it.",
        hint="See what is there with: residuum check DATA",
    )
