"""CIFAR by name: the download against a server of our own, and the binary format against what went in."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from residuum import recipe
from residuum.data import cifar, sources
from residuum.data.cifar import ARCHIVES, Archive
from residuum.data.sets import ResidentSet
from residuum.errors import DataError, NetworkError, ResourceError

PIXELS: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def archive_of(name: str) -> bytes:
    """Returns an archive of the true format with 10 training pictures, label k being k, and 2 test pictures."""
    archive = ARCHIVES[name]
    coarse = b"\7" if archive.label_bytes == 2 else b""
    records = [
        coarse + bytes([number % 10]) + pixels.transpose(2, 0, 1).tobytes() for number, pixels in enumerate(PIXELS)
    ]
    each = 10 // len(archive.train)
    contents = {file: b"".join(records[i * each : (i + 1) * each]) for i, file in enumerate(archive.train)}
    contents[archive.test[0]] = b"".join(records[10:])
    contents[archive.names] = "\n".join(f"class{number}" for number in range(10)).encode() + b"\n\n"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for path, content in contents.items():
            info = tarfile.TarInfo(f"{archive.folder}/{path}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Sends `body` for every address; only its first `sent` bytes where that is set."""

    body = b""
    sent: int | None = None
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.path.endswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.sent])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the parent's name)
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RESIDUUM_OFFLINE", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture(params=["cifar10", "cifar100"])
def archives(request: pytest.FixtureRequest, server: Server) -> dict[str, Archive]:
    name: str = request.param
    server.body = archive_of(name)
    address = f"http://127.0.0.1:{server.server_port}/{ARCHIVES[name].file}"
    return {name: replace(ARCHIVES[name], url=address, sha256=hashlib.sha256(server.body).hexdigest())}


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_an_archive_is_downloaded_once_verified_and_read(
    archives: dict[str, Archive], server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((name, archive),) = archives.items()
    for _ in range(2):
        found = cifar.find(name, archives)
        train, test = found.parts["train"], found.parts["test"]
        assert isinstance(train, ResidentSet)
        assert isinstance(test, ResidentSet)
        np.testing.assert_array_equal(train.images, PIXELS[:10])
        np.testing.assert_array_equal(test.images, PIXELS[10:])
        assert (train.labels.tolist(), test.labels.tolist()) == (list(range(10)), [0, 1])
        assert train.classes == tuple(f"class{number}" for number in range(10))
        assert train.name(3) == f"{name}/train[3]"
    assert server.asked == 1
    assert left(cache) == [archive.file]
    monkeypatch.setattr(cifar, "ARCHIVES", archives)
    monkeypatch.setattr(cifar.find, "__defaults__", (archives,))
    assert len(sources.open_parts(recipe.Data(source=name, val_fraction=0.0)).train) == 10


def refused(archives: dict[str, Archive], error: type[Exception] = NetworkError) -> str:
    with pytest.raises(error) as caught:
        cifar.find(next(iter(archives)), archives)
    assert getattr(caught.value, "expected", "")
    assert getattr(caught.value, "hint", "")
    return str(caught.value)


def test_a_cut_connection_leaves_no_archive(archives: dict[str, Archive], server: Server, cache: Path) -> None:
    server.sent = len(server.body) // 2
    assert "cut" in refused(archives)
    assert [Path(name).suffix for name in left(cache)] == [".part"]
    server.sent = None
    cifar.find(next(iter(archives)), archives)
    assert [Path(name).suffix for name in left(cache)] == [".gz"]


def test_wrong_bytes_leave_nothing(archives: dict[str, Archive], server: Server, cache: Path) -> None:
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    assert "SHA-256" in refused(archives)
    assert left(cache) == []
    assert NetworkError("").exit_code == 4


def test_no_server_and_no_file_are_said(archives: dict[str, Archive], cache: Path) -> None:
    ((name, archive),) = archives.items()
    assert "404" in refused({name: replace(archive, url=archive.url.replace(archive.file, "missing"))})
    assert "Cannot download" in refused({name: replace(archive, url="http://127.0.0.1:9/x.tar.gz")})
    assert left(cache) == []


def test_offline_asks_nobody(archives: dict[str, Archive], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESIDUUM_OFFLINE", "1")
    assert "offline" in refused(archives)
    assert server.asked == 0


def test_a_cache_that_cannot_be_written_is_said(archives: dict[str, Archive], cache: Path) -> None:
    cache.write_text("a file, not a folder")
    assert "RESIDUUM_CACHE" in refused(archives, ResourceError)


def test_a_damaged_archive_in_the_cache_is_never_read(archives: dict[str, Archive], cache: Path) -> None:
    ((name, archive),) = archives.items()
    cifar.find(name, archives)
    file = cache / name / archive.file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "not what it is called" in refused(archives)


def test_an_archive_of_something_else_is_refused(archives: dict[str, Archive], server: Server) -> None:
    name = next(iter(archives))
    for body in (b"not even compressed", archive_of("cifar100" if name == "cifar10" else "cifar10")):
        server.body = body
        with pytest.raises(DataError, match="not an archive"):
            cifar.find(name, {name: replace(archives[name], sha256=hashlib.sha256(body).hexdigest())})
        (Path("cache") / name / archives[name].file).unlink()


def test_the_folder_data_is_searched_too(archives: dict[str, Archive], server: Server) -> None:
    ((name, archive),) = archives.items()
    Path("data").mkdir()
    (Path("data") / archive.file).write_bytes(server.body)
    assert len(cifar.find(name, archives).parts["train"]) == 10
    assert server.asked == 0


@pytest.mark.data
def test_shards_in_the_cache_are_found_by_name(data_folder: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "cifar10").symlink_to(data_folder / "cifar10")
    assert len(sources.find("cifar10").parts["train"]) == 50_000
