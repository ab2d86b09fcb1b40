"""Searching a file of vectors: pictures like a picture, and near-duplicates.

    index = residuum.Index("vectors.parquet")
    index.search("a.jpg", top=5).found[0].file

The index knows how its vectors were made, so a query goes through the same network, stage and preprocessing; if that
is not what it was any more, the query is refused. Similarity is the cosine, from -1 to 1, and the search is exact.

Shapes: N vectors of D numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from residuum import imaging
from residuum.data.paths import displayed
from residuum.data.places import is_named
from residuum.data.sets import ImageSet
from residuum.deploy import vectors
from residuum.deploy.approximate import Approximate
from residuum.deploy.embed import Maker, Pictures, open_maker, set_of
from residuum.deploy.vectors import Made
from residuum.errors import DataError, PictureError, ResiduumError, UsageError, WeightsError
from residuum.evaluation import neighbours
from residuum.evaluation.searcher import Searcher
from residuum.models.weights import WEIGHTS
from residuum.userpath import expanded

MOST_PAIRS = 1_000_000
"""Of more near-duplicate pairs than this, the most similar are kept: 20 MB of them."""


@dataclass(frozen=True)
class Match:
    """A picture of the index, and how similar it is to the query (cosine, -1 to 1). `at` is its number."""

    file: str
    label: str | None
    similarity: float
    at: int

    def as_dict(self) -> dict[str, object]:
        """The match in JSON's types."""
        return {"file": self.file, "label": self.label, "similarity": self.similarity}


@dataclass(frozen=True)
class Answer:
    """The pictures like the picture `file`, most similar first. `error` is why there are none."""

    file: str
    found: tuple[Match, ...]
    error: str | None = None

    def as_dict(self) -> dict[str, object]:
        """The answer in JSON's types."""
        return {"file": self.file, "found": [match.as_dict() for match in self.found], "error": self.error}


@dataclass(frozen=True)
class Duplicates:
    """Pairs of pictures, most similar first, of `pairs_found` whose similarity is at least `least`."""

    least: float
    pairs_found: int
    pairs: tuple[tuple[Match, Match], ...]


