"""The command `residuum`: finds the command that was asked for, runs it, turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import residuum
from residuum.cli import console
from residuum.errors import DataError, ResiduumError, ResourceError, UsageError, did_you_mean

COMMANDS = {
    "train": "train a network on a set of pictures",
    "evaluate": "score a trained network on a set of pictures",
    "predict": "say what is on pictures",
    "calibrate": "make probabilities as sure as they are right, and unsure answers unknown",
    "embed": "make vectors of pictures: a file to search, or for another program",
    "search": "find pictures like a picture, and near-duplicates, among vectors",
    "explain": "show what on a picture speaks for a class",
    "check": "look for everything in a set of pictures that would harm training",
    "cache": "decode a set of pictures once, so that training reads it several times as fast",
    "models": "list the networks",
    "weights": "list the weights to start from that are known by name",
    "convert": "make a bundle of weights that others have trained",
    "recipes": "list the recipes, or show one",
    "reproduce": "repeat an experiment of the papers, the paper's number beside the measured one",
    "bench": "measure how fast this machine trains, infers, loads pictures and begins",
    "doctor": "say what a report of a bug needs, and test this machine",
}
ALIASES = {"eval": "evaluate", "val": "evaluate"}

_EXAMPLES = """\
a first run:
  residuum train                              trains on handwritten digits, in seconds
  residuum train --data FOLDER                trains on your photos: one folder for each class
  residuum predict runs/photos-1/best a.jpg   says what is on a picture
  residuum COMMAND --help                     says what a command takes
  residuum doctor                             says what a report of a bug needs

exit codes: 0 done, 1 a bug, 2 wrong usage, 3 bad data, 4 weights not available or changed,
  5 out of disk or memory, 6 training diverged, 7 a verification failed, 75 stopped and saved, 130 interrupted
"""

_BUG = "This is a bug in residuum. Please report it, with the lines above and what 'residuum doctor' prints."
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's allocators say, on Linux, on Windows and on GPUs; the exception is a plain RuntimeError on CPUs."""


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints have three parts and name the closest flag."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError in the place of printing usage and leaving."""
        what, expected = self._explained(message)
        raise UsageError(what, expected=expected, hint=f"See: {self.prog} --help")

    def refuse_unknown(self, words: Sequence[str]) -> NoReturn:
        """Raises UsageError for words that nothing reads."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        word = words[0]
        if word.startswith("-"):
            expected = did_you_mean(word.split("=")[0], flags) or f"Its flags are {', '.join(flags)}."
        else:
            meant = [f"{flag} {word}" for flag in ("--data", "--recipe") if flag in flags]
            expected = f"Did you mean {' or '.join(meant)}?" if meant else f"Expected: {self._form()}"
        raise UsageError(
            f"{self.prog} does not know what to do with {' '.join(words)!r}.",
            expected=expected,
            hint=f"See: {self.prog} --help",
        )

    def _explained(self, message: str) -> tuple[str, str]:
        """Returns what happened and what was expected, from argparse's one line."""
        if required := re.fullmatch(r"the following arguments are required: (.*)", message):
            return f"{required[1]} is missing.", f"Expected: {self._form()}"
        if not (blamed := re.fullmatch(r"argument (\S+): (.*)", message, re.DOTALL)):
            return f"{message[:1].upper()}{message[1:]}.", f"Expected: {self._form()}"
        flag, complaint = blamed[1].split("/")[-1], blamed[2]
        if choice := re.fullmatch(r"invalid choice: (.*) \(choose from (.*)\)", complaint, re.DOTALL):
            return f"{flag} cannot be {choice[1]}.", f"Expected one of {choice[2].replace(chr(39), '')}."
        if other := re.fullmatch(r"not allowed with argument (\S+)", complaint):
            return f"{flag} does not go with {other[1].split('/')[-1]}.", "Expected one of the two."
        if complaint.startswith("expected "):
            return f"{flag} has no value.", f"Expected {flag} VALUE."
        what, _, expected = complaint.partition(". Expected ")
        return f"{flag} {what}.", f"Expected {expected}." if expected else ""

    def _form(self) -> str:
        places = [
            action.metavar if isinstance(action.metavar, str) else action.dest
            for action in self._actions
            if not action.option_strings
        ]
        return " ".join((self.prog, *places))

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not sys.stderr:  # help and version, which a closed pipe must not turn into an error
            console.answer(message.rstrip("\n"))
        else:
            console.note(message.rstrip("\n"))


