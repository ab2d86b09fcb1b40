"""What is in a tar shard in WebDataset's layout: for each picture where its bytes are, its name and its label.

Consecutive files with one key, the name up to the first dot of its last part, are a sample: 'n01/0001.jpg' and
'n01/0001.cls'. A sample has one picture and a label: `.cls` is text, a number or a class's name; `.json` is an object
with `label` or `class`. Everything else is passed over: files with other extensions, hidden ones, and what has neither
a picture nor a label. A picture without a label and a label without a picture are errors, as are keys that come twice.

A shard's headers are read once; what they say is kept in the cache, and read again when the shard's size or its time of
change differ. An entry carries the hash of its own content: one that is broken is made anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import tempfile
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from residuum.data.paths import displayed
from residuum.data.tar_members import Member, members, read_at
from residuum.download import cache_folder
from residuum.errors import DataError
from residuum.imaging import EXTENSIONS

_FORMAT = 1
"""Of the entries in the cache: another number makes them anew."""

_SETTLED_NS = 2 * 10**9
"""A shard is remembered once it is that old: before, it could change again and have the same time of change."""

_READERS = 8  # threads that wait for a disk or a network
_LARGEST_LABEL = 1 << 20
_PICTURES = frozenset(extension.removeprefix(".").encode() for extension in EXTENSIONS)
_NUMBER = re.compile(r"[0-9]{1,18}")
_LABEL = re.compile(r"(?!-[0-9]+$).{1,1000}")  # -1 stands for no label


@dataclass(frozen=True)
class ShardIndex:
    """The N pictures of a shard. Their names lie end to end; `labels` are indices of `values`, which is text in JSON.

    Shapes: offsets, sizes, ends and labels int64 [N]; names and values uint8; shard_bytes int64 [1].
    """

    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    names: NDArray[np.uint8]
    ends: NDArray[np.int64]
    labels: NDArray[np.int64]
    values: NDArray[np.uint8]
    shard_bytes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def label_values(self) -> list[str]:
        """The labels as the shard has them, numbers as their digits."""
        found: list[str] = json.loads(self.values.tobytes())
        return found


def index_all(shards: Sequence[Path]) -> list[ShardIndex]:
    """Returns the index of each shard, from the cache or from its headers, which threads read.

    Raises:
        DataError: a shard cannot be read, is no tar file or cut short, or holds a sample that cannot be used.
    """
    with ThreadPoolExecutor(_READERS, thread_name_prefix="residuum-index") as pool:
        futures = [pool.submit(index, shard) for shard in shards]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def index(shard: Path) -> ShardIndex:
    """Returns the index of one shard; see `index_all`."""
    try:
        status = shard.stat()
        stamp = f"{_FORMAT} {shard.resolve()} {status.st_size} {status.st_mtime_ns}"
        entry = cache_folder() / "shards" / f"{hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:32]}.index"
        known = _remembered(entry, stamp)
        if known is not None:
            return known
        with shard.open("rb") as file:
            found = _read(file, displayed(str(shard)), status.st_size)
    except OSError as error:
        raise DataError(
            f"The shard {displayed(str(shard))} cannot be read: {error.strerror or error}.",
            expected="Expected a tar file that may be read.",
            hint="Check the file and its permissions.",
        ) from error
    if time.time_ns() - status.st_mtime_ns > _SETTLED_NS:
        _remember(entry, stamp, found)
    return found


def _read(file: BinaryIO, shard: str, size_bytes: int) -> ShardIndex:
    offsets, sizes, ends, labels, names = array("q"), array("q"), array("q"), array("q"), bytearray()
    numbers: dict[str, int] = {}
    keys: set[bytes] = set()
    for key, group in groupby(members(file, shard), _key):
        sample = list(group)
        if not key:
            continue
        if key in keys:
            _refuse(shard, f"has files of {_shown(key)} in two places", "Expected the files of a sample together.")
        keys.add(key)
        picture, label = _sample(file, shard, key, sample)
        if picture is None:
            continue
        offsets.append(picture.offset)
        sizes.append(picture.size)
        names += picture.name.lstrip(b"/")
        ends.append(len(names))
        labels.append(numbers.setdefault(label, len(numbers)))
    return ShardIndex(
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
        names=np.frombuffer(bytes(names), dtype=np.uint8),
        ends=np.array(ends, dtype=np.int64),
        labels=np.array(labels, dtype=np.int64),
        values=np.frombuffer(json.dumps(list(numbers)).encode(), dtype=np.uint8),
        shard_bytes=np.array([size_bytes], dtype=np.int64),
    )


def _key(member: Member) -> bytes:
    """Returns the key of a file's sample; nothing for a file that belongs to none."""
    start = member.name.rfind(b"/") + 1
    dot = member.name.find(b".", start)
    return member.name[:dot] if dot > start else b""


