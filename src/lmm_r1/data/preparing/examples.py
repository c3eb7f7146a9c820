"""Examples for the report: a few rows of every reason, and a few that are kept, with small copies of their pictures.

Texts are cut in length and otherwise as they were: whoever shows them escapes them (reports/dropped.py).
Left out: the counting (ledger.py) and the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore, read_picture
from lmm_r1.data.preparing.contamination import Found
from lmm_r1.errors import DataError, Fault

#: Examples of a reason, characters of a text, pictures of an example, pixels of the longer side of a small copy.
MOST, CHARACTERS, PICTURES, SIDE = 10, 1500, 3, 160


class Examples:
    """Collects examples while rows go by, the first ten of each reason.

    folder: where pictures lie that were made smaller and are no longer in the store.
    """

    def __init__(self, images: ImageStore, folder: Path) -> None:
        self._images, self._folder = images, folder
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._notes: dict[int, str] = {}
        self._small: dict[str, str] = {}
        #: The first fault of each reason, in the order of the file; its file is a name without a folder.
        self.first: dict[str, Fault] = {}

    def wants(self, reason: str) -> bool:
        """Whether there is room for another one."""
        return len(self._found.get(reason, ())) < MOST

    def fault(self, reason: str, number: int, faults: Sequence[Fault]) -> None:
        """A row that could not be read."""
        if reason in self.first and not self.wants(reason):
            return
        # The name of the file is enough: where it lay is nobody's business.
        named = [replace(fault, file=Path(fault.file).name) for fault in faults[:3]]
        self.first.setdefault(reason, named[0])
        if self.wants(reason):
            why = "; ".join(cut(str(fault), 300) for fault in named)
            self._found.setdefault(reason, []).append({"row": number, "why": why})

    def dropped(self, reason: str, index: int, fault: Fault) -> None:
        """The first row of a reason that could be read and was dropped."""
        said = f"{fault.message} {self._notes[index]}" if index in self._notes else fault.message
        self.first[reason] = replace(fault, message=said)

    def note(self, index: int, found: Found) -> None:
        """What the problem of that index repeats, for when it is added."""
        if len(self._notes) < MOST:
            best = min(found.matches, key=lambda m: (not m.exact, -m.share, m.question.file, m.question.id))
            how = "word for word" if best.exact else f"{best.share:.0%} of its 8-word runs"
            how += "" if best.bits is None else f", picture {best.bits} of 1024 bits away"
            self._notes[index] = f"{best.question.file} ({how}): {cut(best.question.text, 400)}"

    def add(self, reason: str, index: int, number: int, row: Mapping[str, Any]) -> None:
        """A row as it stands in problems.jsonl; reason "" for a kept one."""
        if not self.wants(reason):
            return
        parts = [part for message in row["messages"] for part in message["content"]]
        example = {
            "row": number,
            "id": cut(row["id"], 200),
            "source": cut(row["source"], 200),
            "text": cut("\n".join(part["text"] for part in parts if part["type"] == "text"), CHARACTERS),
            "answer": cut(row["answer"], 300),
            "pictures": [self._copy(sha) for sha in row["image_sha"][:PICTURES]],
        }
        if index in self._notes:
            example["why"] = self._notes[index]
        self._found.setdefault(reason, []).append(example)

    def _copy(self, sha: str) -> str:
        if sha not in self._small:
            try:
                stored = sha in self._images
                self._small[sha] = thumbnail(
                    self._images.get(sha) if stored else read_picture(self._folder / f"{sha}.png")
                )
            except DataError:
                self._small[sha] = ""
        return sha

    def as_dict(self) -> dict[str, Any]:
        """{"examples": {reason or "kept": [...]}, "thumbnails": {sha: JPEG in base 64}, "first": {reason: {file, row, field,
        message, remedy}}}."""
        named = {reason or "kept": found for reason, found in sorted(self._found.items())}
        first = {reason: asdict(fault) for reason, fault in sorted(self.first.items())}
        small = {sha: data for sha, data in sorted(self._small.items()) if data}
        return {"examples": named, "thumbnails": small, "first": first}


def cut(text: str, most: int) -> str:
    """The beginning of a text, with an ellipsis where it goes on."""
    return text if len(text) <= most else text[: most - 1] + "…"


def thumbnail(pixels: np.ndarray) -> str:
    """A small JPEG of a picture uint8[H, W, 3], in base 64."""
    small = Pil.fromarray(pixels)
    small.thumbnail((SIDE, SIDE))
    out = io.BytesIO()
    small.save(out, "JPEG", quality=70)
    return base64.b64encode(out.getvalue()).decode("ascii")
