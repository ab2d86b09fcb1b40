"""A faiss index of a file of vectors, for more of them than one product can go through in time. It may miss neighbours.

The vectors are sorted into lists around centres, in half precision; a query goes through the lists whose centres are
nearest. The index is kept beside the file, is named after it and its id, and is made anew for another file.

Source: Johnson et al., Billion-scale similarity search with GPUs, arXiv:1702.08734; faiss's `IVF,SQfp16`.
Shapes: N vectors of D numbers, Q queries, T the nearest asked for.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from residuum.data.paths import displayed
from residuum.deploy import vectors
from residuum.deploy.vectors import VectorFile
from residuum.errors import DataError, ResourceError, UsageError
from residuum.evaluation import neighbours
from residuum.evaluation.neighbours import Floats, Neighbours

PROBED = 1 / 16
"""The share of the lists that a query goes through, and so roughly of the time that an exact search takes."""

_PER_LIST = 64  # vectors that the centres are found from, for each of them


class Approximate:
    """The faiss index of a file of vectors, read, or made and written beside it.

    Raises:
        UsageError: faiss is not installed.
        DataError: the index cannot be read.
        ResourceError: it cannot be written.
    """

    def __init__(self, file: VectorFile) -> None:
        faiss = _faiss()
        self.path = file.path.with_name(f"{file.path.name}.{file.made.id}.faiss")
        if not self.path.is_file():
            _write(faiss, _made(faiss, file), self.path)
            for older in self.path.parent.glob(f"{file.path.name}.*.faiss"):
                if older != self.path:
                    older.unlink(missing_ok=True)
        try:
            self._index = faiss.read_index(os.fspath(self.path))
        except RuntimeError as error:
            raise DataError(
                f"Cannot read the faiss index {displayed(str(self.path))}: {str(error).splitlines()[0]}.",
                expected="Expected the one that was made of the vectors beside it.",
                hint="Delete it, and it is made anew.",
            ) from error
        self._index.nprobe = max(1, round(PROBED * self._index.nlist))

    def search(self, queries: Floats, top: int) -> Neighbours:
        """Returns the `top` nearest to each query of length 1, as far as they are found."""
        similarities, rows = self._index.search(np.ascontiguousarray(queries), min(top, self._index.ntotal))
        found = int((rows >= 0).all(axis=0).sum())  # -1 fills up what was not found, at the end
        return Neighbours(similarities[:, :found].clip(-1, 1), rows[:, :found].astype(np.int64))


def _made(faiss: Any, file: VectorFile) -> Any:
    count, dim = len(file), file.made.dim
    lists = max(1, min(round(4 * count**0.5), count // 39))  # faiss asks for 39 vectors a list at least
    index = faiss.index_factory(dim, f"IVF{lists},SQfp16", faiss.METRIC_INNER_PRODUCT)
    every = max(1, count // (_PER_LIST * lists))
    sample = [block[::every] for block in vectors.blocks(file.path)]
    index.train(neighbours.unit(np.concatenate(sample)))
    for block in vectors.blocks(file.path):
        index.add(neighbours.unit(block))
    return index


def _write(faiss: Any, index: Any, path: Path) -> None:
    aside = path.with_name(f".{path.name}.writing-{os.getpid()}")
    try:
        faiss.write_index(index, os.fspath(aside))
        aside.replace(path)
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"Cannot write the faiss index {displayed(str(path))}: {str(error).splitlines()[0]}.",
            expected="Expected a folder that can be written, with space left: it is kept beside the vectors.",
            hint="Copy the vectors into such a folder, or search exactly, without --approximate.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UsageError(
            "An approximate search needs faiss, which is not installed.",
            expected="Expected the package faiss-cpu.",
            hint="Install it with: pip install 'residuum[faiss]', or search exactly, without --approximate.",
        ) from error
    return faiss
