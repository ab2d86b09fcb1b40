"""Training on shards that are read in a stream: in their order, with the same weights when resumed."""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from residuum.data import parquet
from residuum.data.loading import Batch
from residuum.data.order import streaming_order
from residuum.data.sets import StreamedSet
from residuum.errors import Stopped
from residuum.evaluation.evaluate import evaluate
from residuum.recipe import Recipe
from residuum.training import loop, train
from residuum.training.run import Run


@pytest.fixture(scope="module")
def pictures(class_folders: Path) -> list[tuple[bytes, str]]:
    """The pictures of the class folders and their classes, in an order without order."""
    files = sorted(class_folders.glob("*/*.png"), key=lambda file: file.read_bytes()[-20:])
    return [(file.read_bytes(), file.parent.name) for file in files]


@pytest.fixture(params=["tar", "parquet"])
def shards(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pictures: list[tuple[bytes, str]]
) -> Path:
    monkeypatch.setenv("RESIDUUM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shards"
    folder.mkdir()
    for number in range(3):
        rows = pictures[number * 22 : (number + 1) * 22]
        if request.param == "parquet":
            table = pa.table({"image": [content for content, _ in rows], "label": [label for _, label in rows]})
            pq.write_table(table, folder / f"train-{number}.parquet", row_group_size=7)
        else:
            with tarfile.open(folder / f"train-{number}.tar", "w") as shard:
                for place, (content, label) in enumerate(rows):
                    for name, body in ((f"{place}.png", content), (f"{place}.cls", label.encode())):
                        member = tarfile.TarInfo(name)
                        member.size = len(body)
                        shard.addfile(member, io.BytesIO(body))
    monkeypatch.setattr(parquet, "RESIDENT_BYTES", 0)
    return folder


def weights(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.folder / "last" / "model.safetensors")


def test_a_run_on_shards_goes_on_where_it_was_stopped(
    shards: Path, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "finish", lambda _: None)
    wanted = dataclasses.replace(tiny, epochs=2, data=dataclasses.replace(tiny.data, shuffle_buffer=10))
    whole = train.train(wanted, data=str(shards), out=tmp_path / "whole", device="cpu")
    assert isinstance(whole.parts.train, StreamedSet)
    assert whole.parts.train.classes == ("2", "10", "bee")

    original, seen = loop.train_step, []

    def step(run: Run, batch: Batch, counts: Sequence[int]) -> tuple[float, float]:
        seen.append(batch.labels)
        if len(seen) == 6:
            run.stop.signal = 15
        return original(run, batch, counts)

    monkeypatch.setattr(loop, "train_step", step)
    with pytest.raises(Stopped):
        train.train(wanted, data=str(shards), out=tmp_path / "stopped", device="cpu")
    again = train.train(resume=str(tmp_path / "stopped"), device="cpu")
    assert len(seen) == whole.total_steps
    assert weights(again).keys() == weights(whole).keys()
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(again).items())

    images = whole.parts.train
    lengths = torch.bincount(
        torch.searchsorted(torch.tensor(images.store.starts), torch.tensor(images.rows), right=True)
    )
    order = streaming_order(lengths[1:].numpy(), 10, seed=0, epoch=1, batch_size=8)
    steps = len(whole.train_loader)
    assert torch.equal(torch.cat(seen[steps:]), torch.from_numpy(images.labels[order[: len(torch.cat(seen[steps:]))]]))


def test_a_run_on_shards_scores_as_one_on_files(shards: Path, finished: Run) -> None:
    from residuum.data.loading import EvalLoader
    from residuum.data.sources import open_single

    ours = open_single(str(shards), None, finished.classes)
    theirs = open_single(finished.recipe.data.source, None, finished.classes)
    scores = []
    for images in (ours, theirs):
        loader = EvalLoader(
            images, finished.preprocessing, 32, device=torch.device("cpu"), channels_last=finished.recipe.channels_last
        )
        scores.append(evaluate(finished.averaged.model, loader, finished.classes, finished.eval_autocast)[0])
    assert scores[0].top1 == scores[1].top1
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=1e-6)
