"""The image store: pictures by the sha256 of their pixels. The only place that opens image files.

A picture file is untrusted: its size is read from the header and checked before anything is decoded
(a PNG of 20 kB can unpack to hundreds of megabytes), only formats named here are tried, and a
truncated file is a fault, never a half grey picture. Whatever the mode (palette, grey, 16 bit, CMYK,
transparent) and whatever the EXIF orientation, a picture becomes RGB uint8 once, here; transparency is
laid on white, as on paper.

Left out: resizing to a model's patch grid (its adapter's `canonical`), any download, and colour profiles: a
picture's numbers are taken as sRGB whatever ICC profile it carries, as the processors of the models do.

Axis legend: H, W = height and width in pixels; arrays are uint8[H, W, 3], RGB.
"""

from __future__ import annotations

import hashlib
import io
import os
import struct
import threading
import warnings
import zlib
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import RLock

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pil
from PIL import ImageOps, UnidentifiedImageError

from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Image

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
#: What Pillow calls a JPEG that holds further pictures (a preview, a second eye, a gain map): the first one is shown.
STILLS = ("MPO",)
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_SIDE = 16_384
MAX_PIXELS = 40_000_000
LIMITS = f"side {MAX_SIDE}, area {MAX_PIXELS}"
#: Qwen2.5-VL's own processor refuses longer pictures; so no model sees one.
MAX_ASPECT = 200

#: How files begin that are pictures of other kinds, or none: (place, bytes, name).
_OTHERS = (
    (0, b"II*\x00", "TIFF"), (0, b"MM\x00*", "TIFF"), (0, b"II+\x00", "BigTIFF"), (0, b"MM\x00+", "BigTIFF"),
    (4, b"ftypavif", "AVIF"), (4, b"ftypavis", "AVIF"), (4, b"ftyphei", "HEIC"), (4, b"ftyphev", "HEIC"), (4, b"ftypmif1", "HEIF"),
    (4, b"ftyp", "video (MP4)"), (0, b"\x00\x00\x00\x0cJXL ", "JPEG XL"), (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\x00\x00\x00\x0cjP  ", "JPEG 2000"), (0, b"8BPS", "Photoshop"), (0, b"%PDF", "PDF"), (0, b"\x00\x00\x01\x00", "ICO"),
    (0, b"<svg", "SVG"), (0, b"<?xml", "XML or SVG"), (0, b"<!DOCTYPE", "HTML"), (0, b"<!doctype", "HTML"), (0, b"<html", "HTML"),
    (0, b"\x93NUMPY", "NumPy"), (0, b"PK\x03\x04", "zip"), (0, b"\x1f\x8b", "gzip"), (0, b"\x1aE\xdf\xa3", "video (Matroska)"),
    (0, b"version https://git-lfs", "Git LFS pointer"),
)  # fmt: skip
#: How files of the known kinds begin: one that does and cannot be opened is broken.
_KNOWN = (b"\x89PNG", b"\xff\xd8", b"RIFF", b"BM", b"GIF8")

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
        return f"a picture of {width}x{height} pixels is too large (limits: {LIMITS})"
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
        return _decode(path, str(path))
    except FileNotFoundError:
        raise DataError(Fault("image file is missing", file=str(path))) from None
    except OSError as error:
        raise DataError(Fault(f"cannot be read: {_one_line(error)}", file=str(path))) from None


def decode_bytes(data: bytes, name: str = "") -> Pixels:
    """Decode an image that is in memory, under the rules of `read_picture`; `name` stands in the faults."""
    if not data:
        raise DataError(Fault("the image holds no bytes", file=name))
    if len(data) > MAX_FILE_BYTES:
        raise DataError(Fault(f"an image of {len(data)} bytes is too large (limit: {MAX_FILE_BYTES})", file=name))
    return _decode(io.BytesIO(data), name)


#: Python's warning filters belong to the process, so only one thread at a time may change them.
_FILTERS = threading.Lock()


def _decode(source: Path | io.BytesIO, name: str) -> Pixels:
    """The header first, then the pixels; DataError for whatever Pillow says of a bad file."""
    try:
        with _FILTERS, warnings.catch_warnings():
            # Our own limits, checked right below, are stricter than Pillow's warning.
            warnings.simplefilter("ignore", Pil.DecompressionBombWarning)
            # A JPEG whose index of further pictures is broken: its first one is read all the same.
            warnings.filterwarnings("ignore", message=".*malformed MPO", category=UserWarning)
            picture = Pil.open(source, formats=FORMATS)  # reads the header alone
        with picture:
            wrong = check_size(*picture.size)
            if not wrong and picture.format not in STILLS and getattr(picture, "n_frames", 1) > 1:
                wrong = "a moving picture cannot be used"
            if wrong:
                raise DataError(Fault(wrong, file=name))
            picture.load()
            ImageOps.exif_transpose(picture, in_place=True)
            return np.array(_rgb(picture), dtype=np.uint8)
    except FileNotFoundError:
        raise
    except Pil.DecompressionBombError:  # Pillow's own limit, far above ours, which it checks before we can
        what = f"a picture of more than {2 * (Pil.MAX_IMAGE_PIXELS or 0)} pixels is too large (limits: {LIMITS})"
        raise DataError(Fault(what, file=name)) from None
    except UnidentifiedImageError:
        what, remedy = _unidentified(_head(source))
        raise DataError(Fault(what, file=name, remedy=remedy)) from None
    except BROKEN as error:
        raise DataError(Fault(f"broken or truncated image: {_one_line(error)}", file=name)) from None


def _head(source: Path | io.BytesIO) -> bytes:
    """The first bytes of a file."""
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:32]
    with source.open("rb") as file:
        return file.read(32)


