"""The image store: pixels by sha, and files that must be refused with one clear line."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.images import MAX_ASPECT, ImageStore, Pixels, sha_of
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
    store.forget({b.sha})
    assert a.sha not in store
    assert b.sha in store
    assert np.array_equal(store.get(file.sha), picture(seed=1))
    with pytest.raises(DataError, match="no picture"):
        store.get(a.sha)
