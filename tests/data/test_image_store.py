"""The image store: pixels by sha, and files that must be refused with one clear line."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil
from PIL import ImageCms

import lmm_r1.data.images as images
from lmm_r1.data.images import MAX_ASPECT, MAX_FILE_BYTES, ImageStore, Pixels, sha_of
from lmm_r1.errors import DataError


def picture(width: int = 20, height: int = 12, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, pixels: Pixels, **options: object) -> Path:
    Pil.fromarray(pixels).save(path, **options)  # type: ignore[arg-type]
    return path


def test_a_drawn_picture_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Catches lossy storage, and a name that forgets the shape (20x12 and 12x20 of the same bytes)."""
    store, pixels = ImageStore(cache=1), picture()
    image = store.put(pixels)
    store.put(picture(seed=1))
    assert (image.width, image.height) == (20, 12)
    assert np.array_equal(store.get(image.sha), pixels)
    assert np.array_equal(np.array(Pil.open(store.save_png(image.sha, tmp_path))), pixels)
    assert sha_of(pixels.reshape(20, 12, 3)) != image.sha
    with pytest.raises(ValueError, match="read-only"):
        store.get(image.sha)[0, 0, 0] = 1


def test_the_callers_array_may_change_afterwards() -> None:
    """Catches a store that keeps a view: the picture under a sha would change."""
    store, pixels = ImageStore(), picture()
    image = store.put(pixels)
    kept = pixels.copy()
    pixels[:] = 0
    assert np.array_equal(store.get(image.sha), kept)


def test_a_file_has_the_sha_of_its_pixels_whatever_its_format(tmp_path: Path) -> None:
    """Catches a name that depends on compression or on metadata."""
    store, pixels = ImageStore(), picture()
    shas = {
        store.put_file(save(tmp_path / name, pixels, **options)).sha
        for name, options in (
            ("a.png", {}),
            ("b.bmp", {}),
            ("c.png", {"compress_level": 9}),
            ("d.webp", {"lossless": True}),
        )
    }
    assert shas == {sha_of(pixels)}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    """Catches a mode that is refused, or comes out black or white (16 bit clipped at 255)."""
    grey = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (8, 1))
    if mode == "I;16":
        source = Pil.fromarray((grey.astype(np.uint16) * 257).astype(np.uint16))
    else:
        source = Pil.fromarray(grey).convert("RGB").convert(mode)
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    source.save(path)
    store = ImageStore()
    pixels = store.get(store.put_file(path).sha)
    assert pixels.shape == (8, 16, 3)
    assert pixels[:, 0].mean() < 40 < 215 < pixels[:, -1].mean()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    """Catches black line drawings on a transparent ground, which would become black on black."""
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[0, 0, 3] = 255
    store = ImageStore()
    pixels = store.get(store.put_file(save(tmp_path / "t.png", drawn)).sha)
    assert tuple(pixels[0, 0]) == (0, 0, 0)
    assert tuple(pixels[5, 5]) == (255, 255, 255)


def test_exif_orientation_is_applied_once(tmp_path: Path) -> None:
    """Catches a photograph that lies on its side."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :4] = 255
    exif = Pil.Exif()
    exif[0x0112] = 6  # stored turned: to be shown rotated by 90 degrees clockwise
    path = tmp_path / "t.png"
    Pil.fromarray(pixels).save(path, exif=exif)
    store = ImageStore()
    image = store.put_file(path)
    assert (image.width, image.height) == (8, 16)
    assert store.get(image.sha)[0].mean() == 255
    assert store.get(image.sha)[-1].mean() == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_a_fault(tmp_path: Path, kind: str, share: float) -> None:
    """Catches a half grey picture that silently enters training."""
    out = io.BytesIO()
    Pil.fromarray(picture(64, 64)).save(out, kind)
    path = tmp_path / "cut.img"
    path.write_bytes(out.getvalue()[: int(len(out.getvalue()) * share)])
    with pytest.raises(DataError, match=r"cut\.img"):
        ImageStore().put_file(path)


def test_other_bad_files_are_faults(tmp_path: Path) -> None:
    """Catches a missing file, a web page saved as .jpg, a folder and a moving picture that raise something else."""
    page = tmp_path / "page.jpg"
    page.write_text("<html>404</html>")
    moving = tmp_path / "m.gif"
    Pil.fromarray(picture()).save(moving, save_all=True, append_images=[Pil.fromarray(picture(seed=1))])
    for path, says in (
        (tmp_path / "no.png", "missing"),
        (page, "no known kind"),
        (tmp_path, "not an image"),
        (moving, "moving"),
    ):
        with pytest.raises(DataError, match=says):
            ImageStore().put_file(path)


def test_a_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    """Catches decoding before the size is checked: these few bytes claim 10^10 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (20_000, 100_000):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        path = tmp_path / f"{side}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
        with pytest.raises(DataError):
            ImageStore().put_file(path)


