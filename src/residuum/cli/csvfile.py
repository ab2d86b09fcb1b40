"""Tables that commands write: opened before the work begins, in place when it has ended well, or not there at all."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from residuum.errors import ResourceError

WriteRow = Callable[[Mapping[str, object]], None]


@contextlib.contextmanager
def csv_writer(path: str | None, columns: Sequence[str]) -> Iterator[WriteRow]:
    """Yields a function that writes one row; without a path it does nothing.

    The rows go into a hidden file beside `path`, which takes its name when the block has ended without an error. A
    path that is no ordinary file (`/dev/stdout`, a pipe) is written directly.

    Raises:
        ResourceError: the file cannot be written.
    """
    if path is None:
        yield lambda row: None  # noqa: ARG005 (keeps nothing)
        return
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file()
    aside = target if direct else target.with_name(f".{target.name}.writing-{os.getpid()}")
    with _refusals_named(path):
        file = aside.open("w", newline="", encoding="utf-8", errors="surrogateescape")
    try:
        writer = csv.DictWriter(file, columns)

        def write(row: Mapping[str, object]) -> None:
            with _refusals_named(path):
                writer.writerow(row)

        with _refusals_named(path):
            writer.writeheader()
        yield write
        with _refusals_named(path):
            file.close()
            if not direct:
                aside.replace(target)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            file.close()
        if not direct:
            aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _refusals_named(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot write {path}: {error.strerror}.",
            expected="Expected a file in a folder that exists and can be written, with space left.",
            hint="Give another path to --csv.",
        ) from error