class Index:
    """A file of vectors, in memory, at length 1. `bundle` is where the network is now, if it was moved.

    With `approximate` a faiss index is used, which may miss neighbours and is made when it is first needed.

    Raises:
        DataError: there is no such file, it is not one of vectors, or holds none.
        ResourceError: it does not fit into memory.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        bundle: str | None = None,
        device: str = "auto",
        approximate: bool = False,
    ) -> None:
        self._file = vectors.read(Path(path), with_vectors=not approximate)
        self.is_exact = not approximate
        self._bundle, self._device = bundle, device
        if not len(self._file):
            raise DataError(
                f"{displayed(str(path))} holds no vectors: none of its pictures could be used.",
                expected="Expected at least one.",
                hint="Its column 'error' says why.",
            )
        if approximate:
            self._search = Approximate(self._file).search
            return
        neighbours.shorten(self._file.vectors)
        self._search = Searcher(self._file.vectors).search

    def __len__(self) -> int:
        return len(self._file)

    @property
    def made(self) -> Made:
        """How the vectors were made."""
        return self._file.made

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The vectors, at length 1; [N, D]."""
        return self._file.vectors

    @property
    def labels(self) -> list[str | None]:
        """The class of each picture, where it is known; N of them."""
        every: list[str | None] = self._file.labels.take(self._file.rows).to_pylist()
        return every

    def search(self, picture: str | os.PathLike[str] | bytes, top: int = 10) -> Answer:
        """Returns the `top` pictures that are most like one, a path or the bytes of a file; raises as `search_all`.

        Raises:
            PictureError: it cannot be used.
        """
        source = picture if isinstance(picture, bytes) else os.fspath(picture)
        [answer] = self.search_all([source], top)
        if answer.error is not None:
            raise PictureError(answer.file, answer.error)
        return answer

    def search_all(self, pictures: Sequence[str | bytes], top: int = 10) -> list[Answer]:
        """Returns the `top` pictures that are most like each of several; one that cannot be used has its reason.

        Raises:
            UsageError: `top` is less than 1.
            WeightsError: the network is not there any more, or makes other vectors than it did.
        """
        if top < 1:
            raise UsageError(
                f"top cannot be {top}.", expected="Expected a whole number from 1.", hint="Leave it out for 10."
            )
        images = Pictures(pictures, self.made.preprocessing.mode)
        batches = self._maker.rows(images, labelled=False, batch_size=64)
        return [
            Answer(row.file, () if row.vector is None else self._nearest(row.vector, top), row.error)
            for rows in batches
            for row in rows
        ]

    def _nearest(self, vector: NDArray[np.float32], top: int) -> tuple[Match, ...]:
        found = self._search(neighbours.unit(vector[None]), top)
        return tuple(
            self._match(at, similarity)
            for at, similarity in zip(found.rows[0].tolist(), found.similarities[0].tolist(), strict=True)
        )

    def duplicates(self, least: float = 0.95, tell: Callable[[int], None] | None = None) -> Duplicates:
        """Returns the pairs whose similarity is at least `least`; `tell` hears of every picture that is done.

        Raises:
            UsageError: `least` is not from -1 to 1.
        """
        if not -1 <= least <= 1:
            raise UsageError(
                f"The similarity {least:g} cannot be.",
                expected="Expected a number from -1 to 1.",
                hint="0.95 is the default; the same picture again has nearly 1.",
            )
        found = neighbours.pairs(self._file.vectors, least, MOST_PAIRS, tell)
        both = zip(found.first.tolist(), found.second.tolist(), found.similarities.tolist(), strict=True)
        return Duplicates(
            least,
            found.found,
            tuple((self._match(a, similarity), self._match(b, similarity)) for a, b, similarity in both),
        )

    def picture(self, at: int) -> PIL.Image.Image:
        """Returns picture number `at` in its set's mode, for people to look at.

        Raises:
            PictureError: it cannot be opened any more.
        """
        row, mode = int(self._file.rows[at]), self.made.preprocessing.mode
        for number, source in enumerate(self.made.sources):
            count = source["files"] if "files" in source else source["pictures"]
            if row >= count:
                row -= count
                continue
            name = self._file.file(at)
            if "files" in source:
                return imaging.open_picture(self._place(name), mode, name=name)
            images = self._set(number)
            there = "" if images is None or row >= len(images) else images.name(row)
            if images is None or not _is_same(there, self._source(source["data"]), name, source["data"]):
                raise PictureError(name, "its set has changed, or is not there any more")
            return images.open(row)
        raise PictureError(self._file.file(at), "the index does not say where it is from")

    @cached_property
    def _maker(self) -> Maker:
        """The network that made the vectors; refused where it would make others now."""
        made = self.made
        name = self._bundle or (made.model["name"] if made.bundle is None else self._place(made.bundle))
        weights = None if made.weights is None or self._bundle else made.weights
        if weights is not None and weights != "imagenet" and weights not in WEIGHTS:
            weights = self._place(weights)
        maker = open_maker(
            name,
            weights=weights,
            stage=made.stage,
            pooled=made.pooled,
            device=self._device,
            precision="bf16" if made.precision == "bf16" else "fp32",
        )
        if changed := _difference(maker, made):
            raise WeightsError(
                f"{displayed(name)} does not make the vectors of this index any more: {changed}.",
                expected=f"Expected weights with the fingerprint {made.fingerprint[:16]}..., as when it was made.",
                hint="Make the index anew with 'residuum embed', or name what made it with --bundle.",
            )
        return maker

    def _place(self, path: str) -> str:
        """Returns where a path is: seen from the folder in which the index was made, or, where nothing is there any
        more, as it was given."""
        there = Path(self.made.folder) / expanded(path)
        return str(there) if there.exists() else path

    def _source(self, data: str) -> str:
        """Returns where a set is; one that has a name is no path, whatever lies in a folder."""
        return data if is_named(data) else self._place(data)

    def _set(self, number: int) -> ImageSet | None:
        if number not in self._sets:
            source = dict(self.made.sources[number])
            try:
                self._sets[number] = set_of(
                    {**source, "data": self._source(source["data"])}, self.made.preprocessing.mode
                )
            except (ResiduumError, KeyError):
                self._sets[number] = None
        return self._sets[number]

    @cached_property
    def _sets(self) -> dict[int, ImageSet | None]:
        return {}

    def _match(self, at: int, similarity: float) -> Match:
        return Match(self._file.file(at), self._file.label(at), similarity, at)


def _is_same(there: str, now: str, name: str, then: str) -> bool:
    """Whether a set at `now` calls a picture what it called it at `then`, but for where it lies."""
    is_folder = Path(now).is_dir()
    roots = [Path(source) if is_folder else Path(source).parent for source in (now, then)]
    return there == name or _within(there, roots[0]) == _within(name, roots[1])


def _within(name: str, root: Path) -> str:
    return name if root == Path() else name.removeprefix(str(root)).lstrip("/")


def _difference(maker: Maker, made: Made) -> str:
    """Returns what is not as it was when the vectors were made, or nothing."""
    kept = {key: value for key, value in made.model.items() if key != "num_classes"}
    if {key: value for key, value in maker.model.items() if key != "num_classes"} != kept:
        return f"the network is {maker.model['name']}, not {made.model['name']} with its options"
    if maker.preprocessing != made.preprocessing:
        return "its preprocessing is another"
    if maker.embedder.fingerprint != made.fingerprint:
        return "its weights are others"
    return ""
