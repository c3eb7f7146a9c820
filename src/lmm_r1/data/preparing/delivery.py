"""What a preparation hands over: its pictures, its folder, whole or not at all, and its figures for a terminal.

    out/problems.jsonl  images/<sha>.png  report.html  report.json

All is written beside the folder first. A new folder appears by one rename; in one that exists the files of an earlier
preparation are replaced one by one, the old report goes first and the new one comes last, so that a folder
with report.json is whole. Files of others stay.
Left out: what the report says (ledger.py, prepare.py), the page (reports/dropped.py).
"""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image as Pil

from lmm_r1.data.images import ImageStore, Pixels
from lmm_r1.data.preparing.examples import cut
from lmm_r1.errors import Fault


class PictureWriter:
    """Writes pictures of the store as <folder>/<sha>.png in threads, each once, while their owner reads on.

    Call it from one thread; `finish` before the files are used or the folder is moved.
    """

    def __init__(self, images: ImageStore, folder: Path, workers: int) -> None:
        self._images, self._folder = images, folder
        self._pool = ThreadPoolExecutor(workers)
        self._waiting: deque[Future[None]] = deque()
        self._ahead = 2 * workers  # decoded pictures in memory at most
        self._begun: set[str] = set()

    def save(self, sha: str) -> None:
        """Begin to write one, unless it has been. Raises DataError when its file has changed, OSError of an earlier one."""
        if sha in self._begun or (self._folder / f"{sha}.png").exists():
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        pixels = self._images.get(sha)
        self._begun.add(sha)
        self._waiting.append(self._pool.submit(_write_png, self._folder / f"{sha}.png", pixels))
        if len(self._waiting) > self._ahead:
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all are written; raises OSError when one could not be."""
        while self._waiting:
            self._waiting.popleft().result()

    def close(self) -> None:
        """End the threads; what is under way is finished, in whatever state the rest is."""
        self._pool.shutdown(cancel_futures=True)


def _write_png(path: Path, pixels: Pixels) -> None:
    Pil.fromarray(pixels).save(path, "PNG", compress_level=1)


def summary(report: Mapping[str, Any]) -> list[str]:
    """The report in a few lines for a terminal: every reason with the first row that it dropped."""
    dropped = f", {report['rows'] - report['kept']} dropped:" if report["dropped"] else ""
    lines = [f"{report['kept']} of {report['rows']} rows kept{dropped}"]
    for reason, n in sorted(report["dropped"].items(), key=lambda item: -item[1]):
        lines.append(f"  {n:8}  {reason}")
        if first := report["first"].get(reason):
            lines.append(f"{'':12}first: {cut(' '.join(str(Fault(**first)).split()), 600)}")
    for file in report["against"]:
        lines.append(
            f"against {file['file']} ({file['questions']} questions): {file['rows']} rows repeat one, "
            f"{file['word_for_word']} word for word"
        )
        if file["unread"]:
            lines.append(f"  {file['unread']} rows of {file['file']} could not be read and are compared with nothing")
    if twins := report["image_twins"]:
        found = (
            f"{twins[k]['questions']} evaluation questions ({twins[k]['rows']} rows) {k}" for k in ("exact", "near")
        )
        lines.append(f"pictures shared with an evaluation and kept: {', '.join(found)}")
    if paper := report["paper"]:
        lines.append(f"  {'source':14}{'usable':>8}{'kept':>8}{'paper':>8}  (table {paper['table']})")
        for name, entry in [*paper["sources"].items(), ("all", paper["total"])]:
            lines.append(f"  {name[:60]:14}{entry['usable']:>8}{entry['kept']:>8}{entry['paper']:>8}")
    return lines


def publish(
    staging: Path, out: Path, report: Mapping[str, Any], page: Callable[[Mapping[str, Any]], str] | None
) -> None:
    """Move all into the folder: pictures, then rows, then the report, so that a folder with report.json is whole."""
    (staging / "report.json").write_text(json.dumps(report, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    if page is not None:
        (staging / "report.html").write_text(page(report), encoding="utf-8")
    pictures = staging / "images"
    pictures.mkdir(exist_ok=True)
    if not out.exists():
        staging.chmod(pictures.stat().st_mode & 0o777)  # temporary folders are private
        os.rename(staging, out)
        staging.mkdir()  # for the one who cleans up behind
        return
    for name in ("report.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    (out / "images").mkdir(exist_ok=True)
    kept = {path.name for path in pictures.iterdir()}
    for path in pictures.iterdir():
        os.replace(path, out / "images" / path.name)
    os.replace(staging / "problems.jsonl", out / "problems.jsonl")
    for path in (out / "images").glob("*.png"):
        if path.name not in kept and re.fullmatch(r"[0-9a-f]{64}\.png", path.name):
            path.unlink()  # of an earlier preparation
    for name in ("report.html", "report.json"):
        if (staging / name).exists():
            os.replace(staging / name, out / name)
