"""Makes a cache of a set (see `cache`): every picture is decoded once, by threads, and its shorter side brought to a
length from which random crops are taken; smaller ones stay as they are.

Where it is written, and what becomes of it when that is interrupted: `cache_place`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from residuum import imaging, pixels
from residuum.data import cache, parquet, patterns, sources, tar
from residuum.data.cache import CARD, FORMAT, INDEX, PIXELS, SUMS, Card
from residuum.data.cache_place import flush, free_bytes, in_place_when_done, refuse_place
from residuum.data.labels import Reading, are_several
from residuum.data.parts import ORDER, Found, PartName
from residuum.data.paths import PathsBuilder, displayed
from residuum.data.places import is_named, root_of
from residuum.data.sets import FileSet, ImageSet, opened, refuse_if_many_bad, sampled
from residuum.data.verification import OnBadImage
from residuum.errors import DataError, PictureError, ResourceError, UsageError
from residuum.threads import cores
from residuum.userpath import expanded

_SAMPLE = 256
"""So many pictures are looked at to say how much the cache will take."""

_AHEAD = 4  # pictures that each thread may have ready before they are written


@dataclass(frozen=True)
class Plan:
    """What a cache will hold: `bytes` as a sample of the pictures says, `free_bytes` on its disk."""

    source: str
    folder: Path
    pictures: int
    bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Cached:
    """A cache that is complete: `bytes` of pixels, the reason for each picture that could not be used, by name.

    `made` is False where it was there already, of the same pictures in the same way.
    """

    folder: Path
    source: str
    pictures: int
    bytes: int
    bad: dict[str, str]
    seconds: float
    made: bool = True

    def as_dict(self) -> dict[str, object]:
        """What is cached in JSON's types."""
        return {**asdict(self), "folder": str(self.folder), "seconds": round(self.seconds, 3)}


@dataclass
class _Index:
    """What is known of the pictures that are written."""

    starts: list[int] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)
    end: int = 0

    def add(self, array: NDArray[np.uint8]) -> None:
        """Notes a picture, uint8 [H, W, C], that is written next."""
        self.starts.append(self.end)
        self.sizes.append((array.shape[1], array.shape[0]))
        self.end += array.nbytes


def write(
    source: str,
    folder: Path,
    *,
    px: int = 256,
    interpolation: pixels.Interpolation = "bilinear",
    labels: Reading = "auto",
    on_bad_image: OnBadImage = "error",
    workers: int = 0,
    before: Callable[[Plan], None] = lambda plan: None,  # noqa: ARG005
    progress: Callable[[int], None] = lambda count: None,  # noqa: ARG005
) -> Cached:
    """Makes a cache of `source` in `folder`, in the place of an older one; shorter sides above `px` become `px` (0:
    every picture stays as large as it is). `labels` says how a table's are read.

    `before` is told what it will take before it begins, and `progress` how many more pictures are done. A picture that
    cannot be used ends it, or, with `on_bad_image` "skip", is kept as one that has no pixels: training says of it what
    it would have said of the file.

    Raises:
        DataError: the source cannot be used, or more than 5 % of its pictures; `PictureError`: one of them cannot.
        UsageError: `folder` holds something else, or lies among the pictures.
        ResourceError: the disk has too little space, or cannot be written.
    """
    began = time.monotonic()
    found = _found(source, labels)
    refuse_place(folder, source)
    parts = {part: found.parts[part] for part in ORDER if part in found.parts}
    total = sum(map(len, parts.values()))
    present = _present(source, folder, px, interpolation, labels)
    if present is not None:
        return present
    plan = Plan(source, folder, total, _estimated(parts, px), free_bytes(folder))
    before(plan)
    _refuse_if_too_large(plan)
    with in_place_when_done(folder, plan.bytes) as aside:
        index = _write_pictures(aside, parts, px, interpolation, on_bad_image, workers or cores(), progress)
        card = _card(source, found, parts, px, interpolation, labels, index)
        _write_rest(aside, parts, card, index)
    return _cached(folder, card, list(_names(parts)), time.monotonic() - began)


