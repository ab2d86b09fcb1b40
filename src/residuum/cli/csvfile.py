"""Tables that commands write."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from residuum.errors import ResourceError


def write_csv(path: str, rows: Sequence[dict[str, object]]) -> None:
    """Writes rows with the same keys as a CSV file.

    Raises:
        ResourceError: the file cannot be written.
    """
    try:
        with Path(path).open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ResourceError(
            f"Cannot write {path}: {error.strerror}.",
            expected="Expected a file in a folder that exists and can be written.",
            hint="Give another path to --csv.",
        ) from error
