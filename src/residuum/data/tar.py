"""Tar shards in WebDataset's layout: recognised by their names, indexed once, and read in a stream.

A shard belongs to the part whose name is a word of its own ('train-000017.tar', 'imagenet1k-validation-04.tar'), or to
that of its folder (train/000017.tar), or else to `train`. What a sample is, `tar_index` says.

Classes are named, in the order of the labels, by the lines of `classes.txt` beside the shards or in the folder above,
or by `classes.json` (a list, or an object name -> number or number -> name). Without one they are the labels that are
found, in natural order.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from residuum.data import tar_index
from residuum.data.folders import is_hidden
from residuum.data.parts import ORDER, PART_NAMES, Found, PartName
from residuum.data.paths import Paths, displayed, natural_key
from residuum.data.sets import ImageSet, StreamedSet
from residuum.data.tar_index import ShardIndex
from residuum.data.tar_members import refuse_compressed
from residuum.errors import DataError
from residuum.imaging import EXTENSIONS

SUFFIX = ".tar"

_COMPRESSED = re.compile(r"\.(?:tar\.(gz|bz2|xz|zst)|(tgz|tbz2?|txz))", re.IGNORECASE)
_KINDS = {"g": "gzip", "b": "bzip2", "x": "xz", "z": "zstd"}
_NUMBERED = re.compile(r"(.*?)([0-9]+)\.tar", re.IGNORECASE)

Shards = dict[PartName, list[Path]]


@dataclass(frozen=True)
class TarStore:
    """The pictures of some shards, end to end.

    Shapes: starts and shard_bytes int64 [G], offsets and sizes int64 [N].
    """

    shards: tuple[Path, ...]
    shard_bytes: NDArray[np.int64]
    starts: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def read(self, row: int) -> bytes | None:
        """Returns the bytes of a picture."""
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        shard, size = self.shards[number], int(self.sizes[row])
        try:
            # Opened anew for each picture: that costs nothing beside decoding it, and shards may be many.
            with shard.open("rb") as file:
                total = file.seek(0, 2)
                file.seek(int(self.offsets[row]))
                content = file.read(size)
        except OSError as error:
            raise _changed(shard, f"cannot be read any more: {error.strerror or error}") from error
        if total != self.shard_bytes[number] or len(content) < size:
            raise _changed(shard, f"has changed: it had {self.shard_bytes[number]:,} bytes, and now it has {total:,}")
        return content

    def most_buffered(self, count: int) -> int:
        """Returns `count`: pictures are read one by one, and none is kept."""
        return count


def shards_of(folder: Path) -> Shards:
    """Returns the tar shards of a folder, part by part: those in it, or those in its folders train/, val/ and test/.
    Nothing where there are none, or where folders with pictures are beside them: then those are the set.

    Raises:
        DataError: the shards are compressed.
    """
    if own := _listed(folder):
        return grouped(own)
    found: Shards = {}
    for below in _visible(folder):
        if below.name.lower() in PART_NAMES and (shards := _listed(below)):
            found.setdefault(PART_NAMES[below.name.lower()], []).extend(shards)
    return found


def grouped(files: Sequence[Path]) -> Shards:
    """Returns the shards part by part, by their names, else by their folders'."""
    found: Shards = {}
    for file in sorted(files, key=lambda file: natural_key(str(file))):
        words = [*re.split(r"[-_.]", file.name.lower()), file.parent.name.lower()]
        part: PartName = next((PART_NAMES[word] for word in words if word in PART_NAMES), "train")
        found.setdefault(part, []).append(file)
    return found


def refuse_if_compressed(file: Path) -> None:
    """Raises DataError where a file is a compressed tar file by its name."""
    if match := _COMPRESSED.search(file.name):
        refuse_compressed(displayed(str(file)), _KINDS[(match[1] or match[2][1:]).lower()[0]])


def find(shards: Shards, root: Path) -> Found:
    """Returns the parts that the shards hold, which lie in `root` or in its folders.

    Raises:
        DataError: a shard is no tar file, is cut short, or holds samples that cannot be used; the labels do not match
            the classes.
    """
    files = [file for part in ORDER for file in shards.get(part, [])]
    indexes = dict(zip(files, tar_index.index_all(files), strict=True))
    values = {value for index in indexes.values() for value in index.label_values}
    named = _class_names([*sorted({file.parent for file in files}), root])
    classes, numbers = _classes(values, named, displayed(str(root)))
    parts: dict[PartName, ImageSet] = {
        part: _set({file: indexes[file] for file in shards[part]}, numbers, classes, root)
        for part in ORDER
        if part in shards
    }
    return Found("tar", parts, divided=list(shards) != ["train"] or len(parts) > 1, warnings=_gaps(files))


def _listed(folder: Path) -> list[Path]:
    """Returns the tar files in a folder, in natural order; none where there are folders with pictures."""
    entries = _visible(folder)
    found = [entry for entry in entries if entry.suffix.lower() == SUFFIX and entry.is_file()]
    packed = [entry for entry in entries if _COMPRESSED.search(entry.name) and entry.is_file()]
    if not (found or packed) or any(_holds_pictures(entry) for entry in entries if entry.is_dir()):
        return []
    for entry in packed if not found else []:
        refuse_if_compressed(entry)
    return sorted(found, key=lambda file: natural_key(file.name))


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))
    except OSError:
        return []  # `folders` says what is wrong


