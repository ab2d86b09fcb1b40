"""Pictures in Parquet shards that do not fit into memory: a row group is read when one of its pictures is asked for,
and kept while the training order is likely to come back to it.

A row group is read whole, so the shuffle buffer must not be spread over more of them than are kept: it is limited to
the pictures of `WINDOW_BYTES`, which is a property of the set and not of the machine, so that an order can be repeated.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from residuum.data.paths import displayed
from residuum.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

WINDOW_BYTES = 2**30
"""The shuffle buffer is spread over at most so many bytes of encoded pictures."""

_SPARE = 1.25  # of what is kept: row groups that are used up look like the others for a while


@dataclass(frozen=True)
class Shard:
    """A Parquet file, its footer, and the path of its column with the pictures' bytes."""

    path: Path
    footer: pq.FileMetaData
    column: str

    def lengths(self) -> list[int]:
        """Returns the number of rows of each row group."""
        return [self.footer.row_group(group).num_rows for group in range(self.footer.num_row_groups)]

    def sizes(self) -> list[int]:
        """Returns how many bytes of pictures each row group has."""
        groups = [self.footer.row_group(group) for group in range(self.footer.num_row_groups)]
        if not groups:
            return []
        names = [groups[0].column(number).path_in_schema for number in range(groups[0].num_columns)]
        place = names.index(self.column)
        return [group.column(place).total_uncompressed_size for group in groups]

    def read(self, group: int) -> pa.ChunkedArray:
        """Returns the pictures of a row group; raises DataError."""
        import pyarrow as pa  # here and below where it is used, for a set that is no Parquet needs none of it
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path, metadata=self.footer) as file:
                column = file.read_row_group(group, columns=[self.column], use_threads=False).column(0)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(self.path, error) from error
        return bytes_in(column)


class RowGroups:
    """The row groups that were used last, up to `capacity_bytes` of them, and at least one."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held: OrderedDict[tuple[Path, int], Future[pa.ChunkedArray]] = OrderedDict()
        self._lock = threading.Lock()
        self.held_bytes = 0

    def get(self, shard: Shard, group: int) -> pa.ChunkedArray:
        """Returns the pictures of a row group, which one thread reads while others that want it wait."""
        key = (shard.path, group)
        with self._lock:
            known = self._held.get(key)
            if known is not None:
                self._held.move_to_end(key)
            else:
                mine = self._held[key] = Future()
        if known is not None:
            return known.result()
        try:
            pictures = shard.read(group)
        except BaseException as error:
            with self._lock:
                del self._held[key]
            mine.set_exception(error)
            raise
        with self._lock:
            mine.set_result(pictures)
            self.held_bytes += pictures.nbytes
            for old in [other for other, held in self._held.items() if held.done() and other != key]:
                if self.held_bytes <= self._capacity_bytes:
                    break
                self.held_bytes -= self._held.pop(old).result().nbytes
        return pictures


class RowGroupStore:
    """The pictures of some shards, end to end, by row group; parts of one set share `held`."""

    def __init__(self, shards: list[Shard], held: RowGroups) -> None:
        self._groups = [(shard, group) for shard in shards for group in range(shard.footer.num_row_groups)]
        self._held = held
        lengths = np.array([length for shard in shards for length in shard.lengths()], dtype=np.int64)
        self._bytes = sum(size for shard in shards for size in shard.sizes())
        self._starts = np.cumsum(lengths) - lengths

    @property
    def starts(self) -> NDArray[np.int64]:
        """The row at which each row group begins."""
        return self._starts

    def read(self, row: int) -> bytes | None:
        """Returns the bytes of a picture; None where its row holds none."""
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        content: bytes | None = self._held.get(*self._groups[number])[row - int(self._starts[number])].as_py()
        return content

    def most_buffered(self, count: int) -> int:
        """Returns how many of the `count` pictures that are used lie in `WINDOW_BYTES`."""
        return max(1, WINDOW_BYTES * count // max(self._bytes, 1))


def held_for(shards: list[Shard]) -> RowGroups:
    """Returns a place for the row groups of a set that is large enough for any order of its pictures that
    `most_buffered` allows."""
    largest = max((size for shard in shards for size in shard.sizes()), default=0)
    return RowGroups(int(_SPARE * WINDOW_BYTES) + 2 * largest)


def bytes_in(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Returns the pictures' bytes in a column that holds them, or a struct that has them first."""
    import pyarrow as pa

    if not pa.types.is_struct(column.type):
        return column
    return pa.chunked_array([chunk.flatten()[0] for chunk in column.chunks], type=column.type.field(0).type)


def unreadable(file: Path, error: Exception) -> DataError:
    """Returns what to say of a shard that is broken or cut short."""
    return DataError(
        f"{displayed(str(file))} cannot be read as Parquet: {str(error).strip().rstrip('.')}.",
        expected="Expected a complete Parquet file.",
        hint="Download or write it again.",
    )