def _unidentified(head: bytes) -> tuple[str, str]:
    """(what is wrong with a file that Pillow does not know, remedy), by its first bytes."""
    known = ", ".join(FORMATS)
    if head.startswith(_KNOWN):
        return "broken or truncated image", ""
    start = head.lstrip() if head[:1].isspace() else head
    kind = next((name for at, mark, name in _OTHERS if start[at : at + len(mark)] == mark), "")
    if kind:
        pointer = kind == "Git LFS pointer"
        remedy = "fetch the pictures with git lfs pull" if pointer else "convert it to PNG or JPEG"
        return f"of no known kind ({known}): it looks like {kind}", remedy
    return f"of no known kind ({known})", ""


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
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def inside(root: Path, name: str) -> Path:
    """The file `name` below `root`; raises DataError for a URL, an odd name, or a path that leaves `root`."""
    if name.startswith("data:"):
        raise DataError(Fault("a data: URL is not read: write the picture to a file", file="data:..."))
    if "://" in name:
        raise DataError(Fault("a picture must be a local file; nothing is downloaded", file=name[:200]))
    if not name.strip() or any(ord(c) < 32 for c in name) or "\\" in name:
        raise DataError(Fault(f"not a file name: {name[:200]!r}"))
    base = root.resolve()
    path = (base / name).resolve()
    if not path.is_relative_to(base):
        raise DataError(Fault("the picture lies outside the folder of its data file", file=name[:200]))
    return path


@dataclass(frozen=True, slots=True)
class _Read:
    """What is kept of a file that was read: the name and size of its picture, and the state that the file was in."""

    digest: bytes  # 32 bytes of sha256: half of the hex text
    width: int
    height: int
    stamp: int

    def image(self) -> Image:
        """The picture by name."""
        return Image(self.digest.hex(), self.width, self.height)


def _stamp(file: str) -> int | None:
    """The state of a file in one number, of its size and the time of its last change; None when it cannot be read."""
    try:
        stat = os.stat(file)
    except OSError:
        return None
    return hash((stat.st_size, stat.st_mtime_ns))


