"""Batches: pictures of a set, augmented and normalised, on the device, in a random order for training and in the set's
for evaluation.

A resident set's pictures are prepared once and gathered as whole tensors on the device, without workers. The pictures
of any other set are decoded by threads, a few batches ahead; Pillow releases the interpreter's lock while it decodes
and resizes. What a batch holds depends on the seed, the epoch and the batch's number only. Processes that train
together each load their share of every batch; of those that evaluate together, each takes every so-manieth batch whole,
so that its pictures meet the network in the same company as in one process.

Shapes: N pictures of C channels, S x S pixels; S = img_size.
"""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from residuum import imaging, pixels, recipe
from residuum.data.balance import balanced_order
from residuum.data.crops import CenterCrop, Crop, crop_of
from residuum.data.encoded import Encoded
from residuum.data.labels import Labels, are_several, rarest
from residuum.data.mapped import MappedSet
from residuum.data.order import shares
from residuum.data.randomness import Draws, permutation
from residuum.data.sets import ImageSet, ResidentSet, StreamedSet
from residuum.data.transforms import Normalise, stages_of
from residuum.data.verification import OnBadImage, take_note
from residuum.distributed import ALONE, World
from residuum.errors import DataError, PictureError, RecipeError
from residuum.imaging import Preprocessing
from residuum.threads import cores

Indices = NDArray[np.int64]
Fed = Generator[tuple[Tensor, Indices], None, None]
"""uint8 [N, C, S, S] on the device and the indices of its pictures, batch by batch."""

_AHEAD = 3  # batches that are being decoded while one is in use
_TOGETHER = 8  # pictures of a batch that one thread decodes: handing them out one by one costs as much as a small one
_PREPARED_BYTES = (
    2**31
)  # a resident set that would need more memory than this once prepared is prepared picture by picture


class Batch(NamedTuple):
    """`images` float32 [N, C, S, S], normalised, and `labels` int64 [N], on the device; `indices` int64 [N] in the set.

    Where a picture may have several classes, `labels` are float32 [N, K], 1 for each that it has.

    `number` is the batch's place among those of its epoch, which bad pictures may leave without some.
    """

    images: Tensor
    labels: Tensor
    indices: Indices
    number: int


