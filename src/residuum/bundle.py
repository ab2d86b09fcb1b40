"""The model folder: `model.safetensors`, `model.json`, further files by name, and `SHA256SUMS`, which commits them.

How a bundle `best` is written, so that at every moment one complete bundle can be read:

1. Everything goes into a new sibling `.best.writing-*`: the files, then `SHA256SUMS`; each is flushed to the disk, read
   back and compared with its hash.
2. An older `best` is moved aside to `.best.older`; the new folder is renamed to `best`; `.best.older` is deleted.

A writer killed in step 1 leaves `best` as it was. One killed in the middle of step 2 leaves `.best.older`, which `read`
then takes in the place of the missing `best`, with a word in the log. The next `write` puts it back and deletes what
killed writers left. With `keep_older` the older bundle stays in `.best.older`, complete, until the next one replaces
it, so that damage to `best` on the disk costs one version: `fall_back` puts the older one in its place.

A bundle has one writer at a time and any number of readers; the folder belongs to the bundle, and what else lies in it
goes when it is replaced.

`sha256sum -c SHA256SUMS` checks a bundle without residuum. Equal contents give equal bytes. Nothing in it can execute.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from residuum import aside
from residuum.errors import ResourceError, UsageError, WeightsError

FORMAT = 1
"""The number of the layout of `model.json`; one that is not known is refused."""

WEIGHTS, CARD, SUMS = "model.safetensors", "model.json", "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9][A-Za-z0-9._-]*)")
_RETRIES = 5

Tensors = dict[str, NDArray[Any]]
Card = dict[str, Any]


def write(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    card: Mapping[str, object],
    extra: Mapping[str, bytes] | None = None,
    *,
    keep_older: bool = False,
) -> None:
    """Writes a bundle, or replaces the one that `folder` holds; on failure the older one stays.

    `card` is what `model.json` holds beside `format`; `extra` are further files by plain name. With `keep_older` the
    bundle that was replaced is kept aside, for `fall_back`.

    Raises:
        ResourceError: the folder cannot be written, or the disk is full.
        UsageError: `folder` is there and holds something else than a bundle.
        ValueError: `card` or the name of a file is not what a bundle can hold.
    """
    files = _encode(tensors, card, extra or {})
    needed = sum(map(len, files.values()))
    new = aside.new_place(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _recover(folder, keep_older)
        _refuse_to_replace(folder)
        try:
            _write_files(new, files)
            _verified(new, keep=())
            aside.put_in_place(new, folder, keep_older=keep_older)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except (OSError, WeightsError) as error:
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else error.what.rstrip(".")
        raise ResourceError(
            f"Cannot write the bundle {folder}: {reason}.",
            expected=f"Expected a folder that can be written; the bundle needs {needed:,} bytes and "
            f"{free_space(folder)}.",
            hint="Free some space, or write somewhere else with --out. What the folder held is still there.",
        ) from error


def read(folder: Path) -> tuple[Tensors, Card]:
    """Returns the tensors (writable) and the card of a bundle, every file of it checked against its hash.

    Raises:
        WeightsError: there is no bundle, or it is incomplete, changed, malformed or of an unknown format.
    """
    return _decoded(_read_steadily(folder, keep=(WEIGHTS, CARD)), folder)


def read_all(folder: Path, *, aside_too: bool = True) -> tuple[Tensors, Card, dict[str, bytes]]:
    """Returns what `read` returns and the further files by name; raises what `read` raises.

    Without `aside_too` it does not look for a bundle that a killed writer moved aside.
    """
    files = _read_steadily(folder, keep=None) if aside_too else _verified(folder, keep=None)
    tensors, card = _decoded(files, folder)
    return tensors, card, {name: content for name, content in files.items() if name not in (WEIGHTS, CARD)}


def fall_back(folder: Path) -> bool:
    """Puts the bundle that `keep_older` kept in the place of a damaged one, which is kept as `<name>.damaged`.

    Returns whether there is an older bundle whose files are all what they were.
    """
    older, damaged = aside.older(folder), folder.parent / f"{folder.name}.damaged"
    try:
        _verified(older, keep=(), shown=folder)
    except WeightsError:
        return False
    shutil.rmtree(damaged, ignore_errors=True)
    if os.path.lexists(folder):
        folder.rename(damaged)
    older.rename(folder)
    aside.flush_names(folder.parent)
    return True


def digest(folder: Path) -> str:
    """Returns the SHA-256 of a bundle's `SHA256SUMS`, in hexadecimal: it tells bundles of one name apart.

    Raises:
        WeightsError: there is no such file.
    """
    try:
        return hashlib.sha256((_place(folder) / SUMS).read_bytes()).hexdigest()
    except OSError as error:
        raise _unusable(folder, f"{SUMS} cannot be read ({error.strerror})") from error


def is_there(folder: Path) -> bool:
    """Whether there is a bundle to read, be it one that a killed writer moved aside; its content is not checked."""
    return _committed(folder) or _committed(aside.older(folder))


def _encode(
    tensors: Mapping[str, NDArray[Any]], card: Mapping[str, object], extra: Mapping[str, bytes]
) -> dict[str, bytes]:
    """Returns the files of a bundle by name, in the order in which `SHA256SUMS` lists them."""
    whole = {"format": FORMAT, **card}
    if problem := _card_problem(whole):
        raise ValueError(f"Not a card: {problem}.")
    for name in extra:
        if name in (WEIGHTS, CARD, SUMS) or not _LINE.fullmatch(f"{'0' * 64}  {name}"):
            raise ValueError(f"A bundle cannot hold a further file called {name!r}.")
    files = {name: extra[name] for name in sorted(extra)}
    # The two that every bundle has come last, so that a SHA256SUMS cut short is always found out.
    files[CARD] = _json_bytes(whole)
    files[WEIGHTS] = safetensors.numpy.save({name: np.asarray(tensors[name], order="C") for name in sorted(tensors)})
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in files.items())
    return {**files, SUMS: sums.encode("ascii")}


def _json_bytes(card: Mapping[str, object]) -> bytes:
    text = json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # a class named after a folder whose name is not UTF-8: escaped, it survives
        return (json.dumps(card, indent=2, allow_nan=False) + "\n").encode("ascii")


def _committed(folder: Path) -> bool:
    return (folder / SUMS).is_file()


def _recover(folder: Path, keep_older: bool) -> None:
    """Puts a bundle that was moved aside back, where none took its place, and deletes what killed writers left."""
    older = aside.older(folder)
    if _committed(older) and not _committed(folder):
        older.rename(folder)  # succeeds where nothing or an empty folder is in the way, and else changes nothing
    if not keep_older:
        shutil.rmtree(older, ignore_errors=True)
    aside.remove_unfinished(folder)


def _refuse_to_replace(folder: Path) -> None:
    """Refuses to put a bundle in the place of anything but a bundle or an empty folder."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise NotADirectoryError(errno.ENOTDIR, "there is a file of that name", str(folder))
        return
    if not _committed(folder) and any(folder.iterdir()):
        raise UsageError(
            f"{folder} is a folder that holds something else than a bundle.",
            expected=f"Expected no such folder, an empty one, or a bundle (with {SUMS}).",
            hint="Choose another folder with --out.",
        )


