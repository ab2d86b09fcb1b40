"""Flags that several commands share, and the types of flags: what argparse calls to read a value."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Literal


def whole_number(least: int) -> Callable[[str], int]:
    """Returns a reader of whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"cannot be {text!r}. Expected a whole number from {least} on")
        return number

    return read


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print {what} as one JSON document")


def add_accept_license(parser: argparse.ArgumentParser) -> None:
    """Adds `--accept-license`."""
    text = "accept that weights, and what is made of them, are not for commercial use"
    parser.add_argument("--accept-license", action="store_true", help=text)


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Adds the argument BUNDLE."""
    parser.add_argument("bundle", metavar="BUNDLE", help="a trained network: the folder best/ of a run")


def add_batch_size(parser: argparse.ArgumentParser, default: int) -> None:
    """Adds `--batch-size` of a command that does not train."""
    text = f"pictures at a time ({default})"
    parser.add_argument("-b", "--batch-size", type=whole_number(1), default=default, metavar="N", help=text)


def add_on_bad_image(parser: argparse.ArgumentParser, otherwise: str) -> None:
    """Adds `--on-bad-image`; `otherwise` is what becomes of a bad picture that ends nothing."""
    text = f"whether a picture that cannot be used ends it (default) or is {otherwise}"
    choices = ("error", "skip")
    parser.add_argument("--on-bad-image", choices=choices, default="error", metavar="error|skip", help=text)


def add_offline(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--offline`; `what` would be downloaded otherwise."""
    text = f"use no network: fail instead of downloading {what}"
    parser.add_argument("--offline", action="store_true", help=text)


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds `--device`."""
    text = "where to compute: cpu, cuda, cuda:1, mps (default: auto, which prefers a GPU)"
    parser.add_argument("--device", metavar="DEVICE", default="auto", help=text)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Adds `--workers`."""
    text = "threads that decode pictures (default: 0, which chooses by the processor)"
    parser.add_argument("-j", "--workers", type=whole_number(0), default=0, metavar="N", help=text)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Adds `--precision` of a command that computes in float32 unless told otherwise."""
    text = "number format to compute in: auto, fp32, bf16, fp16 (default: fp32)"
    choices = ("auto", "fp32", "bf16", "fp16")
    parser.add_argument("--precision", choices=choices, default="fp32", metavar="FORMAT", help=text)


def add_loudness(parser: argparse.ArgumentParser, more: str) -> None:
    """Adds `--quiet` and `--verbose`, which exclude each other; `more` is what is said beyond the usual."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("-q", "--quiet", action="store_true", help="print the result and errors only")
    group.add_argument("-v", "--verbose", action="store_true", help=f"print {more}, and where an error came from")


def add_unknown_below(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--unknown-below`; `what` is what it says of itself."""
    parser.add_argument("--unknown-below", type=threshold, metavar="auto|P|none", help=what)


def threshold(text: str) -> float | Literal["auto", "none"]:
    """Reads auto, none, or a probability."""
    if text == "auto":
        return "auto"
    if text == "none":
        return "none"
    try:
        probability = float(text)
    except ValueError:
        probability = -1.0
    if not 0 <= probability <= 1:
        raise argparse.ArgumentTypeError(f"cannot be {text!r}. Expected auto, none, or a probability from 0 to 1")
    return probability
