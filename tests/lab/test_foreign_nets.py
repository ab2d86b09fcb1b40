"""Nets that others have trained, in the place of those that an experiment would train."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from residuum import bundle
from residuum.data.class_names import CLASS_NAMES
from residuum.errors import DataError, UsageError
from residuum.imaging import Preprocessing
from residuum.lab import foreign
from residuum.lab.experiments import paths, responses
from residuum.lab.reproduce import reproduce
from residuum.models import create_model
from residuum.models.convert import convert
from residuum.models.saved import arrays
from residuum.recipe import Model

DIGITS = tuple("0123456789")


def write_bundle(folder: Path, seed: int = 0, classes: tuple[str, ...] = DIGITS, **options: object) -> Path:
    """Writes a bundle of a narrow ResNet-20 for digits as its seed makes it, unless `options` say otherwise."""
    torch.manual_seed(seed)
    wanted = {"num_classes": len(classes), "in_channels": 1, "width": 0.25, **options}
    preprocessing = Preprocessing("L", 8, 8, "bilinear", (0.3,), (0.4,))
    card = {
        "model": {"name": "resnet20_cifar", **wanted},
        "classes": list(classes),
        "preprocessing": preprocessing.as_dict(),
        "licence": "unspecified",
        "scores": {},
    }
    bundle.write(folder, arrays(create_model("resnet20_cifar", **wanted).state_dict()), card)
    return folder


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
    place = tmp_path / "resnet20"
    convert(data_folder / "weights" / "resnet20-12fca82f.th", "resnet20_cifar", place, CLASS_NAMES["cifar10"])
    monkeypatch.setattr(paths, "NETS", ("resnet20_cifar",))
    monkeypatch.setitem(paths.PICTURES, "small", 60)
    monkeypatch.setitem(paths.DRAWS, "small", 1)
    monkeypatch.setitem(responses.NETS, "small", ("resnet20_cifar",))
    monkeypatch.setattr("residuum.lab.reproduce._written", lambda entry, bench, command: bench)  # noqa: ARG005
    rows = {}
    for name in ("responses", "paths"):
        bench = reproduce(name, scale="small", data=str(few), bundles=[place], out=tmp_path / "lab", device="cpu")
        rows |= {row["kind"]: row for row in bench.rows}
    assert rows["net"]["bundle"] == foreign.by_label([place])["resnet20"].name
    assert (rows["net"]["test_pictures"], rows["net"]["img_size"]) == (500, 32)
    assert rows["net"]["test_error"] == pytest.approx(8.27, abs=4)  # three standard deviations of 500 pictures
    assert not (tmp_path / "lab" / "nets").exists()
    assert len(rows["responses"]["stds"]) == 19
    deletions = rows["deletions"]
    movable = [deletions["single"][block] for block in deletions["keeps_shape"]]
    assert sum(movable) / len(movable) < 60, "most blocks can be deleted, as Veit et al. found: chance is 90"
    assert len(rows["lengths"]["norms"]) == 10


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves `responses` one net at smoke, so that none is trained."""
    monkeypatch.setitem(responses.NETS, "smoke", ("resnet20_cifar",))


@pytest.mark.usefixtures("alone")
def test_rows_are_of_the_bundle_that_is_given_and_of_no_other(tmp_path: Path) -> None:
    first, second = (write_bundle(tmp_path / name / "best", seed) for seed, name in enumerate("ab"))

    def stds(given: Path, out: str) -> list[float]:
        done = reproduce("responses", bundles=[given], out=tmp_path / out, device="cpu")
        assert done.command == f"residuum reproduce responses --scale smoke --bundle {given.parent.name}/best"
        (row,) = (row for row in done.rows if row["kind"] == "responses")
        found: list[float] = row["stds"]
        return found

    own = stds(first, "lab")
    with pytest.raises(UsageError, match=r"measured with digits and a/best \([0-9a-f]{12}\), not with .* b/best"):
        reproduce("responses", bundles=[second], out=tmp_path / "lab", device="cpu")
    with pytest.raises(UsageError, match=r"measured with digits and a/best \([0-9a-f]{12}\), not with digits\."):
        reproduce("responses", out=tmp_path / "lab", device="cpu")
    assert stds(first, "lab") == own
    assert stds(second, "other") != own
    write_bundle(first, 2)  # another network under the same name, in the same place
    with pytest.raises(UsageError, match="Give another --out"):
        reproduce("responses", bundles=[first], out=tmp_path / "lab", device="cpu")


@pytest.mark.parametrize("experiment", ["responses", "paths", "gradients", "reuse", "landscape"])
def test_a_bundle_that_fits_no_net_is_refused_before_anything_is_trained(experiment: str, tmp_path: Path) -> None:
    def refused(*given: Path) -> UsageError | DataError:
        with pytest.raises((UsageError, DataError)) as error:
            reproduce(experiment, bundles=given, out=tmp_path / "lab", device="cpu")
        assert not (tmp_path / "lab" / "nets").exists()
        assert not list((tmp_path / "lab").glob("*/results.jsonl"))
        return error.value

    if experiment in ("reuse", "landscape"):  # of nets of 56 layers
        unused = refused(write_bundle(tmp_path / "a"))
        assert unused.what == f"{experiment} has no net resnet20, which the bundle {tmp_path / 'a'} holds."
        assert unused.expected == "Expected a bundle of one of its nets: plain56, resnet56."
        return
    twice = refused(write_bundle(tmp_path / "a"), write_bundle(tmp_path / "b", 1))
    assert twice.what == f"Both {tmp_path / 'a'} and {tmp_path / 'b'} hold the network resnet20."
    other = refused(write_bundle(tmp_path / "wide", width=0.5))
    assert other.what.endswith(f"holds another network than the resnet20 of {experiment}: width = 0.5.")
    assert other.expected == "Expected width = 0.25."
    assert "shortcut = B" in refused(write_bundle(tmp_path / "projections", shortcut="B")).what
    classes = refused(write_bundle(tmp_path / "ten", classes=CLASS_NAMES["cifar10"]))
    assert classes.exit_code == 3
    assert "tells other classes apart than digits: airplane" in classes.what


def test_an_option_that_is_said_is_the_default_that_is_not(tmp_path: Path) -> None:
    given = foreign.by_label([write_bundle(tmp_path / "a", shortcut="A")])
    wanted = {"resnet20": Model("resnet20_cifar", width=0.25)}
    foreign.refuse_misfits(given, "paths", wanted, "digits", DIGITS)
    with pytest.raises(UsageError, match="holds another network"):
        foreign.refuse_misfits(given, "paths", {"resnet20": Model("resnet20_cifar")}, "digits", DIGITS)


def test_what_people_call_a_bundle() -> None:
    named = {"runs/photos-1/best": "photos-1/best", "runs/x/last": "x/last", "weights/resnet56": "resnet56"}
    assert {folder: foreign.shown(Path(folder)) for folder in named} == named
