"""The file of vectors: Parquet, one row a picture, with how the vectors were made in the metadata of its schema.

| column   | type                     | what                                                            |
|----------|--------------------------|-----------------------------------------------------------------|
| `file`   | string                   | the picture's path as it was given, or its name within its set  |
| `label`  | string, or null          | its class, where the set says one; several with | between them  |
| `vector` | float32[D], or null      | as the network made it, not brought to length 1                 |
| `error`  | string, or null          | why there is no vector                                          |

Any reader of Parquet reads it. What the metadata holds, under the key `residuum`, is `Made` as JSON.

Shapes: N pictures that have a vector, D numbers each.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from residuum.data.paths import displayed
from residuum.errors import DataError, ResourceError, UsageError, WeightsError
from residuum.imaging import Preprocessing
from residuum.memory import available_bytes

FORMAT = 1
"""The number of the layout; one that is not known is refused."""

_KEY = b"residuum"
_BUFFERED_BYTES = 16 * 2**20  # of vectors, before a row group is written


@dataclass(frozen=True)
class Made:
    """How vectors were made: enough to make another one in the same way, and to notice that it would be another way.

    `bundle` is the folder of a bundle; without it the network is `model["name"]` with `weights`. `fingerprint` is that
    of the weights. `sources` are what the rows are of, in their order: `{"files": COUNT}` or `{"data": SOURCE,
    "labels": READING, "part": NAME, "pictures": COUNT}`. Relative paths are relative to `folder`. `id` tells two files
    of vectors apart.
    """

    bundle: str | None
    model: Mapping[str, Any]
    weights: str | None
    fingerprint: str
    stage: int
    pooled: bool
    dim: int
    precision: str
    preprocessing: Preprocessing
    sources: tuple[Mapping[str, Any], ...]
    folder: str
    id: str
    residuum: str

    def as_json(self) -> bytes:
        """The fields as JSON; `from_json` is the inverse."""
        values = {**asdict(self), "preprocessing": self.preprocessing.as_dict(), "format": FORMAT}
        return json.dumps(values).encode("ascii")

    @classmethod
    def from_json(cls, text: bytes) -> Made:
        """Builds it from what `as_json` returned.

        Raises:
            ValueError, TypeError, KeyError, WeightsError: it is not that.
        """
        values = json.loads(text)
        if values.pop("format") != FORMAT:
            raise ValueError("another version of residuum wrote it")
        values["preprocessing"] = Preprocessing.from_dict(values["preprocessing"])
        values["sources"] = tuple(dict(source) for source in values["sources"])
        if set(values) != {field.name for field in fields(cls)} or type(values["dim"]) is not int:
            raise ValueError("its keys are other ones")
        return cls(**values)


@dataclass(frozen=True)
class VectorFile:
    """What a file of vectors holds. `rows` are the places in the file of the pictures that have a vector.

    Shapes: `vectors` float32 [N, D]; `rows` int64 [N]; `files` and `labels` have all rows.
    """

    path: Path
    made: Made
    files: pa.ChunkedArray
    labels: pa.ChunkedArray
    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, at: int) -> str:
        """Returns the name of the picture of vector `at`."""
        return str(self.files[int(self.rows[at])].as_py())

    def label(self, at: int) -> str | None:
        """Returns the class of the picture of vector `at`, where it is known."""
        label: str | None = self.labels[int(self.rows[at])].as_py()
        return label


@dataclass(frozen=True)
class Row:
    """One picture of a file of vectors: `vector` float32 [D], or why there is none."""

    file: str
    label: str | None = None
    vector: NDArray[np.float32] | None = None
    error: str | None = None


WriteRows = Callable[[Sequence[Row]], None]


@contextlib.contextmanager
def writing(path: Path, made: Made) -> Iterator[WriteRows]:
    """Yields a function that appends rows; the file takes its name when the block has ended without an error.

    Raises:
        UsageError: there is something else than a file of vectors in its place.
        ResourceError: it cannot be written.
    """
    refuse_to_replace(path)
    aside = path.with_name(f".{path.name}.writing-{os.getpid()}-{secrets.token_hex(4)}")
    schema = _schema(made)
    waiting: list[Row] = []
    most = max(1, _BUFFERED_BYTES // (4 * made.dim))
    plain = {"compression": "none", "use_dictionary": ["label"], "write_statistics": False}
    with contextlib.ExitStack() as stack:
        stack.callback(aside.unlink, missing_ok=True)
        with _refusals_named(path):
            file = stack.enter_context(aside.open("xb"))
            writer = pq.ParquetWriter(file, schema, **plain)
        stack.callback(_close, writer)

        def write(rows: Sequence[Row]) -> None:
            waiting.extend(rows)
            if len(waiting) >= most:
                with _refusals_named(path):
                    writer.write_batch(_batch(waiting, schema))
                waiting.clear()

        yield write
        with _refusals_named(path):
            writer.write_batch(_batch(waiting, schema))
            writer.close()
            file.flush()
            os.fsync(file.fileno())
            file.close()
            aside.replace(path)


def _close(writer: pq.ParquetWriter) -> None:
    """Closes a writer that may have failed already; the first error is the one to tell."""
    with contextlib.suppress(OSError, ValueError, pa.ArrowException):
        writer.close()


def refuse_to_replace(path: Path) -> None:
    """Raises before the long work where `path` cannot be written, or is something else than a file of vectors.

    Raises:
        UsageError: it is something else.
        ResourceError: it cannot be written.
    """
    if path.exists() and not _is_ours(path):
        raise UsageError(
            f"{displayed(str(path))} is there, and is not a file of vectors.",
            expected="Expected a new name, or a file that 'residuum embed' wrote, which is replaced.",
            hint="Give another name to --out, such as vectors.parquet.",
        )
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "the folder cannot be written" if path.parent.is_dir() else "there is no such folder"
        raise _not_written(path, reason)


def read(path: Path, *, with_vectors: bool = True) -> VectorFile:
    """Returns what a file of vectors holds, all of it in memory; `vectors` is [0, D] where they are not wanted.

    Raises:
        DataError: there is no such file, or it is not one of vectors.
        ResourceError: it does not fit into memory.
    """
    with _opened(path) as (file, made):
        count = file.metadata.num_rows
        names = file.read(columns=["file", "label", "error"])
        rows = np.flatnonzero(names.column("error").is_null().to_numpy())
        needed, free = 4 * made.dim * len(rows), available_bytes()
        if with_vectors and needed > 0.8 * free:
            raise ResourceError(
                f"The {count:,} vectors of {displayed(str(path))} take {needed / 2**30:.1f} GiB, and "
                f"{free / 2**30:.1f} GiB of memory are available.",
                expected="Expected them to fit.",
                hint="Search with --approximate, which takes half of that, or use a machine with more memory.",
            )
        vectors = np.empty((len(rows) if with_vectors else 0, made.dim), np.float32)
        at = 0
        for block in _blocks(file, made) if with_vectors else ():
            vectors[at : at + len(block)] = block
            at += len(block)
    return VectorFile(path, made, names.column("file"), names.column("label"), rows, vectors)


def blocks(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yields the vectors of a file some thousands at a time, float32 [n, D]; raises what `read` raises."""
    with _opened(path) as (file, made):
        yield from _blocks(file, made)