def test_shapes_no_model_can_see_are_refused(tmp_path: Path) -> None:
    """Catches a needle of a picture that crashes the processor later, in the middle of a run."""
    store = ImageStore()
    assert store.put(picture(1, 1)).width == 1
    store.put(picture(MAX_ASPECT, 1))
    with pytest.raises(DataError, match="too long"):
        store.put(picture(MAX_ASPECT + 1, 1))
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(DataError, match="uint8"):
            store.put(wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="empty"):
        store.put(np.zeros((0, 4, 3), np.uint8))


@pytest.mark.parametrize(
    "name",
    ["../secret.png", "/etc/passwd", "http://x/y.png", "file:///etc/passwd", "", "a\\b.png", "a\nb", "out/secret.png"],
)
def test_a_row_cannot_reach_outside_its_folder(tmp_path: Path, name: str) -> None:
    """Catches path traversal, a link that leads out, and a download."""
    save(tmp_path / "secret.png", picture())
    root = tmp_path / "data"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    with pytest.raises(DataError):
        ImageStore().put_file(name, root=root)


def test_a_file_that_changed_is_noticed(tmp_path: Path) -> None:
    """Catches training on a picture that is not the one that was checked."""
    path = save(tmp_path / "a.png", picture())
    store = ImageStore(cache=1)
    image = store.put_file(path)
    store.put(picture(seed=5))
    save(path, picture(seed=1))
    with pytest.raises(DataError, match="changed"):
        store.get(image.sha)


def test_forget_drops_drawn_pictures_and_keeps_files(tmp_path: Path) -> None:
    """Catches memory that grows every step, and a file that the second epoch cannot find."""
    store = ImageStore()
    file = store.put_file(save(tmp_path / "a.png", picture(seed=1)))
    a, b = store.put(picture(seed=2)), store.put(picture(seed=3))
    given = store.put_bytes(encoded("PNG", picture(seed=4)))
    store.forget({b.sha})
    assert a.sha not in store
    assert b.sha in store
    assert np.array_equal(store.get(file.sha), picture(seed=1))
    assert np.array_equal(store.get(given.sha), picture(seed=4)), "nobody could make it again"
    with pytest.raises(DataError, match="no picture"):
        store.get(a.sha)


def encoded(kind: str, pixels: Pixels, **options: object) -> bytes:
    out = io.BytesIO()
    Pil.fromarray(pixels).save(out, kind, **options)  # type: ignore[arg-type]
    return out.getvalue()


# ---- pictures that come as bytes


def test_bytes_and_files_are_held_to_the_same_rules(tmp_path: Path) -> None:
    """Catches a second, laxer door: whatever a file is refused for, or turned by, holds for bytes as well."""
    exif = Pil.Exif()
    exif[0x0112] = 6
    moving = io.BytesIO()
    Pil.fromarray(picture()).save(moving, "GIF", save_all=True, append_images=[Pil.fromarray(picture(seed=1))])
    whole = encoded("PNG", picture())
    cases = {
        "plain": whole, "turned": encoded("PNG", picture(), exif=exif), "grey": encoded("PNG", picture()[..., 0]),
        "cut": whole[:200], "page": b"<html>404</html>", "empty": b"", "moving": moving.getvalue(),
        "needle": encoded("PNG", picture(MAX_ASPECT + 1, 1)),
    }  # fmt: skip
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        try:
            wanted: object = ImageStore().put_file(path)
        except DataError as error:
            wanted = ("row 3", error.faults[0].message.split(":")[0])
            wanted = ("row 3", "the image holds no bytes") if name == "empty" else wanted
        try:
            got: object = ImageStore().put_bytes(data, name="row 3")
        except DataError as error:
            got = (error.faults[0].file, error.faults[0].message.split(":")[0])
        assert got == wanted, name
    with pytest.raises(DataError, match="too large"):
        ImageStore().put_bytes(b"\0" * (MAX_FILE_BYTES + 1))


