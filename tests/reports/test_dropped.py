"""The page of prepared data: complete, self-contained, and safe with whatever a row holds."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.images import ImageStore
from lmm_r1.data.preparing.prepare import prepare
from lmm_r1.reports.dropped import MOST_SOURCES, render
from lmm_r1.rewards import VERIFIERS

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e'\"&amp;"


class Elements(HTMLParser):
    """Every element of a page with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def prepared(folder: Path, *rows: dict[str, Any]) -> tuple[dict[str, Any], str]:
    Pil.fromarray(np.full((300, 200, 3), 90, np.uint8)).save(folder / "a.png")
    path = folder / "raw.jsonl"
    base = [{"id": f"r{n}", "question": f"q{n}?", "answer": "1", "source": "s"} | row for n, row in enumerate(rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in base))
    report = prepare("rows", path, folder / "out", VERIFIERS, ImageStore(), page=render)
    return report, (folder / "out" / "report.html").read_text("utf-8")


def test_counts_reasons_and_rows_are_shown(tmp_path: Path) -> None:
    """Catches a reason, a source, an example or a picture that falls off the page."""
    report, page = prepared(
        tmp_path, {"image": "a.png", "source": "one"}, {}, {"question": "Prove that a = a.", "image": "a.png"},
        {"answer": ""}, *({"answer": f"{n}-{n + 3}", "source": "two"} for n in range(25)),
    )  # fmt: skip
    elements = Elements(page)
    for text in ("Prove that a = a.", "rows read", "one", "two", "proof: 1 of 1", "range: 10 of 25", "kept: 2 of 2"):
        assert text in elements.text, text
    for reason, why in report["reasons"].items():
        assert reason in elements.text and why in elements.text
    assert "raw.jsonl:4 [answer]" in elements.text
    assert set(report["first"]) == set(report["dropped"])
    for fault in report["first"].values():
        assert f"raw.jsonl:{fault['row']} [{fault['field']}]: {fault['message']}" in elements.text
    pictures = [a for tag, a in elements.found if tag == "img"]
    assert len(pictures) == 2
    assert all((a["src"] or "").startswith("data:image/jpeg;base64,") for a in pictures)
    assert len(page) < 60_000


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    """Catches a script, a handler, a link to a network, or a policy that would allow one."""
    _, page = prepared(tmp_path, {"image": "a.png"}, {"answer": ""})
    elements = Elements(page)
    assert not {tag for tag, _ in elements.found} & {"script", "link", "iframe", "object", "embed", "form", "a", "base"}
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
    (policy,) = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert (policy or "").startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "http://" not in page and "https://" not in page


def test_hostile_rows_are_shown_as_text(tmp_path: Path) -> None:
    """Catches a question, an answer, a source, an id or a path that becomes markup or carries control characters."""
    _, page = prepared(
        tmp_path,
        {"question": HOSTILE},
        {"question": HOSTILE + "?", "answer": f"between {HOSTILE} and", "source": HOSTILE},
        {"id": HOSTILE, "answer": "about 5"},
        {"image": HOSTILE},
        {"answer": ["x"], "id": HOSTILE},
    )
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.found}
    assert not [a for tag, a in elements.found if tag == "img" and not (a["src"] or "").startswith("data:")]
    assert "<script>alert(1)</script>" in elements.text, "shown, as text"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


def test_a_report_that_lies_is_harmless() -> None:
    """Catches pictures and counts of a report.json that was written by someone else."""
    report = {
        "source": HOSTILE, "input": HOSTILE, "rows": "many", "kept": None, "dropped": {HOSTILE: 3}, "revision": HOSTILE,
        "by_source": {HOSTILE: {"kept": 1, "dropped": {HOSTILE: 2}}}, "reasons": {HOSTILE: HOSTILE},
        "options": {HOSTILE: HOSTILE}, "by_category": {HOSTILE: 1},
        "examples": {HOSTILE: [{"row": HOSTILE, "why": HOSTILE, "text": HOSTILE, "answer": HOSTILE, "pictures": ["x"]}]},
        "thumbnails": {"x": '"><script>alert(3)</script>'},
    }  # fmt: skip
    elements = Elements(render(report))
    assert "script" not in {tag for tag, _ in elements.found}
    assert "img" not in {tag for tag, _ in elements.found}


@pytest.mark.parametrize("count", [0, MOST_SOURCES, MOST_SOURCES + 5])
def test_many_sources_are_added_up(count: int) -> None:
    """Catches a table of thousands of sources, and rows that it leaves out of the sum."""
    by_source = {f"s{n}": {"kept": n, "dropped": {"proof": 1}} for n in range(count)}
    text = Elements(render({"rows": 9, "kept": 5, "dropped": {"proof": count}, "by_source": by_source})).text
    assert ("more sources" in text) is (count > MOST_SOURCES)
