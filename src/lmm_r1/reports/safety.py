"""How anything untrusted gets into a page: escaped text, and pictures by their sha256 alone.

Leaves out: what is shown (rollouts.py, episodes.py).
"""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from lmm_r1.runs.sanitise import sanitise

#: Longest text and largest picture file shown, characters and bytes.
MAX_TEXT, MAX_PICTURE = 4000, 4 << 20


def safe(value: object) -> str:
    """Untrusted text for HTML: sanitised, then escaped (quotes too, so that it may stand in an attribute)."""
    return html.escape(sanitise(str(value)), quote=True)


def clipped(text: str, limit: int = MAX_TEXT) -> str:
    """`text` cut in its middle to about `limit` characters, saying how much is left out."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"


def picture(folder: Path, sha: object) -> str:
    """An <img> of images/<sha>.png, inlined; a short note when it cannot be shown."""
    if not (isinstance(sha, str) and re.fullmatch(r"[0-9a-f]{64}", sha)):
        return '<span class="gone">picture without a name</span>'
    path = folder / f"{sha}.png"
    if not path.is_file() or path.stat().st_size > MAX_PICTURE:
        return f'<span class="gone">picture {sha[:12]}… is not shown: {"too large" if path.is_file() else "missing"}</span>'
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return f'<span class="gone">picture {sha[:12]}… is not shown: not a PNG</span>'
    return (
        f'<img class="seen" alt="picture {sha[:12]}" src="data:image/png;base64,{base64.b64encode(content).decode()}">'
    )


def number(value: object) -> float:
    """The number, or 0 for what is none."""
    return float(value) if isinstance(value, int | float) else 0.0