def test_spilled_bytes_are_on_the_disk_and_not_in_memory(tmp_path: Path) -> None:
    """Catches a parquet of a million pictures that ends up in memory, and a spilled picture that is not the one put in."""
    store = ImageStore(cache=1, spill=tmp_path / "spill")
    put = [store.put_bytes(encoded("PNG", picture(seed=k))) for k in range(5)]
    store.put_bytes(encoded("BMP", picture(seed=0)))
    assert sorted(p.name for p in (tmp_path / "spill").iterdir()) == sorted(f"{i.sha}.png" for i in put)
    assert not store._png and len(store) == 5
    store.forget(())
    assert all(np.array_equal(store.get(i.sha), picture(seed=k)) for k, i in enumerate(put))
    assert store.save_png(put[0].sha, tmp_path / "spill").stat().st_mtime_ns > 0, "a prepared folder may be the spill"


# ---- each file once, several at a time


def test_a_file_is_opened_once_however_often_a_row_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches 60,000 decodings of 20,000 pictures; and a memory that outlives a change of the file."""
    opened: list[str] = []
    real = images.read_picture
    monkeypatch.setattr(images, "read_picture", lambda path: opened.append(str(path)) or real(path))
    path = save(tmp_path / "a.png", picture())
    store = ImageStore()
    first = store.put_file(path)
    assert [store.put_file(path), *store.put_files([path] * 3)] == [first] * 4
    store.get(first.sha)
    assert len(opened) == 1
    other = [save(tmp_path / f"{k}.png", picture(seed=k)) for k in (2, 3)]
    assert len(list(store.put_files([other[0], other[1], other[0], other[0]], workers=2))) == 4
    assert len(opened) == 3
    save(path, picture(seed=9))
    os.utime(path, ns=(1, 1))
    assert store.put_file(path).sha == sha_of(picture(seed=9))


def test_files_read_in_threads_come_in_order_with_their_faults(tmp_path: Path) -> None:
    """Catches pictures that overtake each other, a fault that stops the rest, and warning filters that threads lose."""
    names = []
    for k in range(40):
        names.append(f"{k}.png")
        save(tmp_path / names[-1], picture(8 + (400 if k % 3 == 0 else 0), 8 + k, seed=k))
    names[5], names[17], names[30] = "missing.png", "../out.png", "page.png"
    (tmp_path / "page.png").write_text("<html>")
    store, plain = ImageStore(cache=2), ImageStore()
    found = list(store.put_files(names, root=tmp_path, workers=4))
    for k, (name, result) in enumerate(zip(names, found, strict=True)):
        if k in (5, 17, 30):
            assert isinstance(result, DataError)
            continue
        assert result == plain.put_file(name, root=tmp_path)
        assert np.array_equal(store.get(result.sha), plain.get(result.sha))  # type: ignore[union-attr]
    assert "missing" in str(found[5]) and "outside" in str(found[17]) and "no known kind" in str(found[30])
    assert len(store._decoded) <= 2


def test_little_is_kept_of_a_known_file(tmp_path: Path) -> None:
    """Catches pixels, Path objects or hex names kept for every file of a large set: a million must fit in half a GB."""
    store = ImageStore(cache=1)
    image = store.put_file(save(tmp_path / "a.png", picture()))
    (file,), (known,), (digest,) = store._known, store._known.values(), store._paths
    assert store._paths[digest] is file and digest is known.digest, "one copy of the path and of the digest"
    assert sum(map(sys.getsizeof, (known, digest, known.stamp, file))) - len(file) < 250
    assert image.sha == digest.hex()


# ---- reliability trials 23 to 26


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.75, 0.9])
def test_trial_23_a_file_cut_at_five_points(tmp_path: Path, kind: str, share: float) -> None:
    """Catches a half grey picture of any of the known kinds."""
    data = encoded(kind, picture(64, 64))
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: max(1, int(len(data) * share))])
    with pytest.raises(DataError, match=r"cut\.jpg: .*broken or truncated"):
        ImageStore().put_file(path)


def test_trial_23_the_name_of_a_file_says_nothing(tmp_path: Path) -> None:
    """Catches a JPEG saved as .png that is refused, and bytes of other kinds that are taken by their name."""
    pixels = picture(16, 16)
    wrong = tmp_path / "photo.png"
    wrong.write_bytes(encoded("JPEG", pixels, quality=95))
    assert ImageStore().put_file(wrong).width == 16
    missing, empty, page = tmp_path / "none.jpg", tmp_path / "empty.jpg", tmp_path / "page.jpg"
    empty.write_bytes(b"")
    page.write_bytes(b"<!DOCTYPE html><html><body>403 Forbidden</body></html>")
    tiff = tmp_path / "scan.png"
    tiff.write_bytes(encoded("TIFF", pixels))  # a kind that is not tried
    for path, says in (
        (missing, "missing"),
        (empty, "no known kind"),
        (page, "no known kind"),
        (tiff, "no known kind"),
    ):
        with pytest.raises(DataError, match=says) as caught:
            ImageStore().put_file(path)
        assert caught.value.faults[0].file == str(path)


def test_trial_24_bombs_are_refused_in_little_memory_and_time(tmp_path: Path) -> None:
    """Catches decoding before the size is known: 169 Mpx in 20 kB, 14,000 squared as PNG, WEBP-sized and BMP, 100 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, depth in ((13_000, 1), (14_000, 1)):
        raw = zlib.compressobj(9)
        row = b"\0" + b"\0" * (side // 8)
        body = b"".join(raw.compress(row) for _ in range(side)) + raw.flush()
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0))
        path = tmp_path / f"{side}.png"
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    assert (tmp_path / "13000.png").stat().st_size < 30_000
    bmp = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack(
        "<IiiHHIIiiII", 40, 14_000, 14_000, 1, 24, 0, 0, 0, 0, 0, 0
    )
    (tmp_path / "14000.bmp").write_bytes(bmp)
    gif = b"GIF89a" + struct.pack("<HHBBB", 14_000, 14_000, 0x80, 0, 0) + b"\0" * 6 + b"\x2c" + b"\0" * 4
    (tmp_path / "14000.gif").write_bytes(gif + struct.pack("<HHB", 14_000, 14_000, 0) + b"\x02\x02\x44\x01\0\x3b")
    webp = encoded("WEBP", np.zeros((16, 16, 3), np.uint8), lossless=True)
    at = webp.index(b"VP8L") + 9
    bits = int.from_bytes(webp[at : at + 4], "little") >> 28 << 28 | 13_999 << 14 | 13_999
    (tmp_path / "14000.webp").write_bytes(webp[:at] + bits.to_bytes(4, "little") + webp[at + 4 :])
    with (tmp_path / "large.png").open("wb") as out:
        out.write(encoded("PNG", picture()))
        out.truncate(100_000_000)
    program = (
        "import resource, sys, time; from pathlib import Path\n"
        "from lmm_r1.data.images import ImageStore; from lmm_r1.errors import DataError\n"
        "before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: ImageStore().put_file(path)\n"
        "    except DataError as error: print(error)\n"
        "    else: sys.exit(f'{path} was taken')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.perf_counter() - began)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-1000:]
    *faults, figures = done.stdout.splitlines()
    grown, seconds = map(float, figures.split())
    assert len(faults) == 6 and sum("too large" in f for f in faults) >= 5, faults
    assert grown < 20_000, f"{grown / 1000:.0f} MB for headers"
    assert seconds < 5


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_trial_24_moving_pictures_are_refused(tmp_path: Path, kind: str) -> None:
    """Catches the first of 100 frames taken for the picture, in all three formats that move."""
    path = tmp_path / f"moving.{kind.lower()}"
    frames = [Pil.fromarray(picture(16, 16, seed=k)) for k in range(100)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(DataError, match="a moving picture cannot be used"):
        ImageStore().put_file(path)
    still = tmp_path / f"still.{kind.lower()}"
    frames[0].save(still, kind, save_all=True)
    assert ImageStore().put_file(still).width == 16


@pytest.mark.parametrize(("width", "height", "taken"), [(1, 1, True), (1, 200, True), (1, 10_000, False), (10_000, 1, False), (10_000, 50, True), (10_000, 49, False)])  # fmt: skip
def test_trial_25_thin_pictures_are_taken_or_refused_by_one_rule(
    tmp_path: Path, width: int, height: int, taken: bool
) -> None:
    """Catches a picture that the store takes and the model's processor refuses in the middle of a step."""
    path = save(tmp_path / "thin.png", np.zeros((height, width, 3), np.uint8))
    if taken:
        assert ImageStore().put_file(path).height == height
    else:
        with pytest.raises(DataError, match="too long"):
            ImageStore().put_file(path)


@pytest.mark.parametrize("turn", range(1, 9))
def test_trial_26_every_exif_orientation_is_undone_once(tmp_path: Path, turn: int) -> None:
    """Catches a turn that is missed, made twice (once here, once by a reader behind), or mirrored."""
    upright = picture(12, 8)
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1], 7: upright.transpose(1, 0, 2)[::-1, ::-1], 8: upright.transpose(1, 0, 2)[:, ::-1],
    }[turn]  # fmt: skip
    exif = Pil.Exif()
    exif[0x0112] = turn
    path = save(tmp_path / "t.png", np.ascontiguousarray(stored), exif=exif)
    store = ImageStore(cache=1)
    image = store.put_file(path)
    assert image.sha == sha_of(upright)
    written = store.save_png(image.sha, tmp_path / "out")
    assert ImageStore().put_file(written) == image, "the saved picture carries no turn of its own"


