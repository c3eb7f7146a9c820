"""`lmm-r1 verify` on files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmm_r1.cli import run
from lmm_r1.rewards.peers import PEERS
from lmm_r1.types import Problem


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


ROWS = (
    {"gold": "1/2", "prediction": "\\boxed{0.5}", "expected": True, "kind": "frac"},
    {"gold": "B", "prediction": "\\boxed{36}", "choices": ["24", "36"], "expected": False, "kind": "mcq"},
    {"gold": "2", "prediction": "", "expected": None},
    {"gold": "the red", "prediction": "<answer>Red</answer>", "verifier": "text", "kind": "vqa", "expected": False},
)


def test_a_line_per_case_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches lines out of order, a summary among the lines, and an exit code that depends on the verdicts."""
    cases = write(tmp_path / "cases.jsonl", *ROWS)
    assert run(["verify", str(cases)]) == 0
    printed = capsys.readouterr()
    found = [json.loads(line) for line in printed.out.splitlines()]
    assert [(line["verdict"], line["reason"]) for line in found] == [
        (True, "correct"), (True, "correct"), (False, "no_answer"), (True, "correct")
    ]  # fmt: skip
    assert all(line["ms"] >= 0 for line in found)
    assert [line.split()[:5] for line in printed.err.splitlines()[1:]] == [
        ["frac", "1", "0", "/", "0"], ["mcq", "1", "1", "/", "0"], ["vqa", "1", "1", "/", "0"], ["all", "3", "2", "/", "0"]
    ]  # fmt: skip


def test_json_and_fail_on_mismatch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that is not heeded."""
    cases = write(tmp_path / "cases.jsonl", *ROWS)
    out = tmp_path / "new" / "out.jsonl"
    assert run(["verify", str(cases), "--json", str(out), "--fail-on-mismatch"]) == 1
    assert len(out.read_text().splitlines()) == 4
    assert capsys.readouterr().out == ""
    assert run(["verify", str(write(tmp_path / "good.jsonl", ROWS[0])), "--fail-on-mismatch"]) == 0


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ("{", ""), ("[1]", ""), ({"prediction": "1"}, "[gold]"), ({"gold": 1, "prediction": "1"}, "[gold]"),
        ({"gold": "1", "prediction": None}, "[prediction]"), ({"gold": "1", "prediction": "1", "choices": "AB"}, "[choices]"),
        ({"gold": "1", "prediction": "1", "expected": "yes"}, "[expected]"),
        ({"gold": "1", "prediction": "1", "verifier": "magic"}, "[verifier]"), ("[" * 100_000, ""),
    ],
)  # fmt: skip
def test_a_bad_row_is_one_line(row: object, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, and a row that is skipped in silence."""
    cases = write(tmp_path / "cases.jsonl", ROWS[0], "", row)
    assert run(["verify", str(cases)]) == 3
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert f"cases.jsonl:3{' ' + field if field else ''}:" in printed.err
    assert printed.out == ""


def test_missing_files_and_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a peer that is skipped in silence."""
    assert run(["verify", str(tmp_path / "none.jsonl")]) == 3
    assert run(["verify", str(write(tmp_path / "empty.jsonl", ""))]) == 3
    cases = write(tmp_path / "cases.jsonl", ROWS[0])
    assert run(["verify", str(cases), "--against", "nobody"]) == 2
    assert "math-verify, mathruler" in capsys.readouterr().err


def refuses_all(problem: Problem, reply: str) -> bool:
    """A peer that cannot work here."""
    raise ModuleNotFoundError("no module of mine")


def test_a_broken_peer_is_no_strict_peer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a peer whose every error is counted as a rejection."""
    monkeypatch.setitem(PEERS, "mathruler", "tests.rewards.test_cases:refuses_all")
    monkeypatch.setattr("lmm_r1.rewards.cases.installed", lambda name: True)
    cases = write(tmp_path / "cases.jsonl", ROWS[0])
    assert run(["verify", str(cases), "--against", "mathruler"]) == 2
    assert "does not work here" in capsys.readouterr().err
