"""Where pictures lie: a folder, a zip, a tar, or the row itself; never outside of it, and never on the network."""

from __future__ import annotations

import gzip
import json
import os
import socket
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmm_r1.data.images import ImageStore
from lmm_r1.data.raw import locate
from lmm_r1.data.raw.locate import Pictures, member_name, open_archive
from lmm_r1.data.raw.sources import SOURCES, read_problems
from lmm_r1.errors import DataError
from tests.data.picture_files import make_folder, make_tar, make_zip, png

PLACES: dict[str, Callable[[Path, dict[str, bytes]], Path]] = {
    "images": make_folder,
    "images.zip": make_zip,
    "images.tar": make_tar,
    "images.tar.gz": lambda path, files: make_tar(path, files, "w:gz"),
}
FILES = {f"a/{n}.png": png(n) for n in range(40)} | {"./b/x y.jpg": png(7, "JPEG")}
place = pytest.mark.parametrize("name", PLACES)


@place
def test_a_picture_is_found_by_its_name(tmp_path: Path, name: str) -> None:
    """Catches a picture that another one stands for, in any order of asking, and files written beside the archive."""
    where = PLACES[name](tmp_path / name, FILES)
    before = sorted(tmp_path.rglob("*"))
    images = ImageStore()
    with Pictures(images, None, where) as put:
        for n in (39, 0, 17, 3, 38, 0):
            assert images.get(put(f"a/./{n}.png").sha)[0, 0, 0] == n
        put("b/x y.jpg")
        with pytest.raises(DataError, match=r"a/40\.png"):
            put("a/40.png")
    assert sorted(tmp_path.rglob("*")) == before


@place
@pytest.mark.parametrize(
    "path",
    ["../secret.png", "a/../../secret.png", "/etc/passwd", "file:///etc/passwd", "http://169.254.169.254/a.png",
     "http://a\\@127.0.0.1/", "data:image/png;base64,AAAA", "a\\0.png", "", " ", "a/0.png\n", "."],
)  # fmt: skip
def test_trial_30_no_path_leads_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str) -> None:
    """Catches trial 30: a path that leaves the pictures' folder or archive, or opens a connection."""

    def no_socket(*args: Any, **options: Any) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", no_socket)
    (tmp_path / "secret.png").write_bytes(png(1))
    where = PLACES[name](tmp_path / name, FILES)
    (tmp_path / "x.jsonl").write_text(json.dumps({"id": "1", "question": "q", "answer": "1", "image": [path]}))
    problems, (fault,) = read_problems(tmp_path / "x.jsonl", ImageStore(), reader=SOURCES["rows"], images_from=where)
    assert (problems, fault.row, fault.field) == ([], 1, "image")


def test_trial_30_links_and_hostile_members(tmp_path: Path) -> None:
    """Catches trial 30 inside of archives: a link out of the root, and members whose names lead out."""
    (tmp_path / "secret.png").write_bytes(png(1))
    (tmp_path / "images").mkdir()
    os.symlink(tmp_path / "secret.png", tmp_path / "images" / "link.png")
    with Pictures(ImageStore(), None, tmp_path / "images") as put, pytest.raises(DataError, match="outside"):
        put("link.png")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "../secret.png"
        tar.addfile(link)
        out = tarfile.TarInfo("../up.png")
        tar.addfile(out)
    assert dict(open_archive(tmp_path / "x.tar").sizes) == {}
    make_zip(tmp_path / "x.zip", {"../up.png": png(1), "/abs.png": png(1)})
    assert dict(open_archive(tmp_path / "x.zip").sizes) == {}


