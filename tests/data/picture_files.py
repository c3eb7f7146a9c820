"""Small pictures, and the places where a data set's pictures lie: folders and archives made for a test."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image as Pil


def png(shade: int, kind: str = "PNG") -> bytes:
    """The bytes of a grey picture of 12 x 8 pixels."""
    out = io.BytesIO()
    Pil.fromarray(np.full((8, 12, 3), shade, np.uint8)).save(out, kind)
    return out.getvalue()


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    """A zip archive of files by name."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    """A tar archive of files by name; mode "w:gz" packs it."""
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def make_folder(path: Path, files: dict[str, bytes]) -> Path:
    """A folder of files by name."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
