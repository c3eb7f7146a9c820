"""Where the pictures of a data file lie: beside it, in a folder, or in a .zip, .tar or .tar.gz archive.

Rows name a picture by a path, or bring its bytes. A path is untrusted: it may not leave its folder, nothing is
downloaded, and no member of an archive is written to disk. An archive is searched by name; a folder at its top that
the rows do not mention ("data_images/") is passed over where the name is then clear.

Some published rows hold absolute paths of their authors' cluster. The prefix of VLM-Reasoner/VerMulti is known and
stripped; others are rewritten by a pair (old, new) that the caller gives.
Left out: decoding (images.py). Sources: https://huggingface.co/datasets/VLM-Reasoner/VerMulti, RFC 1952 (gzip).
"""

from __future__ import annotations

import bisect
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Protocol, TypeVar

from lmm_r1.data.images import MAX_FILE_BYTES, ImageStore
from lmm_r1.errors import DataError, Fault
from lmm_r1.types import Image

#: (old, new): a path that begins with `old` begins with `new` instead. An absolute `new` is a folder of its own.
Prefix = tuple[str, str]
Member = TypeVar("Member")

PUBLISHED = re.compile(r"/apdcephfs_gy2/share_302735770/berlinni/zgr/data/[^/]+/+")
_MAX_READ = 256 * 1024 * 1024
#: What the readers of archives raise on a broken one, an encrypted one, or an unknown method.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    NotImplementedError,
    OverflowError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
)


class Archive(Protocol):
    """The regular files of an archive: their sizes by name, and their bytes."""

    sizes: Mapping[str, int]

    def read(self, name: str) -> bytes:
        """The bytes of a member; may raise any of the exceptions that broken archives cause."""

    def close(self) -> None:
        """Close the file."""


class Pictures:
    """Takes the pictures of one data file into the store; call it with a path or with the bytes of a file.

    root: the folder that paths are relative to, unless `images_from` names another one, or an archive.
    Raises DataError for an archive that cannot be read; when called, for a picture that is missing, broken, too large,
    or outside of its folder. Use it as a context manager, so that the archive is closed.
    """

    def __init__(
        self,
        images: ImageStore,
        root: Path | None,
        images_from: str | Path | None = None,
        prefixes: Sequence[Prefix] = (),
    ) -> None:
        self._images, self._prefixes = images, tuple(prefixes)
        self._root = root
        self._archive: Archive | None = None
        if images_from is not None:
            place = Path(images_from)
            if not place.exists():
                raise DataError(Fault("there is no such folder or archive of pictures", file=str(place)))
            self._root = place if place.is_dir() else None
            self._archive = None if place.is_dir() else open_archive(place)
            self._name = str(place)
            names = self._archive.sizes if self._archive else ()
            self._tops = list(dict.fromkeys(name.partition("/")[0] for name in names if "/" in name))[:64]

    def __enter__(self) -> Pictures:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._archive is not None:
            self._archive.close()

    def __call__(self, item: str | bytes) -> Image:
        """The picture of a row, by its path or its bytes."""
        if isinstance(item, bytes):
            return self._images.put_bytes(item, "a picture in the row")
        folder, name = self._rewritten(item)
        if folder is not None:
            return self._images.put_file(name, root=folder)
        if self._archive is not None:
            return self._images.put_bytes(self._member(self._archive, name), f"{self._name}: {name[:200]}")
        if self._root is None:
            raise DataError(Fault("the row names a file; say which folder or archive it is in", file=name[:200]))
        return self._images.put_file(name, root=self._root)

    def _rewritten(self, name: str) -> tuple[Path | None, str]:
        """(a folder of its own, name): by the first given prefix that fits, else without a published one."""
        for old, new in self._prefixes:
            if old and name.startswith(old):
                rest = name.removeprefix(old)
                if Path(new).is_absolute():
                    return Path(new), rest.lstrip("/")
                return None, new + rest if new else rest.lstrip("/")
        published = PUBLISHED.match(name)
        return None, name[published.end() :] if published else name

    def _member(self, archive: Archive, name: str) -> bytes:
        key = member_name(name)
        found = [key] if key in archive.sizes else [n for top in self._tops if (n := f"{top}/{key}") in archive.sizes]
        if len(found) != 1:
            says = "is in several folders of" if found else "is not in"
            raise DataError(Fault(f"the picture {says} the archive {self._name}", file=name[:200]))
        size = archive.sizes[found[0]]
        if size > MAX_FILE_BYTES:
            raise DataError(
                Fault(f"image file of {size} bytes is too large (limit: {MAX_FILE_BYTES})", file=name[:200])
            )
        try:
            return archive.read(found[0])
        except _BROKEN as error:
            raise DataError(Fault(f"cannot be read from the archive: {_one_line(error)}", file=name[:200])) from None


