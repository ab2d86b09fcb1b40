"""Many paths in little memory, and the natural order of names.

A million Python strings take hundreds of megabytes. Here the folders are a short table, the files' names lie end to
end in one block of bytes, and a path is put together when it is asked for: about 40 bytes each.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Paths:
    """Paths by index, stored compactly and never changed. Made by `PathsBuilder`."""

    def __init__(
        self, root: str, folders: tuple[bytes, ...], folder: NDArray[np.uint32], names: bytes, ends: NDArray[np.uint64]
    ) -> None:
        self._root = os.fsencode(root)
        self._folders = folders
        self._folder = folder
        self._names = names
        self._ends = ends

    def __len__(self) -> int:
        return len(self._folder)

    def __getitem__(self, index: int) -> str:
        """Returns path `index`, with the root."""
        start = int(self._ends[index - 1]) if index else 0
        name = self._names[start : int(self._ends[index])]
        return os.fsdecode(os.path.join(self._root, self._folders[self._folder[index]], name))  # noqa: PTH118 (bytes)

    @property
    def root(self) -> str:
        """The folder that the paths begin with."""
        return os.fsdecode(self._root)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns all but the root as arrays, of which `from_arrays` makes the paths again."""
        return {
            "folders": np.frombuffer(b"\0".join(self._folders), dtype=np.uint8),
            "folder": self._folder,
            "names": np.frombuffer(self._names, dtype=np.uint8),
            "ends": self._ends,
        }

    @classmethod
    def from_arrays(cls, root: str, arrays: Mapping[str, NDArray[Any]]) -> Paths:
        """Returns the paths below `root` that `arrays` were made of.

        Raises:
            ValueError: they are not what `arrays` returns.
        """
        folders = tuple(arrays["folders"].tobytes().split(b"\0"))
        folder, names, ends = arrays["folder"], arrays["names"].tobytes(), arrays["ends"]
        rising = len(ends) == 0 or (bool(np.all(ends[1:] >= ends[:-1])) and int(ends[-1]) == len(names))
        if len(folder) != len(ends) or not rising or (len(folder) and int(folder.max()) >= len(folders)):
            raise ValueError("these are not the arrays of paths")
        return cls(root, folders, folder.astype(np.uint32), names, ends.astype(np.uint64))

    @property
    def nbytes(self) -> int:
        """The memory that the paths take, without Python's overhead for the objects that hold them."""
        return len(self._names) + self._ends.nbytes + self._folder.nbytes + sum(map(len, self._folders))


class PathsBuilder:
    """Collects paths below `root`, folder by folder; `build` ends it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders: dict[bytes, int] = {}
        self._folder = array("I")
        self._names = bytearray()
        self._ends = array("Q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, folder: str, names: Iterable[str]) -> None:
        """Appends the files called `names` in `folder`, which is relative to the root, or absolute."""
        number = self._folders.setdefault(os.fsencode(folder), len(self._folders))
        for name in names:
            self._names += os.fsencode(name)
            self._ends.append(len(self._names))
            self._folder.append(number)

    def build(self) -> Paths:
        """Returns the paths in the order in which they were added."""
        ends = np.frombuffer(self._ends, dtype=np.uint64) if len(self) else np.empty(0, np.uint64)
        folder = np.frombuffer(self._folder, dtype=np.uint32) if len(self) else np.empty(0, np.uint32)
        return Paths(self._root, tuple(self._folders), folder, bytes(self._names), ends)


def displayed(path: str) -> str:
    """Returns a path as text that can be printed and written as JSON, whatever bytes it holds."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def natural_key(text: str) -> tuple[object, ...]:
    """Returns a key that sorts numbers within names by their value: '2' before '10', 'a2' before 'a10'."""
    parts: list[object] = []
    for place, part in enumerate(re.split(r"([0-9]+)", text)):
        if place % 2:
            digits = part.lstrip("0")
            parts.append((len(digits), digits))  # the order of whole numbers, without a limit to their length
        else:
            parts.append(part.casefold())
    return (tuple(parts), text)
