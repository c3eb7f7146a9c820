"""The image store: pictures by the sha256 of their pixels. The only place that opens image files.

A picture file is untrusted: its size is read from the header and checked before anything is decoded
(a PNG of 20 kB can unpack to hundreds of megabytes), only formats named here are tried, and a
truncated file is a fault, never a half grey picture. Whatever the mode (palette, grey, 16 bit, CMYK,
transparent) and whatever the EXIF orientation, a picture becomes RGB uint8 once, here; transparency is
laid on white, as on paper.

Left out: resizing to a model's patch grid (its adapter's `canonical`) and any download.

Axis legend: H, W = height and width in pixels; arrays are uint8[H, W, 3], RGB.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageOps, UnidentifiedImageError

from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Image

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000
#: Qwen2.5-VL's own processor refuses longer pictures; so no model sees one.
MAX_ASPECT = 200

#: What Pillow raises on a broken file, by experience of its plugins.
BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def sha_of(pixels: Pixels) -> str:
    """The name of a picture: sha256 over b"WxH" and its RGB bytes."""
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{width}x{height}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def check_size(width: int, height: int) -> str:
    """What is wrong with a picture of this size, or an empty string."""
    if min(width, height) < 1:
        return f"a picture of {width}x{height} pixels is empty"
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        return f"a picture of {width}x{height} pixels is too large (limits: side {MAX_SIDE}, area {MAX_PIXELS})"
    if max(width, height) > MAX_ASPECT * min(width, height):
        return f"a picture of {width}x{height} pixels is too long (limit: {MAX_ASPECT} to 1)"
    return ""


def read_picture(path: Path) -> Pixels:
    """Decode an image file to uint8[H, W, 3]; raises DataError naming the file and what is wrong with it."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(Fault("not an image file", file=str(path)))
        if size > MAX_FILE_BYTES:
            raise DataError(Fault(f"image file of {size} bytes is too large (limit: {MAX_FILE_BYTES})", file=str(path)))
        return _decode(path)
    except FileNotFoundError:
        raise DataError(Fault("image file is missing", file=str(path))) from None
    except (Pil.DecompressionBombError, UnidentifiedImageError):
        raise DataError(
            Fault(f"broken or truncated image, or of no known kind ({', '.join(FORMATS)})", file=str(path))
        ) from None
    except BROKEN as error:
        raise DataError(Fault(f"broken or truncated image: {_one_line(error)}", file=str(path))) from None


def _decode(path: Path) -> Pixels:
    with warnings.catch_warnings():
        # Our own limits, checked right below, are stricter than Pillow's warning.
        warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
        picture = Pil.open(path, formats=FORMATS)
    with picture:
        wrong = check_size(*picture.size)
        if not wrong and getattr(picture, "n_frames", 1) > 1:
            wrong = "a moving picture cannot be used"
        if wrong:
            raise DataError(Fault(wrong, file=str(path)))
        picture.load()
        upright = ImageOps.exif_transpose(picture)
        return np.array(_rgb(upright), dtype=np.uint8)


