"""What a source holds, as `sources.find` sees it, but without stopping at the first fault: at parts with different
classes, or a table that lists missing files. What was left out is remembered file by file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from residuum.data import cache, folders, parquet, sources, tables, tar
from residuum.data.parts import ORDER, Found, PartName
from residuum.data.paths import displayed, natural_key
from residuum.data.places import is_named, located
from residuum.data.sets import ImageSet
from residuum.imaging import EXTENSIONS


@dataclass
class LeftOutFiles(folders.LeftOut):
    """What was not taken, with every path and not only a few examples; relative to the set's root."""

    paths: dict[str, list[str]] = field(default_factory=dict)
    hidden_paths: list[str] = field(default_factory=list)

    def file(self, extension: str, path: str) -> None:
        """Notes a file that is not taken."""
        super().file(extension, path)
        self.paths.setdefault(extension, []).append(path)

    def hide(self, path: str) -> None:
        """Notes something hidden."""
        super().hide(path)
        self.hidden_paths.append(path)


@dataclass(frozen=True)
class Survey:
    """What a source holds. The labels of all parts index `classes`.

    `known` says which classes each part has, with or without pictures: its class folders, or all classes where there
    are no folders. The other lists are paths: files with other extensions, by extension; pictures that lie outside of
    class folders; GIFs taken for graphics; hidden folders and files; folders beside the parts that are no part.
    """

    kind: str
    parts: dict[PartName, ImageSet]
    classes: tuple[str, ...]
    known: dict[PartName, frozenset[str]]
    divided: bool
    root: Path | None = None
    ignored: Mapping[str, list[str]] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)
    graphics: list[str] = field(default_factory=list)
    hidden_folders: list[str] = field(default_factory=list)
    hidden_files: list[str] = field(default_factory=list)
    unused_folders: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def survey(source: str) -> Survey:
    """Looks at what `source` holds; nothing is decoded.

    Raises:
        DataError: nothing is there, or it is not an image set at all, or it is a cache that is damaged.
        UsageError: nothing is named.
        NetworkError: it must be downloaded and cannot be.
    """
    path, named = located(source), is_named(source)
    if not named and cache.is_cache(path):
        cache.verify(path)
        return _plain(sources.find(source))
    if not named and path.is_dir() and not parquet.shards_of(path) and not tar.shards_of(path):
        return _folder(path)
    if not named and path.is_file() and path.suffix.lower() in tables.SUFFIXES:
        return _plain(_table(path))
    return _plain(sources.find(source))


def _plain(found: Found) -> Survey:
    """A source whose parts share one list of classes."""
    parts = {name: found.parts[name] for name in ORDER if name in found.parts}
    classes = next(iter(parts.values())).classes if parts else ()
    known = {name: frozenset(classes) for name in parts}
    return Survey(found.kind, parts, classes, known, found.divided, warnings=found.warnings)


def _folder(root: Path) -> Survey:
    """A folder, as `folders.find` collects it."""
    left_out = LeftOutFiles()
    layout = folders.folders_of_parts(root, left_out)
    names = {part: folders.class_folders(folder, root, left_out) for part, folder in layout.items()}
    if not any(names.values()):
        return _plain(folders.find(root))  # which says what is wrong
    classes = tuple(sorted(set().union(*names.values()), key=natural_key))
    label = {name: number for number, name in enumerate(classes)}
    stray = _take_pictures(left_out)
    collected: dict[PartName, folders.Collected] = {}
    for part, folder in layout.items():
        prefix = os.path.relpath(folder, root) if folder != root else ""
        walked = (
            (label[name], folders.walk(root, f"{prefix}/{name}" if prefix else name, left_out)) for name in names[part]
        )
        collected[part] = folders.collect(str(root), classes, walked, left_out)
    ignored = {extension: list(paths) for extension, paths in sorted(left_out.paths.items())}
    left_out.paths.clear()
    folders.drop_graphics(collected, left_out)
    hidden = [(path, (root / path).is_dir()) for path in left_out.hidden_paths]
    divided = list(layout) != ["train"] or layout["train"] != root
    parts = {folder.name for folder in layout.values()}
    return Survey(
        "folder",
        {part: collected[part].images for part in layout},
        classes,
        {part: frozenset(names[part]) for part in layout},
        divided,
        root=root,
        ignored={extension: _below(root, paths) for extension, paths in ignored.items()},
        stray=_below(root, stray),
        graphics=_below(root, left_out.paths.get(".gif", [])),
        hidden_folders=_below(root, [path for path, is_folder in hidden if is_folder]),
        hidden_files=_below(root, [path for path, is_folder in hidden if not is_folder]),
        unused_folders=_below(root, _unused(root, parts) if divided else []),
    )


def _take_pictures(left_out: LeftOutFiles) -> list[str]:
    """Returns the pictures among the files that lie beside class folders, and forgets them there."""
    return [path for extension in sorted(EXTENSIONS) for path in left_out.paths.pop(extension, [])]


def _unused(root: Path, parts: set[str]) -> list[str]:
    """Returns the folders beside train/ and val/ that are neither parts nor hidden."""
    return sorted(
        entry.name
        for entry in root.iterdir()
        if entry.is_dir() and entry.name not in parts and not folders.is_hidden(entry.name)
    )


def _below(root: Path, paths: list[str]) -> list[str]:
    return [displayed(str(root / path)) for path in sorted(paths, key=natural_key)]


def _table(table: Path) -> Found:
    """A table, as `tables.find` reads it, with the files that do not exist."""
    listing = tables.Listing(table)
    for line, path, label, part in tables.lines_of(table):
        listing.add(line, path, label, part)
    return listing.found("auto")
