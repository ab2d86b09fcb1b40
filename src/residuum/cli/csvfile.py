"""Tables that commands write: opened before the work begins, in place when it has ended well, or not there at all."""

from __future__ import annotations

import contextlib
import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from residuum.errors import DataError, ResourceError

WriteRow = Callable[[Mapping[str, object]], None]


@contextlib.contextmanager
def csv_writer(path: str | None, columns: Sequence[str] | None, *, flag: str = "--csv") -> Iterator[WriteRow]:
    """Yields a function that writes one row; without a path it does nothing.

    The rows go into a hidden file beside `path`, which takes its name when the block has ended without an error. A
    path that is no ordinary file (`/dev/stdout`, a pipe) is written directly. `columns` None are those of the first
    row. `flag` is the one that named the path.

    Raises:
        ResourceError: the file cannot be written.
    """
    if path is None:
        yield lambda row: None  # noqa: ARG005 (keeps nothing)
        return
    target = Path(os.path.realpath(path))
    direct = target.exists() and not target.is_file()
    aside = target if direct else target.with_name(f".{target.name}.writing-{os.getpid()}")
    with _refusals_named(path, flag):
        file = aside.open("w", newline="", encoding="utf-8", errors="surrogateescape")
    try:
        writer = csv.DictWriter(file, columns or ())

        def write(row: Mapping[str, object]) -> None:
            with _refusals_named(path, flag):
                if not writer.fieldnames:
                    writer.fieldnames = list(row)
                    writer.writeheader()
                writer.writerow(row)

        with _refusals_named(path, flag):
            if columns is not None:
                writer.writeheader()
        yield write
        with _refusals_named(path, flag):
            file.close()
            if not direct:
                aside.replace(target)
    finally:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            file.close()
        if not direct:
            aside.unlink(missing_ok=True)


def rows_there(path: str | None, columns: Sequence[str]) -> list[dict[str, str]]:
    """Returns the rows of a table that more are to be added to; none where there is no such file yet.

    Raises:
        DataError: it has other columns, or is no table.
    """
    if path is None or not Path(path).is_file():
        return []
    with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        try:
            rows = list(csv.DictReader(file))
            file.seek(0)
            header = next(csv.reader(file), list(columns))
        except csv.Error as error:
            rows, header = [], [str(error)]
    if header != list(columns) or any(None in row for row in rows):  # None: what a row has beyond its columns
        raise DataError(
            f"{path} is a table of something else: its first line is {','.join(header)[:80]!r}.",
            expected=f"Expected the columns {','.join(columns)}.",
            hint="Give another path; it is made where it is not there.",
        )
    return rows


@contextlib.contextmanager
def _refusals_named(path: str, flag: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError(
            f"Cannot write {path}: {error.strerror}.",
            expected="Expected a file in a folder that exists and can be written, with space left.",
            hint=f"Give another path to {flag}.",
        ) from error
