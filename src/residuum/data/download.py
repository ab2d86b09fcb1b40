"""Downloads a file whose hash is known: aside, verified, flushed, and only then renamed to where it belongs."""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from residuum.errors import NetworkError, ResourceError

OFFLINE = "RESIDUUM_OFFLINE"
"""With this environment variable set and not '0', nothing is downloaded."""

_TIMEOUT_S = 30
_BLOCK = 1 << 20


def cache_folder() -> Path:
    """Where downloads are kept: $RESIDUUM_CACHE, else ~/.cache/residuum."""
    return Path(os.environ.get("RESIDUUM_CACHE") or Path.home() / ".cache" / "residuum").expanduser()


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(url: str, target: Path, expected_sha256: str) -> None:
    """Downloads `url` to `target`, which exists afterwards only with the expected content.

    Raises:
        NetworkError: offline, the server cannot be reached, the connection was cut, or the content has another hash.
        ResourceError: the file cannot be written.
    """
    if os.environ.get(OFFLINE, "0") not in ("", "0"):
        raise NetworkError(
            f"{target.name} is not in the cache, and nothing is downloaded offline.",
            expected=f"Expected the file {target}.",
            hint=f"Download {url} elsewhere and put it there, or go online.",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise _cannot_write(target, error) from error
    aside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            digest = _receive(url, file, target)
            file.flush()
            os.fsync(file.fileno())
        if digest != expected_sha256:
            raise NetworkError(
                f"What {url} sent is not {target.name}: its SHA-256 is {digest}.",
                expected=f"Expected {expected_sha256}.",
                hint="A proxy may have answered in its place; try again, or download it by hand.",
            )
        aside.replace(target)
    except OSError as error:  # what the network raises has become a NetworkError by now
        raise _cannot_write(target, error) from error
    finally:
        aside.unlink(missing_ok=True)


def _receive(url: str, file: IO[bytes], target: Path) -> str:
    """Writes what `url` sends into `file` and returns its SHA-256."""
    digest = hashlib.sha256()
    received = 0
    try:
        response = urllib.request.urlopen(url, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()  # it is the response too
        raise _unreachable(url, target, str(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(url, target, str(error)) from error
    with response:
        announced = response.headers.get("Content-Length")
        while True:
            try:
                block = response.read(_BLOCK)
            except (OSError, http.client.HTTPException) as error:
                raise _unreachable(url, target, str(error) or type(error).__name__) from error
            if not block:
                break
            digest.update(block)
            received += len(block)
            file.write(block)
    if announced is not None and received != int(announced):
        raise _unreachable(url, target, f"the connection was cut after {received:,} of {int(announced):,} bytes")
    return digest.hexdigest()


def _unreachable(url: str, target: Path, why: str) -> NetworkError:
    return NetworkError(
        f"Cannot download {url}: {why}.",
        expected="Expected a connection to the internet.",
        hint=f"Try again, or download it elsewhere and put it at {target}.",
    )


def _cannot_write(target: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"Cannot write {target}: {error.strerror or error}.",
        expected="Expected a folder with room that may be written.",
        hint="Set RESIDUUM_CACHE to such a folder.",
    )
