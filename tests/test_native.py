"""Libraries of C sources: when the compiler is asked what it is, and what tells that one is another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from residuum import native

COMPILER = """#!/bin/sh
echo "$@" >> {asked}
echo "what $1 {version}"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"
    native._about.cache_clear()


class Compiler:
    """A compiler that only says what it is, and writes down that it was asked."""

    def __init__(self, folder: Path) -> None:
        self.path, self.asked = folder / "cc", folder / "asked"
        self.becomes("1")

    def becomes(self, version: str) -> None:
        """Installs another version: a file of another time, and here of the same size."""
        before = self.path.stat().st_mtime_ns if self.path.exists() else 0
        self.path.write_text(COMPILER.format(asked=self.asked, version=version))
        self.path.chmod(0o755)
        os.utime(self.path, ns=(before + 1, before + 1))

    def about(self) -> bytes:
        """Returns what a new process is told of it."""
        native._about.cache_clear()
        return native._about(str(self.path))

    def times_asked(self) -> int:
        """Returns how often it was asked so far."""
        return len(self.asked.read_text().splitlines()) if self.asked.exists() else 0


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    return Compiler(tmp_path)


def processor(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    """Makes the system say `text` of the processor."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    monkeypatch.setattr(native, "_CPUINFO", cpuinfo)


def test_a_compiler_is_asked_once(compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processor(monkeypatch, tmp_path, "processor: 0\nmodel name: one\nflags: a b\ncpu MHz: 1\n")
    first = compiler.about()
    assert b"what -O3 1" in first
    assert b"what --version 1" in first
    processor(monkeypatch, tmp_path, "processor: 7\nmodel name: one\nflags: a b\ncpu MHz: 2\n")  # faster now
    assert compiler.about() == first
    assert compiler.times_asked() == 2  # its target and its version


def test_another_compiler_is_asked_anew(compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processor(monkeypatch, tmp_path, "flags: a b\n")
    first = compiler.about()
    compiler.becomes("2")
    assert b"what --version 2" in compiler.about() != first


@pytest.mark.parametrize("other", ["flags: a b c\n", "flags: a b\nmodel name: two\n", "Features: a b\n"])
def test_another_processor_is_asked_for_anew(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: str
) -> None:
    processor(monkeypatch, tmp_path, "flags: a b\n")
    compiler.about()
    processor(monkeypatch, tmp_path, other)
    compiler.about()
    assert compiler.times_asked() == 4


@pytest.mark.parametrize("text", ["", "processor: 0\n"])
def test_it_is_asked_every_time_where_nobody_tells_processors_apart(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, text: str
) -> None:
    processor(monkeypatch, tmp_path, text)
    assert compiler.about() == compiler.about()
    assert compiler.times_asked() == 4
    assert not cache.exists()


def test_an_answer_that_was_lost_is_asked_for_again(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path
) -> None:
    processor(monkeypatch, tmp_path, "flags: a b\n")
    first = compiler.about()
    (kept,) = (cache / "kernels").iterdir()
    kept.write_bytes(b"")
    assert compiler.about() == first
    assert kept.read_bytes() == first


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    compiler: Compiler, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processor(monkeypatch, tmp_path, "flags: a b\n")
    (tmp_path / "file").touch()
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "file"))
    assert compiler.about() == compiler.about()
    assert compiler.times_asked() == 4