def _blocks(file: pq.ParquetFile, made: Made) -> Iterator[NDArray[np.float32]]:
    for batch in file.iter_batches(batch_size=16_384, columns=["vector"]):
        yield batch.column("vector").flatten().to_numpy().reshape(-1, made.dim)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[pq.ParquetFile, Made]]:
    try:
        with pq.ParquetFile(path) as file:
            yield file, _made(file.schema_arrow, path)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, str(error).split("\n", maxsplit=1)[0]) from error


def _schema(made: Made) -> pa.Schema:
    columns = [
        pa.field("file", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("vector", pa.list_(pa.float32(), made.dim)),
        pa.field("error", pa.string()),
    ]
    return pa.schema(columns, metadata={_KEY: made.as_json()})


def _batch(rows: Sequence[Row], schema: pa.Schema) -> pa.RecordBatch:
    kind = schema.field("vector").type
    nothing = np.zeros(kind.list_size, np.float32)
    values = np.stack([nothing if row.vector is None else row.vector for row in rows] or [nothing])[: len(rows)]
    missing = pa.array([row.vector is None for row in rows], pa.bool_())
    columns = [
        pa.array([displayed(row.file) for row in rows], pa.string()),
        pa.array([None if row.label is None else displayed(row.label) for row in rows], pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(values.ravel(), pa.float32()), type=kind, mask=missing),
        pa.array([row.error for row in rows], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _is_ours(path: Path) -> bool:
    try:
        return _KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def _made(schema: pa.Schema, path: Path) -> Made:
    text = (schema.metadata or {}).get(_KEY)
    if text is None:
        raise _unreadable(path, "its metadata do not say how it was made")
    try:
        made = Made.from_json(text)
        wrong = schema.field("vector").type != pa.list_(pa.float32(), made.dim)
    except (ValueError, TypeError, KeyError, WeightsError) as error:
        raise _unreadable(path, f"its metadata are malformed: {error}") from error
    if wrong:
        raise _unreadable(path, f"its vectors are {schema.field('vector').type}, not of {made.dim} numbers")
    return made


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(
        f"Cannot use {displayed(str(path))} as an index: {reason}.",
        expected="Expected a file of vectors, as 'residuum embed' writes it.",
        hint="Make one with: residuum embed BUNDLE PATH... --out vectors.parquet",
    )


@contextlib.contextmanager
def _refusals_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_written(path, error.strerror or str(error)) from error


def _not_written(path: Path, reason: str) -> ResourceError:
    return ResourceError(
        f"Cannot write {displayed(str(path))}: {reason}.",
        expected="Expected a file in a folder that exists and can be written, with space left.",
        hint="Give another path to --out.",
    )
