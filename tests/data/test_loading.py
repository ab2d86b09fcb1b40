"""The loaders: the same batches whatever the workers, the batch size or the start; bad pictures; threads and memory."""

from __future__ import annotations

import gc
import io
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from residuum import imaging, recipe
from residuum.data import loading, verification
from residuum.data.loading import Batch, EvalLoader, TrainLoader
from residuum.data.paths import PathsBuilder
from residuum.data.randomness import permutation
from residuum.data.sets import FileSet, ImageSet, ResidentSet
from residuum.data.verification import verify
from residuum.errors import DataError, PictureError
from residuum.imaging import Preprocessing

CPU = torch.device("cpu")
RGB = Preprocessing("RGB", 16, 18, "bilinear", (0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
PHOTOS = recipe.Augment(
    crop=recipe.ResizedCrop(), flip="random", rotate=10.0, brightness=0.3, saturation=0.3, lighting=0.1, erasing=0.3
)


def encoded(seed: int, kind: str = "JPEG") -> bytes:
    random = np.random.default_rng(seed)
    width, height = (int(side) for side in random.integers(20, 120, 2))
    picture = PIL.Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height))
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def file_set(folder: Path, count: int, bad: tuple[int, ...] = ()) -> FileSet:
    names = [f"{number:03}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        content = encoded(number)
        (folder / name).write_bytes(content[: len(content) // 2] if number in bad else content)
    builder = PathsBuilder(str(folder))
    builder.add("", names)
    return FileSet(builder.build(), np.arange(count) % 3, ("a", "b", "c"))


def resident_set(count: int, side: int = 16, mode: str = "RGB") -> ResidentSet:
    channels = 3 if mode == "RGB" else 1
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)
    pixels.flags.writeable = False  # as memory that is mapped from a file is
    return ResidentSet(pixels, np.arange(count) % 3, ("a", "b", "c"), mode, "noise")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> FileSet:
    return file_set(tmp_path_factory.mktemp("photos"), 41)


def train(
    images: ImageSet,
    augment: recipe.Augment = PHOTOS,
    preprocessing: Preprocessing = RGB,
    *,
    batch_size: int = 8,
    workers: int = 2,
    on_bad_image: loading.OnBadImage = "error",
) -> TrainLoader:
    data = recipe.Data(batch_size=batch_size, workers=workers, on_bad_image=on_bad_image)
    return TrainLoader(images, data, augment, preprocessing, seed=4, device=CPU, channels_last=True)


def evaluate(images: ImageSet, batch_size: int = 8, on_bad_image: loading.OnBadImage = "error") -> EvalLoader:
    return EvalLoader(images, RGB, batch_size, device=CPU, channels_last=True, workers=2, on_bad_image=on_bad_image)


def by_picture(batches: list[Batch]) -> dict[int, torch.Tensor]:
    return {int(index): image for batch in batches for index, image in zip(batch.indices, batch.images, strict=True)}


def same(ours: list[Batch], others: list[Batch]) -> bool:
    return len(ours) == len(others) and all(
        torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and np.array_equal(a.indices, b.indices)
        for a, b in zip(ours, others, strict=True)
    )


SETS: dict[str, Callable[[FileSet], tuple[ImageSet, recipe.Augment]]] = {
    "decoded, resized crop": lambda photos: (photos, PHOTOS),
    "decoded, scale crop": lambda photos: (photos, recipe.Augment(crop=recipe.ScaleCrop(16, 32), flip="random")),
    "decoded, padded crop": lambda photos: (photos, recipe.Augment(crop=recipe.PadCrop(2), flip="alternate")),
    "resident, padded crop": lambda _: (resident_set(41, 18), recipe.Augment(crop=recipe.PadCrop(2), erasing=0.5)),
    "resident, resized crop": lambda _: (resident_set(41, 20), PHOTOS),
}


@pytest.mark.parametrize("kind", SETS)
def test_what_happens_to_a_picture_depends_on_seed_epoch_and_picture_only(photos: FileSet, kind: str) -> None:
    images, augment = SETS[kind](photos)
    batches = list(train(images, augment, workers=1).epoch(2))
    assert same(batches, list(train(images, augment, workers=3).epoch(2)))
    assert same(batches[3:], list(train(images, augment).epoch(2, start=3)))
    assert list(train(images, augment).epoch(2, start=len(batches))) == []
    pictures, others = by_picture(batches), by_picture(list(train(images, augment, batch_size=41).epoch(2)))
    assert all(torch.equal(picture, others[index]) for index, picture in pictures.items())
    again = by_picture(list(train(images, augment).epoch(3)))
    assert not all(torch.equal(picture, again[index]) for index, picture in pictures.items() if index in again)


def test_an_epoch_is_every_picture_once_in_a_new_order(photos: FileSet) -> None:
    loader = train(photos, batch_size=10)
    for epoch in (0, 1):
        batches = list(loader.epoch(epoch))
        assert [len(batch.indices) for batch in batches] == [10, 10, 10, 10]  # the 41st picture would be alone
        order = np.concatenate([batch.indices for batch in batches])
        assert np.array_equal(order, permutation(41, 4, epoch)[:40])
        assert np.array_equal(torch.cat([batch.labels for batch in batches]).numpy(), photos.labels[order])
        assert all(batch.images.dtype == torch.float32 for batch in batches)
        assert all(batch.labels.dtype == torch.int64 for batch in batches)


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"), [(9, 8, [8]), (10, 8, [8, 2]), (3, 8, [3]), (3, 1, [1, 1, 1]), (16, 8, [8, 8])]
)
def test_a_last_batch_of_one_picture_is_left_out(count: int, batch_size: int, sizes: list[int]) -> None:
    loader = train(resident_set(count), recipe.Augment(), batch_size=batch_size)
    assert len(loader) == len(sizes)
    assert [len(batch.labels) for batch in loader.epoch(0)] == sizes


def test_one_picture_is_too_few_to_train_on() -> None:
    with pytest.raises(DataError, match="has 1 picture\\. Expected at least 2"):
        train(resident_set(1))


def test_no_augmentation_is_what_evaluation_sees(photos: FileSet) -> None:
    for images in (photos, resident_set(40, 24)):
        shown = by_picture(list(evaluate(images)))
        for index, picture in by_picture(list(train(images, recipe.Augment()).epoch(0))).items():
            assert torch.equal(picture, shown[index])


@pytest.mark.parametrize("batch_size", [1, 7, 40, 100])
@pytest.mark.parametrize("side", [16, 18, 30])
def test_evaluation_is_prepare_and_normalise(photos: FileSet, batch_size: int, side: int) -> None:
    for images in (photos, resident_set(41, side)):
        loader = evaluate(images, batch_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert np.array_equal(np.concatenate([batch.indices for batch in batches]), np.arange(41))
        assert np.array_equal(torch.cat([batch.labels for batch in batches]).numpy(), images.labels)
        prepared = np.stack([imaging.prepare(images.open(index), RGB) for index in range(41)])
        shown = torch.cat([batch.images for batch in batches]).numpy()
        assert np.array_equal(shown, imaging.normalise(prepared, RGB))
        assert same(list(loader), batches)


def test_a_resident_set_of_the_right_size_is_not_copied() -> None:
    images = resident_set(8)
    same_size = Preprocessing("RGB", 16, 16, "bilinear", RGB.mean, RGB.std)
    assert loading.prepared(images, same_size) is images.images
    assert loading.prepared(images, RGB).shape == (8, 16, 16, 3)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_batches_have_the_layout_that_was_asked_for(channels_last: bool, mode: str) -> None:
    channels = 3 if mode == "RGB" else 1
    shape = Preprocessing(mode, 8, 8, "bilinear", (0.5,) * channels, (0.5,) * channels)  # type: ignore[arg-type]
    augment = recipe.Augment(crop=recipe.PadCrop(1), flip="random")
    loader = TrainLoader(
        resident_set(20, 8, mode),
        recipe.Data(batch_size=10),
        augment,
        shape,
        seed=0,
        device=CPU,
        channels_last=channels_last,
    )
    for batch in loader.epoch(0):
        assert batch.images.shape == (10, channels, 8, 8)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        assert batch.images.is_contiguous(memory_format=layout)


def test_a_bad_picture_stops_the_run_by_name(tmp_path: Path) -> None:
    images = file_set(tmp_path, 40, bad=(17,))
    for batches in (train(images).epoch(0), iter(evaluate(images))):
        with pytest.raises(PictureError, match="truncated") as raised:
            list(batches)
        assert raised.value.name == images.name(17)


def test_a_bad_picture_can_be_skipped_and_nothing_takes_its_place(tmp_path: Path) -> None:
    good_folder, bad_folder = tmp_path / "good", tmp_path / "bad"
    good_folder.mkdir()
    bad_folder.mkdir()
    good, bad = file_set(good_folder, 40), file_set(bad_folder, 40, bad=(17, 30))
    for epoch in (0, 1):
        loader = train(bad, on_bad_image="skip")
        batches, wanted = list(loader.epoch(epoch)), list(train(good).epoch(epoch))
        for ours, whole in zip(batches, wanted, strict=True):
            kept = ~np.isin(whole.indices, (17, 30))
            assert np.array_equal(ours.indices, whole.indices[kept])
            assert torch.equal(ours.images, whole.images[torch.from_numpy(kept)])
            assert torch.equal(ours.labels, whole.labels[torch.from_numpy(kept)])
        assert set(loader.skipped) == {bad.name(17), bad.name(30)}
        assert all("truncated" in reason for reason in loader.skipped.values())
    scores = evaluate(bad, on_bad_image="skip")
    assert np.array_equal(np.concatenate([batch.indices for batch in scores]), np.delete(np.arange(40), (17, 30)))
    assert set(scores.skipped) == set(loader.skipped)


def test_a_batch_gets_smaller_down_to_nothing(tmp_path: Path) -> None:
    images = file_set(tmp_path, 40, bad=(17,))
    assert len(list(evaluate(images, 1, on_bad_image="skip"))) == 39
    sizes = [len(batch.indices) for batch in train(images, batch_size=2, on_bad_image="skip").epoch(0)]
    assert sorted(sizes) == [1] + [2] * 19
    sizes = [len(batch.indices) for batch in train(images, batch_size=1, on_bad_image="skip").epoch(0)]
    assert sorted(sizes) == [0] + [1] * 39


def test_more_than_a_twentieth_of_bad_pictures_stops_in_any_mode(tmp_path: Path) -> None:
    images = file_set(tmp_path, 40, bad=(3, 17, 30))
    for batches in (train(images, on_bad_image="skip").epoch(0), iter(evaluate(images, on_bad_image="skip"))):
        with pytest.raises(DataError, match="3 of 40 pictures cannot be used; the first is"):
            list(batches)
    with pytest.raises(DataError, match="at most 5% bad"):
        verify(images, "skip")


def test_verify_finds_bad_pictures_before_training(tmp_path: Path) -> None:
    images = file_set(tmp_path, 40, bad=(17, 30))
    found = verify(images, "skip")
    assert list(found) == [images.name(17), images.name(30)]
    assert all("truncated" in reason for reason in found.values())
    with pytest.raises(PictureError) as raised:
        verify(images, "error")
    assert raised.value.name == images.name(17)
    assert verify(resident_set(5), "error") == {}


@pytest.mark.parametrize("kind", sorted(imaging.FORMATS))
def test_a_cut_file_is_noticed_at_the_scale_that_verify_decodes_at(kind: str) -> None:
    content = encoded(1, kind)
    assert imaging.open_picture(content, at_least_px=1).width > 0
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(PictureError):
            imaging.open_picture(content[: int(share * len(content))], at_least_px=1)


def test_verify_only_looks_at_the_first_bytes_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = file_set(tmp_path, 100, bad=(17,))
    for number, content in ((40, b"<!DOCTYPE html>"), (50, b"")):
        (tmp_path / f"{number:03}.jpg").write_bytes(content)
    (tmp_path / "060.jpg").unlink()
    (tmp_path / "070.jpg").write_bytes(encoded(0, "PNG"))
    monkeypatch.setattr(verification, "DECODED_LIMIT", 99)
    assert list(verify(images, "skip")) == [images.name(number) for number in (40, 50, 60)]
    monkeypatch.setattr(verification, "LOOKED_AT_LIMIT", 99)
    assert verify(images, "error") == {}


@dataclass(frozen=True)
class Watched:
    """A set that writes down which picture was asked for, and takes its time over it."""

    labels: np.ndarray = field(default_factory=lambda: np.zeros(80, np.int64))
    classes: tuple[str, ...] = ("a",)
    mode: imaging.Mode = "RGB"
    asked: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"watched[{index}]"

    def open(self, index: int, at_least_px: int | None = None) -> PIL.Image.Image:  # noqa: ARG002
        self.asked.append(index)
        time.sleep(0.001 * (index % 3))
        return PIL.Image.new("RGB", (16, 16), (index, index, index))


def test_a_few_batches_are_decoded_ahead_in_order() -> None:
    images = Watched()
    batches = iter(evaluate(images, 4))
    for number in range(5):
        batch = next(batches)
        assert batch.indices.tolist() == list(range(4 * number, 4 * number + 4))
        assert [
            round(float(value)) for value in batch.images[:, 0, 0, 0] * 0.25 * 255 + 0.5 * 255
        ] == batch.indices.tolist()
        expected, deadline = 4 * (number + 1 + loading._AHEAD), time.monotonic() + 10
        while len(images.asked) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.02)  # long enough to begin with more, if nothing held the threads back
        assert len(images.asked) == expected
        assert sorted(images.asked) == list(range(len(images.asked)))


def decoders() -> int:
    return sum(thread.name.startswith("residuum-decode") for thread in threading.enumerate())


def test_no_thread_outlives_its_iteration(tmp_path: Path) -> None:
    assert decoders() == 0
    images = Watched()
    abandoned = train(images).epoch(0)
    next(abandoned)
    assert decoders() > 0
    del abandoned
    gc.collect()
    assert decoders() == 0
    assert len(images.asked) < 80
    train(images).epoch(0)  # never started
    list(train(images).epoch(0))
    for batch in evaluate(images):
        assert len(batch.labels)
        break
    with pytest.raises(PictureError):
        list(train(file_set(tmp_path, 40, bad=(2,))).epoch(0))
    gc.collect()
    assert decoders() == 0


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc, which only Linux has")
def test_memory_is_flat_over_epochs(photos: FileSet) -> None:
    large = Preprocessing("RGB", 128, 128, "bilinear", RGB.mean, RGB.std)
    loader, sizes = train(photos, recipe.Augment(crop=recipe.ResizedCrop(), flip="random"), large), []
    for epoch in range(10):
        for batch in loader.epoch(epoch):
            assert batch.images.shape[1:] == (3, 128, 128)
        sizes.append(resident_bytes())
    one_epoch = 41 * 3 * 128 * 128 * 4  # 8 MB: keeping a single epoch's batches in each of the last six would be 48
    assert sizes[-1] - sizes[3] < 2 * one_epoch


def test_workers_are_chosen_by_who_else_needs_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cores", lambda: 8)
    assert loading.default_workers(torch.device("cuda")) == 8
    assert loading.default_workers(CPU) == 4
    monkeypatch.setattr(loading, "cores", lambda: 1)
    assert loading.default_workers(CPU) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", ["decoded, padded crop", "resident, padded crop"])
def test_a_gpu_sees_the_same_pixels(photos: FileSet, kind: str) -> None:
    images, augment = SETS[kind](photos)
    loaders = [
        TrainLoader(
            images, recipe.Data(batch_size=8), augment, RGB, seed=4, device=torch.device(name), channels_last=True
        )
        for name in ("cpu", "cuda")
    ]
    for ours, theirs in zip(*(loader.epoch(1) for loader in loaders), strict=True):
        assert theirs.images.device.type == theirs.labels.device.type == "cuda"
        torch.testing.assert_close(theirs.images.cpu(), ours.images, rtol=0, atol=1e-6)
        assert torch.equal(theirs.labels.cpu(), ours.labels)
