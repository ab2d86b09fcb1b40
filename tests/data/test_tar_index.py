"""What is in a tar shard: held to the standard library; cut, broken and changed shards; the cache."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from PIL import Image
from shards import picture, refused, samples, write

from residuum.data import tar_index
from residuum.data.sources import find, open_single
from residuum.data.tar_members import members


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("RESIDUUM_CACHE", str(folder))
    return folder / "shards"


KINDS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.mark.parametrize("kind", KINDS)
def test_the_members_are_those_that_the_standard_library_finds(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    names = ["a.jpg", "b" * 96 + ".png", "folder/" * 18 + "c.png", "empty.cls", "./d e.png"]
    names += ["ü" * 40 + ".png"] + ([] if kind == "ustar" else ["x" * 300 + ".json", "ü" * 200 + ".png"])
    with tarfile.open(path, "w", format=KINDS[kind], pax_headers={"comment": "of all files"}) as shard:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name)
            member.size = number * 300 if name != "empty.cls" else 0
            member.mtime = 1e9 + 0.5 if kind == "pax" else 1e9
            shard.addfile(member, io.BytesIO(bytes([number]) * member.size))
        for type_, link in [(tarfile.SYMTYPE, "a.jpg"), (tarfile.LNKTYPE, "y" * 300), (tarfile.DIRTYPE, "")]:
            member = tarfile.TarInfo(f"other{type_.decode()}.png")
            member.size = 5000  # which some writers claim, and nothing follows
            member.type, member.linkname = type_, link if kind != "ustar" else link[:50]
            shard.addfile(member)
        last = tarfile.TarInfo("last.png")
        last.size = 1
        shard.addfile(last, io.BytesIO(b"!"))
    with tarfile.open(path) as shard:
        theirs = [
            (member.name, member.offset_data, member.size) for member in shard if member.isfile() and not member.islnk()
        ]
    with path.open("rb") as file:
        ours = [(member.name.decode(), member.offset, member.size) for member in members(file, "a.tar")]
    assert ours == theirs
    assert len(ours) == len(names) + 1


def test_what_the_tar_command_writes_is_read(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("there is no tar command")
    (tmp_path / "in").mkdir()
    for name, content in samples(range(5)).items():
        (tmp_path / "in" / name).write_bytes(content)
    order = sorted(os.listdir(tmp_path / "in"))  # noqa: PTH208
    for number, form in enumerate(["gnu", "ustar", "posix"]):
        path = tmp_path / f"out{number}" / "train.tar"
        path.parent.mkdir()
        subprocess.run(["tar", "-cf", path, f"--format={form}", "-C", tmp_path / "in", *order], check=True)
        assert len(open_single(str(path), None, None)) == 5


def test_samples_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    good, one = samples(range(2)), picture(0)
    for number, (files, what) in enumerate([
        ({"a.png": one}, "no label for a.png"),
        ({"a.cls": b"1"}, "a label and no picture for a"),
        ({"a.json": b'{"label": 1}'}, "a label and no picture for a"),
        ({"a.png": one, "a.jpg": one, "a.cls": b"1"}, "2 pictures in one sample, a.png and a.jpg"),
        ({"a.png": one, "a.PNG": one, "a.cls": b"1"}, "holds a.PNG twice"),
        ({"a.png": one, "a.cls": b"1", "b.png": one, "b.cls": b"1", "a.txt": b""}, "files of a in two places"),
        ({"000000.jpg": one, "x.txt": b"", "000000.json": b""}, "files of 000000 in two places"),
    ]):  # fmt: skip
        path = write(tmp_path / f"{number}.tar", good | files)
        assert what in (error := refused(path)).what
        assert str(path) in error.what
    passed_over = {"README": b"", "._x.png": b"", "LICENSE.txt": b"", "meta.json": b"[1]", "x.json": b"{", ".png": b""}
    images = find(str(write(tmp_path / "odd.tar", passed_over | good))).parts["train"]
    assert len(images) == 2


def test_a_shard_that_is_cut_short_is_named_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tar", samples(range(4)), tarfile.GNU_FORMAT).read_bytes()
    with tarfile.open(tmp_path / "whole.tar") as shard:
        end = max(member.offset_data + -(-member.size // 512) * 512 for member in shard)
    path = tmp_path / "train-000.tar"
    places = [*range(0, end + 1024, 97), *range(0, end + 1024, 512), end - 1, end, end + 1, end + 511, end + 1023]
    assert len(places) > 100
    for place in places:
        path.write_bytes(whole[:place])
        what = refused(path).what
        assert str(path) in what
        assert ("is empty" if place == 0 else "first header" if place < 512 else f"ends at byte {place:,}") in what
        if end - 512 < place < end:
            assert what.endswith("within the file 000003.cls.")
    for place in (end + 1024, end + 1025, len(whole)):  # nothing is missing but padding
        path.write_bytes(whole[:place])
        assert len(find(str(path)).parts["train"]) == 4


def test_what_is_no_tar_file_is_refused_with_its_name_and_what_it_is(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.tar", samples(range(3))).read_bytes()
    path = tmp_path / "train-000.tar"
    broken = bytearray(whole)
    broken[whole.index(b"000001.png")] ^= 1
    for content, what in [
        (b"PK\x03\x04" * 1000, "is not a tar file"), (b"\x1f\x8b" * 1000, "compressed with gzip"),
        (b"\xfd7zXZ" * 1000, "compressed with xz"), (bytes(broken), "broken header at byte"),
        (whole + whole, "goes on at byte 10,240"), (bytes(512) + whole, "goes on at byte 512"),
        (b"\xff" * 512, "is not a tar file"), (whole[:124] + b"x" * 12 + whole[136:], "is not a tar file"),
    ]:  # fmt: skip
        path.write_bytes(content)
        assert what in refused(path).what
        assert str(path) in refused(path).what
    (tmp_path / "packed").mkdir()
    with tarfile.open(tmp_path / "packed" / "train-0.tar.gz", "w:gz"):
        pass
    assert "gunzip" in refused(tmp_path / "packed").hint
    assert "gunzip" in refused(tmp_path / "packed" / "train-0.tar.gz").hint
    write(tmp_path / "sparse.tar", {})
    with tarfile.open(tmp_path / "sparse.tar", "w") as shard:
        member = tarfile.TarInfo("a.png")
        member.pax_headers = {"GNU.sparse.major": "1"}
        shard.addfile(member)
    assert "a.png as a sparse file" in refused(tmp_path / "sparse.tar").what


def test_names_in_a_shard_are_only_names(tmp_path: Path) -> None:
    files = {"../../up.png": picture(0), "../../up.cls": b"0", "/etc/passwd.png": picture(1), "/etc/passwd.cls": b"1"}
    path = write(tmp_path / "train.tar", files)
    before = sorted(tmp_path.rglob("*"))
    images = find(str(path)).parts["train"]
    assert images.name(1) == f"{path}/etc/passwd.png"
    assert images.open(0).size == Image.open(io.BytesIO(picture(0))).size
    assert sorted(tmp_path.rglob("*")) == before
    assert not (tmp_path.parent / "up.png").exists()
    assert not (tmp_path.parent.parent / "up.png").exists()


def test_the_second_start_reads_the_cache_and_a_changed_shard_is_read_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "train.tar", samples(range(6)))
    os.utime(path, ns=(0, 10**18))
    readings = []
    original = tar_index._read
    monkeypatch.setattr(tar_index, "_read", lambda *given: readings.append(given[1]) or original(*given))  # type: ignore[func-returns-value]

    def seen() -> tuple[list[str], list[int], int]:
        images = find(str(path)).parts["train"]
        return [images.name(index) for index in range(len(images))], images.labels.tolist(), len(readings)

    first = seen()
    assert first[2] == 1
    assert seen() == first
    (entry,) = cache.iterdir()
    whole = entry.read_bytes()
    readings.clear()
    places = list(range(0, len(whole), len(whole) // 40))
    for place in places:
        entry.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        assert seen()[:2] == first[:2]
        entry.write_bytes(whole[:place])
        assert seen()[:2] == first[:2]
    assert len(readings) == 2 * len(places)
    readings.clear()
    os.utime(path, ns=(0, 10**18 + 1))
    assert seen()[2] == seen()[2] == 1
    write(path, samples(range(7)))
    assert seen()[2] == 2
    assert seen()[2] == 3  # it has just changed, and may change again within the same tick of the clock
    assert len(seen()[0]) == 7
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setenv("RESIDUUM_CACHE", str(path))  # a file: nothing can be written there
    assert len(seen()[0]) == 7
