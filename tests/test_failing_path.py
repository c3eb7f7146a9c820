"""A run whose own verifier fails: what happened stands in the terminal, in the run folder and in the report."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from lmm_r1 import cli
from lmm_r1.errors import EngineError
from lmm_r1.runs.jsonl import read_lines

ROOT = Path(__file__).parents[1]
OWN = "tests.own_verifiers"
HERE = r"tests/own_verifiers\.py:\d+"


def trained(out: Path, verifier: str, **more: object) -> int:
    settings = {
        "stage.train.steps": 2, "evaluate.sets": "[]", "stage.train.rollout.prompts": 3, "stage.train.rollout.siblings": 4,
        "stage.train.rollout.max_new_tokens": 24, "stage.train.reward.verifier": f'"{OWN}:{verifier}"',
        "stage.train.reward.limit_s": 20, **more,
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return cli.run(["train", str(ROOT / "recipes" / "micro_rl.toml"), *options, "--out", str(out)])


@pytest.mark.parametrize(
    ("verifier", "said"),
    [
        ("oops", rf"RuntimeError: oops in my verifier \({HERE}\)"),
        ("own", rf"OfItsOwn: none of the usual ones \({HERE}\)"),
        ("leaks", r"tried to open a file for writing \(\S*'leak\.txt'\)*: not allowed in a verifier"),
        ("hungry", rf"out of memory: MemoryError \({HERE}\)"),
    ],
)
def test_a_run_that_stops_says_why(
    verifier: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches "8 of 8 replies could not be verified" as all that is ever told, and a fault that trains as wrong answers."""
    out = tmp_path / "run"
    assert trained(out, verifier) == EngineError.exit_code
    stopped = capsys.readouterr().err.splitlines()[-1]
    assert re.search(said, stopped) and re.search(r"problem \S+, reply '", stopped), stopped
    lines = read_lines(out / "train" / "verifier_failures.jsonl")
    assert lines and all(re.search(said, line["detail"]) and line["reply"] and line["problem_id"] for line in lines)
    assert cli.run(["report", str(out)]) == 0
    assert re.search(said, html.unescape((out / "report.html").read_text()))


def test_a_run_that_goes_on_keeps_and_tells_what_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches failures under the bound that nobody hears of."""
    out = tmp_path / "run"
    assert trained(out, "seldom", **{"guards.max_skipped_share": 1.0}) == 0
    shown = " ".join("".join(capsys.readouterr()).split())
    assert re.search(r"step \d: a verifier failed: accuracy of problem \S+, reply .*KeyError: 'smiles'", shown)
    lines = read_lines(out / "train" / "verifier_failures.jsonl")
    assert {line["reason"] for line in lines} == {"error"} and all(
        "KeyError: 'smiles'" in line["detail"] for line in lines
    )
    assert "failed verdicts of verifiers" in (out / "report.html").read_text()