def _rgb(picture: Pil.Image) -> Pil.Image:
    """Any mode to RGB: 16-bit values scaled to 8 bits, transparency laid on white."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        # Pillow's own conversion clips 16-bit values at 255, which turns such pictures white.
        values = np.asarray(picture, dtype=np.float64)
        scale = 255.0 / 65535.0 if values.size and values.max() > 255 else 1.0
        return Pil.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        above = picture.convert("RGBA")
        return Pil.alpha_composite(Pil.new("RGBA", above.size, (255, 255, 255, 255)), above).convert("RGB")
    return picture.convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def inside(root: Path, name: str) -> Path:
    """The file `name` below `root`; raises DataError for a URL, an odd name, or a path that leaves `root`."""
    if "://" in name or name.startswith("data:"):
        raise DataError(Fault("a picture must be a local file; nothing is downloaded", file=name[:200]))
    if not name.strip() or any(ord(c) < 32 for c in name) or "\\" in name:
        raise DataError(Fault(f"not a file name: {name[:200]!r}"))
    base = root.resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise DataError(Fault("the picture lies outside the folder of its data file", file=name[:200]))
    return path


class ImageStore:
    """Pictures by sha. Drawn ones are kept as PNG bytes, files by their path; few are kept decoded.

    cache: decoded pictures kept at most.
    """

    def __init__(self, cache: int = 64) -> None:
        self._png: dict[str, bytes] = {}
        self._files: dict[str, Path] = {}
        self._decoded: OrderedDict[str, Pixels] = OrderedDict()
        self._cache = cache

    def __contains__(self, sha: object) -> bool:
        return sha in self._png or sha in self._files

    def __len__(self) -> int:
        return len(self._png.keys() | self._files.keys())

    def put(self, pixels: Pixels) -> Image:
        """Store a picture uint8[H, W, 3]; raises DataError for another shape, type or size."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(f"a picture must be uint8[H, W, 3], not {pixels.dtype}{list(pixels.shape)}")
        height, width, _ = pixels.shape
        wrong = check_size(width, height)
        if wrong:
            raise DataError(wrong)
        sha = sha_of(pixels)
        if sha not in self:
            out = io.BytesIO()
            Pil.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
            self._png[sha] = out.getvalue()
            self._remember(sha, np.array(pixels))
        return Image(sha, width, height)

    def put_file(self, path: str | Path, root: str | Path | None = None) -> Image:
        """Take in an image file; only its path is kept.

        root: when given, `path` is relative to it and may not lead out of it.
        Raises DataError for a file that is missing, broken, truncated, too large or outside `root`.
        """
        file = inside(Path(root), str(path)) if root is not None else Path(path)
        pixels = read_picture(file)
        sha = sha_of(pixels)
        self._files.setdefault(sha, file)
        self._remember(sha, pixels)
        return Image(sha, pixels.shape[1], pixels.shape[0])

    def get(self, sha: str) -> Pixels:
        """The picture uint8[H, W, 3], read-only; raises DataError when it is unknown or its file has changed."""
        known = self._decoded.get(sha)
        if known is not None:
            self._decoded.move_to_end(sha)
            return known
        if sha in self._png:
            with Pil.open(io.BytesIO(self._png[sha]), formats=("PNG",)) as picture:
                return self._remember(sha, np.array(picture.convert("RGB"), dtype=np.uint8))
        if sha not in self._files:
            raise DataError(f"no picture {sha} in the image store")
        pixels = read_picture(self._files[sha])
        if sha_of(pixels) != sha:
            raise DataError(Fault("image file has changed since it was read", file=str(self._files[sha])))
        return self._remember(sha, pixels)

    def save_png(self, sha: str, folder: str | Path) -> Path:
        """Write <folder>/<sha>.png unless it is there, whole or not at all; returns its path."""
        target = Path(folder) / f"{sha}.png"
        if target.exists():
            return target
        data = self._png.get(sha)
        if data is None:
            out = io.BytesIO()
            Pil.fromarray(self.get(sha)).save(out, "PNG", compress_level=1)
            data = out.getvalue()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{sha}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, target)
        return target

    def forget(self, keep: Iterable[str]) -> None:
        """Drop the drawn pictures that are not in `keep`. Files stay known: they cost a path, and come again."""
        kept = set(keep)
        for sha in [s for s in self._png if s not in kept]:
            del self._png[sha]
            if sha not in self._files:
                self._decoded.pop(sha, None)

    def _remember(self, sha: str, pixels: Pixels) -> Pixels:
        pixels.setflags(write=False)
        self._decoded[sha] = pixels
        self._decoded.move_to_end(sha)
        while len(self._decoded) > self._cache:
            self._decoded.popitem(last=False)
        return pixels
