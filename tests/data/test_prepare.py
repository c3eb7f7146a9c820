"""Preparation: every row is kept or counted, and what is written can be read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pil

from lmm_r1.data.filters import reason_to_drop
from lmm_r1.data.images import ImageStore
from lmm_r1.data.prepare import prepare
from lmm_r1.data.sources import read_problems
from lmm_r1.errors import DataError, RecipeError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.types import Message, Problem, Text


def raw(folder: Path, *rows: dict[str, Any]) -> Path:
    Pil.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "a.png")
    base = {"source": "s", "question": "q?", "choices": None, "answer": "1", "image": None}
    path = folder / "raw.jsonl"
    path.write_text("".join(json.dumps(base | {"id": f"r{n}"} | row) + "\n" for n, row in enumerate(rows)))
    return path


def test_every_row_is_kept_or_counted(tmp_path: Path) -> None:
    """Catches rows that vanish without a reason, and a prepared file that does not read back."""
    path = raw(
        tmp_path,
        {},
        {"image": "a.png", "source": "Geometry3K"},
        {"answer": ""},
        {"image": "none.png"},
        {"question": "Prove that x = x."},
        {"choices": ["1", "1 "], "answer": "A"},
        {"answer": "(1) 3 (2) 4"},
        {"answer": "x" * 300},
    )
    out = tmp_path / "out"
    report = prepare("unified", path, out, VERIFIERS, ImageStore())
    assert report["kept"] == 2
    assert report["by_source"] == {"Geometry3K": 1, "s": 1}
    assert report["kept"] + sum(report["dropped"].values()) == 8
    assert report["dropped"] == {
        "bad answer": 1,
        "bad image": 1,
        "equal choices": 1,
        "long answer": 1,
        "proof": 1,
        "several parts": 1,
    }
    assert "raw.jsonl:3 [answer]" in report["examples"]["bad answer"][0]
    assert json.loads((out / "report.json").read_text()) == report
    problems, faults = read_problems(out / "problems.jsonl", ImageStore(), VERIFIERS, strict=True)
    assert faults == []
    assert [p.id for p in problems] == ["r0", "r1"]
    assert len(problems[1].images) == 1
    assert sorted(p.name for p in out.iterdir()) == ["images", "problems.jsonl", "report.json"]


def test_what_cannot_be_prepared_is_one_line(tmp_path: Path) -> None:
    """Catches an empty problems.jsonl that a run would trip over later."""
    with pytest.raises(RecipeError, match="no data source 'x'"):
        prepare("x", raw(tmp_path, {}), tmp_path / "out", VERIFIERS, ImageStore())
    with pytest.raises(DataError, match="no row of it can be used"):
        prepare("unified", raw(tmp_path, {"answer": ""}), tmp_path / "out", VERIFIERS, ImageStore())
    assert not (tmp_path / "out").exists()


def test_an_ordinary_problem_is_kept() -> None:
    """Catches a filter that drops too much: tuples and words such as "show" are fine."""
    for question, answer in (
        ("What does the chart show?", "12"),
        ("Where do they meet?", "(1, 2)"),
        ("Solve.", "f(a) = 2"),
    ):
        assert reason_to_drop(Problem("p", (Message("user", (Text(question),)),), answer)) is None
