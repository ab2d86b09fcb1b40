"""Nets that others have trained, in the place of those that an experiment would train."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from residuum.data.class_names import CLASS_NAMES
from residuum.lab.experiments import paths, responses
from residuum.lab.reproduce import reproduce
from residuum.models.convert import convert


@pytest.fixture(scope="module")
def few(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand of CIFAR-10's test pictures, as a training and a test part."""
    folder = tmp_path_factory.mktemp("few") / "cifar10"
    folder.mkdir()
    table = pq.read_table(data_folder / "cifar10" / "test-00000-of-00001.parquet")
    for place, part in enumerate(("train", "test")):
        pq.write_table(table.slice(500 * place, 500), folder / f"{part}-00000-of-00001.parquet")
    return folder


@pytest.mark.data
def test_a_converted_net_serves_paths_and_responses(
    data_folder: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its author gives 91.73 % on all 10,000 test pictures (github.com/akamaster/pytorch_resnet_cifar10)."""
    bundle = tmp_path / "resnet20"
    convert(data_folder / "weights" / "resnet20-12fca82f.th", "resnet20_cifar", bundle, CLASS_NAMES["cifar10"])
    monkeypatch.setattr(paths, "NETS", ("resnet20_cifar",))
    monkeypatch.setitem(paths.PICTURES, "small", 60)
    monkeypatch.setitem(paths.DRAWS, "small", 1)
    monkeypatch.setitem(responses.NETS, "small", ("resnet20_cifar",))
    monkeypatch.setattr("residuum.lab.reproduce._written", lambda entry, bench: bench)  # noqa: ARG005
    rows = {}
    for name in ("responses", "paths"):
        bench = reproduce(name, scale="small", data=str(few), bundles=[bundle], out=tmp_path / "lab", device="cpu")
        rows |= {row["kind"]: row for row in bench.rows}
    assert (rows["net"]["bundle"], rows["net"]["test_pictures"], rows["net"]["img_size"]) == ("resnet20", 500, 32)
    assert rows["net"]["test_error"] == pytest.approx(8.27, abs=4)  # three standard deviations of 500 pictures
    assert not (tmp_path / "lab" / "nets").exists()
    assert len(rows["responses"]["stds"]) == 19
    deletions = rows["deletions"]
    movable = [deletions["single"][block] for block in deletions["keeps_shape"]]
    assert sum(movable) / len(movable) < 60, "most blocks can be deleted, as Veit et al. found: chance is 90"
    assert len(rows["lengths"]["norms"]) == 10
