"""Nets that others have trained, in the place of those that an experiment would train."""

from __future__ import annotations

from pathlib import Path

import pytest

from residuum.data.class_names import CLASS_NAMES
from residuum.lab.bench import Bench
from residuum.lab.experiments import paths, responses
from residuum.lab.reproduce import reproduce
from residuum.models.convert import convert


@pytest.mark.data
def test_a_converted_net_serves_paths_and_responses(
    data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a few pictures: its author gives 91.73 % on all 10,000 (github.com/akamaster/pytorch_resnet_cifar10)."""
    bundle = tmp_path / "resnet20"
    convert(data_folder / "weights" / "resnet20-12fca82f.th", "resnet20_cifar", bundle, CLASS_NAMES["cifar10"])
    load = Bench.loader
    monkeypatch.setattr(Bench, "loader", lambda self, *words: load(self, *words[:-1], min(words[-1], 500)))
    monkeypatch.setattr(paths, "NETS", ("resnet20_cifar",))
    monkeypatch.setitem(paths.PICTURES, "small", 100)
    monkeypatch.setitem(paths.DRAWS, "small", 1)
    monkeypatch.setitem(responses.NETS, "small", ("resnet20_cifar",))
    for name in ("responses", "paths"):
        monkeypatch.setattr("residuum.lab.reproduce._written", lambda entry, bench: bench)  # noqa: ARG005
        bench = reproduce(
            name, scale="small", data=str(data_folder / "cifar10"), bundles=[bundle], out=tmp_path / "lab", device="cpu"
        )
        rows = {row["kind"]: row for row in bench.rows}  # type: ignore[attr-defined]
        assert (rows["net"]["bundle"], rows["net"]["test_pictures"], rows["net"]["img_size"]) == ("resnet20", 500, 32)
        assert rows["net"]["test_error"] == pytest.approx(8.27, abs=4)  # three standard deviations of 500 pictures
    assert not (tmp_path / "lab" / "nets").exists()
    deletions = rows["deletions"]
    movable = [deletions["single"][block] for block in deletions["keeps_shape"]]
    assert sum(movable) / len(movable) < 60, "most blocks can be deleted, as Veit et al. found: chance is 90"
    assert len(rows["lengths"]["norms"]) == 10
