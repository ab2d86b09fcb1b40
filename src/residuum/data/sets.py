"""Two kinds of image set behind one interface: resident (pixels in memory, or mapped into it: see `mapped`) and encoded
(bytes by index, decoded when asked). Of the encoded ones, a streamed set is larger than memory and is read in the order
of its shards.

Shapes: N pictures, H rows, W columns, C channels (1 for grey, 3 for RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from residuum import imaging
from residuum.data.encoded import Encoded
from residuum.data.labels import Labels
from residuum.data.mapped import MappedSet
from residuum.data.order import in_groups, spread, spread_over_groups, streaming_order
from residuum.data.paths import Paths, displayed
from residuum.errors import DataError, PictureError
from residuum.imaging import Mode
from residuum.threads import cores

if TYPE_CHECKING:
    import pyarrow as pa

BAD_FRACTION = 0.05
"""More bad pictures than this share of a set stop everything: then it is the set that is wrong, not the pictures."""

_SAMPLED_GROUPS = 64
"""A sample of a streamed set is taken from at most so many of its groups."""

_CHUNK = 256
"""Pictures that one thread decodes at a time: enough that handing out the work costs nothing beside it."""


class ImageSet(Protocol):
    """Labelled pictures by index. `mode` is what `open` returns; `labels` index `classes`. Safe to use from threads."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""

    @property
    def labels(self) -> Labels:
        """The class of each picture: int64 [N]; or which classes it has, where it may have several: uint8 [N, K]."""

    @property
    def mode(self) -> Mode:
        """The mode of the pictures that `open` returns."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Returns what messages and reports call picture `index`: its path, or 'digits[17]'."""

    def open(self, index: int, at_least_px: int | None = None) -> Image.Image:
        """Returns picture `index`, as `imaging.open_picture` does.

        Raises:
            PictureError: it cannot be opened safely.
        """


@dataclass(frozen=True)
class ResidentSet:
    """Pictures of one size as pixels in memory. Shapes: images uint8 [N, H, W, C]; labels as in `data.labels`.

    A picture's name is its path where `paths` are known, else `prefix[row]`; `rows` maps an index to its place in the
    set that this one is a part of.
    """

    images: NDArray[np.uint8]
    labels: Labels
    classes: tuple[str, ...]
    mode: Mode
    prefix: str
    rows: NDArray[np.int64] | None = None
    paths: Paths | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns what messages call picture `index`."""
        return _name(self.prefix, self.paths, self.rows, index)

    def open(self, index: int, at_least_px: int | None = None) -> Image.Image:  # noqa: ARG002 (nothing to decode)
        """Returns picture `index` in the set's mode."""
        pixels = self.images[index]
        return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


@dataclass(frozen=True)
class FileSet(Encoded):
    """Pictures in files, decoded when asked. `rows` maps an index to its place in `paths`."""

    paths: Paths
    labels: Labels
    classes: tuple[str, ...]
    mode: Mode = "RGB"
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns the path of picture `index`."""
        return _name("", self.paths, self.rows, index)

    def source(self, index: int) -> str:
        """Returns the path of picture `index`."""
        return self.paths[_row(self.rows, index)]


@dataclass(frozen=True)
class BytesSet(Encoded):
    """Encoded pictures in memory or mapped from one file, as arrays of Arrow.

    `rows` maps an index to its place in `chunks`, end to end; a picture is called `prefix[row]`.
    """

    chunks: tuple[pa.Array, ...]
    labels: Labels
    classes: tuple[str, ...]
    prefix: str
    mode: Mode = "RGB"
    rows: NDArray[np.int64] | None = None
    _starts: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        lengths = [0, *(len(chunk) for chunk in self.chunks)]
        object.__setattr__(self, "_starts", np.cumsum(lengths, dtype=np.int64))

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns what messages call picture `index`."""
        return _name(self.prefix, None, self.rows, index)

    def source(self, index: int) -> bytes | None:
        """Returns the bytes of picture `index`; None where its row holds none."""
        row = _row(self.rows, index)
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        content: bytes | None = self.chunks[chunk][row - int(self._starts[chunk])].as_py()
        return content


class Store(Protocol):
    """Encoded pictures on the disk, by row. Rows that are best read together are a group: a tar shard, a row group.

    Safe to use from threads.
    """

    @property
    def starts(self) -> NDArray[np.int64]:
        """The row at which each group begins. Shapes: [G]."""

    def read(self, row: int) -> bytes | None:
        """Returns the bytes of a picture; None where its row holds none.

        Raises:
            DataError: the file that holds it cannot be read any more.
        """

    def most_buffered(self, count: int) -> int:
        """Returns how many pictures a shuffle buffer may hold where `count` pictures, spread evenly, are used."""


