"""Files that others wrote: read whatever they are called, and never executed."""

from __future__ import annotations

import collections
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from residuum.errors import WeightsError
from residuum.models import foreign

STATE = {"conv1.weight": torch.arange(6.0).reshape(1, 1, 2, 3), "bn1.num_batches_tracked": torch.tensor(3)}


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        foreign.read(path)
    assert caught.value.exit_code == 4
    assert caught.value.expected
    assert caught.value.hint
    return str(caught.value)


def same(found: dict[str, Tensor]) -> None:
    assert list(found) == list(STATE)
    assert all(torch.equal(value, STATE[key]) for key, value in found.items())


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_saves(tmp_path: Path, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    same(foreign.read(tmp_path / "a.pth"))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_safetensors_whatever_its_name(tmp_path: Path, name: str) -> None:
    safetensors.torch.save_file(STATE, tmp_path / name, {"format": "pt"})
    found = foreign.read(tmp_path / name)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "best_prec1": 91.7, "epoch": 3},
        lambda state: {"model": state, "optimizer": {"state": {}}},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {"state_dict": {f"_orig_mod.module.{key}": value for key, value in state.items()}},
        collections.OrderedDict,
    ],
)
def test_checkpoints_and_wrappers_are_taken_off(
    tmp_path: Path, wrap: Callable[[dict[str, Tensor]], dict[str, object]]
) -> None:
    torch.save(wrap(STATE), tmp_path / "a.th")
    same(foreign.read(tmp_path / "a.th"))


class Canary:
    """Unpickled, it runs a shell command that leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.file}",))


def by_torch(file: Path, canary: object) -> None:
    torch.save({"state_dict": {**STATE, "extra": canary}}, file)


def by_old_torch(file: Path, canary: object) -> None:
    torch.save({**STATE, "extra": canary}, file, _use_new_zipfile_serialization=False)


def by_pickle(file: Path, canary: object) -> None:
    file.write_bytes(pickle.dumps(canary))


def by_hand(file: Path, canary: object) -> None:
    """Puts it into the archive of an honest file, in the place of its pickle."""
    torch.save(STATE, file)
    with zipfile.ZipFile(file) as honest:
        members = {name: honest.read(name) for name in honest.namelist()}
    with zipfile.ZipFile(file, "w") as forged:
        for name, content in members.items():
            forged.writestr(name, pickle.dumps(canary, protocol=2) if name.endswith("data.pkl") else content)


@pytest.mark.parametrize("forced", ["", "1"])
@pytest.mark.parametrize("write", [by_torch, by_old_torch, by_pickle, by_hand])
def test_a_malicious_pickle_executes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, object], None], forced: str
) -> None:
    sung = tmp_path / "sung"
    write(tmp_path / "a.pth", Canary(sung))
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", forced)  # which would have torch trust any file
    refused(tmp_path / "a.pth")
    (tmp_path / "a.pth").rename(tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors")
    assert not sung.exists()


def test_the_canary_would_sing(tmp_path: Path) -> None:
    by_torch(tmp_path / "a.pth", Canary(tmp_path / "sung"))
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "sung").exists()


def test_damage_of_every_kind_is_told(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    safe = safetensors.torch.save(STATE)
    bad = [b"", b"PK", whole[:-30], whole[: len(whole) // 2], b"<html>not found</html>", os.urandom(500), b"\x80\x02."]
    bad += [safe[:-4], safe[:20], struct.pack("<Q", 50_000_000) + b"{" + bytes(20), struct.pack("<Q", 2) + b"{}x"]
    for content in bad:
        (tmp_path / "b.pth").write_bytes(content)
        refused(tmp_path / "b.pth")
        (tmp_path / "b.safetensors").write_bytes(content)
        refused(tmp_path / "b.safetensors")


@pytest.mark.parametrize("content", [{}, {"a": 1}, [torch.zeros(1)], {"state_dict": {"x": "y"}}, torch.zeros(2)])
def test_something_else_than_weights(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    assert "there is no state dict in it" in refused(tmp_path / "a.pth")


def test_no_file(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "none.pth")
    assert "directory" in refused(tmp_path)
