"""The command line as a whole: its flags, its help, its errors and its exit codes."""

from __future__ import annotations

import argparse
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from speaking import Say

from residuum import errors
from residuum.cli import console, main

FLAGS = {
    "train": {
        "--data", "-c --recipe", "--model", "--weights", "--epochs", "-b --batch-size", "--img-size", "--lr", "--seed",
        "--precision", "-j --workers", "--on-bad-image", "--set", "-o --out", "--resume", "--override", "--resize",
        "--find-lr", "--folds", "--unknown-below", "--tensorboard",
        "--device", "--dry-run", "--offline", "--accept-license", "--json", "-q --quiet", "-v --verbose",
    },
    "evaluate": {
        "BUNDLE", "--data", "--split", "--views", "--ensemble", "--precision", "-b --batch-size", "-j --workers",
        "--knn", "--stage", "--on-bad-image", "--device", "--csv", "--offline", "--json", "-q --quiet", "-v --verbose",
    },
    "embed": {
        "BUNDLE|MODEL", "PATH", "--data", "--split", "-o --out", "--weights", "--stage", "--no-pool", "--precision",
        "-b --batch-size", "-j --workers", "--device", "--accept-license", "--offline", "--json", "-q --quiet",
        "-v --verbose",
    },
    "search": {
        "INDEX", "IMAGE", "--top", "--duplicates", "--similarity", "--html", "--map", "--approximate", "--bundle",
        "--device", "--accept-license", "--offline", "--json", "-q --quiet", "-v --verbose",
    },
    "predict": {
        "BUNDLE", "PATH", "--top", "--unknown-below", "--precision", "-b --batch-size", "-j --workers", "--device",
        "--csv", "--json", "-q --quiet", "-v --verbose",
    },
    "calibrate": {
        "BUNDLE", "--data", "--split", "--unknown-below", "-o --out", "--precision", "-b --batch-size", "-j --workers",
        "--on-bad-image", "--device", "--offline", "--json", "-q --quiet", "-v --verbose",
    },
    "explain": {
        "BUNDLE", "IMAGE", "--method", "--stage", "--class", "-o --out", "--device", "--json", "-q --quiet",
        "-v --verbose",
    },
    "models": {"--json"},
    "weights": {"--json"},
    "convert": {
        "FILE", "--model", "-o --out", "--classes", "--mean", "--std", "--img-size", "--resize-px", "--accept-license",
        "--offline", "--json",
    },
    "recipes": {"list|show", "NAME", "--json"},
    "check": {
        "DATA", "-o --out", "--no-report", "--bundle", "--csv", "--device", "-j --workers", "--offline", "--json",
        "-q --quiet",
    },
    "cache": {
        "DATA", "-o --out", "--px", "--interpolation", "--labels", "--on-bad-image", "-j --workers", "--offline",
        "--json", "-q --quiet", "-v --verbose",
    },
    "bench": {
        "train|infer|data|startup", "--model", "--data", "-c --recipe", "-b --batch-size", "--img-size", "--precision",
        "-j --workers", "--set", "--steps", "--turns", "--profile", "--device", "-o --out", "--offline", "--json",
        "-q --quiet", "-v --verbose",
    },
    "doctor": {"--device", "--no-self-test", "--json"},
    "reproduce": {
        "EXPERIMENT", "--list", "--scale", "--data", "--seeds", "--bundle", "-o --out", "--jobs", "--device",
        "--offline", "--json", "-q --quiet", "-v --verbose",
    },
}  # fmt: skip
"""Every flag of every command. A new knob goes into recipes, not here."""

SHORT = {"-b": "--batch-size", "-c": "--recipe", "-j": "--workers", "-o": "--out", "-q": "--quiet", "-v": "--verbose"}

HEAVY = {"torch", "torchvision", "numpy", "PIL", "matplotlib", "sklearn", "pyarrow", "rich", "tomli_w"}


def actions(command: str) -> list[argparse.Action]:
    parser = main.build_parser(command)
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return [action for action in commands.choices[command]._actions if action.dest != "help"]


