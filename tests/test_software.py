"""Versions: what is declared, what is installed, what is too old, where residuum comes from."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import residuum
from residuum import software
from residuum.errors import VerificationError
from residuum.software import Library

ROOT = Path(__file__).resolve().parents[1]
DECLARED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]


@pytest.fixture
def in_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if run from the sources, which CI does not."""
    monkeypatch.setattr(software, "PACKAGE", ROOT / "src" / "residuum")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if run from where nothing is declared."""
    monkeypatch.setattr(software, "PACKAGE", tmp_path / "site-packages" / "residuum")


def test_every_library_that_is_declared_is_told_with_its_version() -> None:
    wanted = sorted((Requirement(line) for line in DECLARED), key=lambda requirement: requirement.name)
    found = sorted(software.libraries(), key=lambda library: library.name)  # a wheel's builder may sort them, or not
    assert [library.name for library in found] == [requirement.name for requirement in wanted]
    for library, requirement in zip(found, wanted, strict=True):
        assert f">={library.wanted}" == str(requirement.specifier)
        assert library.version == metadata.version(library.name)
        assert library.problem == ""
    told = software.versions()
    assert {name: told[name] for name in ("torch", "rich")} == {n: metadata.version(n) for n in ("torch", "rich")}


@pytest.mark.parametrize(
    ("version", "wanted"),
    [
        ("2.10.0", "2.10"), ("2.10", "2.10.0"), ("2.9.1", "2.10"), ("2.10.0+cu128", "2.10"), ("18", "18.0.1"),
        ("1.26.4", "2.0"), ("12.3.0.post1", "12.3"), ("3", ""),
    ],
)  # fmt: skip
def test_versions_are_compared_as_pip_does(version: str, wanted: str) -> None:
    too_old = bool(wanted) and Version(version) < Version(wanted)
    assert bool(Library("a", wanted, version).problem) == too_old


@pytest.mark.usefixtures("elsewhere")
def test_what_an_installed_package_needs_is_in_its_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch[opt]>=2.10,<99", "no-such-library (>=1.5)", "rich", 'pytest>=8; extra == "test"']
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines if name == "residuum" else None)
    found = software.libraries()
    assert [(library.name, library.wanted) for library in found] == [
        ("torch", "2.10"),
        ("no-such-library", "1.5"),
        ("rich", ""),
    ]
    assert [library.problem for library in found] == ["", "is not installed", ""]
    assert "no-such-library" not in software.versions()


@pytest.mark.usefixtures("in_checkout")
@pytest.mark.skipif(not shutil.which("git") or not (ROOT / ".git").exists(), reason="not a git checkout")
def test_a_checkout_knows_its_commit() -> None:
    told = software.origin()
    head = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert (told["version"], told["installed"]) == (residuum.__version__, "sources")
    assert told["commit"] is not None
    assert head.stdout.startswith(told["commit"].removesuffix("-dirty"))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("told_by_pip", "origin"),
    [
        (None, "package index"),
        ({"url": "file:///a/b", "dir_info": {}}, "file:///a/b"),
        (
            {"url": "https://me:secret@a.b/c.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}},
            "https://a.b/c.git@12ab",
        ),
    ],
)
def test_an_installed_package_knows_where_pip_had_it_from(
    told_by_pip: object, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return json.dumps(told_by_pip) if told_by_pip else None

    monkeypatch.setattr("importlib.metadata.distribution", lambda _: Installed())
    assert software.origin()["installed"] == origin
    assert software.origin()["commit"] is None


def test_a_library_that_cannot_be_imported_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "built_for_another.py").write_text("raise RuntimeError('operator a::b does not exist\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    names = ("rich", "built-for-another", "no-such-library")
    monkeypatch.setattr(software, "libraries", lambda: [Library(name, "", "1") for name in names])
    with pytest.raises(VerificationError) as raised:
        software.import_all()
    first, second = raised.value.what.split("; ")
    assert first == "built-for-another cannot be imported: RuntimeError: operator a::b does not exist"
    assert second.startswith("no-such-library cannot be imported: ModuleNotFoundError: ")
