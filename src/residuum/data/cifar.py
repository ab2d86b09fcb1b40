"""CIFAR-10 and CIFAR-100 by name: found in a cache, or downloaded from where their authors keep them, with a checked
hash.

The binary version is used, for the Python version is made of pickles, and none is ever read here.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009);
https://www.cs.toronto.edu/~kriz/cifar.html, with the binary layout: for each picture a byte of the label (CIFAR-100:
coarse, then fine), then 3,072 bytes in [C, H, W].
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from residuum.data import parquet
from residuum.data.parts import Found, PartName
from residuum.data.paths import displayed
from residuum.data.sets import ImageSet, ResidentSet
from residuum.download import cache_folder, fetch, sha256
from residuum.errors import DataError, NetworkError

_SIDE_PX = 32


@dataclass(frozen=True)
class Archive:
    """An archive of the binary version: where it is, what it must be, and what is in it.

    `label_bytes` come before each picture, the last of them being the label; `names` is the file of the classes' names.
    """

    url: str
    sha256: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int

    @property
    def file(self) -> str:
        """The archive's own name."""
        return self.url.rsplit("/", maxsplit=1)[-1]


ARCHIVES: Mapping[str, Archive] = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        label_bytes=1,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        label_bytes=2,
    ),
}
"""The hashes are those that TensorFlow Datasets records for the same addresses."""


def find(name: str, archives: Mapping[str, Archive] = ARCHIVES) -> Found:
    """Returns the training and test part of `name`: from Parquet shards or the archive in a cache, else downloaded.

    Searched are `cifar10/` (or `cifar100/`) in $RESIDUUM_CACHE (else ~/.cache/residuum), then the folder `data`, where
    torchvision's examples put their downloads.

    Raises:
        NetworkError: it is in no cache and cannot be downloaded.
        DataError: what is in the cache is broken.
    """
    archive = archives[name]
    own = cache_folder() / name
    for folder in (own, Path("data") / name, Path("data")):
        # The shards in data/ itself may be of any set.
        if folder.name == name and folder.is_dir() and (shards := parquet.shards_of(folder)):
            return parquet.find(shards, name)
        if (folder / archive.file).is_file():
            return read(folder / archive.file, archive, name)
    fetch(archive.url, own / archive.file, archive.sha256)
    return read(own / archive.file, archive, name, verified=True)


def read(path: Path, archive: Archive, name: str, *, verified: bool = False) -> Found:
    """Returns the parts in the archive at `path`, after checking its hash unless it is `verified`.

    Raises:
        NetworkError: the file has another hash.
        DataError: the archive is not of the format that its hash promises.
    """
    if not verified and (digest := sha256(path)) != archive.sha256:
        raise NetworkError(
            f"{displayed(str(path))} is not what it is called: its SHA-256 is {digest}.",
            expected=f"Expected {archive.sha256}.",
            hint="Delete the file; it is then downloaded again.",
        )
    try:
        with tarfile.open(path, "r:gz") as tar:  # one pass, in memory: nothing is unpacked
            contents = {member.name: _content(tar, member) for member in tar if member.isfile()}
        classes = tuple(contents[f"{archive.folder}/{archive.names}"].decode("utf-8").split())
        sets: dict[PartName, ImageSet] = {
            "train": _images(archive, archive.train, contents, classes, f"{name}/train"),
            "test": _images(archive, archive.test, contents, classes, f"{name}/test"),
        }
    except (tarfile.TarError, OSError, EOFError, zlib.error, KeyError, ValueError) as error:
        raise DataError(
            f"{displayed(str(path))} is not an archive of {name}: {error}.",
            expected=f"Expected the binary version, {archive.file}.",
            hint="Delete the file; it is then downloaded again.",
        ) from error
    return Found(name, sets, divided=True)


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # only regular files are asked for
    return file.read()


def _images(
    archive: Archive, files: tuple[str, ...], contents: dict[str, bytes], classes: tuple[str, ...], prefix: str
) -> ResidentSet:
    """Returns the pictures of `files`, in [N, H, W, C]."""
    content = b"".join(contents[f"{archive.folder}/{file}"] for file in files)
    record = archive.label_bytes + 3 * _SIDE_PX * _SIDE_PX
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    labels = rows[:, archive.label_bytes - 1].astype(np.int64)
    if len(labels) and labels.max() >= len(classes):
        raise ValueError(f"a label is {labels.max()} and there are {len(classes)} classes")
    pixels = rows[:, archive.label_bytes :].reshape(-1, 3, _SIDE_PX, _SIDE_PX).transpose(0, 2, 3, 1)
    return ResidentSet(np.ascontiguousarray(pixels), labels, classes, "RGB", prefix)
