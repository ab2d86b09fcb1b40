"""Bundles: what is written is read, `sha256sum` agrees, nothing broken is accepted, nothing is ever lost."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import threading
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from residuum import bundle
from residuum.errors import ResourceError, UsageError, WeightsError

CARD: dict[str, Any] = {
    "model": {"name": "resnet20_cifar", "num_classes": 2, "in_channels": 3},
    "classes": ["Ameise", "Bär <b> \u96ea"],
    "preprocessing": {"img_size": 32},
    "scores": {"top1": 98.5},
}


def tensors(value: float = 1.0) -> dict[str, Any]:
    """Tensors of several types and layouts, one of them not contiguous, one without dimensions."""
    return {
        "stem.weight": np.full((2, 3), value, np.float32).T,
        "norm.count": np.asarray(7, np.int64),
        "head.bias": np.arange(5, dtype=np.float64) * value,
        "head.half": np.arange(4, dtype=np.float16).reshape(2, 2),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with a further file."""
    folder = tmp_path / "run" / "best"
    bundle.write(folder, tensors(), CARD, {"train_state.json": b'{"step": 3}'})
    return folder


def value_of(folder: Path) -> float:
    return float(bundle.read(folder)[0]["stem.weight"][0, 0])


def commit(folder: Path) -> None:
    """Makes SHA256SUMS agree with what lies in the folder, as somebody who writes bundles by hand would."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


def test_what_is_written_is_read(folder: Path) -> None:
    read, card = bundle.read(folder)
    assert card == {"format": 1, **CARD}
    assert set(read) == set(tensors())
    for name, expected in tensors().items():
        np.testing.assert_array_equal(read[name], expected)
        assert read[name].dtype == expected.dtype
        assert read[name].shape == expected.shape
        assert read[name].flags.writeable
    assert bundle.read_all(folder)[2] == {"train_state.json": b'{"step": 3}'}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["best"]


def test_safetensors_reads_the_weights_itself(folder: Path) -> None:
    read = safetensors.numpy.load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(read["stem.weight"], tensors()["stem.weight"])


def test_sha256sum_agrees(folder: Path) -> None:
    command = shutil.which("sha256sum")
    if command is None:
        pytest.skip("there is no sha256sum on this machine")
    done = subprocess.run([command, "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 3


def test_equal_contents_give_equal_bytes(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    bundle.write(other, dict(reversed(tensors().items())), CARD, {"train_state.json": b'{"step": 3}'})
    for path in folder.iterdir():
        assert (other / path.name).read_bytes() == path.read_bytes()


def test_classes_named_after_undecodable_folders_survive(tmp_path: Path) -> None:
    bundle.write(tmp_path / "b", {}, {**CARD, "classes": ["a", "caf\udce9"]})
    assert bundle.read(tmp_path / "b")[1]["classes"] == ["a", "caf\udce9"]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_a_flipped_byte_anywhere_is_caught(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip") / "best"
    bundle.write(folder, tensors(), CARD, {"train_state.json": b'{"step": 3}'})
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with pytest.raises(WeightsError):
        bundle.read(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "SHA256SUMS", "train_state.json"])
def test_missing_and_truncated_files_are_refused(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for length in {0, 1, len(whole) // 2, len(whole) - 1}:
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            bundle.read(folder)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=f"{name} is missing") as raised:
        bundle.read(folder)
    assert raised.value.exit_code == 4
    assert str(folder) in raised.value.what
    assert raised.value.expected
    assert raised.value.hint


def test_sums_in_any_order_must_end_their_last_line(folder: Path) -> None:
    commit(folder)  # sorted by name: a further file comes last
    assert value_of(folder) == 1.0
    (folder / "SHA256SUMS").write_bytes((folder / "SHA256SUMS").read_bytes()[:-1])
    with pytest.raises(WeightsError, match="cut short"):
        bundle.read(folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a table"),
        (json.dumps({**CARD, "format": 2}), "format 2"),
        (json.dumps(CARD), "format None"),
        (json.dumps({**CARD, "format": 1, "classes": "ab"}), "classes"),
        (json.dumps({**CARD, "format": 1, "classes": [1, 2]}), "classes"),
        (json.dumps({**CARD, "format": 1, "model": {}}), "network"),
        (json.dumps({**CARD, "format": 1, "preprocessing": None}), "preprocessing"),
    ],
)
def test_malformed_cards_are_refused(folder: Path, content: str, reason: str) -> None:
    (folder / "model.json").write_text(content)
    commit(folder)
    with pytest.raises(WeightsError, match=reason):
        bundle.read(folder)


@pytest.mark.parametrize("content", [b"", b"junk", b"\xff" * 64, (2).to_bytes(8, "little") + b"[]"])
def test_malformed_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    commit(folder)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        bundle.read(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/b", "..", ".hidden", "a\\b", "SHA256SUMS", "model.json"]
)
def test_sums_that_point_elsewhere_or_twice_are_refused(folder: Path, name: str) -> None:
    with (folder / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  {name}\n")
    with pytest.raises(WeightsError, match="malformed"):
        bundle.read(folder)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such folder"):
        bundle.read(tmp_path / "nothing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="it is a file"):
        bundle.read(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="SHA256SUMS is missing"):
        bundle.read(tmp_path / "empty")


def test_an_older_bundle_is_replaced_whole(folder: Path) -> None:
    bundle.write(folder, tensors(2.0), CARD)
    assert value_of(folder) == 2.0
    assert bundle.read_all(folder)[2] == {}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_readers_find_a_whole_bundle_at_every_moment(folder: Path) -> None:
    stop = threading.Event()
    seen: list[float] = []

    def keep_reading() -> None:
        while not stop.is_set():
            seen.append(value_of(folder))

    logging.getLogger("residuum").setLevel(logging.ERROR)  # it says each time that it read the older one
    reader = threading.Thread(target=keep_reading)
    reader.start()
    for value in range(2, 32):
        bundle.write(folder, tensors(float(value)), CARD)
    stop.set()
    reader.join()
    logging.getLogger("residuum").setLevel(logging.NOTSET)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3, "the reader must have read in between"


def test_a_writer_killed_between_the_renames_loses_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    aside, older = folder.parent / ".best.writing-1-a", folder.parent / ".best.older"
    shutil.copytree(folder, aside)
    folder.rename(older)
    assert value_of(folder) == 1.0
    assert str(older) in caplog.text
    folder.mkdir()  # a caller that prepares its folders
    assert value_of(folder) == 1.0
    bundle.write(folder, tensors(2.0), CARD)
    assert value_of(folder) == 2.0
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_what_killed_writers_left_goes_and_neighbours_stay(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / ".best.writing-99999-dead")
    shutil.copytree(folder, folder.parent / ".best.older")
    neighbours = ["best2", ".best2.writing-1", "best.older"]
    for name in neighbours:
        (folder.parent / name).mkdir()
    bundle.write(folder, tensors(2.0), CARD)
    assert sorted(path.name for path in folder.parent.iterdir()) == sorted(["best", *neighbours])


def test_a_killed_writer_leaves_the_older_bundle(folder: Path) -> None:
    """A real process, killed at its first flush, in the middle of writing."""
    script = (
        "import os, signal, sys; from pathlib import Path; import numpy as np; from residuum import bundle\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"bundle.write(Path(sys.argv[1]), {{'w': np.zeros(1000, np.float32)}}, {CARD!r})"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    assert any(path.name.startswith(".best.writing-") for path in folder.parent.iterdir())
    assert value_of(folder) == 1.0
    bundle.write(folder, tensors(2.0), CARD)
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_a_full_disk_is_named_and_the_older_bundle_stays(folder: Path) -> None:
    """The limit on a file's size stands in for a full disk: the kernel refuses to write on."""
    script = (
        "import resource, sys; from pathlib import Path; import numpy as np; from residuum import bundle, errors\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    bundle.write(Path(sys.argv[1]), {{'w': np.zeros(100_000, np.float32)}}, {CARD!r})\n"
        "except errors.ResourceError as error:\n"
        "    sys.stderr.write(str(error)); sys.exit(error.exit_code)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert str(folder) in done.stderr
    assert "needs 400," in done.stderr
    assert "bytes are free" in done.stderr
    assert value_of(folder) == 1.0
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


@pytest.mark.parametrize("inside", ["file", "file/best", "file/run/best"])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ResourceError, match="bytes are free") as raised:
        bundle.write(tmp_path / inside, tensors(), CARD)
    assert raised.value.exit_code == 5
    assert str(tmp_path / inside) in raised.value.what
    assert raised.value.hint
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("precious")
    with pytest.raises(UsageError, match="something else"):
        bundle.write(tmp_path / "photos", tensors(), CARD)
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    bundle.write(tmp_path / "empty", tensors(), CARD)
    assert value_of(tmp_path / "empty") == 1.0


@pytest.mark.parametrize("name", ["model.json", "SHA256SUMS", "../x", "a/b", "", ".x"])
def test_further_files_have_plain_names_of_their_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="further file"):
        bundle.write(tmp_path / "b", tensors(), CARD, {name: b""})
    assert not list(tmp_path.iterdir())


def test_a_card_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="classes"):
        bundle.write(tmp_path / "b", tensors(), {**CARD, "classes": None})
    with pytest.raises(ValueError, match="JSON"):
        bundle.write(tmp_path / "b", tensors(), {**CARD, "scores": {"loss": float("nan")}})
    assert not list(tmp_path.iterdir())


def test_no_torch_comes_with_it() -> None:
    script = "import sys, residuum.bundle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
