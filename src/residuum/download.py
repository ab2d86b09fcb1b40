"""Downloads a file: aside, verified, flushed, and only then renamed to where it belongs. Proxies are the environment's.

How `NAME` is fetched, so that processes that want it at once fetch it once, and a cut connection costs nothing:

1. All of them open its sibling `.NAME.part` and wait for the lock on that very file, which the system releases when its
   holder dies. Whoever gets it and finds `NAME` there is done.
2. What the part holds already is not asked for again, where there is a hash to tell whether the pieces belong together.
   Where they do not, or the server knows of no ranges, it starts again at the first byte.
3. A part with the expected hash is renamed to `NAME`; one with another is deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from residuum.errors import NetworkError, ResourceError

OFFLINE = "RESIDUUM_OFFLINE"
"""With this environment variable set and not '0', nothing is downloaded."""

_TIMEOUT_S = 30
_BLOCK = 1 << 20
_ATTEMPTS = 4  # at one file, where connections are cut


def cache_folder() -> Path:
    """Where downloads are kept: $RESIDUUM_CACHE, else ~/.cache/residuum."""
    return Path(os.environ.get("RESIDUUM_CACHE") or Path.home() / ".cache" / "residuum").expanduser()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_offline() -> bool:
    """Whether nothing may be downloaded."""
    return os.environ.get(OFFLINE, "0") not in ("", "0")


def fetch(url: str, target: Path, expected_sha256: str | None, *, or_else: str = "") -> None:
    """Downloads `url` to `target`, unless it is there; it exists afterwards only with the expected content.

    `expected_sha256` is in hexadecimal, or as much of its beginning as is known; with None the content is what the
    server announces as complete. `or_else` is what else one can do, for
    messages.

    Raises:
        NetworkError: offline, the server cannot be reached, the connection was cut, or the content has another hash.
        ResourceError: the file cannot be written.
    """
    if is_offline():
        raise NetworkError(
            f"{target.name} is not in the cache, and nothing is downloaded offline.",
            expected=f"Expected the file {target}.",
            hint=f"Go online, or download {url} elsewhere and put it there{_also(or_else)}.",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _part(target) as part:
            if part is None:
                return
            try:
                _complete(url, target, part, expected_sha256, or_else)
            except NetworkError:
                if expected_sha256 is None or not _length(part):  # of no use to the next attempt
                    _beside(target).unlink(missing_ok=True)
                raise
            os.fsync(part.fileno())
            _beside(target).replace(target)
    except OSError as error:  # what the network raises has become a NetworkError by now
        raise _cannot_write(target, error) from error


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


@contextlib.contextmanager
def _part(target: Path) -> Iterator[IO[bytes] | None]:
    """Yields the part of `target`, locked, or None as soon as somebody else has completed it."""
    while not target.is_file():
        with _beside(target).open("a+b", buffering=0) as part:
            fcntl.flock(part, fcntl.LOCK_EX)
            if not _is_still(part, _beside(target)):
                continue  # its holder has renamed or deleted it
            if target.is_file():
                _beside(target).unlink(missing_ok=True)
                break
            yield part
            return
    yield None


def _is_still(part: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(part.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _length(part: IO[bytes]) -> int:
    return os.fstat(part.fileno()).st_size


def _complete(url: str, target: Path, part: IO[bytes], expected: str | None, or_else: str) -> None:
    """Makes `part` what `url` sends; empties it and raises NetworkError where that has another hash."""
    resumed = _length(part) > 0 and expected is not None
    if not resumed:
        part.truncate(0)
    _receive_all(url, target, part, or_else)
    digest = sha256(_beside(target))
    if expected is not None and resumed and not digest.startswith(expected):  # pieces of two versions of it
        part.truncate(0)
        _receive_all(url, target, part, or_else)
        digest = sha256(_beside(target))
    if expected is not None and not digest.startswith(expected):
        part.truncate(0)
        raise NetworkError(
            f"What {url} sent is not {target.name}: its SHA-256 is {digest}.",
            expected=f"Expected {shown_sha256(expected)}.",
            hint=f"A proxy may have answered in its place; try again, or download it by hand{_also(or_else)}.",
        )


def shown_sha256(expected: str) -> str:
    """Returns a hash for messages: the beginning of one says that it is that."""
    return expected if len(expected) == 64 else f"one that begins with {expected}"


def _receive_all(url: str, target: Path, part: IO[bytes], or_else: str) -> None:
    """Appends what is missing to `part`, in several attempts where connections are cut."""
    for attempt in range(_ATTEMPTS):
        begun = _length(part)
        cut = _receive(url, target, part, or_else)
        if cut is None:
            return
        if attempt == _ATTEMPTS - 1 or _length(part) <= begun:
            raise _unreachable(url, target, cut, or_else)


def _receive(url: str, target: Path, part: IO[bytes], or_else: str) -> str | None:
    """Appends what one connection sends to `part`, from its length on; returns how it was cut, or None."""
    start = _length(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        # An opener of its own: the shared one would keep the proxies that it was first used with.
        response = urllib.request.build_opener().open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()  # it is the response too
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return None if _is_all(error, start) else _again(url, target, part, or_else)
        raise _unreachable(url, target, str(error), or_else) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, target, str(getattr(error, "reason", error)), or_else) from error
    with response:
        if start and not _continues(response, start):
            part.truncate(0)
            start = 0
        announced = response.headers.get("Content-Length")
        total = None if announced is None else start + int(announced)
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                if isinstance(error, http.client.IncompleteRead):
                    _append(part, error.partial)
                return str(error) or type(error).__name__
            if not block:
                break
            _append(part, block)
    if total is not None and _length(part) != total:
        return f"the connection was cut after {_length(part):,} of {total:,} bytes"
    return None


def _append(part: IO[bytes], block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[part.write(rest) :]  # unbuffered, it may write less than all


def _again(url: str, target: Path, part: IO[bytes], or_else: str) -> str | None:
    part.truncate(0)
    return _receive(url, target, part, or_else)


def _is_all(refusal: urllib.error.HTTPError, start: int) -> bool:
    """Whether a range was refused because the file ends where it starts."""
    return refusal.headers.get("Content-Range") == f"bytes */{start}"


def _continues(response: http.client.HTTPResponse, start: int) -> bool:
    """Whether the server sends the rest from `start` on, and not the whole file."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return False
    return bool(re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")))


def _also(or_else: str) -> str:
    return f", or {or_else}" if or_else else ""


def _unreachable(url: str, target: Path, why: str, or_else: str) -> NetworkError:
    return NetworkError(
        f"Cannot download {url}: {why}.",
        expected="Expected a connection to the internet.",
        hint=f"Try again, or download it elsewhere and put it at {target}{_also(or_else)}.",
    )


def _cannot_write(target: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"Cannot write {target}: {error.strerror or error}.",
        expected="Expected a folder with room that may be written.",
        hint="Free some space there, or name another folder in the environment: RESIDUUM_CACHE; for weights "
        "TORCH_HOME or HF_HOME.",
    )
