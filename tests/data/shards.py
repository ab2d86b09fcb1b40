"""Tar shards for tests: pictures of noise in WebDataset's layout, written by the standard library."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from residuum.data.sources import find
from residuum.errors import DataError

Files = dict[str, bytes]


def picture(seed: int, kind: str = "PNG") -> bytes:
    random = np.random.default_rng(seed)
    width, height = (int(side) for side in random.integers(5, 15, 2))
    file = io.BytesIO()
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


def write(path: Path, files: Files, kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as shard:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def samples(numbers: range, classes: int = 3) -> Files:
    files: Files = {}
    for number in numbers:
        files |= {f"{number:06d}.png": picture(number), f"{number:06d}.cls": str(number % classes).encode()}
    return files


def refused(source: Path | str) -> DataError:
    with pytest.raises(DataError) as caught:
        find(str(source))
    assert caught.value.expected
    assert caught.value.hint
    return caught.value
