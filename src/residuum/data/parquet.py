"""Parquet shards in the layout of the Hugging Face hub: encoded pictures, labels, and class names in the schema.

The pictures stay in memory as they are encoded, where they take at most 2 GiB; else they are read from the
disk, row group by row group, in the order of training.

Source: the `Image` and `ClassLabel` features of the library `datasets`, stored under the key 'huggingface' of the
schema's metadata; shards are called PART-00000-of-00002.parquet.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from residuum.data.parts import PART_NAMES, Found, PartName
from residuum.data.paths import displayed, natural_key
from residuum.data.row_groups import RowGroupStore, Shard, bytes_in, held_for, unreadable
from residuum.data.sets import BytesSet, ImageSet, StreamedSet
from residuum.errors import DataError, ResourceError
from residuum.imaging import EXTENSIONS
from residuum.memory import available_bytes

if TYPE_CHECKING:
    import pyarrow as pa

RESIDENT_BYTES = 2 * 2**30
"""Shards that take more than this are streamed; whatever the machine, because the order of an epoch depends on it."""

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label", "labels")

_SHARD = re.compile(r"(?P<part>.+?)-(?P<number>[0-9]{5})-of-(?P<total>[0-9]{5})(?:-[0-9a-f]+)?\.parquet")


@dataclass(frozen=True)
class _Layout:
    """Where the pictures and labels are in a file. `image` is the path of the column that holds the bytes."""

    image: str
    label: str
    names: tuple[str, ...] | None


def find(files: Sequence[Path], title: str) -> Found:
    """Returns the parts that the shards `files` hold; a file's part is told by the first word of its name.

    Raises:
        DataError: a file is not Parquet, has no pictures or labels, or a shard is missing.
        ResourceError: the shards must be streamed, and a row group alone does not fit into memory.
    """
    groups: dict[PartName, list[Path]] = {}
    for file in sorted(files, key=lambda file: natural_key(file.name)):
        groups.setdefault(_part(file), []).append(file)
    layouts = {file: _layout(file) for file in files}
    warnings: list[str] = []
    streamed = sum(file.stat().st_size for file in files) > RESIDENT_BYTES
    stores = _stores(groups, layouts) if streamed else {}
    tables = {part: _read(group, layouts, with_pictures=not streamed) for part, group in groups.items()}
    names = next((layout.names for layout in layouts.values() if layout.names is not None), None)
    parts: dict[PartName, ImageSet] = {}
    classes = names if names is not None else _classes([labels for _, labels in tables.values()])
    for part, (chunks, values) in tables.items():
        labels = _labels(values, classes, names is not None, f"{title}, part {part}")
        if part != "train" and len(labels) and (labels == -1).all():
            warnings.append(f"The part '{part}' has no labels (-1 everywhere) and is left out.")
            continue
        if len(labels) and (labels.min() < 0 or labels.max() >= len(classes)):
            wrong = labels[(labels < 0) | (labels >= len(classes))]
            raise DataError(
                f"{len(wrong):,} labels in the part '{part}' of {title} are outside the classes, such as {wrong[0]}.",
                expected=f"Expected labels from 0 to {len(classes) - 1}.",
                hint="Write the shards again with the labels of the schema.",
            )
        where = f"{title}/{part}"
        store = stores.get(part)
        parts[part] = StreamedSet(store, labels, classes, where) if store else BytesSet(chunks, labels, classes, where)
    return Found("parquet", parts, divided=len(tables) > 1 or "train" not in tables, warnings=warnings)


def shards_of(folder: Path) -> list[Path]:
    """Returns the Parquet files of a folder, of its folder `data`, or of the one folder in it that is named after a
    configuration (`plain_text`), as copies of the hub's repositories have them.

    Raises:
        DataError: there are several such folders, or the names say that a shard is missing.
    """
    files = _listed(folder) or _listed(folder / "data") or _of_a_configuration(folder)
    known: dict[tuple[str, int], set[int]] = {}
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            known.setdefault((match["part"], int(match["total"])), set()).add(int(match["number"]))
    for (part, total), numbers in known.items():
        if missing := sorted(set(range(total)) - numbers):
            raise DataError(
                f"{displayed(str(folder))} lacks {len(missing)} of the {total} shards {part}-*: number {missing[0]}.",
                expected=f"Expected {part}-00000-of-{total:05d} to {part}-{total - 1:05d}-of-{total:05d}.",
                hint="Download what is missing, or name the shards to use: --data 'FOLDER/train-00000-*.parquet'",
            )
    return files


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [file for file in sorted(folder.iterdir()) if file.suffix == ".parquet" and not file.name.startswith(".")]


def _of_a_configuration(folder: Path) -> list[Path]:
    """Returns the shards in the only folder of `folder` that holds any; none where one of its folders holds pictures,
    which is a class then."""
    found: dict[str, list[Path]] = {}
    try:
        for place in sorted(folder.iterdir()) if folder.is_dir() else ():
            shards = [] if place.name.startswith(".") or not place.is_dir() else _shards_or_pictures(place)
            if shards is None:
                return []
            if shards:
                found[place.name] = shards
    except OSError:
        return []  # whoever looks for class folders says which one cannot be read
    if len(found) > 1:
        raise DataError(
            f"{displayed(str(folder))} holds Parquet shards in several folders: {displayed(', '.join(found))}.",
            expected="Expected those of one image set.",
            hint=f"Name one of them: --data {displayed(shlex.quote(str(folder / next(iter(found)))))}",
        )
    return next(iter(found.values()), [])


def _shards_or_pictures(folder: Path) -> list[Path] | None:
    """Returns the files of a folder that are called as shards of a part, or None as soon as a picture is among them."""
    shards = []
    with os.scandir(folder) as entries:
        for entry in entries:
            stem, extension = os.path.splitext(entry.name)  # noqa: PTH122 (a folder of a class may be a large one)
            if extension.lower() in EXTENSIONS and not stem.startswith("."):
                return None
            if extension == ".parquet" and _first_word(entry.name) in PART_NAMES:
                shards.append(folder / entry.name)
    return sorted(shards)


def _first_word(name: str) -> str:
    return re.split(r"[-_.]", name.lower(), maxsplit=1)[0]


def _part(file: Path) -> PartName:
    return PART_NAMES.get(_first_word(file.name), "train")


def _layout(file: Path) -> _Layout:
    """Finds the columns of pictures and labels."""
    import pyarrow as pa  # here and below where it is used, for a set that is no Parquet needs none of it
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error
    features = _features(schema)
    image = _first([*IMAGE_COLUMNS, *_of_type(features, "Image")], schema)
    label = _first([*LABEL_COLUMNS, *_of_type(features, "ClassLabel")], schema)
    path = _bytes_path(schema, image)
    if image is None or label is None or path is None:
        raise DataError(
            f"{displayed(str(file))} has the columns {', '.join(schema.names)}, without pictures and labels.",
            expected=f"Expected encoded pictures in {' or '.join(IMAGE_COLUMNS)} (bytes, or a struct with 'bytes') and "
            f"labels in {', '.join(LABEL_COLUMNS)}.",
            hint="Rename the columns, or use a CSV file of path,label.",
        )
    feature = features.get(label)
    names = feature.get("names") if isinstance(feature, dict) else None
    return _Layout(path, label, tuple(str(name) for name in names) if isinstance(names, list) else None)


def _first(names: Sequence[str], schema: pa.Schema) -> str | None:
    return next((name for name in names if name in schema.names), None)


def _bytes_path(schema: pa.Schema, image: str | None) -> str | None:
    """The path of the column with the bytes of the pictures."""
    import pyarrow as pa

    if image is None:
        return None
    kind = schema.field(image).type
    if pa.types.is_struct(kind):
        inner = kind.get_field_index("bytes")
        return f"{image}.bytes" if inner >= 0 and _is_binary(kind.field(inner).type) else None
    return image if _is_binary(kind) else None


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _features(schema: pa.Schema) -> dict[str, object]:
    """What the hub's metadata says about the columns; nothing where there is none."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    except ValueError:
        return {}
    info = found.get("info") if isinstance(found, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


def _of_type(features: dict[str, object], kind: str) -> list[str]:
    return [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind]


def _stores(groups: dict[PartName, list[Path]], layouts: dict[Path, _Layout]) -> dict[PartName, RowGroupStore]:
    """Returns the pictures of each part, to be read when asked."""
    import pyarrow.parquet as pq

    shards = {file: Shard(file, pq.read_metadata(file), layout.image) for file, layout in layouts.items()}
    _refuse_too_large(list(shards.values()))
    held = held_for(list(shards.values()))
    return {part: RowGroupStore([shards[file] for file in files], held) for part, files in groups.items()}


def _read(
    files: Sequence[Path], layouts: dict[Path, _Layout], *, with_pictures: bool
) -> tuple[tuple[pa.Array, ...], pa.ChunkedArray]:
    """Returns the encoded pictures, if wanted, and the labels of one part, in the order of its shards."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures: list[pa.Array] = []
    labels: list[pa.ChunkedArray] = []
    for file in files:
        layout = layouts[file]
        try:
            with pq.ParquetFile(file) as shard:
                for group in range(shard.num_row_groups):  # one by one: all at once takes twice the memory
                    columns = [layout.label, layout.image] if with_pictures else [layout.label]
                    table = shard.read_row_group(group, columns=columns, use_threads=False)
                    if with_pictures:
                        pictures += bytes_in(table.column(layout.image.split(".")[0])).chunks
                    labels.append(table.column(layout.label))
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error) from error
    kinds = {values.type for values in labels}
    if len(kinds) > 1:
        raise DataError(
            f"The labels of {displayed(str(files[0]))} and the other shards are {', '.join(map(str, kinds))}.",
            expected="Expected one type in all shards.",
            hint="Write the shards again.",
        )
    return tuple(pictures), pa.chunked_array([chunk for values in labels for chunk in values.chunks])


def _refuse_too_large(shards: Sequence[Shard]) -> None:
    """Refuses shards of which a row group, which is read whole, takes most of the memory that is available."""
    sizes = {shard.path: max(shard.sizes(), default=0) for shard in shards}
    worst = max(sizes, key=sizes.__getitem__)
    free = available_bytes()
    if sizes[worst] > free / 4:  # two or three are in memory at a time
        raise ResourceError(
            f"{displayed(str(worst))} has a row group of {sizes[worst] / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of "
            "memory are available.",
            expected="Expected row groups of less than a quarter of the memory.",
            hint="Write the shards with smaller ones: pyarrow.parquet.write_table(table, FILE, row_group_size=256)",
        )


def _classes(columns: Sequence[pa.ChunkedArray]) -> tuple[str, ...]:
    """The classes of labels without names in the schema: the values themselves, in natural order."""
    values = {str(value) for column in columns for value in column.unique().to_pylist() if value is not None}
    return tuple(sorted(values - {"-1"}, key=natural_key))


def _labels(values: pa.ChunkedArray, classes: tuple[str, ...], numbered: bool, where: str) -> NDArray[np.int64]:
    """Returns the labels as indices of `classes`, -1 for no label; `numbered` where integers are such indices
    already."""
    import pyarrow as pa

    if values.null_count:
        raise DataError(
            f"{values.null_count:,} labels are missing in {where}.",
            expected="Expected a label for every picture.",
            hint="Remove those rows, or label them.",
        )
    if numbered and pa.types.is_integer(values.type):
        return np.asarray(values.to_numpy(), dtype=np.int64)
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index.get(str(value), -1) for value in values.to_pylist()], dtype=np.int64)