def _holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in a folder or below it, by its extension; the first one ends the search."""
    visited = (name for _, _, names in os.walk(folder) for name in names)
    return any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in visited)  # noqa: PTH122 (may be a million)


def _set(
    indexes: Mapping[Path, ShardIndex], numbers: Mapping[str, int], classes: tuple[str, ...], root: Path
) -> StreamedSet:
    """Returns the pictures of one part."""
    each = list(indexes.values())
    counts = np.array([len(index) for index in each], dtype=np.int64)
    letters = np.array([len(index.names) for index in each], dtype=np.int64)
    before = np.cumsum(letters) - letters
    labels = [
        np.array([numbers[value] for value in index.label_values] or [0], dtype=np.int64)[index.labels]
        for index in each
    ]
    store = TarStore(
        tuple(indexes),
        np.concatenate([index.shard_bytes for index in each]),
        np.cumsum(counts) - counts,
        np.concatenate([index.offsets for index in each]),
        np.concatenate([index.sizes for index in each]),
    )
    paths = Paths(
        str(root),
        tuple(str(_relative(file, root)).encode("utf-8", "surrogateescape") for file in indexes),
        np.repeat(np.arange(len(each), dtype=np.uint32), counts),
        b"".join(index.names.tobytes() for index in each),
        np.concatenate([index.ends + start for index, start in zip(each, before.tolist(), strict=True)]).astype(
            np.uint64
        ),
    )
    return StreamedSet(store, np.concatenate(labels), classes, paths=paths)


def _relative(file: Path, root: Path) -> Path:
    return file.relative_to(root) if file.is_relative_to(root) else file


def _classes(
    values: set[str], named: tuple[Path, tuple[str, ...]] | None, where: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Returns the classes and the number of each label's value. Where there are names, values are names if all of them
    are, and else numbers."""
    if named is None:
        classes = tuple(sorted(values, key=natural_key))
        return classes, {name: number for number, name in enumerate(classes)}
    file, classes = named
    numbers = {name: number for number, name in enumerate(classes)}
    if values <= numbers.keys():
        return classes, numbers
    wrong = [value for value in values if not value.isdecimal() or int(value) >= len(classes)]
    if wrong:
        first = min(wrong, key=natural_key)
        raise DataError(
            f"The label {first!r} in the shards of {where} is not among the {len(classes)} classes of {file.name}.",
            expected=f"Expected numbers from 0 to {len(classes) - 1}, or the classes' names, in all shards.",
            hint=f"Correct {displayed(str(file))}, or remove it to name the classes by their labels.",
        )
    return classes, {value: int(value) for value in values}


def _class_names(folders: Sequence[Path]) -> tuple[Path, tuple[str, ...]] | None:
    """Returns the first file in the folders that names the classes, and the names."""
    files = [folder / name for folder in folders for name in ("classes.txt", "classes.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    try:
        text = file.read_text("utf-8-sig")
        names = _from_json(json.loads(text)) if file.suffix == ".json" else text.rstrip().splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise _no_names(file, str(error)) from error
    stripped = tuple(name.strip() for name in names)
    if "" in stripped or not stripped:
        raise _no_names(file, "a name is empty")
    if len(set(stripped)) < len(stripped):
        raise _no_names(file, f"{next(name for name in stripped if stripped.count(name) > 1)!r} comes twice")
    return file, stripped


def _from_json(found: object) -> list[str]:
    """Returns the names in a list, or in an object name -> number or number -> name; raises ValueError."""
    if isinstance(found, dict):
        turned = all(isinstance(value, int) for value in found.values())
        by_number = {int(value if turned else key): key if turned else value for key, value in found.items()}
        if sorted(by_number) != list(range(len(found))):
            raise ValueError(f"the numbers are not 0 to {len(found) - 1}")
        found = [by_number[number] for number in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("it is no list of names")
    return found


def _gaps(files: Sequence[Path]) -> list[str]:
    """Returns a sentence on shards that are missing among numbered ones."""
    known: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if match := _NUMBERED.fullmatch(file.name):
            known.setdefault((file.parent, match[1], len(match[2])), set()).add(int(match[2]))
    return [
        f"There are gaps in the numbers of the shards {displayed(prefix)}*.tar: {min(missing):0{width}d} is missing"
        + (f", and {len(missing) - 1} more." if len(missing) > 1 else ".")
        for (_, prefix, width), numbers in known.items()
        if (missing := set(range(min(numbers), max(numbers) + 1 if max(numbers) < 10**7 else 0)) - numbers)
    ]


def _no_names(file: Path, why: str) -> DataError:
    return DataError(
        f"{displayed(str(file))} does not name the classes: {why.rstrip('.')}.",
        expected="Expected a name in each line, or in JSON a list of names.",
        hint="The first name is that of label 0.",
    )


def _changed(shard: Path, what: str) -> DataError:
    return DataError(
        f"The shard {displayed(str(shard))} {what}.",
        expected="Expected the file as it was when it was opened.",
        hint="Leave shards alone while they are used, and start again.",
    )