def member_name(name: str) -> str:
    """The name of a member in its plain form; DataError for a URL, an odd name, or a path that leads out."""
    if name.startswith("data:"):
        raise DataError(Fault("a data: URL is not read: write the picture to a file", file="data:..."))
    if "://" in name:
        raise DataError(Fault("a picture must be a local file; nothing is downloaded", file=name[:200]))
    path = PurePosixPath(name)
    if not name.strip() or any(ord(c) < 32 for c in name) or "\\" in name or not path.parts:
        raise DataError(Fault(f"not a file name: {name[:200]!r}"))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(Fault("the path leads out of the archive of pictures", file=name[:200]))
    return str(path)


def open_archive(path: Path) -> Archive:
    """An archive by its first bytes: zip, tar, or tar in gzip. DataError when it is another file or broken."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith(b"PK"):
            return _Zip(path)
        bare = _Gunzip(path) if head.startswith(b"\x1f\x8b") else path.open("rb")
        try:
            return _Tar(bare)
        except _BROKEN:
            bare.close()
            raise
    except _BROKEN as error:
        raise DataError(
            Fault(
                f"is no archive of pictures that can be read (.zip, .tar, .tar.gz): {_one_line(error)}", file=str(path)
            )
        ) from None


class _Zip:
    def __init__(self, path: Path) -> None:
        self._file = zipfile.ZipFile(path)
        self._members = dict(_plain((info.filename, info) for info in self._file.infolist() if not info.is_dir()))
        self.sizes: Mapping[str, int] = {name: info.file_size for name, info in self._members.items()}

    def read(self, name: str) -> bytes:
        with self._file.open(self._members[name]) as member:
            return member.read(self.sizes[name])  # what the directory promised, however much it unpacks to

    def close(self) -> None:
        self._file.close()


class _Tar:
    def __init__(self, file: io.BufferedReader | _Gunzip) -> None:
        self._file = file
        with tarfile.open(fileobj=file, mode="r:") as tar:  # type: ignore[call-overload]
            # Regular files alone: a link could name anything.
            places = ((m.name, (m.offset_data, m.size)) for m in tar if m.isreg() and not m.issparse())
            self._places = dict(_plain(places))
            end = tar.offset
        file.seek(end)
        if len(file.read(512)) < 512:  # the library takes a cut for the end
            raise EOFError("the archive is cut off")
        self.sizes: Mapping[str, int] = {name: size for name, (_, size) in self._places.items()}

    def read(self, name: str) -> bytes:
        start, size = self._places[name]
        self._file.seek(start)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the archive ends too early")
        return data

    def close(self) -> None:
        self._file.close()


def _plain(members: Iterable[tuple[str, Member]]) -> Iterator[tuple[str, Member]]:
    """Members under their plain names; those whose names lead out of the archive do not exist."""
    for name, member in members:
        path = PurePosixPath(name)
        if path.parts and not path.is_absolute() and ".." not in path.parts:
            yield str(path), member


class _Gunzip:
    """The unpacked bytes of a gzip file, from any place: kept states of the decompressor save a start from zero."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._spacing = max(1024 * 1024, path.stat().st_size >> 10)  # so at most about 1000 states of 40 kB
        # Place in the unpacked bytes, in the file, whether a gzip file begins there, and the state.
        self._states = [(0, 0, True, zlib.decompressobj(31))]
        self._go_to(0)
        self._at = 0

    def tell(self) -> int:
        return self._at

    def seek(self, place: int) -> int:
        self._at = place
        return place

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            raise ValueError(f"a member of {size} bytes is too large")
        nearest = bisect.bisect_right(self._states, self._at, key=lambda known: known[0]) - 1
        if self._at < self._start or self._states[nearest][0] > self._start + len(self._chunk):
            self._go_to(nearest)
        parts: list[bytes] = []
        while size > 0:
            behind = self._start + len(self._chunk)
            if self._at < behind:
                parts.append(self._chunk[self._at - self._start :][:size])
                self._at += len(parts[-1])
                size -= len(parts[-1])
            elif not self._advance():
                break
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()

    def _go_to(self, number: int) -> None:
        start, offset, self._fresh, state = self._states[number]
        self._start, self._chunk, self._state = start, b"", state.copy()
        self._file.seek(offset)

    def _advance(self) -> bool:
        """The next chunk; False at the end. EOFError when the file was cut off."""
        packed = self._file.read(16 * 1024)
        self._start += len(self._chunk)
        self._chunk = b""
        if not packed:
            if not self._fresh:
                raise EOFError("the file is cut off")
            return False
        while packed := packed.lstrip(b"\0") if self._fresh else packed:  # zeros may fill up the space between two
            self._chunk += self._state.decompress(packed)
            packed, self._fresh = self._state.unused_data, self._state.eof
            if self._state.eof:  # another gzip file may follow in the same one
                self._state = zlib.decompressobj(31)
        behind, offset = self._start + len(self._chunk), self._file.tell()
        if offset - self._states[-1][1] >= self._spacing:
            self._states.append((behind, offset, self._fresh, self._state.copy()))
        return True


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