def test_sizes_are_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a member that unpacks to gigabytes, whatever its directory promises."""
    monkeypatch.setattr(locate, "MAX_FILE_BYTES", 1000)
    for name in ("images.zip", "images.tar.gz"):
        where = PLACES[name](tmp_path / name, {"bomb.png": bytes(50_000_000), "a.png": png(3)})
        monkeypatch.setattr(ImageStore, "put_bytes", lambda *_: pytest.fail("was read"))
        with Pictures(ImageStore(), None, where) as put, pytest.raises(DataError, match="too large"):
            put("bomb.png")
    # A directory that lies: 10 bytes promised, 50 MB inside.
    data = bytearray((tmp_path / "images.zip").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    (tmp_path / "lies.zip").write_bytes(data)
    archive = open_archive(tmp_path / "lies.zip")
    assert archive.sizes["bomb.png"] == 10
    with pytest.raises(zipfile.BadZipFile):
        archive.read("bomb.png")


def test_broken_archives_are_one_line(tmp_path: Path) -> None:
    """Catches a cut, flipped or foreign archive that ends the run with a traceback."""
    for name in ("images.zip", "images.tar", "images.tar.gz"):
        whole = PLACES[name](tmp_path / name, FILES).read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match="no archive") as caught:
            open_archive(tmp_path / f"cut.{name}")
        assert "\n" not in str(caught.value)
    (tmp_path / "x.rar").write_bytes(b"Rar!" + bytes(2000))
    with pytest.raises(DataError, match="no archive"):
        open_archive(tmp_path / "x.rar")
    with pytest.raises(DataError, match="no such folder or archive"):
        Pictures(ImageStore(), None, tmp_path / "none.zip")
    flipped = bytearray((tmp_path / "images.zip").read_bytes())
    flipped[60:70] = bytes(10)
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with Pictures(ImageStore(), None, tmp_path / "flipped.zip") as put:
        with pytest.raises(DataError, match="cannot be read from the archive"):
            put("a/0.png")
        assert put("a/1.png").width == 12


def test_a_gzip_file_is_read_at_any_place(tmp_path: Path) -> None:
    """Catches a wrong byte behind a saved state, at a chunk's edge, or behind a second gzip file in the same one."""
    random = np.random.default_rng(0)
    parts = [random.integers(0, 256, 3_000_000, np.uint8).tobytes(), bytes(500_000), random.integers(0, 9, 2_000_000, np.uint8).tobytes()]  # fmt: skip
    whole = b"".join(parts)
    (tmp_path / "x.gz").write_bytes(
        gzip.compress(parts[0] + parts[1], 1) + b"\0" * 100_000 + gzip.compress(parts[2], 0)
    )
    file = locate._Gunzip(tmp_path / "x.gz")
    for place_, size in [(0, 10), (2_999_990, 20), (5_400_000, 100_000), (5, 5), (3_499_999, 2), *((int(p), 999) for p in random.integers(0, 5_500_000, 60))]:  # fmt: skip
        file.seek(place_)
        assert file.read(size) == whole[place_ : place_ + size]
    assert len(file._states) > 3
    file.seek(5_499_999)
    assert file.read(100) == whole[-1:]


def test_published_and_given_prefixes(tmp_path: Path) -> None:
    """Catches VerMulti's rows, which name files of somebody's cluster, and a prefix that opens another folder."""
    make_folder(tmp_path / "data", {"images/1.png": png(1)})
    images = ImageStore()
    cluster = "/apdcephfs_gy2/share_302735770/berlinni/zgr/data/mathv60k/"
    with Pictures(images, tmp_path / "data") as put:
        assert images.get(put(f"{cluster}images/1.png").sha)[0, 0, 0] == 1
        with pytest.raises(DataError, match="outside"):
            put(f"{cluster}../../secret.png")
        with pytest.raises(DataError, match="outside"):
            put("/srv/them/images/1.png")
    given = [("/srv/them/", ""), ("/mnt/x", "images/"), ("/abs", str(tmp_path / "data" / "images"))]
    with Pictures(images, tmp_path / "data", prefixes=given) as put:
        for path in ("/srv/them//images/1.png", "/mnt/x/1.png", "/abs/1.png"):
            assert images.get(put(path).sha)[0, 0, 0] == 1
        for path in ("/abs/../../secret.png", "/srv/them/../secret.png"):
            with pytest.raises(DataError, match="outside"):
                put(path)


def test_a_folder_at_the_top_of_an_archive_may_be_left_out(tmp_path: Path) -> None:
    """Catches data_images.zip, whose folder the rows do not name, and a name that could be two files."""
    where = make_zip(
        tmp_path / "x.zip", {"data_images/a/1.png": png(1), "other/a/2.png": png(2), "more/a/2.png": png(3)}
    )
    images = ImageStore()
    with Pictures(images, None, where) as put:
        assert images.get(put("a/1.png").sha)[0, 0, 0] == 1
        with pytest.raises(DataError, match="several folders"):
            put("a/2.png")
        assert images.get(put("more/a/2.png").sha)[0, 0, 0] == 3


def test_rows_without_a_folder_say_so(tmp_path: Path) -> None:
    """Catches a row of the hub that names a file, which is looked for wherever the command runs."""
    with Pictures(ImageStore(), None) as put:
        with pytest.raises(DataError, match="say which folder or archive"):
            put("a.png")
        assert put(png(4)).width == 12
    assert member_name("./a//b.png") == "a/b.png"


@pytest.mark.parametrize("data", [b"", b"<html></html>", png(3)[:40], png(3)[:-20], b"\xff\xd8\xff\xe0" + bytes(50)])
@place
def test_trial_23_a_bad_picture_names_its_row(tmp_path: Path, name: str, data: bytes) -> None:
    """Catches trial 23: an empty, cut or foreign file that passes as a picture, from a folder or an archive."""
    where = PLACES[name](tmp_path / name, {"1.png": data, "2.png": png(2)})
    rows = [{"id": str(n), "question": "q", "answer": "1", "image": f"{n}.png"} for n in (1, 2, 3)]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems, faults = read_problems(tmp_path / "x.jsonl", ImageStore(), reader=SOURCES["rows"], images_from=where)
    assert [p.id for p in problems] == ["2"]
    assert [(f.file, f.row, f.field) for f in faults] == [(str(tmp_path / "x.jsonl"), n, "image") for n in (1, 3)]
    assert "1.png" in faults[0].message and "3.png" in faults[1].message
