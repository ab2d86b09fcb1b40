"""Making a cache: what it takes, what interrupts it, what it replaces, and pictures that cannot be used."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from cached import AUGMENTS, CPU, RGB, drawn, folder_of, same

from residuum import recipe
from residuum.data import cache
from residuum.data.cache_writer import Cached, Plan, write
from residuum.data.check import check
from residuum.data.loading import TrainLoader
from residuum.data.sources import open_single
from residuum.data.verification import verify
from residuum.errors import DataError, PictureError, ResourceError, UsageError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 PNG in two parts and two classes, which no test changes."""
    return folder_of(tmp_path_factory.mktemp("made") / "photos")


@pytest.fixture
def photos(made: Path, tmp_path: Path) -> Path:
    """The same folder, which a test may change; its files keep their times."""
    return Path(shutil.copytree(made, tmp_path / "photos"))


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(f".{folder.name}."))


def test_it_says_what_it_will_take_and_is_nearly_right(made: Path, tmp_path: Path) -> None:
    plans: list[Plan] = []
    counted: list[int] = []
    done = write(str(made), tmp_path / "cache", px=50, before=plans.append, progress=counted.append)
    assert plans[0].pictures == done.pictures == sum(counted) == 40
    assert done.bytes == (done.folder / cache.PIXELS).stat().st_size
    assert plans[0].bytes == done.bytes  # of so few pictures all were looked at
    assert plans[0].free_bytes == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    sums = [line.split("  ") for line in (done.folder / cache.SUMS).read_text().splitlines()]
    assert {name for _, name in sums} | {cache.SUMS} == {path.name for path in done.folder.iterdir()}
    assert all(hashlib.sha256((done.folder / name).read_bytes()).hexdigest() == digest for digest, name in sums)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**6, 0, 10**5))  # noqa: ARG005
    with pytest.raises(ResourceError, match=r"will take about .* GB, and 0\.00 GB are free"):
        write(str(made), tmp_path / "new" / "cache")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_is_interrupted_leaves_nothing_and_an_older_cache_as_it_was(
    made: Path, tmp_path: Path, failure: BaseException
) -> None:
    folder = tmp_path / "cache"

    def fail(count: int) -> None:  # noqa: ARG001
        raise failure

    expected = ResourceError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected):
        write(str(made), folder, progress=fail)
    assert list(tmp_path.iterdir()) == []
    write(str(made), folder, px=20)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(expected):
        write(str(made), folder, px=30, progress=fail)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert leftovers(folder) == []


def test_what_killed_writers_left_is_removed(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (tmp_path / ".cache.writing-1-abc").mkdir()
    (tmp_path / ".cache.writing-1-abc" / cache.PIXELS).write_bytes(b"half")
    write(str(made), folder, px=20)
    assert leftovers(folder) == []
    folder.rename(tmp_path / ".cache.older")  # killed between the two renames
    with pytest.raises(KeyboardInterrupt):
        write(str(made), folder, px=30, progress=_interrupted)
    assert cache.read_card(folder).px == 20
    assert leftovers(folder) == []


def _interrupted(count: int) -> None:  # noqa: ARG001
    raise KeyboardInterrupt


def test_the_same_again_does_nothing_and_anything_else_replaces_it(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cache"

    def again(**more: int) -> Cached:
        return write(str(photos), folder, **more)  # type: ignore[arg-type]

    assert again().made
    card = (folder / cache.CARD).stat()
    assert not again().made
    assert (folder / cache.CARD).stat().st_mtime_ns == card.st_mtime_ns
    assert again(px=40).made
    drawn(99).save(photos / "train" / "cat" / "new.png")
    assert again(px=40).pictures == 41
    (folder / cache.INDEX).write_bytes(b"damaged")
    assert again(px=40).made
    assert not again(px=40).made


def test_it_replaces_nothing_else_and_writes_nothing_among_the_pictures(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    (tmp_path / "file").touch()
    for place in (tmp_path / "full", tmp_path / "file", photos, photos / "cache", photos / "train" / "cat" / "x"):
        with pytest.raises(UsageError):
            write(str(photos), place)
    (tmp_path / "empty").mkdir()
    folder = write(str(photos), tmp_path / "empty", px=20).folder
    with pytest.raises(UsageError, match="is a cache already"):
        write(str(folder), tmp_path / "second")
    with pytest.raises(DataError, match="There is no image set"):
        write(str(tmp_path / "missing"), tmp_path / "third")
    assert (tmp_path / "full" / "thesis.txt").exists()


# --- bad pictures ---


def test_bad_pictures_are_what_they_are_in_the_files(photos: Path, tmp_path: Path) -> None:
    bad = photos / "train" / "cat" / "1.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(PictureError, match="truncated"):
        write(str(photos), tmp_path / "cache")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
    done = write(str(photos), tmp_path / "cache", on_bad_image="skip")
    assert list(done.bad) == [str(bad)]
    ours, theirs = (open_single(str(source), "train", None) for source in (done.folder, photos))
    assert verify(ours, "skip") == verify(theirs, "skip") == done.bad
    with pytest.raises(PictureError) as raised:
        verify(ours, "error")
    assert raised.value.name == str(bad)
    loaders = [
        TrainLoader(
            images,
            recipe.Data(batch_size=8, on_bad_image="skip"),
            AUGMENTS["pad"],
            RGB,
            seed=1,
            device=CPU,
            channels_last=True,
        )
        for images in (ours, theirs)
    ]
    assert same(*(list(loader.epoch(0)) for loader in loaders))
    assert loaders[0].skipped == loaders[1].skipped == done.bad
    assert [finding.kind for finding in check(str(done.folder)).findings if finding.severity == "harm"] == ["truncated"]


def test_too_many_bad_pictures_are_no_set(photos: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        next(photos.rglob(f"{number}.png")).write_bytes(b"")
    with pytest.raises(DataError, match="3 of 40 pictures cannot be used"):
        write(str(photos), tmp_path / "cache", on_bad_image="skip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos"]