def _read(file: str) -> tuple[_Read, Pixels]:
    stamp = _stamp(file)  # before the reading: a file that changes meanwhile is read again
    pixels = read_picture(Path(file))
    return _Read(bytes.fromhex(sha_of(pixels)), pixels.shape[1], pixels.shape[0], stamp or 0), pixels


def _read_or_fault(file: Path) -> _Read | DataError:
    """For a thread of `put_files`: the pixels are dropped where they were decoded, and faults travel as values."""
    try:
        return _read(str(file))[0]
    except DataError as error:
        return error


#: What a thread will say of a file, or what is known of it already.
_Promise = Future[_Read | DataError] | _Read | DataError


class ImageStore:
    """Pictures by sha. Drawn ones are kept as PNG bytes, files by their path; few are kept decoded.

    cache: decoded pictures kept at most. spill: folder where pictures that came as bytes are kept, as <sha>.png;
    without one they stay in memory. Threads may share a store; `put_files` runs some of its own.
    """

    def __init__(self, cache: int = 64, spill: Path | None = None) -> None:
        self._png: dict[str, bytes] = {}
        self._given: set[str] = set()  # those in memory that came as bytes, and could not be made again
        self._paths: dict[bytes, str] = {}  # digest of the pixels -> a file that holds them
        self._known: dict[str, _Read] = {}  # file -> what was read in it
        self._decoded: OrderedDict[str, Pixels] = OrderedDict()
        self._cache, self._spill = cache, spill
        self._lock = RLock()  # of what is decoded and what is drawn: sampling ahead and learning use it at once

    def __contains__(self, sha: object) -> bool:
        return isinstance(sha, str) and (sha in self._png or self._path(sha) is not None)

    def __len__(self) -> int:
        return len(self._paths) + sum(self._path(sha) is None for sha in self._png)

    def put(self, pixels: Pixels) -> Image:
        """Store a picture uint8[H, W, 3] in memory; raises DataError for another shape, type or size."""
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise DataError(f"a picture must be uint8[H, W, 3], not {pixels.dtype}{list(pixels.shape)}")
        height, width, _ = pixels.shape
        wrong = check_size(width, height)
        if wrong:
            raise DataError(wrong)
        sha = sha_of(pixels)
        with self._lock:
            if sha not in self:
                self._png[sha] = _png(pixels)
                self._remember(sha, np.array(pixels))
        return Image(sha, width, height)

    def put_bytes(self, data: bytes, name: str = "") -> Image:
        """Take in an image file that is in memory, under the same rules as `put_file`; `name` stands in the faults.

        Raises DataError for bytes that are no picture, broken, truncated or too large.
        """
        pixels = decode_bytes(data, name)
        sha = sha_of(pixels)
        if sha not in self:
            if self._spill is None:
                self._png[sha] = _png(pixels)
                self._given.add(sha)
            else:
                self._paths[bytes.fromhex(sha)] = str(_write(self._spill, sha, _png(pixels)))
        self._remember(sha, pixels)
        return Image(sha, pixels.shape[1], pixels.shape[0])

    def put_file(self, path: str | Path, root: str | Path | None = None) -> Image:
        """Take in an image file; only its path is kept, and a file that has not changed is not opened again.

        root: when given, `path` is relative to it and may not lead out of it.
        Raises DataError for a file that is missing, broken, truncated, too large or outside `root`.
        """
        file = str(inside(Path(root), str(path)) if root is not None else Path(path))
        known = self._known.get(file)
        if known is None or known.stamp != _stamp(file):
            known, pixels = _read(file)
            self._learn(file, known)
            self._remember(known.digest.hex(), pixels)
        return known.image()

    def put_files(
        self, paths: Iterable[str | Path], root: str | Path | None = None, workers: int | None = None
    ) -> Iterator[Image | DataError]:
        """`put_file` for many files, read and hashed in threads; in their order, a fault in place of a bad file.

        workers: threads; None = one per CPU core. A few files are read ahead; no pixels are kept.
        """
        workers = workers or os.cpu_count() or 1
        waiting: deque[tuple[str, _Promise]] = deque()
        running: dict[str, Future[_Read | DataError]] = {}  # rows that share a picture share its reading

        def finished() -> Image | DataError:
            file, promise = waiting.popleft()
            running.pop(file, None)
            result = promise.result() if isinstance(promise, Future) else promise
            if isinstance(result, DataError):
                return result
            self._learn(file, result)
            return result.image()

        with ThreadPoolExecutor(workers) as pool:
            for path in paths:
                waiting.append(self._begin(path, root, pool, running))
                if len(waiting) >= 4 * workers:
                    yield finished()
            while waiting:
                yield finished()

    def _begin(
        self,
        path: str | Path,
        root: str | Path | None,
        pool: ThreadPoolExecutor,
        running: dict[str, Future[_Read | DataError]],
    ) -> tuple[str, _Promise]:
        """(file, what is known of it or a thread's promise)."""
        try:
            file = str(inside(Path(root), str(path)) if root is not None else Path(path))
        except DataError as error:
            return str(path), error
        known = self._known.get(file)
        if known is not None and known.stamp == _stamp(file):
            return file, known
        if file not in running:
            running[file] = pool.submit(_read_or_fault, Path(file))
        return file, running[file]

    def _learn(self, file: str, read: _Read) -> None:
        self._known[file] = read
        self._paths[read.digest] = file

    def _path(self, sha: str) -> str | None:
        """The file of a picture, if it came from one."""
        try:
            return self._paths.get(bytes.fromhex(sha))
        except ValueError:
            return None

    def get(self, sha: str) -> Pixels:
        """The picture uint8[H, W, 3], read-only; raises DataError when it is unknown or its file has changed."""
        with self._lock:
            known = self._decoded.get(sha)
            if known is not None:
                self._decoded.move_to_end(sha)
                return known
            drawn = self._png.get(sha)
        if drawn is not None:
            with Pil.open(io.BytesIO(drawn), formats=("PNG",)) as picture:
                return self._remember(sha, np.array(picture.convert("RGB"), dtype=np.uint8))
        path = self._path(sha)
        if path is None:
            raise DataError(f"no picture {sha} in the image store")
        pixels = read_picture(Path(path))
        if sha_of(pixels) != sha:
            raise DataError(Fault("image file has changed since it was read", file=path))
        return self._remember(sha, pixels)

    def save_png(self, sha: str, folder: str | Path) -> Path:
        """Write <folder>/<sha>.png unless it is there, whole or not at all; returns its path."""
        target = Path(folder) / f"{sha}.png"
        if target.exists():
            return target
        return _write(Path(folder), sha, self._png.get(sha) or _png(self.get(sha)))

    def forget(self, keep: Iterable[str]) -> None:
        """Drop the drawn pictures that are not in `keep`; files and pictures that came as bytes stay."""
        kept = self._given.union(keep)
        with self._lock:
            for sha in [s for s in self._png if s not in kept]:
                del self._png[sha]
                if self._path(sha) is None:
                    self._decoded.pop(sha, None)

    def _remember(self, sha: str, pixels: Pixels) -> Pixels:
        pixels.setflags(write=False)
        with self._lock:
            self._decoded[sha] = pixels
            self._decoded.move_to_end(sha)
            while len(self._decoded) > self._cache:
                self._decoded.popitem(last=False)
        return pixels


def _png(pixels: Pixels) -> bytes:
    """A picture as a PNG file, quickly rather than small."""
    out = io.BytesIO()
    Pil.fromarray(np.ascontiguousarray(pixels)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def _write(folder: Path, sha: str, data: bytes) -> Path:
    """<folder>/<sha>.png, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder / f"{sha}.png", folder / f".{sha}.{os.getpid()}.tmp"
    temporary.write_bytes(data)
    os.replace(temporary, target)
    return target
