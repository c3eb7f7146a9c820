"""No string may break, hang or fool the verifiers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lmm_r1 import verify
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.extract import extract

CASES = Path(__file__).resolve().parents[2] / "../shared/verifier_cases"
REASONS = {"correct", "wrong", "no_answer", "unparsable_answer", "ambiguous", "too_big", "error"}
SPACED = (
    "\\boxed{ } { ( ) [ ] \\{ \\} , = + - * / ^ _ ! . % $ \\frac \\sqrt \\pi \\pm \\cup \\infty \\text{ \\le and or x e i 0 1 2 9 10 "
    "cm °  ½ ² − <think> </think> <answer> </answer> \\ \\\\ & : ; | \x00 \ud800 ∞ \\binom \\begin \\times \\circ A B (B)"
)
PIECES = SPACED.split(" ")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.sampled_from(sorted(VERIFIERS)))
def test_no_reply_raises_and_the_gold_never_changes_by_it(answer: str, kind: str) -> None:
    """Catches an exception or an unknown reason on strings made of the grammar's own pieces."""
    for reply in (answer, f"<think>t</think><answer>{answer}</answer>", f"\\boxed{{{answer}}}"):
        for gold in ("3", answer):
            verdict = verify(gold, reply, kind, ("3", "4") if kind == "choice" else None)
            assert verdict.reason in REASONS
            assert verdict.value == (verdict.reason == "correct")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=60))
def test_any_text_is_safe(text: str) -> None:
    """Catches strange Unicode that breaks normalisation."""
    for kind in VERIFIERS:
        assert verify("B", text, kind).reason in REASONS
        assert verify(text, f"<answer>{text}</answer>", kind, ("x", text)).reason in REASONS
    extract(text)


def rows(name: str) -> list[dict[str, object]]:
    path = CASES / name
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_shared_cases_are_decided_as_expected() -> None:
    """Catches a wrong answer that pays, and a right one that does not, on pairs that mislead published checkers."""
    for row in rows("cases.jsonl"):
        verdict = verify(str(row["gold"]), str(row["prediction"]), choices=row.get("choices"))  # type: ignore[arg-type]
        assert bool(verdict.value) == row["expected"], row


def test_shared_adversarial_replies_are_harmless() -> None:
    """Catches a reply that hangs, crashes or is paid."""
    for row in rows("adversarial.jsonl"):
        verdict = verify(str(row["gold"]), str(row["prediction"]))
        assert verdict.reason in REASONS
        if row["expected"] is not None:
            assert bool(verdict.value) == row["expected"], row["name"]


@pytest.mark.parametrize(
    "answer",
    [
        "(" * 660 + ",)" * 660, "1" + " " * 1900 + "x", "\\sqrt[3]{7^{10900}}", "+".join(f"\\sqrt{{{999999937 - 2 * k}}}" for k in range(60)),
        "i " + "x!" * 60, "\\ln(" * 300, "e^" * 500 + "x", "|" * 900, "\\sin " * 300 + "x", "x_" * 900, "=" * 1900, "1:" * 900, "<" * 1900,
        "\\$1" + "." * 1900 + "x", "the " * 8 + "is " * 400, "for all " * 240, "\\boxed{" * 200 + "}" * 200, "[0,1]\\cup" * 48 + "[0,1]", "|x|<" * 380,
        "\\mathbb{R}\\setminus" * 90, "\\begin{cases}" + "1&x>1\\\\" * 49 + "\\end{cases}", "x \\approx 1." + "5" * 1500, "5" + " per" * 450, "\\vec" * 450,
    ],
)  # fmt: skip
def test_replies_that_are_dear_to_read(answer: str) -> None:
    """Catches recursion that escapes, and work that grows with the square of the length (a minute, not a second)."""
    for kind in VERIFIERS:
        assert verify("5", f"<answer>{answer}</answer>", kind, ("5", "6") if kind == "choice" else None).value == 0.0


def test_verify_loads_no_torch() -> None:
    """Catches an import that makes every verifier process pay for torch."""
    code = (
        "import sys, lmm_r1; assert lmm_r1.verify('1', r'\\boxed{1}').value == 1.0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
