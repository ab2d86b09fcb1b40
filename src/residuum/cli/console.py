"""How the command line speaks: answers on stdout, everything else on stderr, JSON as one document."""

from __future__ import annotations

import json
import math
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from io import TextIOWrapper
from typing import TextIO

from residuum.errors import ResiduumError, Stopped


def accept_any_text() -> None:
    """Lets names that the terminal's encoding lacks be printed, escaped, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def answer(text: str = "") -> None:
    """Prints what was asked for.

    Raises:
        BrokenPipeError: nobody reads any more. Whatever is printed after that goes nowhere, without an error.
    """
    try:
        print(text, flush=True)
    except OSError:
        _silence(sys.stdout)
        raise


def answer_json(document: object) -> None:
    """Prints one JSON document on stdout; raises what `answer` raises."""
    answer(json.dumps(_strict(document), indent=2, allow_nan=False))


def note(text: str) -> None:
    """Prints what is said beside the answer, on stderr. Nothing stops because nobody reads it."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def complain(error: ResiduumError, *, in_full: bool = False) -> int:
    """Prints an error on stderr in its three parts, `in_full` also where it came from; returns its exit code.

    Of several processes each says which one it is; that all of them were stopped, the first says alone.
    """
    rank = os.environ.get("RANK", "0") if os.environ.get("WORLD_SIZE", "1") != "1" else None
    if isinstance(error, Stopped) and rank not in (None, "0"):
        return error.exit_code
    if in_full:
        note("".join(traceback.format_exception(error)).rstrip())
    title = "Error: " if rank is None else f"Error in process {rank}: "
    note(error.what if isinstance(error, Stopped) else f"{title}{error.what}")
    for part in (error.expected, error.hint):
        if part:
            note(f"  {part}")
    return error.exit_code


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


def duration(seconds: float) -> str:
    """Returns a time for people: '3.4 s', '42 s', '12 min 5 s', '3 h 20 min'."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _strict(value: object) -> object:
    """Returns a document without what JSON lacks: an infinity becomes its name, which recipes read; NaN is null."""
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else repr(value)
    return value


def _silence(stream: TextIO) -> None:
    """Lets what is still written to a stream that failed go nowhere, at the interpreter's exit too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
