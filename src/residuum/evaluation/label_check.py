"""Labels that the most similar pictures speak against: a cross-validation that costs one pass of a frozen network.

Every picture is left out in turn, and its nearest neighbours among all others vote, by the vectors of a network that is
not trained for it. That network must know pictures of this kind. Where it was trained on the same labels, its vectors
may have learnt some of the wrong ones too.

Source: Wu et al., arXiv:1805.01978, section 3.4 (votes); Northcutt et al., arXiv:1911.00068 (see `label_issues`).
Shapes: N pictures, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import torch

from residuum.data.findings import Finding, of_files
from residuum.data.labels import are_several
from residuum.data.loading import EvalLoader
from residuum.data.sets import ImageSet, in_mode, subset
from residuum.errors import DataError
from residuum.evaluation import neighbours
from residuum.evaluation.embedding import embed
from residuum.evaluation.evaluate import TOP
from residuum.evaluation.label_issues import LabelIssue, issues_of
from residuum.evaluation.metrics import ranked
from residuum.models.embedding import embedder
from residuum.models.saved import Saved

NEIGHBOURS = 20

_BATCH = 256


def neighbours_issues(
    trained: Saved,
    parts: Sequence[ImageSet],
    device: torch.device,
    *,
    unusable: Collection[int] = (),
    k: int = NEIGHBOURS,
    workers: int = 0,
    tell: Callable[[int], None] | None = None,
) -> list[LabelIssue]:
    """Returns the labels of `parts`, which share their classes, that the votes of the `k` nearest pictures confidently
    disagree with, the surest first. `trained` is on `device`.

    `unusable` are the rows, counted through all parts, of pictures that are left out; `tell` hears how many pictures
    each batch had.

    Raises:
        DataError: there are fewer than two pictures that can be used, one that cannot is not among `unusable`, or a
            picture may have several classes.
    """
    refuse_several(parts)
    network = embedder(trained.model)
    homes: list[tuple[ImageSet, int]] = []
    vectors: list[neighbours.Floats] = []
    first = 0
    for images in parts:
        usable = [index for index in range(len(images)) if first + index not in unusable]
        first += len(images)
        if not usable:
            continue
        asked = in_mode(subset(images, usable), trained.preprocessing.mode)
        loader = EvalLoader(
            asked, trained.preprocessing, _BATCH, device=device, channels_last=True, workers=workers,
            on_bad_image="error",
        )  # fmt: skip
        for made in embed(network, loader):
            vectors.append(neighbours.unit(made.vectors))
            homes += [(images, usable[int(index)]) for index in made.indices]
            if tell is not None:
                tell(len(made.indices))
    if len(homes) < 2:
        raise DataError(
            f"{len(homes)} pictures that can be used have no neighbours to vote.",
            expected="Expected two at least.",
            hint="Mend the pictures first, or leave out --bundle.",
        )
    return _issues(homes, np.concatenate(vectors), k)


def refuse_several(parts: Iterable[ImageSet]) -> None:
    """Raises DataError where a picture may have several classes: then no label speaks against another."""
    if any(are_several(images.labels) for images in parts):
        raise DataError(
            "Suspicious labels cannot be looked for where a picture may have several classes.",
            expected="Expected one class for each picture.",
            hint="Leave out --bundle. Wrong answers are shown in the report of a run: residuum train --data DATA",
        )


def _issues(homes: Sequence[tuple[ImageSet, int]], vectors: neighbours.Floats, k: int) -> list[LabelIssue]:
    """Returns the issues of pictures with these vectors [N, D] of length 1."""
    classes = homes[0][0].classes
    labels = np.array([images.labels[index] for images, index in homes], dtype=np.int64)
    found = neighbours.nearest(vectors, vectors, k, apart_from_itself=True)
    shares = neighbours.votes(found, labels, len(classes))
    top = ranked(shares, TOP)
    own = shares[np.arange(len(labels)), labels]
    return issues_of(homes, own, labels, top, np.take_along_axis(shares, top, axis=1), classes)


def findings_of(issues: Sequence[LabelIssue], parts: Sequence[ImageSet], by: str) -> list[Finding]:
    """Returns the issues of `parts`, which are counted through, as what a check finds; `by` says who found them."""
    first, starts = 0, {}
    for images in parts:
        starts[id(images)] = first
        first += len(images)
    remarks = {
        issue.file: f"in {issue.label}, looks like {issue.suggested}, {100 * issue.prob:.0f} %" for issue in issues
    }
    rows = [starts[id(issue.images)] + issue.index for issue in issues]
    return of_files("suspicious-labels", list(remarks), remarks=remarks, rows=rows, more=by)