@dataclass(frozen=True)
class StreamedSet(Encoded):
    """Encoded pictures in a `store`, read when asked. Names and `rows` are as in `ResidentSet`."""

    store: Store
    labels: Labels
    classes: tuple[str, ...]
    prefix: str = ""
    paths: Paths | None = None
    mode: Mode = "RGB"
    rows: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        """Returns what messages call picture `index`."""
        return _name(self.prefix, self.paths, self.rows, index)

    def source(self, index: int) -> bytes | None:
        """Returns the bytes of picture `index`; None where its row holds none."""
        return self.store.read(_row(self.rows, index))

    def order(self, *, buffer: int, seed: int, epoch: int, batch_size: int, rank_count: int) -> NDArray[np.int64]:
        """Returns the order in which training sees the pictures in `epoch`, as `streaming_order` does."""
        at, lengths = in_groups(self.rows, self.store.starts, len(self))
        buffer = min(buffer, self.store.most_buffered(len(self)))
        return at[
            streaming_order(lengths, buffer, seed=seed, epoch=epoch, batch_size=batch_size, rank_count=rank_count)
        ]

    def sample(self, count: int) -> NDArray[np.int64]:
        """Returns the indices of at most `count` pictures, rising, spread evenly over a few of the groups: nearly the
        whole set would be read otherwise."""
        at, lengths = in_groups(self.rows, self.store.starts, len(self))
        return np.sort(at[spread_over_groups(lengths, count, _SAMPLED_GROUPS)])


def subset(images: ImageSet, indices: NDArray[np.int64] | Sequence[int]) -> ImageSet:
    """Returns the pictures at `indices`, in that order, under the names they had."""
    at = np.asarray(indices, dtype=np.int64)
    if isinstance(images, ResidentSet):
        rows = at if images.rows is None else images.rows[at]
        return replace(images, images=images.images[at], labels=images.labels[at], rows=rows)
    if isinstance(images, FileSet | BytesSet | StreamedSet | MappedSet):
        rows = at if images.rows is None else images.rows[at]
        return replace(images, labels=images.labels[at], rows=rows)
    raise TypeError(f"a part cannot be taken of {type(images).__name__}")


def relabelled(images: ImageSet, labels: Labels, classes: tuple[str, ...]) -> ImageSet:
    """Returns the same pictures under other labels and classes."""
    if isinstance(images, ResidentSet | FileSet | BytesSet | StreamedSet | MappedSet):
        return replace(images, labels=labels, classes=classes)
    raise TypeError(f"{type(images).__name__} cannot be relabelled")


def in_mode(images: ImageSet, mode: Mode) -> ImageSet:
    """Returns the same pictures in `mode`."""
    if images.mode == mode:
        return images
    if isinstance(images, ResidentSet):
        converted = [np.asarray(images.open(i).convert(mode)) for i in range(len(images))]
        return replace(images, images=np.stack(converted).reshape(*images.images.shape[:3], -1), mode=mode)
    if isinstance(images, FileSet | BytesSet | StreamedSet | MappedSet):
        return replace(images, mode=mode)
    raise TypeError(f"{type(images).__name__} has no other mode")


def sampled(images: ImageSet, count: int) -> NDArray[np.int64]:
    """Returns the indices of at most `count` pictures, rising, spread evenly; see `StreamedSet.sample`."""
    return images.sample(count) if isinstance(images, StreamedSet) else spread(len(images), count)


def opened(
    images: ImageSet, indices: NDArray[np.int64], at_least_px: int | None = None
) -> Iterator[tuple[int, Image.Image | PictureError]]:
    """Yields each index, in order, with its picture or with the error that it raises; decoded by threads."""

    def decode(part: NDArray[np.int64]) -> list[tuple[int, Image.Image | PictureError]]:
        found: list[tuple[int, Image.Image | PictureError]] = []
        for index in part.tolist():
            try:
                found.append((index, images.open(index, at_least_px)))
            except PictureError as error:
                found.append((index, error))
        return found

    parts = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    workers = max(1, min(len(parts), cores()))
    with ThreadPoolExecutor(workers) as pool:
        # A few chunks ahead and no more: a set may be larger than memory.
        for start in range(0, len(parts), 4 * workers):
            for result in pool.map(decode, parts[start : start + 4 * workers]):
                yield from result


