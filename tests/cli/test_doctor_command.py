"""`residuum doctor`: its page, its document, its exit code; and what it keeps to itself."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch
from speaking import Said, Say

import residuum
from residuum import imaging, software
from residuum.cli.main import main
from residuum.deploy import selftest
from residuum.deploy.doctor import PROCESSES

SECTIONS = ["residuum", "system", "libraries", "environment", "disk", "pictures", "devices", "distributed"]


@pytest.fixture(scope="module")
def whole() -> Said:
    """The answer of the one whole self-test of these tests."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("RANK", "3")
        patch.setenv("API_TOKEN", "very-secret")
        code = main(["doctor", "--json", "--device", "cpu"])
    return Said(code, out.getvalue(), err.getvalue())


def test_the_document_is_whole_and_all_is_well(whole: Said) -> None:
    assert (whole.code, whole.err) == (0, ""), whole.out
    assert list(whole.json) == [*SECTIONS, "findings", "self_test", "ok"]
    assert whole.json["ok"] is True
    assert all(finding["severity"] == "note" for finding in whole.json["findings"])


def test_the_self_test_passes_here(whole: Said) -> None:
    results = whole.json["self_test"]
    names = ["libraries", "residuum", "pictures", "repeatable", "learning", "bundle", "prediction"]
    assert [result["name"] for result in results][:7] == names
    assert all(result["ok"] for result in results)
    assert all(result["seconds"] >= 0 and result["detail"] for result in results)


def test_the_document_agrees_with_others(whole: Said) -> None:
    told = whole.json
    assert told["residuum"]["version"] == residuum.__version__
    assert told["residuum"]["folder"] == str(Path(residuum.__file__).parent)
    assert told["system"]["python"] == platform.python_version()
    assert told["system"]["kernel"] == os.uname().release
    for name, library in told["libraries"].items():
        assert library["version"] == metadata.version(name)
    assert {"torch", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn", "pyarrow", "matplotlib"} <= set(
        told["libraries"]
    )
    assert told["devices"]["torch"] == torch.__version__
    assert told["devices"]["cores"] == len(os.sched_getaffinity(0))
    assert told["devices"]["cuda"] == torch.version.cuda
    assert len(told["devices"]["gpus"]) == torch.cuda.device_count()
    assert ("gloo" in told["distributed"]["backends"]) == torch.distributed.is_gloo_available()
    assert told["pictures"].keys() == set(imaging.FORMATS)
    assert told["disk"]["places"][0]["folder"] == str(Path.cwd())


def test_of_the_environment_only_what_is_named_is_told(whole: Said) -> None:
    assert "secret" not in whole.out
    assert whole.json["distributed"]["environment"]["RANK"] == "3"
    assert whole.json["distributed"]["environment"].keys() <= set(PROCESSES)


def test_the_page_lines_up(say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("API_TOKEN", "very-secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RESIDUUM_CACHE", raising=False)
    (tmp_path / ".cache" / "residuum" / "cifar10").mkdir(parents=True)
    (tmp_path / ".cache" / "residuum" / "cifar10" / "a.parquet").write_bytes(bytes(1_700_000))
    said = say("doctor", "--no-self-test")
    assert (said.code, said.err) == (0, "")
    titles = [line.lower() for line in said.out.splitlines() if line and not line.startswith(" ")]
    assert titles[: len(SECTIONS)] == SECTIONS
    rows = [line for line in said.out.partition("Worth knowing")[0].splitlines() if line.startswith("  ")]
    assert all(line[19] == " " and line[20] != " " for line in rows), said.out
    assert "cifar10, 1 file, 2 MB" in said.out
    assert "free, ~/.cache/residuum\n" in said.out
    assert "MASTER_ADDR=node7" in said.out
    assert "secret" not in said.out
    assert said.out.endswith("To report a bug, send this page, the command that you gave, and all that it printed.\n")


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="there is no folder that nobody can write")
def test_a_folder_that_cannot_be_written_would_stop_training(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/sys")
    said = say("doctor", "--no-self-test")
    assert said.code == 7
    assert "CANNOT BE WRITTEN" in said.out
    assert "Would stop training\n  The folder /sys (working folder) cannot be written: " in said.out
    assert "give one with --out." in said.out


def test_a_cache_that_is_not_there_is_no_harm_and_is_not_made(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "cache"))
    said = say("doctor", "--no-self-test", "--json")
    assert said.code == 0
    assert said.json["self_test"] is None
    assert said.json["disk"]["places"][2]["exists"] is False
    assert said.json["disk"]["cached"] == []
    assert not (tmp_path / "cache").exists()


def test_a_device_that_is_not_there_is_wrong_usage(say: Say) -> None:
    said = say("doctor", "--device", "cuda:99")
    assert (said.code, said.out) == (2, "")
    assert "'cuda:99' is not on this machine" in said.err


def broken_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load_prepare", lambda _: 1 / 0)


def broken_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "residuum.bundle._verified", lambda folder, keep, **_: {n: (folder / n).read_bytes() for n in keep}
    )


def broken_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", lambda _: None)


@pytest.mark.parametrize(
    ("name", "harm", "reason"),
    [
        ("pictures", broken_decoder, "it does not decode (division by zero)"),
        ("bundle", broken_hash, "a flipped bit in model.safetensors goes unnoticed"),
        ("repeatable", broken_seed, "two training steps, twice from one seed, differ"),
    ],
)
def test_a_failed_test_is_exit_code_7(
    name: str, harm: Callable[[pytest.MonkeyPatch], None], reason: str, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = selftest.tests(torch.device("cpu"))[name]
    monkeypatch.setattr(selftest, "tests", lambda _: {name: test})
    monkeypatch.setattr(software, "import_all", lambda: "0 libraries import")
    harm(monkeypatch)
    said = say("doctor", "--device", "cpu")
    assert said.code == 7
    failed = next(line for line in said.out.splitlines() if "FAILED" in line)
    assert name in failed
    assert reason in failed
    assert f"1 of the tests failed: {name}." in said.out


def test_a_torch_that_cannot_be_imported_is_told_with_all_the_rest(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.99: cannot open shared object file')")
    path = os.pathsep.join([str(tmp_path), str(Path(residuum.__file__).parents[1])])
    command = [sys.executable, "-m", "residuum", "doctor", "--json", "--no-self-test"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (7, "")
    told = json.loads(done.stdout)
    assert told["devices"]["error"].startswith(
        "ImportError: libcudart.so.99: cannot open shared object file (torch.py:"
    )
    assert told["libraries"]["torch"]["version"] == metadata.version("torch")
    assert "error" not in told["disk"]
