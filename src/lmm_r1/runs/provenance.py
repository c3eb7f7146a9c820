"""Where a run's numbers came from: versions, commit, machine, recipe and weights.

No secret and no private path is kept: the environment is not read, values of flags that look like a
credential are hidden, and the home folder is written as "~".
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("lmm-r1", "torch", "transformers", "tokenizers", "safetensors", "numpy", "pillow", "pydantic")
_SECRET = re.compile(r"(?i)token(?!s)|secret|passw|credential|api.?key|\bhf_\w+|\bsk-\w+")


def provenance(
    command: Sequence[str], recipe_text: str, base: Mapping[str, str], threads: int, seed: int
) -> dict[str, Any]:
    """The content of provenance.json.

    command: sys.argv. recipe_text: the effective recipe, as stored. base: {file: sha256} of the start model,
    empty when it is not on this disk.
    """
    weights = {name: told for name, told in base.items() if name.endswith(".safetensors")}
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": clean_command(command),
        "seed": seed,
        "threads": threads,
        "recipe_sha256": hashlib.sha256(recipe_text.encode()).hexdigest(),
        "base_weights": weights,
        "base_files": {name: told for name, told in base.items() if name not in weights},
        "commit": git_commit(Path(__file__)),
        "versions": {"python": platform.python_version(), **installed()},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "cpu": cpu_name()},
    }


def threads_of(path: Path) -> int | None:
    """The CPU threads that a run began with, by its provenance.json; None when that does not say."""
    try:
        threads = json.loads(path.read_text(encoding="utf-8"))["threads"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return threads if isinstance(threads, int) else None


def installed() -> dict[str, str]:
    """Versions of the packages that can change a number."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def clean_command(command: Sequence[str]) -> str:
    """The command as typed, without credentials and without the path of a home folder."""
    words = [Path(command[0]).name, *command[1:]] if command else []
    shown, hide_next = [], False
    for word in words:
        if hide_next:
            word, hide_next = "***", False
        elif _SECRET.search(word):
            name, equals, _ = word.partition("=")
            hide_next = word.startswith("-") and not equals
            word = f"{name}=***" if equals else name if hide_next else "***"
        shown.append(without_home(word))
    return " ".join(shown)


def without_home(text: str) -> str:
    """`text` with the home folder as "~"."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def git_commit(file: Path) -> str:
    """Commit of the checkout that tracks `file`, "-dirty" added when it differs; "" outside of one."""
    folder = file.resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # an installed copy may lie inside somebody else's checkout
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def cpu_name() -> str:
    """Model name of the processor, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