def _refuse_if_too_large(plan: Plan) -> None:
    if plan.bytes > plan.free_bytes:
        raise ResourceError(
            f"The cache {displayed(str(plan.folder))} will take about {plan.bytes / 1e9:.2f} GB, and "
            f"{plan.free_bytes / 1e9:.2f} GB are free on its disk.",
            expected="Expected a disk that holds it.",
            hint="Free some space, give another place with --out, or make the pictures smaller with --px.",
        )


def _found(source: str, labels: Reading) -> Found:
    """Returns what a source holds, which is something, and no cache."""
    if cache.is_cache(expanded(source)):
        raise UsageError(
            f"{displayed(source)} is a cache already.",
            expected="Expected the set that it was made of, or another one.",
            hint=f"Train on it: residuum train --data {displayed(source)}",
        )
    found = sources.find(source, labels)
    if not any(map(len, found.parts.values())):
        raise DataError(
            f"There are no pictures in {displayed(source)}.",
            expected="Expected a set of pictures, as 'residuum train' takes it.",
            hint=f"See what is there with: residuum check {displayed(source)}",
        )
    return found


def _first(found: Found) -> ImageSet:
    return next(iter(found.parts.values()))


def _present(source: str, folder: Path, px: int, interpolation: str, labels: Reading) -> Cached | None:
    """Returns the cache that is there already, if it is of the same pictures in the same way."""
    if not cache.is_cache(folder):
        return None
    try:
        card = cache.read_card(folder)
        made = (card.source, card.place, card.px, card.interpolation, card.labels)
        if made != (source, _place(source), px, interpolation, labels):
            return None
        found = cache.find(folder, sources.find)
    except DataError:
        return None  # it is damaged, or of what the set was before
    names = [name for part in found.parts.values() for name in (part.name(index) for index in range(len(part)))]
    return _cached(folder, card, names, 0.0, made=False)


def _cached(folder: Path, card: Card, names: list[str], seconds: float, *, made: bool = True) -> Cached:
    bad = {names[place]: reason for place, reason in card.bad.items()}
    return Cached(folder, card.source, len(names), card.bytes, bad, seconds, made)


def _estimated(parts: dict[PartName, ImageSet], px: int) -> int:
    """Returns how many bytes the pixels will take, as a sample of each part says."""
    total = 0.0
    for images in parts.values():
        channels = 3 if images.mode == "RGB" else 1
        sizes = [
            _stored_size(picture.size, px)
            for _, picture in opened(images, sampled(images, _SAMPLE), px or None)
            if not isinstance(picture, PictureError)
        ]
        if sizes:
            total += len(images) * channels * sum(width * height for width, height in sizes) / len(sizes)
    return round(total) + pixels.SPARE_BYTES


def _stored_size(size: tuple[int, int], px: int) -> tuple[int, int]:
    """Returns the size, width and height, at which a picture is kept."""
    return imaging.scaled_size(size, px) if px and min(size) > px else size


def _write_pictures(
    aside: Path,
    parts: dict[PartName, ImageSet],
    px: int,
    interpolation: pixels.Interpolation,
    on_bad_image: OnBadImage,
    workers: int,
    progress: Callable[[int], None],
) -> _Index:
    index, total = _Index(), sum(map(len, parts.values()))
    bad: dict[str, str] = {}
    digest = hashlib.sha256()

    def put(file: IO[bytes], content: NDArray[np.uint8]) -> None:
        if content.nbytes == 0:
            return
        file.write(content.data)
        digest.update(content.data)

    with (aside / PIXELS).open("xb", buffering=1 << 20) as file:
        for images in parts.values():
            with closing(_scaled(images, px, interpolation, workers)) as pictures:
                for found in pictures:
                    if isinstance(found, PictureError):
                        if on_bad_image == "error":
                            raise found
                        index.bad[len(index.starts)] = bad[found.name] = found.reason
                        refuse_if_many_bad(bad, total)
                        found = np.empty((0, 0, 3 if images.mode == "RGB" else 1), dtype=np.uint8)
                    index.add(found)
                    put(file, found)
                    progress(1)
        put(file, np.zeros(pixels.SPARE_BYTES, dtype=np.uint8))
        flush(file)
    (aside / SUMS).write_text(f"{digest.hexdigest()}  {PIXELS}\n", encoding="ascii")
    return index