def build_parser(command: str | None) -> Parser:
    """Returns the parser; only the module of `command` is imported."""
    parser = Parser(
        prog="residuum",
        description="Trains, understands and ships residual networks.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"residuum {residuum.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser, title="commands")
    for name, summary in COMMANDS.items():
        aliases = [alias for alias, of in ALIASES.items() if of == name]
        if name != command:
            commands.add_parser(name, help=summary, aliases=aliases, add_help=False)
            continue
        module = importlib.import_module(f"residuum.cli.{name}")
        sub = commands.add_parser(
            name,
            help=summary,
            aliases=aliases,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; what is raised in spite of that is a bug, and says so."""
    console.accept_any_text()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except Exception as bug:
        bug.add_note(_BUG)  # shown below the traceback
        raise


def _run(words: list[str]) -> int:
    """Runs one command; turns errors into messages and exit codes."""
    in_full = False
    try:
        arguments = _parse(words)
        in_full = getattr(arguments, "verbose", False)
        return int(arguments.run(arguments))
    except ResiduumError as error:
        return console.complain(error, in_full=in_full)
    except MemoryError as error:
        return _out_of_memory(str(error))
    except RuntimeError as error:
        if any(sign in str(error) for sign in _OUT_OF_MEMORY):
            return _out_of_memory(str(error).split("\n", maxsplit=1)[0])
        raise
    except KeyboardInterrupt:
        console.note("Interrupted.")
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        return 0
    except OSError as error:
        if error.errno in _REFUSALS:
            return _refused(error)
        if error.filename is None:
            raise
        return _unusable(error)
    except SystemExit as done:  # argparse, after --help and --version
        return int(done.code or 0)


def _unusable(error: OSError) -> int:
    """A path that the system does not take, such as one that is too long."""
    told = DataError(
        f"Cannot use {os.fsdecode(error.filename)!r}: {error.strerror}.",
        expected="Expected the path of a file or folder.",
        hint="Check how it is spelled.",
    )
    return console.complain(told)


def _parse(words: list[str]) -> argparse.Namespace:
    command = next((word for word in words if not word.startswith("-")), None)
    if command is not None and ALIASES.get(command, command) not in COMMANDS:
        raise UsageError(
            f"No command is called {command!r}.",
            expected=did_you_mean(command, (*COMMANDS, *ALIASES)) or f"Expected one of {', '.join(COMMANDS)}.",
            hint="See: residuum --help",
        )
    parser = build_parser(ALIASES.get(command or "", command))
    arguments, unknown = parser.parse_known_args(words)
    if unknown:
        getattr(arguments, "parser", parser).refuse_unknown(unknown)
    if arguments.command is None:
        parser.print_help()
        parser.exit()
    return arguments


def _out_of_memory(said: str) -> int:
    reason = re.sub(r"^\[enforce fail at [^\]]*\] .*?\. ", "", said)
    error = ResourceError(
        f"Out of memory{': ' + reason.rstrip('.') if reason else ''}.",
        expected="Expected the batch, the network and the pictures to fit.",
        hint="Use a smaller --batch-size or --img-size, or, in training, split each batch: --set accumulate=4",
    )
    return console.complain(error)


def _refused(refusal: OSError) -> int:
    error = ResourceError(
        f"Cannot use {refusal.filename or 'the output'}: {refusal.strerror}.",
        expected="Expected a place that can be read and written, with space left.",
        hint="Free some space, change the permissions, or use another place.",
    )
    return console.complain(error)