class TrainLoader:
    """The training pictures: every epoch all of them, in a new order, augmented anew.

    Of a streamed set the order follows its shards and is mixed in a shuffle buffer; what each process takes of each
    batch is then its own part of the shards.

    With `data.balanced_sampling`, rare classes come more often: an epoch is as long, but not all of the pictures. A
    picture of several classes comes as often as its rarest one.

    A last batch without two pictures for every process is left out, because batch norm needs two (unless `batch_size`
    is 1). `skipped` is the reason for each picture, by name, that could not be used where `on_bad_image` is "skip": its
    batch gets smaller, down to none, and nothing takes its place.

    Raises:
        RecipeError: an augmentation that these pictures do not allow.
        DataError: too few pictures for one batch; while iterating, a picture that cannot be used, or more than 5 % of
            them.
    """

    def __init__(
        self,
        images: ImageSet,
        data: recipe.Data,
        augment: recipe.Augment,
        preprocessing: Preprocessing,
        *,
        seed: int,
        device: torch.device,
        channels_last: bool,
        of: int | None = None,
        world: World = ALONE,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self._images, self._buffer = images, data.shuffle_buffer
        self._dealt_to: dict[int, int] = {}
        self._balance = data.balanced_sampling
        self._size, self._seed, self._device, self._world = data.batch_size, seed, device, world
        self._labels, self._count = images.labels, len(images)
        self._fewest = min(2, data.batch_size) * world.size
        self._stages = stages_of(augment, preprocessing)
        self._normalise: Callable[[Tensor], Tensor] = Normalise(preprocessing, device, channels_last)
        self._pictures: TrainLoader | None = None
        crop = crop_of(augment.crop, preprocessing)
        workers = data.workers or default_workers(device, world.local_size)
        self._feed = _feed(
            images, crop, preprocessing, device, workers, data.on_bad_image, self.skipped, of or len(images)
        )
        if len(self) == 0:
            raise DataError(
                f"The training set has {self._count} picture{'s' * (self._count != 1)}.",
                expected=f"Expected at least {self._fewest}, because batch norm needs two values in every process.",
                hint="Add pictures, or hold out fewer of them (data.val_fraction, data.test_fraction).",
            )
        if data.batch_size < self._fewest:
            raise RecipeError(
                f"The recipe key 'data.batch_size' cannot be {data.batch_size} for {world.size} processes.",
                expected=f"Expected at least {self._fewest}: a batch is shared, and batch norm needs two pictures.",
                hint="Start fewer processes, or use a larger --batch-size.",
            )
        if self._balance and isinstance(images, StreamedSet):
            raise RecipeError(
                "data.balanced_sampling is not for a set that is read in a stream: its pictures come shard by shard.",
                expected="Expected 0.",
                hint="Count the pictures of rare classes for more instead: --set class_weights=0.5",
            )

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        whole, rest = divmod(self._count, self._size)
        return whole + (rest >= self._fewest)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of one epoch from number `start` on: exactly those that a whole epoch would have had
        there."""
        order = self._order(epoch)
        whole = [order[at * self._size : (at + 1) * self._size] for at in range(start, len(self))]
        batches = [batch[shares(len(batch), self._world.size)[self._world.rank]] for batch in whole]
        with closing(self._feed.batches(batches, self._seed, epoch)) as fed:
            for number, (images, indices) in enumerate(fed, start):
                draws = Draws(self._seed, epoch, indices)  # of which each time that a picture comes has its own
                indices = indices % self._count
                for stage in self._stages if len(indices) else ():  # bad pictures may leave none
                    images = stage(images, draws)
                yield Batch(self._normalise(images), targets_of(self._labels, indices, self._device), indices, number)

    def over(self, vectors: Tensor, known: NDArray[np.bool_]) -> TrainLoader:
        """Returns a loader of the same order whose batches hold rows of `vectors` [N, D], as they are, for `images`.

        Pictures that are not `known` [N] have none, and are left out. `pictures` is this loader.
        """
        other = copy.copy(self)
        other._pictures, other._feed, other._stages, other._normalise = self, _VectorFeed(vectors, known), [], _as_it_is
        return other

    @property
    def pictures(self) -> TrainLoader:
        """The loader of the pictures themselves."""
        return self._pictures or self

    def dealt_to(self, epoch: int) -> int:
        """Returns for how many processes the order of `epoch` was made, which matters for streamed sets."""
        return self._dealt_to.get(epoch, self._world.size)

    def deal_to(self, epoch: int, processes: int) -> None:
        """Keeps the order that `epoch` had in a world of so many `processes`, for a run that is resumed in it."""
        self._dealt_to[epoch] = processes

    def _order(self, epoch: int) -> Indices:
        if self._balance:
            return balanced_order(rarest(self._labels), self._balance, self._seed, epoch)
        if not isinstance(self._images, StreamedSet):
            return permutation(self._count, self._seed, epoch)
        return self._images.order(
            buffer=self._buffer, seed=self._seed, epoch=epoch, batch_size=self._size, rank_count=self.dealt_to(epoch)
        )


class EvalLoader:
    """All pictures of a set in its order, each the centre that `imaging.prepare` gives. `skipped` is as in
    `TrainLoader`. Process r of W yields the batches r, r + W, ..., whole.

    Raises:
        DataError: while iterating, a picture that cannot be used, or more than 5 % of them.
    """

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        batch_size: int,
        *,
        device: torch.device,
        channels_last: bool,
        workers: int = 0,
        on_bad_image: OnBadImage = "error",
        of: int | None = None,
        world: World = ALONE,
    ) -> None:
        self.skipped: dict[str, str] = {}
        self._size, self._device, self._world = batch_size, device, world
        self._labels, self._count = images.labels, len(images)
        self._normalise: Callable[[Tensor], Tensor] = Normalise(preprocessing, device, channels_last)
        crop = CenterCrop(preprocessing)
        workers = workers or default_workers(device, world.local_size)
        self._feed = _feed(images, crop, preprocessing, device, workers, on_bad_image, self.skipped, of or len(images))

    def __len__(self) -> int:
        """The number of batches, of all processes together."""
        return -(-self._count // self._size)

    def over(self, vectors: Tensor, known: NDArray[np.bool_]) -> EvalLoader:
        """As `TrainLoader.over`."""
        other = copy.copy(self)
        other._feed, other._normalise = _VectorFeed(vectors, known), _as_it_is
        return other

    @property
    def rounds(self) -> int:
        """The most batches that one process has."""
        return -(-len(self) // self._world.size)

    def __iter__(self) -> Iterator[Batch]:
        order = np.arange(self._count)
        own = range(self._world.rank, len(self), self._world.size)
        batches = [order[at * self._size : (at + 1) * self._size] for at in own]
        with closing(self._feed.batches(batches, seed=0, epoch=0)) as fed:
            for number, (images, indices) in zip(own, fed, strict=True):
                if len(indices):
                    yield Batch(
                        self._normalise(images), targets_of(self._labels, indices, self._device), indices, number
                    )


class _Feed(Protocol):
    """Where a loader's pictures come from: yields one item for each of `batches`, smaller where pictures are bad."""

    def batches(self, batches: Sequence[Indices], seed: int, epoch: int) -> Fed: ...


class _ResidentFeed:
    """`stored` uint8 [N, S, S, C] on the device, which batches are gathered from."""

    def __init__(self, stored: Tensor) -> None:
        self._stored = stored

    def batches(self, batches: Sequence[Indices], seed: int, epoch: int) -> Fed:  # noqa: ARG002 (no randomness)
        for indices in batches:
            places = torch.from_numpy(indices % len(self._stored)).to(self._stored.device, non_blocking=True)
            yield self._stored.index_select(0, places).permute(0, 3, 1, 2), indices


class _VectorFeed:
    """`vectors` [N, D] on the device, of which those that are `known` [N] are gathered."""

    def __init__(self, vectors: Tensor, known: NDArray[np.bool_]) -> None:
        self._vectors, self._known = vectors, known

    def batches(self, batches: Sequence[Indices], seed: int, epoch: int) -> Fed:  # noqa: ARG002 (no randomness)
        for batch in batches:
            indices = batch[self._known[batch % len(self._known)]]
            places = torch.from_numpy(indices % len(self._known)).to(self._vectors.device, non_blocking=True)
            yield self._vectors.index_select(0, places), indices


class _DecodingFeed:
    """Pictures opened and cropped by threads, which live as long as an iteration."""

    def __init__(
        self,
        images: ImageSet,
        crop: Crop,
        shape: tuple[int, int, int],
        device: torch.device,
        workers: int,
        on_bad_image: OnBadImage,
        skipped: dict[str, str],
        of: int,
    ) -> None:
        self._crop, self._shape, self._device = crop, shape, device
        self._count = len(images)
        self._open: Callable[[int, int | None], pixels.Picture] = (
            images.seen if isinstance(images, MappedSet | Encoded) else images.open
        )
        self._workers = workers
        self._on_bad_image, self._skipped, self._of = on_bad_image, skipped, of

    def batches(self, batches: Sequence[Indices], seed: int, epoch: int) -> Fed:
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="residuum-decode")
        started: deque[tuple[Tensor, Indices, list[Future[list[PictureError | None]]]]] = deque()
        try:
            for ahead, indices in enumerate(batches):
                started.append(self._start(pool, Draws(seed, epoch, indices)))
                if ahead >= _AHEAD:
                    yield self._finish(*started.popleft())
            while started:
                yield self._finish(*started.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _start(
        self, pool: ThreadPoolExecutor, draws: Draws
    ) -> tuple[Tensor, Indices, list[Future[list[PictureError | None]]]]:
        shown = torch.empty(
            (len(draws.indices), *self._shape), dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )
        rows, numbers = shown.numpy(), draws.table(self._crop.streams)
        some = [slice(start, start + _TOGETHER) for start in range(0, len(rows), _TOGETHER)]
        futures = [pool.submit(self._decode, draws.indices[at] % self._count, numbers[at], rows[at]) for at in some]
        return shown, draws.indices, futures

    def _decode(
        self, indices: Indices, numbers: NDArray[np.float64], rows: NDArray[np.uint8]
    ) -> list[PictureError | None]:
        """Writes the cropped pictures into `rows`, uint8 [n, S, S, C]; returns what is wrong with each."""
        errors: list[PictureError | None] = []
        for index, drawn, row in zip(indices.tolist(), numbers, rows, strict=True):
            try:
                row[:] = self._crop(partial(self._open, index), drawn).transpose(1, 2, 0)
            except PictureError as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors

    def _finish(
        self, shown: Tensor, indices: Indices, futures: list[Future[list[PictureError | None]]]
    ) -> tuple[Tensor, Indices]:
        errors = [error for future in futures for error in future.result()]
        bad = [error for error in errors if error is not None]
        if bad:
            take_note(bad, self._on_bad_image, self._skipped, self._of)
            good = np.flatnonzero([error is None for error in errors])
            shown, indices = shown[torch.from_numpy(good)], indices[good]
        return shown.to(self._device, non_blocking=True).permute(0, 3, 1, 2), indices


def _as_it_is(images: Tensor) -> Tensor:
    return images


def default_workers(device: torch.device, processes: int = 1) -> int:
    """Returns how many threads decode by default, in each of so many `processes` on this machine: one a core for GPUs,
    half of that where the network needs cores."""
    return max(1, (cores() if device.type == "cuda" else cores() // 2) // processes)


def _feed(
    images: ImageSet,
    crop: Crop,
    preprocessing: Preprocessing,
    device: torch.device,
    workers: int,
    on_bad_image: OnBadImage,
    skipped: dict[str, str],
    of: int,
) -> _Feed:
    side, channels = preprocessing.img_size, preprocessing.channels
    bytes_needed = len(images) * side * side * channels
    if isinstance(images, ResidentSet) and isinstance(crop, CenterCrop) and bytes_needed <= _PREPARED_BYTES:
        return _ResidentFeed(_tensor(prepared(images, preprocessing)).to(device))
    return _DecodingFeed(images, crop, (side, side, channels), device, workers, on_bad_image, skipped, of)


def prepared(images: ResidentSet, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Returns what `imaging.prepare` makes of each picture, uint8 [N, S, S, C]; the set's own array if that is it."""
    stored, side = images.images, preprocessing.img_size
    if stored.shape[1:] == (side, side, preprocessing.channels) and preprocessing.resize_px <= side:
        return stored
    prepared = np.empty((len(images), side, side, preprocessing.channels), dtype=np.uint8)
    for index in range(len(images)):
        prepared[index] = imaging.prepare_channels_last(images.open(index), preprocessing)
    return prepared


def _tensor(array: NDArray[np.uint8]) -> Tensor:
    with warnings.catch_warnings():
        # A set's pictures may be read-only memory, and nothing writes into them: batches are gathered copies.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def targets_of(labels: Labels, indices: Indices, device: torch.device) -> Tensor:
    """Returns the labels of the pictures at `indices` as a batch has them: int64 [N], or float32 [N, K]."""
    chosen = torch.from_numpy(labels[indices])
    return (chosen.float() if are_several(labels) else chosen).to(device, non_blocking=True)
