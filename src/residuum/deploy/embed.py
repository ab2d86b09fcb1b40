"""Pictures into vectors, and into a file of them: what `residuum embed` does, and what a query goes through.

A picture is opened and prepared as evaluation does it, so that the same picture gives the same vector wherever it
comes from. One that cannot be used is a row with the reason.

Shapes: N pictures, D numbers a vector.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray

from residuum import __version__, bundle, hardware, imaging
from residuum.data.labels import Reading, in_words
from residuum.data.loading import EvalLoader
from residuum.data.parts import ORDER
from residuum.data.paths import displayed
from residuum.data.sets import BAD_FRACTION, ImageSet, in_mode
from residuum.data.sources import find, part_name
from residuum.deploy.vectors import Made, Row, writing
from residuum.errors import DataError, UsageError, WeightsError, did_you_mean
from residuum.evaluation.embedding import embed as embed_batches
from residuum.evaluation.origin import reading_of
from residuum.imaging import Preprocessing
from residuum.models import MODELS, pretrained, saved
from residuum.models._catalog import untrained_model
from residuum.models.convert import usual_preprocessing
from residuum.models.embedding import Embedder, embedder
from residuum.models.layers import Network

_NOT_FINITE = "the network's answer is not finite"


@dataclass(frozen=True)
class Pictures:
    """Pictures without classes, by path or as the bytes of a file: an `ImageSet`. A path of bytes is called `-`."""

    sources: Sequence[str | bytes]
    mode: imaging.Mode
    classes: tuple[str, ...] = ()
    labels: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.zeros(len(self.sources), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.sources)

    def name(self, index: int) -> str:
        """Returns what messages call picture `index`."""
        source = self.sources[index]
        return "-" if isinstance(source, bytes) else displayed(source)

    def open(self, index: int, at_least_px: int | None = None) -> PIL.Image.Image:
        """Returns picture `index`; raises PictureError."""
        return imaging.open_picture(self.sources[index], self.mode, name=self.name(index), at_least_px=at_least_px)


@dataclass(frozen=True)
class Maker:
    """A network that makes vectors of pictures, and all that decides what they are.

    `bundle` is where it is from, or else `weights` is. `model` is what `create_model` builds it of.
    `labels` is how it reads a table's.
    """

    embedder: Embedder
    preprocessing: Preprocessing
    model: Mapping[str, Any]
    bundle: str | None
    weights: str | None
    device: torch.device
    precision: hardware.Precision
    dim: int
    labels: Reading = "auto"

    def rows(self, images: ImageSet, *, labelled: bool, batch_size: int, workers: int = 0) -> Iterator[list[Row]]:
        """Yields one row for each picture of a set, in its order, as the batches are done; `labelled` with classes."""
        loader = EvalLoader(
            images, self.preprocessing, batch_size, device=self.device, channels_last=True, workers=workers,
            on_bad_image="skip", of=math.ceil(len(images) / BAD_FRACTION),  # any number: each is a row that says so
        )  # fmt: skip

        def row(index: int, vector: NDArray[np.float32] | None, error: str | None = None) -> Row:
            label = in_words(images.labels[index], images.classes) or None if labelled else None
            name = images.name(index)
            return Row(name, label, vector, error or (loader.skipped[name] if vector is None else None))

        at = 0
        for indices, vectors in embed_batches(self.embedder, loader, hardware.autocast(self._precision, self.device)):
            rows, finite = [], np.asarray(np.isfinite(vectors).all(axis=1))
            for index, vector, fine in zip(indices.tolist(), vectors, finite, strict=True):
                rows += [row(bad, None) for bad in range(at, index)]
                rows.append(row(index, vector) if fine else row(index, None, _NOT_FINITE))
                at = index + 1
            yield rows
        yield [row(bad, None) for bad in range(at, len(images))]

    def made(self, sources: Sequence[Mapping[str, Any]]) -> Made:
        """Returns how it makes vectors, for the file of those of `sources`."""
        return Made(
            bundle=self.bundle,
            model=self.model,
            weights=self.weights,
            fingerprint=self.embedder.fingerprint,
            stage=self.embedder.stage,
            pooled=self.embedder.pooled,
            dim=self.dim,
            precision=self._precision,
            preprocessing=self.preprocessing,
            sources=tuple(sources),
            folder=str(Path.cwd()),
            id=secrets.token_hex(8),
            residuum=__version__,
        )

    @property
    def _precision(self) -> Any:
        return hardware.choose_precision(self.precision, self.device)


class Chosen(NamedTuple):
    """A set to embed, and what `Made.sources` says of it."""

    images: ImageSet
    source: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """What was embedded into `path`: how many pictures, which of them have no vector (by name, with the
    reason), and how many these are."""

    path: Path
    pictures: int
    bad: dict[str, str]
    bad_count: int
    made: Made


def open_maker(
    name: str,
    *,
    weights: str | None = None,
    stage: int | None = None,
    pooled: bool = True,
    device: str = "auto",
    precision: hardware.Precision = "fp32",
) -> Maker:
    """Returns the network of a bundle, or of a model's name with `weights` (by default "imagenet"), to embed with.

    Where there is a bundle called like a model, it is the bundle, unless `weights` are named.

    Raises:
        UsageError: there is neither; or no such stage, device, precision or weights.
        WeightsError: the bundle or the weights cannot be used.
        NetworkError: the weights are in no cache and cannot be downloaded.
    """
    place = hardware.choose_device(device)
    hardware.choose_precision(precision, place)
    hardware.take(place)
    labels: Reading = "auto"
    named = weights is not None or (name in MODELS and not bundle.is_there(Path(name)))
    if named:
        model, preprocessing = _of_weights(name, weights or "imagenet")
        model = model.to(place).to(memory_format=torch.channels_last)
        card = {"name": name, "num_classes": model.num_classes, "in_channels": model.in_channels}
    else:
        _refuse_unknown(name)
        trained = saved.load(Path(name), place)
        model, preprocessing, card = trained.model, trained.preprocessing, trained.card["model"]
        labels = reading_of(trained)
    network = embedder(model, stage, pooled=pooled)
    side = preprocessing.img_size
    with torch.inference_mode():
        dim = network(torch.zeros(1, preprocessing.channels, side, side, device=place)).shape[1]
    return Maker(
        embedder=network,
        preprocessing=preprocessing,
        model=dict(card),
        bundle=None if named else name,
        weights=(weights or "imagenet") if named else None,
        device=place,
        precision=precision,
        dim=dim,
        labels=labels,
    )


def embed(
    maker: Maker,
    out: Path,
    sets: Sequence[Chosen],
    *,
    batch_size: int = 256,
    workers: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Done:
    """Writes the vectors of the pictures of `sets` into the file `out`; `tell` hears of pictures that are done.

    Raises:
        UsageError: `out` is there and is something else.
        ResourceError: `out` cannot be written.
    """
    bad: dict[str, str] = {}
    pictures = bad_count = 0
    made = maker.made([chosen.source for chosen in sets])
    with writing(out, made) as write:
        for images, source in sets:
            for rows in maker.rows(images, labelled="data" in source, batch_size=batch_size, workers=workers):
                write(rows)
                if tell is not None:
                    tell(len(rows))
                failed = [(row.file, row.error) for row in rows if row.error is not None]
                bad |= failed
                pictures, bad_count = pictures + len(rows), bad_count + len(failed)
    return Done(out, pictures, bad, bad_count, made)


def choose(
    mode: imaging.Mode,
    paths: Sequence[str | bytes] = (),
    data: str | None = None,
    split: str | None = None,
    labels: Reading = "auto",
) -> list[Chosen]:
    """Returns what to embed: the pictures at `paths`, and the parts of the set `data`, or only `split` of it. `labels`
    says how those of a table are read.

    Raises:
        DataError: the set cannot be used, or there are no pictures.
        NetworkError: the set must be downloaded and cannot be.
    """
    sets: list[Chosen] = []
    if paths:
        sets.append(Chosen(Pictures(paths, mode), {"files": len(paths)}))
    if data is not None:
        found = find(data, labels)
        names = [name for name in ORDER if name in found.parts] if split is None else [part_name(found, split, data)]
        for name in names:
            images = in_mode(found.parts[name], mode)
            sets.append(Chosen(images, {"data": data, "labels": labels, "part": name, "pictures": len(images)}))
    if not sum(len(chosen.images) for chosen in sets):
        raise DataError(
            "There are no pictures to embed.",
            expected="Expected files or folders, or a set: --data DATA",
            hint="See: residuum embed --help",
        )
    return sets


def set_of(source: Mapping[str, Any], mode: imaging.Mode) -> ImageSet:
    """Opens the set that an entry of `Made.sources` names; raises DataError or NetworkError."""
    return in_mode(find(source["data"], source.get("labels", "auto")).parts[source["part"]], mode)


def _of_weights(name: str, weights: str) -> tuple[Network, Preprocessing]:
    entry = MODELS[name]
    found = pretrained.find(weights, name, {})
    if found is None:
        raise UsageError(
            f"{name} without weights tells no picture from another.",
            expected="Expected a name of weights, a file or a bundle.",
            hint="List the names with: residuum weights",
        )
    options = {} if found.num_classes is None else {"num_classes": found.num_classes}
    model = untrained_model(name, **options)
    found.load_into(model)
    return model, found.preprocessing or usual_preprocessing(entry.card.input_px)


def _refuse_unknown(name: str) -> None:
    if Path(name).exists() or bundle.is_there(Path(name)):
        return
    raise WeightsError(
        f"{displayed(name)!r} is neither a bundle nor the name of a network.",
        expected=did_you_mean(name, MODELS.names())
        or "Expected the folder best/ of a run, or a name such as resnet50.",
        hint="List the networks with: residuum models",
    )
