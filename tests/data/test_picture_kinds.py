"""Kinds of picture files: JPEGs with further pictures, what moves, and files of kinds that are not read."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore
from lmm_r1.errors import DataError


def picture(width: int = 16, height: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def encoded(kind: str, pixels: np.ndarray, **more: object) -> bytes:
    out = io.BytesIO()
    Pil.fromarray(pixels).save(out, kind, **more)
    return out.getvalue()


def two_pictures(first: np.ndarray, **more: object) -> bytes:
    """A JPEG with a second picture behind the first one, as cameras write it: Pillow calls it MPO."""
    out, second = io.BytesIO(), Pil.fromarray(picture(30, 20, seed=9))
    Pil.fromarray(first).save(out, "MPO", save_all=True, append_images=[second, second], quality=95, **more)
    return out.getvalue()


def turned() -> Pil.Exif:
    exif = Pil.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({}, (16, 8)),
        ({"exif": turned()}, (8, 16)),
        ({"xmp": b'<x:xmpmeta hdrgm:Version="1.0"/>'}, (16, 8)),  # a gain map, as phones write it
        ({"comment": b"left and right eye"}, (16, 8)),
    ],
    ids=["preview", "turned", "gain map", "stereo"],
)
def test_a_jpeg_with_a_second_picture_is_the_first_one(
    tmp_path: Path, more: dict[str, object], size: tuple[int, int]
) -> None:
    """Catches photographs of phones that are dropped as moving pictures, or read as their preview."""
    first = np.zeros((8, 16, 3), np.uint8)
    first[:, 8:] = 255
    data = two_pictures(first, **more)
    path = tmp_path / "phone.jpg"
    path.write_bytes(data)
    for store in (ImageStore(), ImageStore(spill=tmp_path / "spill")):
        for image in (store.put_file(path), store.put_bytes(data)):
            assert (image.width, image.height) == size
            assert abs(float(store.get(image.sha).mean()) - 127.5) < 3
            assert store.get(image.sha)[0, 0].mean() < 20


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_what_moves_is_refused(kind: str) -> None:
    """Catches an animation of which the first frame is taken for the picture."""
    out = io.BytesIO()
    Pil.fromarray(picture()).save(out, kind, save_all=True, append_images=[Pil.fromarray(picture(seed=1))])
    with pytest.raises(DataError, match="a moving picture"):
        ImageStore().put_bytes(out.getvalue())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (encoded("TIFF", picture()), "looks like TIFF"),
        (encoded("TIFF", picture(), big_tiff=True), "looks like BigTIFF"),
        (b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1miaf", "looks like AVIF"),
        (b"\x00\x00\x00\x24ftypheic\x00\x00\x00\x00mif1heic", "looks like HEIC"),
        (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "looks like JPEG XL"),
        (b"%PDF-1.7\n", "looks like PDF"),
        (b"\n <svg xmlns='http://www.w3.org/2000/svg'/>", "looks like SVG"),
        (b"<html>404</html>", "looks like HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"who knows", r"of no known kind \(PNG, JPEG, WEBP, BMP, GIF\)$"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_kind_is_called_by_its_name(data: bytes, says: str) -> None:
    """Catches "broken or truncated" said of a file that is neither."""
    with pytest.raises(DataError, match=says) as caught:
        ImageStore().put_bytes(data)
    assert "broken" not in str(caught.value)