def _sample(file: BinaryIO, shard: str, key: bytes, sample: list[Member]) -> tuple[Member | None, str]:
    """Returns the picture and the label of a sample; no picture where there is neither."""
    found: dict[bytes, Member] = {}
    for member in sample:
        extension = member.name[len(key) + 1 :].lower()
        if extension in found:
            _refuse(shard, f"holds {_shown(member.name)} twice", "Expected a name once.")
        found[extension] = member
    pictures = [member for extension, member in found.items() if extension in _PICTURES]
    if len(pictures) > 1:
        names = " and ".join(_shown(picture.name) for picture in pictures[:2])
        _refuse(shard, f"has {len(pictures)} pictures in one sample, {names}", "Expected one picture for a label.")
    label = _label(file, shard, found, alone=not pictures)
    if pictures and label is None:
        _refuse(
            shard,
            f"has no label for {_shown(pictures[0].name)}",
            f"Expected {_shown(key)}.cls, or {_shown(key)}.json with 'label' or 'class', beside it.",
            "Pictures in class folders need no labels: unpack the shard.",
        )
    if label is not None and not pictures:
        _refuse(shard, f"has a label and no picture for {_shown(key)}", f"Expected {_shown(key)}.jpg or the like.")
    return (pictures[0] if pictures else None), label or ""


def _label(file: BinaryIO, shard: str, found: dict[bytes, Member], *, alone: bool) -> str | None:
    """Returns a sample's label as text, or None where it has none. JSON that is `alone` may be about anything."""
    member = found.get(b"cls") or found.get(b"json")
    if member is None:
        return None
    try:
        content = read_at(file, member.offset, min(member.size, _LARGEST_LABEL)).decode("utf-8-sig")
        value: object = content.strip() if b"cls" in found else json.loads(content)
    except (ValueError, RecursionError):
        value = None if alone else _refuse_label(shard, member)
    if b"cls" not in found and (alone or isinstance(value, dict)):
        value = value.get("label", value.get("class")) if isinstance(value, dict) else None
        if value is None:
            return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not _LABEL.fullmatch(value) or not value.isprintable():
        _refuse_label(shard, member)
    return str(int(value)) if _NUMBER.fullmatch(value) else value


def _remembered(entry: Path, stamp: str) -> ShardIndex | None:
    """Returns what the cache holds; None where it has nothing of this stamp, or something broken."""
    try:
        content = entry.read_bytes()
    except OSError:
        return None
    digest, content = content[:32], content[32:]
    head, _, content = content.partition(b"\n")
    if digest != _digest(head, content) or head != os.fsencode(stamp):
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return ShardIndex(**{field.name: arrays[field.name] for field in fields(ShardIndex)})


def _remember(entry: Path, stamp: str, found: ShardIndex) -> None:
    """Writes an entry, aside and then renamed. A cache that cannot be written is done without."""
    content = io.BytesIO()
    np.savez(content, **{field.name: getattr(found, field.name) for field in fields(ShardIndex)})
    head = os.fsencode(stamp)
    with contextlib.suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{entry.name}.", suffix=".part", dir=entry.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(_digest(head, content.getbuffer()) + head + b"\n")
                file.write(content.getbuffer())
            Path(name).replace(entry)
        finally:
            Path(name).unlink(missing_ok=True)


def _digest(head: bytes, content: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(head + b"\n")
    digest.update(content)
    return digest.digest()


def _refuse_label(shard: str, member: Member) -> NoReturn:
    _refuse(
        shard,
        f"has no label in {_shown(member.name)}",
        "Expected a number from 0 on or a class's name as text, or in JSON as 'label' or 'class'.",
    )


def _refuse(shard: str, what: str, expected: str, hint: str = "Write the shard again.") -> NoReturn:
    raise DataError(f"The shard {shard} {what}.", expected=expected, hint=hint)


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
