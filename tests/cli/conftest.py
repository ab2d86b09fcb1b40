"""One tiny trained network and a few pictures that the tests of the command line share."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from speaking import TINY, Said, Say, Trained, picture, terminal

from residuum.cli.main import main


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """Runs the command line in this process; a command's word for no network ends with the test."""
    monkeypatch.setenv("RESIDUUM_OFFLINE", "")

    def run(*words: str | Path) -> Said:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A network trained for an epoch on synthetic pictures of three classes, on a terminal of 256 colours."""
    place = tmp_path_factory.mktemp("trained")
    words = {"TERM": "xterm-256color", "COLUMNS": "200"}
    with pytest.MonkeyPatch.context() as patch, terminal() as (stream, end), contextlib.chdir(place):
        for name, value in words.items():
            patch.setenv(name, value)
        patch.delenv("NO_COLOR", raising=False)
        patch.setattr("sys.stderr", stream)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            code = main(["train", *TINY, "--set", "log_every_steps=1"])
        return Trained(place, code, out.getvalue(), end())


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three class folders, called as the synthetic classes are, with four pictures each."""
    folder = tmp_path_factory.mktemp("pictures") / "set"
    for kind in range(3):
        for number in range(4):
            picture(folder / f"class{kind}" / f"{number}.png", 10 * kind + number)
    return folder