def common_size(images: ImageSet, largest_px: int | None = None, sample: int = 256) -> tuple[int, int] | None:
    """Returns the (width, height) of `sample` pictures spread over the set, or None where they differ.

    With `largest_px` it is None too where the shorter side is longer than that; the first such picture ends the search.
    """
    common: tuple[int, int] | None = None
    for index in sampled(images, sample).tolist():
        try:
            size = images.open(index).size
        except PictureError:
            continue
        common = common or size
        if size != common or (largest_px is not None and min(size) > largest_px):
            return None
    return common


def resident(images: ImageSet, side_px: int, *, skipped: dict[str, str] | None = None) -> ResidentSet:
    """Returns the set with every picture decoded once, by threads.

    Pictures that all have one size keep their pixels exactly; otherwise the shorter side of each is resized to
    `side_px` and the central square is kept. With `skipped`, a bad picture is left out and noted there, name and
    reason.

    Raises:
        PictureError: a picture is bad, and `skipped` is None.
        DataError: more than 5 % are bad.
    """
    if isinstance(images, ResidentSet):
        return images
    size = common_size(images)
    exact = resident_exact(images, size, skipped=skipped) if size is not None else None
    if exact is not None:
        return exact
    square = imaging.Preprocessing(images.mode, side_px, side_px, "bilinear", (0.0,), (1.0,))
    found = resident_exact(images, (side_px, side_px), skipped=skipped, square=square)
    assert found is not None  # every picture was brought to that size
    return found


def resident_exact(
    images: ImageSet,
    size: tuple[int, int],
    *,
    skipped: dict[str, str] | None = None,
    square: imaging.Preprocessing | None = None,
    of: int | None = None,
) -> ResidentSet | None:
    """Returns the set with every picture decoded once, or None where one of them does not have `size` (width, height).

    Raises:
        PictureError: a picture is bad, and `skipped` is None.
        DataError: more than 5 % of `of` pictures (by default, of the set's) are bad.
    """
    width, height = size
    pixels = np.empty((len(images), height, width, 3 if images.mode == "RGB" else 1), dtype=np.uint8)
    good = np.ones(len(images), dtype=bool)
    bad: dict[str, str] = {}
    for index, found in opened(images, np.arange(len(images))):
        if isinstance(found, PictureError):
            if skipped is None:
                raise found
            good[index] = False
            bad[found.name] = found.reason
        elif square is not None:
            pixels[index] = imaging.prepare(found, square).transpose(1, 2, 0)
        elif found.size != size:
            return None
        else:
            pixels[index] = np.asarray(found).reshape(pixels.shape[1:])
    refuse_if_many_bad((skipped or {}) | bad, of or len(images))
    if skipped is not None:
        skipped.update(bad)
    whole = ResidentSet(pixels, images.labels, images.classes, images.mode, *_origin(images))
    kept = subset(whole, np.flatnonzero(good)) if bad else whole
    assert isinstance(kept, ResidentSet)
    return kept


def refuse_if_many_bad(bad: dict[str, str], total: int) -> None:
    """Raises DataError where more than 5 % of `total` pictures are bad."""
    if len(bad) > BAD_FRACTION * total:
        name, reason = next(iter(bad.items()))
        raise DataError(
            f"{len(bad):,} of {total:,} pictures cannot be used; the first is {name}: {reason}.",
            expected=f"Expected at most {BAD_FRACTION:.0%} bad pictures, whatever --on-bad-image says.",
            hint="List them all with: residuum check DATA",
        )


def _origin(images: ImageSet) -> tuple[str, NDArray[np.int64] | None, Paths | None]:
    """What the names of the pictures are made of: prefix, rows and paths."""
    if isinstance(images, FileSet):
        return "", images.rows, images.paths
    if isinstance(images, BytesSet):
        return images.prefix, images.rows, None
    if isinstance(images, StreamedSet):
        return images.prefix, images.rows, images.paths
    if isinstance(images, MappedSet):
        return "", images.rows, images.blob.paths
    raise TypeError(f"{type(images).__name__} cannot be made resident")


def _row(rows: NDArray[np.int64] | None, index: int) -> int:
    return int(index) if rows is None else int(rows[index])


def _name(prefix: str, paths: Paths | None, rows: NDArray[np.int64] | None, index: int) -> str:
    row = _row(rows, index)
    return displayed(paths[row]) if paths is not None else f"{prefix}[{row}]"