def test_trial_26_a_colour_profile_changes_no_number(tmp_path: Path) -> None:
    """Catches one picture that is two by name because an editor added a profile: the rule is that profiles are not applied."""
    pixels = picture()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    shas = {
        ImageStore().put_file(save(tmp_path / f"{n}.png", pixels, icc_profile=icc)).sha
        for n, icc in enumerate((None, srgb, profile, b"no profile"))
    }
    assert shas == {sha_of(pixels)}


def test_trial_26_each_mode_has_one_meaning(tmp_path: Path) -> None:
    """Catches a mode whose colours depend on the road taken: palettes with a transparent entry, grey with alpha, 1 bit."""
    red, clear = (200, 10, 10), (255, 255, 255)
    palette = Pil.new("P", (4, 2), 1)
    palette.putpalette([*(0, 0, 0), *red])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "p.png", transparency=0)
    grey = Pil.new("LA", (4, 2), (100, 255))
    grey.putpixel((0, 0), (0, 0))
    grey.save(tmp_path / "la.png")
    bits = Pil.new("1", (4, 2), 0)
    bits.putpixel((0, 0), 1)
    bits.save(tmp_path / "1.png")
    Pil.new("CMYK", (4, 2), (0, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    deep = np.full((2, 4), 100 * 257, np.uint16)
    deep[0, 0] = 65535
    Pil.fromarray(deep).save(tmp_path / "16.png")
    wanted = {
        "p.png": (clear, red), "la.png": (clear, (100,) * 3), "1.png": (clear, (0,) * 3), "cmyk.jpg": (clear, clear),
        "16.png": (clear, (100,) * 3),
    }  # fmt: skip
    store = ImageStore()
    for name, (first, rest) in wanted.items():
        pixels = store.get(store.put_file(tmp_path / name).sha)
        assert (tuple(pixels[0, 0]), tuple(pixels[1, 3])) == (first, rest), name


def test_many_files_are_read_in_bounded_time(tmp_path: Path) -> None:
    """Catches a store that decodes everything twice or copies pixels around: 60 pictures of 512 pixels take moments."""
    paths = [save(tmp_path / f"{k}.png", np.full((512, 512, 3), k, np.uint8)) for k in range(60)]
    began = time.perf_counter()
    assert len({i.sha for i in ImageStore(cache=1).put_files(paths) if not isinstance(i, DataError)}) == 60
    assert time.perf_counter() - began < 15