def every_error() -> Iterator[type[errors.ResiduumError]]:
    waiting = [errors.ResiduumError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        yield kind


def made(kind: type[errors.ResiduumError]) -> errors.ResiduumError:
    if kind is errors.PictureError:
        return errors.PictureError("a.png", "it is torn")
    return kind("It is 42.", expected="Expected 41.", hint="Subtract one.")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """A list whose only entry the command `models` raises."""
    raised: list[BaseException] = []

    def run(arguments: argparse.Namespace) -> int:  # noqa: ARG001
        raise raised[0]

    monkeypatch.setattr("residuum.cli.models.run", run)
    return raised


@pytest.mark.parametrize("command", FLAGS)
def test_the_flags_of_every_command_are_frozen(command: str) -> None:
    found = {" ".join(action.option_strings) or str(action.metavar) for action in actions(command)}
    assert found == FLAGS[command]


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_a_short_flag_means_the_same_everywhere(command: str) -> None:
    for action in actions(command):
        for flag in action.option_strings:
            if not flag.startswith("--"):
                assert SHORT[flag] in action.option_strings


@pytest.mark.parametrize("command", sorted(main.COMMANDS))
def test_help_says_what_every_flag_is_for(command: str, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said = say(command, "--help")
    assert said.code == 0
    assert said.err == ""
    assert said.out.startswith(f"usage: residuum {command} ")
    assert max(len(line) for line in said.out.splitlines()) <= 120
    for action in actions(command):
        assert action.help, f"{action.dest} has no help"
        assert "%" not in action.help or "%(" in action.help
        assert not action.help[0].isupper()
        assert not action.help.endswith(".")


def test_help_names_every_command_and_every_exit_code(say: Say) -> None:
    for words in ([], ["--help"], ["-h"]):
        said = say(*words)
        assert (said.code, said.err) == (0, "")
        commands = said.out.partition("commands:")[2].partition("a first run:")[0]
        assert all(f"  {name} " in commands for name in main.COMMANDS)
        assert "evaluate (eval, val)" in commands
        codes = said.out.partition("exit codes:")[2]
        assert all(f"{kind.exit_code} " in codes for kind in every_error())


def test_version(say: Say) -> None:
    import residuum

    assert say("--version").out == f"residuum {residuum.__version__}\n"


def test_no_help_imports_anything_heavy() -> None:
    script = (
        "import sys; from residuum.cli.main import COMMANDS, main\n"
        "for words in ([], ['--version'], *([name, '--help'] for name in COMMANDS)): assert main(words) == 0, words\n"
        f"heavy = {HEAVY!r} & sys.modules.keys()\n"
        "sys.exit(f'imported {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "what", "expected"),
    [
        (["trian"], "No command is called 'trian'.", "Did you mean train?"),
        (["it's"], 'No command is called "it\'s".', "Expected one of train, evaluate"),
        (["--jsno"], "does not know what to do with '--jsno'", "Its flags are -h, --help, --version."),
        (["models", "--jsno"], "does not know what to do with '--jsno'", "Did you mean --json?"),
        (["train", "--epoch", "3"], "does not know what to do with '--epoch 3'", "Did you mean --epochs?"),
        (["train", "--batch_size=3"], "'--batch_size=3'", "Did you mean --batch-size, --resize?"),
        (["train", "photos"], "does not know what to do with 'photos'", "Did you mean --data photos or --recipe photo"),
        (["models", "resnet18"], "does not know what to do with 'resnet18'", "Expected: residuum models"),
        (["evaluate"], "BUNDLE is missing.", "Expected: residuum evaluate BUNDLE"),
        (["eval"], "BUNDLE is missing.", "Expected: residuum evaluate BUNDLE"),
        (["predict", "x"], "PATH is missing.", "Expected: residuum predict BUNDLE PATH"),
        (["predict"], "BUNDLE, PATH is missing.", "Expected: residuum predict BUNDLE PATH"),
        (["predict", "x", "y", "--top", "0"], "--top cannot be '0'.", "Expected a whole number from 1 on."),
        (["predict", "x", "y", "-b", "many"], "--batch-size cannot be 'many'.", "Expected a whole number from 1 on."),
        (["predict", "x", "y", "-j", "-1"], "--workers cannot be '-1'.", "Expected a whole number from 0 on."),
        (["predict", "x", "y", "--csv"], "--csv has no value.", "Expected --csv VALUE."),
        (["predict", "x", "y", "-q", "-v"], "--verbose does not go with --quiet.", "Expected one of the two."),
        (["evaluate", "x", "--precision", "fp8"], "--precision cannot be 'fp8'.", "one of auto, fp32, bf16, fp16."),
    ],
)  # fmt: skip
def test_wrong_usage_is_answered_in_three_parts(words: list[str], what: str, expected: str, say: Say) -> None:
    said = say(*words)
    assert (said.code, said.out) == (2, "")
    first, second, third = said.err.splitlines()
    assert first.startswith("Error: ")
    assert what in first
    assert expected in second
    assert third.startswith("  See: residuum")
    assert third.endswith(" --help")


@pytest.mark.parametrize("kind", list(every_error()))
def test_an_error_is_three_lines_and_its_exit_code(
    kind: type[errors.ResiduumError], say: Say, stub: list[BaseException]
) -> None:
    error = made(kind)
    stub.append(error)
    said = say("models")
    assert (said.code, said.out) == (kind.exit_code, "")
    start = "" if isinstance(error, errors.Stopped) else "Error: "  # who asked for it need not be told of an error
    assert said.err == f"{start}{error.what}\n  {error.expected}\n  {error.hint}\n"


def test_verbose_shows_where_an_error_came_from(say: Say, tmp_path: Path) -> None:
    said = say("evaluate", tmp_path / "nothing", "-v")
    assert said.code == 4
    assert said.err.startswith("Traceback")
    assert "\nError: Cannot use the bundle" in said.err


def test_out_of_memory_is_recognised_by_what_torch_says_of_it(say: Say, stub: list[BaseException]) -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**48)
    stub.append(found.value)
    said = say("models")
    assert said.code == 5
    assert said.err.startswith("Error: Out of memory: ")
    assert "you tried to allocate 1125899906842624 bytes" in said.err
    assert "[enforce" not in said.err
    assert len(said.err.splitlines()) == 3


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), OSError(28, "No space", "x")]
)
def test_what_the_machine_lacks_is_exit_code_5(error: Exception, say: Say, stub: list[BaseException]) -> None:
    stub.append(error)
    said = say("models")
    assert said.code == 5
    assert said.err.startswith("Error: ")
    assert len(said.err.splitlines()) == 3


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), OSError(9, "a bug")])
def test_a_bug_is_not_hidden(error: Exception, say: Say, stub: list[BaseException]) -> None:
    stub.append(error)
    with pytest.raises(type(error), match="a bug") as raised:
        say("models")
    assert "'residuum doctor'" in raised.value.__notes__[0]


