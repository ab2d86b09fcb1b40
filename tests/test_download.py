"""Downloads against a server of our own: resumed, verified, renamed, fetched once, and nothing wrong ever in place."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from residuum import download
from residuum.errors import NetworkError, ResourceError
from serving import Server, serving

BODY = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(BODY) as running:
        yield running


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RESIDUUM_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "weights.pth"


def refused(server: Server, target: Path, expected: str | None = SHA256, path: str = "/weights.pth") -> str:
    with pytest.raises(NetworkError) as caught:
        download.fetch(server.address + path, target, expected, or_else="do without")
    assert caught.value.exit_code == 4
    assert caught.value.expected
    assert caught.value.hint
    assert not target.exists()
    return str(caught.value)


def left(target: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in target.parent.iterdir()} if target.parent.exists() else {}


@pytest.mark.parametrize("expected", [SHA256, SHA256[:8], None])
def test_a_file_arrives_once(server: Server, target: Path, expected: str | None) -> None:
    for _ in range(2):
        download.fetch(server.address + "/weights.pth", target, expected)
    assert target.read_bytes() == BODY
    assert left(target) == {"weights.pth": len(BODY)}
    assert server.asked == [("/weights.pth", None)]


def test_a_cut_connection_is_taken_up_where_it_was_cut(server: Server, target: Path) -> None:
    server.cuts = [1_000_001, 1]
    download.fetch(server.address + "/weights.pth", target, SHA256[:8])
    assert target.read_bytes() == BODY
    assert [wanted for _, wanted in server.asked] == [None, "bytes=1000001-", "bytes=1000002-"]


def test_what_has_arrived_is_kept_for_the_next_time(server: Server, target: Path) -> None:
    server.cuts = [500_000, 0]
    assert "cut" in refused(server, target)
    assert left(target) == {".weights.pth.part": 500_000}
    server.asked.clear()
    download.fetch(server.address + "/weights.pth", target, SHA256)
    assert server.asked == [("/weights.pth", "bytes=500000-")]
    assert left(target) == {"weights.pth": len(BODY)}


def test_without_a_hash_nothing_is_pieced_together(server: Server, target: Path) -> None:
    server.cuts = [500_000, 0]
    refused(server, target, None)
    assert left(target) == {}
    target.with_name(".weights.pth.part").write_bytes(b"from before")
    download.fetch(server.address + "/weights.pth", target, None)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("part", [BODY[:999], b"another version", BODY, BODY + b"more"], ids=len)
@pytest.mark.parametrize("knows_ranges", [True, False])
def test_any_part_that_was_left_ends_well(server: Server, target: Path, part: bytes, knows_ranges: bool) -> None:
    server.knows_ranges = knows_ranges
    target.parent.mkdir()
    target.with_name(".weights.pth.part").write_bytes(part)
    download.fetch(server.address + "/weights.pth", target, SHA256)
    assert target.read_bytes() == BODY
    assert left(target) == {"weights.pth": len(BODY)}


def test_a_server_without_ranges_is_asked_once(server: Server, target: Path) -> None:
    server.knows_ranges = False
    target.parent.mkdir()
    target.with_name(".weights.pth.part").write_bytes(BODY[:999])
    download.fetch(server.address + "/weights.pth", target, SHA256)
    assert server.asked == [("/weights.pth", "bytes=999-")]


def test_wrong_bytes_are_refused_and_leave_nothing(server: Server, target: Path) -> None:
    server.body = BODY[:-1] + bytes([BODY[-1] ^ 1])
    assert f"Expected one that begins with {SHA256[:8]}." in refused(server, target, SHA256[:8])
    assert left(target) == {}
    assert f"Expected {SHA256}." in refused(server, target)
    target.with_name(".weights.pth.part").write_bytes(BODY[:1000])
    refused(server, target)
    assert left(target) == {}


def test_no_server_and_no_file_are_said(server: Server, target: Path) -> None:
    message = refused(server, target, path="/missing")
    assert "404" in message
    assert str(target) in message
    assert "or do without" in message
    assert left(target) == {}
    with pytest.raises(NetworkError, match="Cannot download"):
        download.fetch("http://127.0.0.1:9/weights.pth", target, SHA256)
    assert left(target) == {}


def test_offline_asks_nobody(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUUM_OFFLINE", "1")
    message = refused(server, target)
    assert str(target) in message
    assert "or do without" in message
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_said(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(ResourceError, match="TORCH_HOME"):
        download.fetch(server.address + "/weights.pth", tmp_path / "file" / "weights.pth", SHA256)


def test_a_proxy_is_asked_in_its_place(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address)
    monkeypatch.setenv("no_proxy", "")
    download.fetch("http://weights.invalid/weights.pth", target, SHA256)
    assert server.asked == [("http://weights.invalid/weights.pth", None)]


SCRIPT = "import sys; from pathlib import Path; from residuum import download\n"
SCRIPT += "download.fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])"


def process(server: Server, target: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-W", "error", "-c", SCRIPT, server.address + "/weights.pth", str(target), SHA256]
    return subprocess.Popen(words, stderr=subprocess.PIPE)


def ends_well(running: subprocess.Popen[bytes]) -> None:
    _, said = running.communicate(timeout=60)
    assert (running.returncode, said) == (0, b"")


def test_processes_that_want_it_at_once_fetch_it_once(server: Server, target: Path) -> None:
    server.seconds = 0.5
    running = [process(server, target) for _ in range(3)]
    for each in running:
        ends_well(each)
    assert len(server.asked) == 1
    assert target.read_bytes() == BODY
    assert left(target) == {"weights.pth": len(BODY)}


def test_who_waited_for_a_process_that_was_killed_goes_on_itself(server: Server, target: Path) -> None:
    server.seconds = 1.0
    first = process(server, target)
    while not server.asked:
        time.sleep(0.01)
    second = process(server, target)
    time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    ends_well(second)
    assert target.read_bytes() == BODY
