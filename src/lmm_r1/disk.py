"""What every part that writes or proves files shares: a file's hash, durable names, and modes that follow the umask.

Leaves out: what any file holds. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Force a file or a folder's names onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_folder(parent: Path, prefix: str) -> Path:
    """A new folder of its own name in `parent`, which others may read as the umask says (tempfile's are private). OSError."""
    path = parent / f"{prefix}{secrets.token_hex(4)}"
    path.mkdir()
    return path


def follow_umask(folder: Path) -> None:
    """Give every file of a folder the mode that a plain new file there gets: 0666 less the umask.

    Writers that go through temporary files leave 0600 behind (safetensors since 0.8 does), which nobody else may read. The
    mode is that of a file made for the purpose: reading the umask would change it for all threads, and a folder may have
    defaults of its own. Raises OSError.
    """
    probe = folder / f".mode_{os.getpid()}"
    handle = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        mode = os.fstat(handle).st_mode & 0o777
    finally:
        os.close(handle)
        probe.unlink()
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(mode)
