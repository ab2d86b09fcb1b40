"""What pictures are labelled with: one class each, or any number of classes, none among them.

Labels of one class each are int64 [N], indices of the classes. Labels of several are uint8 [N, K], 1 where a picture
has a class; a loader gives them as float32. Nothing else tells the two kinds of set apart.

Shapes: N pictures, K classes, T different texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from residuum.data.paths import natural_key

Labels: TypeAlias = NDArray[np.integer[Any]]
"""int64 [N] or uint8 [N, K], as above."""

Reading = Literal["auto", "one", "several"]
"""How a label of a table is read: as the name of one class, as several with `SEPARATOR` between them, or as several
where any label of the table has one."""

SEPARATOR = "|"


def are_several(labels: Labels) -> bool:
    """Whether a picture may have several classes."""
    return labels.ndim == 2


def counts(labels: Labels, num_classes: int) -> NDArray[np.int64]:
    """Returns how many pictures have each class, int64 [K]; of several classes, a picture counts for each."""
    if are_several(labels):
        return np.asarray(labels.sum(axis=0, dtype=np.int64))
    return np.bincount(labels, minlength=num_classes)


def in_words(label: Any, classes: Sequence[str]) -> str:
    """Returns a label, one element of `Labels`, as a table says it: 'beach', 'beach|sunset', or '' for no class."""
    if np.ndim(label) == 0:
        return classes[int(label)]
    return SEPARATOR.join(classes[place] for place in np.flatnonzero(label).tolist())


def named(texts: Sequence[str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Returns the classes that the labels `texts` name, in natural order, and which of them each names: uint8 [T, K].

    Spaces around names do not count, nor does a name that comes twice or is empty.
    """
    split = [{name for piece in text.split(SEPARATOR) if (name := piece.strip())} for text in texts]
    classes = tuple(sorted(set().union(*split), key=natural_key))
    place = {name: number for number, name in enumerate(classes)}
    rows = np.zeros((len(texts), len(classes)), dtype=np.uint8)
    for row, names in enumerate(split):
        rows[row, [place[name] for name in names]] = 1
    return classes, rows


def renumbered(labels: Labels, places: NDArray[np.int64], num_classes: int) -> Labels:
    """Returns the labels with class k called `places[k]`, of `num_classes`. Shapes: `places` [K]."""
    if not are_several(labels):
        return places[labels]
    wider = np.zeros((len(labels), num_classes), dtype=labels.dtype)
    wider[:, places] = labels
    return wider


def group_numbers(labels: Labels) -> NDArray[np.int64]:
    """Returns a number for each picture, the same for pictures with the same label: int64 [N]."""
    if not are_several(labels):
        return labels.astype(np.int64, copy=False)
    _, numbers = np.unique(labels, axis=0, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64).reshape(len(labels))


def rarest(labels: Labels) -> NDArray[np.int64]:
    """Returns for each picture its class; of several, the one that the fewest pictures have, and K for none: int64 [N].

    Source: as in repeat factor sampling (Gupta et al., arXiv:1908.03195, appendix B.2), the rarest class of a picture
        decides how often it comes.
    """
    if not are_several(labels):
        return labels.astype(np.int64, copy=False)
    num_classes = labels.shape[1]
    order = np.argsort(counts(labels, num_classes), kind="stable")  # the rarest first
    has_any = labels.any(axis=1)
    first = order[labels[:, order].argmax(axis=1)] if num_classes else np.zeros(len(labels), dtype=np.int64)
    return np.where(has_any, first, num_classes).astype(np.int64)
