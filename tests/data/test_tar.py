"""Tar shards in WebDataset's layout, written by the standard library and read back."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shards import Files, picture, refused, samples, write

from residuum import recipe
from residuum.data import tar
from residuum.data.check import check
from residuum.data.loading import TrainLoader
from residuum.data.order import streaming_order
from residuum.data.sets import StreamedSet, relabelled, subset
from residuum.data.sources import find, open_parts, open_single, statistics
from residuum.distributed import World
from residuum.errors import DataError, PictureError
from residuum.imaging import Preprocessing


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RESIDUUM_CACHE", str(folder))
    return folder / "shards"


def test_every_picture_and_label_is_what_was_written(tmp_path: Path) -> None:
    files = samples(range(60), classes=12)
    names = list(files)
    for number in range(3):
        part = {name: files[name] for name in names[number * 40 : (number + 1) * 40]}
        write(tmp_path / f"train-{number:06d}.tar", part)
    images = open_single(str(tmp_path), None, None)
    assert isinstance(images, StreamedSet)
    assert images.classes == tuple(str(number) for number in range(12))
    assert images.labels.tolist() == [number % 12 for number in range(60)]
    for index in range(60):
        theirs = Image.open(io.BytesIO(files[f"{index:06d}.png"]))
        np.testing.assert_array_equal(np.asarray(images.open(index)), np.asarray(theirs))
        assert images.source(index) == files[f"{index:06d}.png"]
    assert images.name(41) == str(tmp_path / "train-000002.tar" / "000041.png")
    part = subset(subset(images, np.arange(20, 60)), [30, 5])
    assert [part.name(index)[-10:] for index in range(2)] == ["000050.png", "000025.png"]
    assert part.labels.tolist() == [2, 1]
    assert part.open(1).size == images.open(25).size


def test_parts_are_told_by_words_and_folders(tmp_path: Path) -> None:
    def counts(source: Path | str) -> dict[str, int]:
        return {name: len(part) for name, part in find(str(source)).parts.items()}

    write(tmp_path / "flat" / "imagenet1k-train-0000.tar", samples(range(9)))
    write(tmp_path / "flat" / "imagenet1k-train-0001.tar", samples(range(3)))
    write(tmp_path / "flat" / "imagenet1k-validation-00.tar", samples(range(4)))
    write(tmp_path / "deep" / "train" / "0.tar", samples(range(8)))
    write(tmp_path / "deep" / "valid" / "0.tar", samples(range(3)))
    write(tmp_path / "deep" / "valid" / "10.tar", samples(range(3, 6)))
    write(tmp_path / "deep" / "valid" / "2.tar", samples(range(6, 7)))
    write(tmp_path / "plain" / "pictures.tar", samples(range(5)))
    assert counts(tmp_path / "flat") == {"train": 12, "val": 4}
    assert counts(tmp_path / "flat" / "*train*.tar") == {"train": 12}
    assert counts(tmp_path / "flat" / "imagenet1k-train-{0000..0001}.tar") == {"train": 12}
    assert counts(tmp_path / "flat" / "imagenet1k-{train-0001,validation-00}.tar") == {"train": 3, "val": 4}
    assert counts(tmp_path / "flat" / "imagenet1k-validation-00.tar") == {"val": 4}
    assert counts(tmp_path / "deep") == {"train": 8, "val": 7}
    assert counts(tmp_path / "deep" / "{train,valid}" / "*.tar") == {"train": 8, "val": 7}
    images = find(str(tmp_path / "deep")).parts["val"]
    assert [images.name(index)[-17:] for index in (2, 3, 4)] == [
        "/0.tar/000002.png",
        "/2.tar/000006.png",
        "10.tar/000003.png",
    ]
    assert counts(tmp_path / "plain") == {"train": 5}
    assert not find(str(tmp_path / "plain")).divided
    assert "2 of the 4 files" in refused(tmp_path / "flat" / "imagenet1k-train-{0000..0003}.tar").what
    write(tmp_path / "flat" / "imagenet1k-train-0004.tar", samples(range(2)))
    assert "0002 is missing, and 1 more" in find(str(tmp_path / "flat")).warnings[0]
    (tmp_path / "plain" / "logs").mkdir()
    assert counts(tmp_path / "plain") == {"train": 5}
    (tmp_path / "plain" / "cats" / "young").mkdir(parents=True)
    (tmp_path / "plain" / "cats" / "young" / "a.jpg").touch()
    assert find(str(tmp_path / "plain")).kind == "folder"  # a tar file beside class folders is no shard


def test_labels_are_text_or_json_and_names_lie_beside_the_shards(tmp_path: Path) -> None:
    def opened(labels: Files, **names: str) -> tuple[tuple[str, ...], list[int]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        files: Files = {}
        for number, (end, label) in enumerate(labels.items()):
            files |= {f"n/{number}.jpeg": picture(number), f"n/{number}.{end.strip()}": label}
        write(folder / "train" / "0.tar", files)
        for name, text in names.items():
            (folder / f"classes.{name}").write_text(text)
        images = find(str(folder)).parts["train"]
        return images.classes, images.labels.tolist()

    assert opened({"cls": b"10\n", "cls ": b" 9", "CLS": b"010"}) == (("9", "10"), [1, 0, 1])
    assert opened({"cls": b"b10", "cls ": "b2".encode("utf-8-sig")}) == (("b2", "b10"), [1, 0])
    assert opened({"json": b'{"label": 1}', "json ": b'{"class": "cat"}'}) == (("1", "cat"), [0, 1])
    assert opened({"json": b"1", "cls": b"2"}, txt="z\ny\nx\n") == (("z", "y", "x"), [1, 2])
    assert opened({"cls": b"x", "cls ": b"z"}, txt="z\ny\nx") == (("z", "y", "x"), [2, 0])
    assert opened({"cls": b"10", "cls ": b"2"}, txt="2\n10") == (("2", "10"), [1, 0])  # all are names
    assert opened({"cls": b"1", "cls ": b"0"}, txt="2\n10") == (("2", "10"), [1, 0])
    assert opened({"cls": b"1"}, json='["a", "b"]') == (("a", "b"), [1])
    assert opened({"cls": b"1"}, json='{"b": 0, "a": 1}') == (("b", "a"), [1])
    assert opened({"cls": b"1"}, json='{"1": "a", "0": "b"}') == (("b", "a"), [1])
    for labels, names, what in [
        ({"cls": b"3"}, {"txt": "a\nb"}, "'3'"), ({"cls": b"c"}, {"txt": "a\nb"}, "'c'"),
        ({"cls": b"0"}, {"txt": "a\n\nb"}, "a name is empty"), ({"cls": b"0"}, {"txt": "a\na"}, "'a' comes twice"),
        ({"cls": b"0"}, {"json": '{"a": 1}'}, "the numbers are not"), ({"cls": b"0"}, {"json": "{"}, "does not name"),
        ({"cls": b"0"}, {"json": "[1]"}, "no list"), ({"cls": b"0"}, {"txt": ""}, "empty"),
        ({"cls": b""}, {}, "0.cls"), ({"cls": b"-1"}, {}, "0.cls"), ({"cls": b"\xff"}, {}, "0.cls"),
        ({"json": b"{"}, {}, "0.json"),
        ({"json": b"[" * 10**5}, {}, "0.json"), ({"json": b'{"label": 1.5}'}, {}, "0.json"),
        ({"json": b'{"label": true}'}, {}, "0.json"), ({"json": b'{"caption": 1}'}, {}, "no label for n/0.jpeg"),
        ({"txt": b"cat"}, {}, "no label for n/0.jpeg"),
    ]:  # fmt: skip
        with pytest.raises(DataError) as caught:
            opened(labels, **names)
        assert what in str(caught.value)


def test_a_shard_that_changes_while_it_is_used_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tar", samples(range(6)))
    images = find(str(path)).parts["train"]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"train\.tar has changed") as caught:
        images.open(0)
    assert not isinstance(caught.value, PictureError)  # or it could be skipped
    path.unlink()
    with pytest.raises(DataError, match=r"train\.tar cannot be read any more"):
        images.open(0)


def test_an_epoch_streams_through_the_shards_and_goes_on_anywhere(tmp_path: Path) -> None:
    for number in range(6):
        write(tmp_path / f"train-{number}.tar", samples(range(number * 8, number * 8 + 8)))
    images = find(str(tmp_path)).parts["train"]
    assert isinstance(images, StreamedSet)

    def loader(buffer: int, world_size: int = 1, of: StreamedSet = images) -> TrainLoader:
        import torch

        data = recipe.Data(batch_size=6, shuffle_buffer=buffer, workers=1)
        seen = Preprocessing("RGB", 8, 8, "bilinear", (0.5,) * 3, (0.25,) * 3)
        return TrainLoader(
            of,
            data,
            recipe.Augment(),
            seen,
            seed=3,
            device=torch.device("cpu"),
            channels_last=True,
            world=World(size=world_size),
        )

    def indices(loader: TrainLoader, epoch: int = 1, start: int = 0) -> list[int]:
        return [int(index) for batch in loader.epoch(epoch, start) for index in batch.indices]

    order = indices(loader(5))
    wanted = streaming_order([8] * 6, 5, seed=3, epoch=1, batch_size=6)
    assert order == wanted.tolist()
    assert indices(loader(5), start=3) == order[18:]
    assert indices(loader(5), epoch=2) != order
    dealt = streaming_order([8] * 6, 5, seed=3, epoch=1, batch_size=6, rank_count=2).reshape(8, 6)
    assert indices(loader(5, world_size=2)) == dealt[:, :2].ravel().tolist()  # what the first of two processes takes
    alone = loader(5)
    alone.deal_to(1, processes=2)  # a run that is resumed within an epoch that two processes began
    assert indices(alone) == dealt.ravel().tolist()
    assert indices(alone, epoch=2) == indices(loader(5), epoch=2)
    # A part of the set streams through the same shards, whatever order its pictures are in.
    held = np.setdiff1d(np.arange(48), [0, 9, 10, 47])[::-1]
    part = subset(images, held)
    assert isinstance(part, StreamedSet)
    rows = held[indices(loader(1, of=part))]
    assert np.array_equal(np.sort(rows), np.sort(held))
    assert np.count_nonzero(np.diff(rows // 8)) == 5
    assert (np.diff(rows)[np.diff(rows // 8) == 0] > 0).all()


def test_a_sample_of_a_large_set_is_of_few_shards() -> None:
    class Store:
        starts = np.arange(0, 100_000, 100)

        def read(self, row: int) -> bytes | None:
            raise AssertionError(row)

        def most_buffered(self, count: int) -> int:
            return count

    images = StreamedSet(Store(), np.zeros(100_000, np.int64), ("a",))
    sample = images.sample(2000)
    assert 1900 <= len(sample) <= 2000
    assert len(np.unique(sample // 100)) == 64
    assert np.abs(np.histogram(sample, 4, (0, 100_000))[0] - 500).max() < 40
    assert subset(images, np.arange(7)).sample(3).tolist() == [0, 3, 6]  # type: ignore[attr-defined]


def test_small_pictures_of_one_size_are_kept_in_memory_under_their_names(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(file, "PNG")
    files: Files = {}
    for number in range(20):
        files |= {f"{number}.png": file.getvalue(), f"{number}.cls": str(number % 2).encode()}
    parts = open_parts(recipe.Data(source=str(write(tmp_path / "train.tar", files))))
    assert parts.record["resident"] == {"train": True, "val": True}
    assert parts.train.name(0).startswith(str(tmp_path / "train.tar" / ""))
    np.testing.assert_allclose(statistics(parts.train)[0], np.array([1, 2, 3]) / 255)


def test_check_reads_shards(tmp_path: Path) -> None:
    files = samples(range(30)) | {"bad.png": picture(99)[:-30], "bad.cls": b"1"}
    files |= {"copy.png": files["000003.png"], "copy.cls": b"0"}
    checked = check(str(write(tmp_path / "train.tar", files)))
    found = {finding.kind: finding for finding in checked.findings}
    assert "truncated" in found
    assert checked.images == 32
    assert json.dumps(checked.as_dict()).count("bad.png") >= 1
    assert json.dumps(checked.as_dict()).count("copy.png") >= 1


def test_labels_of_a_trained_network_are_found_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "test.tar", samples(range(6), classes=2))
    images = open_single(str(path), "test", ["2", "1", "0"], mode="L")
    assert images.labels.tolist() == [2, 1] * 3
    assert images.open(0).mode == "L"
    assert isinstance(relabelled(images, images.labels, ("a",) * 3), StreamedSet)


def test_the_record_of_a_run_does_not_depend_on_where_the_shards_lie(tmp_path: Path) -> None:
    digests = []
    for folder in ("a", "b"):
        write(tmp_path / folder / "train-0.tar", samples(range(8)))
        digests.append(open_parts(recipe.Data(source=str(tmp_path / folder))).record["names"])
    assert digests[0] == digests[1]
    assert tar.shards_of(tmp_path / "nowhere") == {}