def _write_files(new: Path, files: Mapping[str, bytes]) -> None:
    new.mkdir()
    for name, content in files.items():
        with (new / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    aside.flush_names(new)


def free_space(folder: Path) -> str:
    """Returns how much the disk that holds `folder`, or would, has left, in words."""
    for place in folder.absolute().parents:
        try:
            return f"{shutil.disk_usage(place).free:,} bytes are free in {place}"
        except OSError:
            continue
    return "the free space is not known"


def _read_steadily(folder: Path, keep: Collection[str] | None) -> dict[str, bytes]:
    """`_verified` for a reader whose bundle may be replaced under its eyes: what changed meanwhile is read again."""
    try:
        for _ in range(_RETRIES):
            place = _place(folder)
            before = _identity(place)
            try:
                return _verified(place, keep, shown=folder)
            except WeightsError:
                if _identity(place) == before:
                    raise
        return _verified(_place(folder), keep, shown=folder)
    except OSError as error:
        raise _unusable(folder, f"it cannot be read ({error.strerror})") from error


def _place(folder: Path) -> Path:
    """Where the bundle is: in `folder`, or moved aside by a writer that was killed before it put the new one there."""
    older = aside.older(folder)
    if _committed(folder) or not _committed(older):
        return folder
    logging.getLogger("residuum").warning("%s is being replaced, or its writer was killed; reading %s", folder, older)
    return older


def _identity(folder: Path) -> tuple[int, int] | None:
    """Tells two folders of the same name apart: numbers of deleted folders are given out again, times are not."""
    try:
        found = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_ino, found.st_mtime_ns


def _verified(folder: Path, keep: Collection[str] | None, shown: Path | None = None) -> dict[str, bytes]:
    """Checks every file of a bundle against its hash; returns the content of those in `keep` (None: of all)."""
    shown = shown or folder
    if not folder.is_dir():
        raise _unusable(shown, "it is a file" if folder.exists() else "there is no such folder")
    kept = {}
    for name, expected in _read_sums(folder, shown).items():
        path = folder / name
        if not path.is_file():
            raise _unusable(shown, f"{name} is missing")
        try:
            with path.open("rb") as file:
                if keep is None or name in keep:
                    kept[name] = file.read()
                    digest = hashlib.sha256(kept[name])
                else:
                    digest = hashlib.file_digest(file, "sha256")
        except OSError as error:
            raise _unusable(shown, f"{name} cannot be read ({error.strerror})") from error
        if digest.hexdigest() != expected:
            raise _unusable(
                shown, f"the content of {name} is not what {SUMS} says: its SHA-256 is {digest.hexdigest()}"
            )
    return kept


def _read_sums(folder: Path, shown: Path) -> dict[str, str]:
    """Returns file name -> hash from `SHA256SUMS`, strictly: plain names, no name twice, both files of every bundle."""
    try:
        text = (folder / SUMS).read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise _unusable(shown, f"{SUMS} {reason}") from error
    *lines, rest = text.split("\n")
    sums: dict[str, str] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in sums or match[2] == SUMS:
            raise _unusable(shown, f"{SUMS} is malformed at {line[:120]!r}")
        sums[match[2]] = match[1]
    if rest or WEIGHTS not in sums or CARD not in sums:
        raise _unusable(shown, f"{SUMS} is cut short: it lists {', '.join(sums) or 'nothing'}")
    return sums


def _decoded(files: Mapping[str, bytes], folder: Path) -> tuple[Tensors, Card]:
    card = _decode_card(files[CARD], folder)
    try:
        tensors = safetensors.numpy.load(files[WEIGHTS])
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _unusable(folder, f"{WEIGHTS} is not a safetensors file that numpy can hold ({error})") from error
    return tensors, card


def _decode_card(content: bytes, folder: Path) -> Card:
    try:
        card = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unusable(folder, f"{CARD} is not JSON ({error})") from error
    if problem := _card_problem(card):
        raise _unusable(folder, f"{CARD} {problem}")
    return dict(card)


def _card_problem(card: object) -> str:
    """What is wrong with a card, or nothing: the parts that every reader needs are there and of their type."""
    if not isinstance(card, Mapping):
        return "is not a table"
    if card.get("format") != FORMAT or isinstance(card["format"], bool):
        return f"has the format {card.get('format')!r}, and this version reads {FORMAT}"
    model, classes = card.get("model"), card.get("classes")
    if not isinstance(model, Mapping) or not isinstance(model.get("name"), str):
        return "does not name its network under 'model'"
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        return "does not list its 'classes' by name"
    if not isinstance(card.get("preprocessing"), Mapping):
        return "has no table 'preprocessing'"
    return ""


def _unusable(folder: Path, reason: str) -> WeightsError:
    if is_there(folder / "best"):
        reason = f"it is the folder of a run, whose bundle is {folder / 'best'}"
    return WeightsError(
        f"Cannot use the bundle {folder}: {reason}.",
        expected=f"Expected a folder with {WEIGHTS}, {CARD} and {SUMS}, as 'residuum train' leaves it.",
        hint="Give the folder best/ of a run, copy it again from where it came, or train anew.",
    )