def _scaled(
    images: ImageSet, px: int, interpolation: pixels.Interpolation, workers: int
) -> Generator[NDArray[np.uint8] | PictureError, None, None]:
    """Yields every picture as it is kept, uint8 [H, W, C], or the error that it raises, in order."""

    def one(index: int) -> NDArray[np.uint8] | PictureError:
        try:
            picture = images.open(index)  # at full scale, so that evaluation sees the same pixels
        except PictureError as error:
            return error
        size = _stored_size(picture.size, px)
        if size != picture.size:
            return pixels.resample(picture, size, interpolation)
        return np.ascontiguousarray(np.asarray(picture).reshape(picture.height, picture.width, -1))

    pool = ThreadPoolExecutor(workers, thread_name_prefix="residuum-cache")
    waiting: deque[Future[NDArray[np.uint8] | PictureError]] = deque()
    try:
        for index in range(len(images)):
            waiting.append(pool.submit(one, index))
            if len(waiting) > _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _card(
    source: str,
    found: Found,
    parts: dict[PartName, ImageSet],
    px: int,
    interpolation: pixels.Interpolation,
    labels: Reading,
    index: _Index,
) -> Card:
    return Card(
        source=displayed(source),
        place=_place(source),
        root=root_of(source),
        kind=found.kind,
        classes=_first(found).classes,
        mode=_first(found).mode,
        px=px,
        interpolation=interpolation,
        parts={part: len(images) for part, images in parts.items()},
        divided=found.divided,
        bytes=index.end + pixels.SPARE_BYTES,
        bad=index.bad,
        files={str(file.resolve()): list(cache.stamp(str(file))) for file in _shards(source, parts)},
        notes=found.notes,
        warnings=found.warnings,
        labels=labels,
    )


def _write_rest(aside: Path, parts: dict[PartName, ImageSet], card: Card, index: _Index) -> None:
    """Writes the small files; the hashes last."""
    builder = PathsBuilder("")
    for name in _names(parts):
        head, slash, tail = name.rpartition("/")
        builder.add(head + slash, [tail])
    stamped = [stamps for images in parts.values() if (stamps := cache.stamps(images)) is not None]
    labels = np.concatenate([images.labels for images in parts.values()])
    arrays: dict[str, NDArray[Any]] = {
        "starts": np.array(index.starts, dtype=np.int64),
        "sizes": np.array(index.sizes, dtype=np.int32).reshape(-1, 2),
        "labels": labels if are_several(labels) else labels.astype(np.int64),
        **builder.build().arrays(),
        **({"stamps": np.concatenate(stamped)} if len(stamped) == len(parts) else {}),
    }
    files = {
        INDEX: safetensors.numpy.save(arrays),
        CARD: (json.dumps({"format": FORMAT, **asdict(card)}, indent=2) + "\n").encode("ascii"),
    }
    sums = (aside / SUMS).read_text("ascii")
    sums += "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    for name, content in {**files, SUMS: sums.encode("ascii")}.items():
        with (aside / name).open("wb") as file:
            file.write(content)
            flush(file)


def _names(parts: dict[PartName, ImageSet]) -> Iterator[str]:
    yield from cache.names_of(parts, "")


def _place(source: str) -> str | None:
    """Returns where a set is on this machine's disk; None for one that has a name only."""
    path = expanded(source)
    return displayed(str(path.resolve())) if not is_named(source) and path.exists() else None


def _shards(source: str, parts: dict[PartName, ImageSet]) -> list[Path]:
    """Returns the files that a set is in, where they are not its pictures."""
    if is_named(source) or all(isinstance(images, FileSet) for images in parts.values()):
        return []
    path = expanded(source)
    if path.is_dir():
        return parquet.shards_of(path) or [shard for shards in tar.shards_of(path).values() for shard in shards]
    if path.is_file():
        return [path]
    return patterns.files_of(source) if patterns.is_pattern(source) else []
