"""The command `residuum`: finds the command that was asked for, runs it, turns errors into messages and exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import residuum
from residuum.cli import console
from residuum.errors import ResiduumError, ResourceError, UsageError, did_you_mean

COMMANDS = {
    "train": "train a network on a set of pictures",
    "evaluate": "score a trained network on a set of pictures",
    "predict": "say what is on pictures",
    "check": "look for everything in a set of pictures that would harm training",
    "models": "list the networks",
    "recipes": "list or show the recipes",
}
ALIASES = {"eval": "evaluate", "val": "evaluate"}

_EXAMPLES = """\
a first run:
  residuum train                              trains on handwritten digits, in seconds
  residuum train --data FOLDER                trains on your photos: one folder for each class
  residuum predict runs/photos-1/best a.jpg   says what is on a picture

exit codes: 0 done, 1 a bug, 2 wrong usage, 3 bad data, 4 weights not available or changed,
  5 out of disk or memory, 6 training diverged, 7 a verification failed, 75 stopped and saved, 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints have three parts and name the closest flag or command."""

    def error(self, message: str) -> NoReturn:
        """Raises UsageError in the place of printing usage and leaving."""
        flags = [flag for action in self._actions for flag in action.option_strings]
        wrong = next((word for word in message.split() if word.startswith("--") and word not in flags), "")
        if "invalid choice" in message and "argument command" in message:
            word = message.split("'")[1]
            raise UsageError(
                f"No command is called {word!r}.",
                expected=did_you_mean(word, COMMANDS) or f"Expected one of {', '.join(COMMANDS)}.",
                hint="List them with: residuum --help",
            )
        raise UsageError(
            f"{message[:1].upper()}{message[1:]}.",
            expected=did_you_mean(wrong.split("=")[0], flags) if wrong else "",
            hint=f"See: {self.prog} --help",
        )


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
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=Parser, title="commands")
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
    """Runs one command and returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    first = next((word for word in argv if not word.startswith("-")), None)
    try:
        parser = build_parser(ALIASES.get(first or "", first))
        arguments, unknown = parser.parse_known_args(argv)
        if unknown:
            getattr(arguments, "parser", parser).error(f"unknown arguments: {' '.join(unknown)}")
        if arguments.command is None:
            parser.print_help()
            return 0
        return int(arguments.run(arguments))
    except ResiduumError as error:
        console.complain(error)
        return error.exit_code
    except MemoryError as error:
        return _out_of_memory(str(error))
    except RuntimeError as error:  # torch's way of saying so
        if "not enough memory" in str(error) or "out of memory" in str(error):
            return _out_of_memory(str(error).split("\n", maxsplit=1)[0])
        raise
    except KeyboardInterrupt:
        console.note("Interrupted.")
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _out_of_memory(said: str) -> int:
    error = ResourceError(
        f"Out of memory{': ' + said if said else ''}.",
        expected="Expected the batch, the network and the pictures to fit.",
        hint="Use a smaller --batch-size or --img-size, or split each batch: --set accumulate=4",
    )
    console.complain(error)
    return error.exit_code
