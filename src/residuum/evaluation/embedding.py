"""Vectors of the pictures of a set, batch by batch.

Shapes: N pictures, n of a batch, D numbers a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from residuum.evaluation.evaluate import Batch, evaluating


class Vectors(NamedTuple):
    """The `vectors` of pictures, float32 [n, D], and the pictures' places in their set; int64 [n]."""

    indices: NDArray[np.int64]
    vectors: NDArray[np.float32]


def embed(
    embedder: nn.Module,
    batches: Iterable[Batch],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Iterator[Vectors]:
    """Yields the vectors that `embedder`, in evaluation mode and back, makes of each batch."""
    with evaluating(embedder):
        for batch in batches:
            with torch.inference_mode(), autocast():
                vectors = embedder(batch.images)
            yield Vectors(np.asarray(batch.indices, dtype=np.int64), vectors.float().cpu().numpy())


def embed_all(
    embedder: nn.Module,
    batches: Iterable[Batch],
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Vectors:
    """Returns the vectors of all pictures of `batches`, of which there is at least one, in their order; see `embed`."""
    parts = list(embed(embedder, batches, autocast))
    return Vectors(np.concatenate([part.indices for part in parts]), np.concatenate([part.vectors for part in parts]))
