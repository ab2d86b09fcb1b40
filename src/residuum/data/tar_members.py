"""Reads the headers of a tar file, and nothing else of it: what the files in it are called, and where their bytes lie.

The standard library's `tarfile` ends without a word at a header that is cut off or broken, and takes several times as
long, which counts with a million pictures. Nothing is unpacked: a name is only a name here.

Source: POSIX.1-2017, pax interchange format; GNU tar's manual, "Basic Tar Format" (types L, K and S, base-256 numbers).
Departures: sparse files are refused; what the headers say besides name and size is not read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, NoReturn

from residuum.errors import DataError

BLOCK = 512

_ZEROS = bytes(BLOCK)
_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes: whatever size they claim
_LONGEST_HEADER = 1 << 20
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}


class Member(NamedTuple):
    """A regular file in a tar file: its name, and where its bytes are."""

    name: bytes
    offset: int
    size: int


def members(file: BinaryIO, shard: str) -> Iterator[Member]:
    """Yields the regular files in a tar file that is open for reading, in its order, after checking that all of their
    bytes are there. `shard` is what messages call it.

    Raises:
        DataError: it is no tar file, is compressed or broken, or is cut short.
    """
    total = file.seek(0, os.SEEK_END)
    position = 0
    extended: dict[str, bytes] = {}
    while True:
        block = read_at(file, position, BLOCK)
        if block == _ZEROS:
            break
        if len(block) < BLOCK:
            _refuse_cut(shard, block, position, total)
        kind, name, size = _header(block, shard, position)
        is_header = kind in (b"x", b"g", b"L", b"K")
        if not is_header:
            name, size = extended.get("path", name), _size_of(extended, size, shard, position)
        if kind in _WITHOUT_CONTENT:
            size = 0
        offset = position + BLOCK
        position = offset + -(-size // BLOCK) * BLOCK
        if position > total:
            _refuse(shard, f"is cut short: it ends at byte {total:,}, within the file {_shown(name)}")
        if is_header:
            if size > _LONGEST_HEADER:
                _refuse(shard, f"has a header of {size:,} bytes at byte {offset:,}")
            extended |= _extended(kind, read_at(file, offset, size), shard, offset)
            continue
        if kind == b"S" or any(key.startswith("GNU.sparse") for key in extended):
            _refuse(shard, f"holds {_shown(name)} as a sparse file", "Write it without --sparse.")
        extended = {}
        if kind in _REGULAR and not name.endswith(b"/"):
            yield Member(name, offset, size)
    _check_end(file, shard, position, total)


def read_at(file: BinaryIO, offset: int, size: int) -> bytes:
    """Returns `size` bytes from `offset` on, or fewer where the file ends."""
    file.seek(offset)
    return file.read(size)


def _header(block: bytes, shard: str, position: int) -> tuple[bytes, bytes, int]:
    """Returns the type, the name and the size in a header."""
    try:
        wanted = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError:
        wanted, size = -1, -1
    # The sum counts its own field as spaces.
    if size < 0 or wanted != sum(block) - sum(block[148:156]) + 8 * 0x20:
        _refuse_header(shard, block, position)
    name = block[:100].partition(b"\0")[0]
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""  # GNU keeps times there
    return block[156:157], prefix + b"/" + name if prefix else name, size


def _number(field: bytes) -> int:
    """Returns a number in octal digits, or in base 256 where its first bit is set; raises ValueError."""
    if field[0] & 0x80:
        return -1 if field[0] == 0xFF else int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    return int(digits, 8) if digits else 0


def _extended(kind: bytes, content: bytes, shard: str, offset: int) -> dict[str, bytes]:
    """Returns what an extended header says of the next file; `content` is records of pax, or a long name of GNU's."""
    if kind == b"L":
        return {"path": content.rstrip(b"\0")}
    if kind != b"x":
        return {}  # the target of a link, or what is said of all files, of which nothing is read
    found = {}
    while content:
        length, _, rest = content.partition(b" ")
        end = int(length) if length.isdigit() and len(length) < 10 else 0
        record = content[len(length) + 1 : end]
        key, equals, value = record.partition(b"=")
        if not rest or end > len(content) or not equals or not value.endswith(b"\n"):
            _refuse(shard, f"has a broken extended header at byte {offset:,}")
        found[key.decode("utf-8", "replace")] = value[:-1]
        content = content[end:]
    return found


def _size_of(extended: dict[str, bytes], size: int, shard: str, position: int) -> int:
    digits = extended.get("size")
    if digits is None:
        return size
    if not digits.isdigit() or len(digits) > 18:
        _refuse(shard, f"has a broken extended header before byte {position:,}")
    return int(digits)


def _check_end(file: BinaryIO, shard: str, position: int, total: int) -> None:
    """Refuses a tar file that does not end with two blocks of zeros, or goes on after them."""
    second = read_at(file, position + BLOCK, BLOCK)
    if len(second) < BLOCK:
        _refuse(shard, f"is cut short: it ends at byte {total:,} without the two blocks of zeros that end a tar file")
    place = position + BLOCK
    while content := read_at(file, place, _LONGEST_HEADER):
        if content.count(0) != len(content):
            at = place + len(content) - len(content.lstrip(b"\0"))
            _refuse(
                shard, f"goes on at byte {at:,}, after its end", "Were shards joined with cat? Use the single ones."
            )
        place += len(content)


def _refuse_cut(shard: str, block: bytes, position: int, total: int) -> NoReturn:
    if total == 0:
        _refuse(shard, "is empty")
    if position == 0:
        _refuse_header(shard, block, position)
    inside = "within a header" if block else "without the two blocks of zeros that end a tar file"
    _refuse(shard, f"is cut short: it ends at byte {total:,} {inside}")


def _refuse_header(shard: str, block: bytes, position: int) -> NoReturn:
    if position:
        _refuse(shard, f"has a broken header at byte {position:,}")
    for beginning, kind in _COMPRESSED.items():
        if block.startswith(beginning):
            refuse_compressed(shard, kind)
    _refuse(shard, "is not a tar file, or is cut short within its first header")


def refuse_compressed(shard: str, kind: str) -> NoReturn:
    """Refuses a tar file that is compressed with `kind`: its pictures cannot be read by their places."""
    command = {"gzip": "gunzip FILE", "bzip2": "bunzip2 FILE", "xz": "unxz FILE", "zstd": "unzstd FILE"}[kind]
    _refuse(shard, f"is compressed with {kind}", f"Pictures hardly shrink; undo it with: {command}")


def _refuse(shard: str, what: str, hint: str = "Download or write it again.") -> NoReturn:
    raise DataError(
        f"The shard {shard} {what}.",
        expected="Expected a complete tar file that is not compressed.",
        hint=hint,
    )


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