def test_control_c_is_130(say: Say, stub: list[BaseException]) -> None:
    stub.append(KeyboardInterrupt())
    said = say("models")
    assert (said.code, said.out, said.err) == (130, "", "Interrupted.\n")


def process(*words: str, stdout: int) -> tuple[int, str]:
    command = [sys.executable, "-W", "error", "-m", "residuum", *words]
    done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [("recipes", "--json"), ("--help",)])
def test_a_reader_that_has_seen_enough_is_no_error(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert process(*words, stdout=writer) == (0, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_an_answer_that_cannot_be_written_is_exit_code_5() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code, said = process("recipes", stdout=full)
    finally:
        os.close(full)
    assert code == 5
    assert said.startswith("Error: Cannot use the output: No space left on device.\n  Expected ")
    assert len(said.splitlines()) == 3


def test_an_answer_that_nobody_reads_is_an_error_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        with pytest.raises(BrokenPipeError):
            console.answer("a")
        console.answer("b")


def test_a_note_that_nobody_reads_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        console.note("epoch 1")
        console.note("epoch 2")


def test_names_that_the_terminal_cannot_show_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main.main(["--version"]) == 0
    console.answer("b\u00e4r \udcff")
    assert written.getvalue().splitlines()[1] == rb"b\xe4r \udcff"


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    console.answer_json({"a": [float("inf"), (float("nan"), -float("inf"))], "b": 1.5, "c": None})
    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert read == {"a": ["inf", [None, "-inf"]], "b": 1.5, "c": None}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (725, "12 min 5 s"),
        (3599.6, "1 h 0 min"), (12_000, "3 h 20 min"),
    ],
)  # fmt: skip
def test_durations_read_well(seconds: float, words: str) -> None:
    assert console.duration(seconds) == words


def test_a_table_lines_up() -> None:
    assert console.table(("a", "bb"), [("xyz", "1"), ("y", "")], right=(1,)) == "a    bb\nxyz   1\ny"
