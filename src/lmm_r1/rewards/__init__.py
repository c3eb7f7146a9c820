"""Rule-based rewards: plain functions of a problem and a reply, behind one table. Never imports torch."""

from __future__ import annotations

from collections.abc import Sequence

from lmm_r1.rewards.boxes import boxes_verdict
from lmm_r1.rewards.choice import choice_verdict
from lmm_r1.rewards.math import math_verdict
from lmm_r1.rewards.numeric import numeric_verdict
from lmm_r1.rewards.text import text_verdict
from lmm_r1.seams import Verifier
from lmm_r1.types import Problem, Verdict

#: Verifiers by the name that a problem carries.
VERIFIERS: dict[str, Verifier] = {
    "math": math_verdict,
    "choice": choice_verdict,
    "numeric": numeric_verdict,
    "text": text_verdict,
    "boxes": boxes_verdict,
}


def verify(gold: str, prediction: str, kind: str = "math", choices: Sequence[str] | None = None) -> Verdict:
    """Check a reply against a gold answer: Verdict(value in [0, 1], reason code).

    prediction: a model's reply, with an answer block or a \\boxed{...}. kind: a key of VERIFIERS.
    With choices and kind "math", a gold letter is checked as a choice. Raises ValueError for another kind
    only; never for any text.
    """
    if kind not in VERIFIERS:
        raise ValueError(f"no verifier '{kind}' (there are: {', '.join(VERIFIERS)})")
    if choices and kind == "math":
        kind = "choice"
    problem = Problem("", (), gold, verifier=kind, choices=tuple(choices) if choices else None)
    return VERIFIERS[kind](problem, prediction)
