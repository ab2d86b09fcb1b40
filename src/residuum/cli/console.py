"""How the command line speaks: answers on stdout, everything else on stderr, JSON as one document."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from residuum.errors import ResiduumError


def answer(text: str = "") -> None:
    """Prints what was asked for."""
    print(text, flush=True)


def answer_json(document: object) -> None:
    """Prints one JSON document on stdout."""
    print(json.dumps(document, indent=2), flush=True)


def note(text: str) -> None:
    """Prints what is said beside the answer, on stderr."""
    print(text, file=sys.stderr, flush=True)


def complain(error: ResiduumError) -> None:
    """Prints an error on stderr: what happened, what was expected, what to do next."""
    note(f"Error: {error.what}")
    for part in (error.expected, error.hint):
        if part:
            note(f"  {part}")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Returns rows as columns of plain text; the columns numbered in `right` are set flush right."""
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    lines = []
    for row in (header, *rows):
        cells = [
            text.rjust(width) if k in right else text.ljust(width)
            for k, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
