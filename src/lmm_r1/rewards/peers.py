"""Other answer checkers as verifiers, for `lmm-r1 verify --against`. None of them is a dependency.

Called the way their users call them, through the pool: several of them can hang.
"""

from __future__ import annotations

import importlib
import importlib.util

from lmm_r1.types import Problem, Verdict

#: Peer: the function that calls it.
PEERS = {"math-verify": "lmm_r1.rewards.peers:math_verify", "mathruler": "lmm_r1.rewards.peers:mathruler"}
_MODULES = {"math-verify": "math_verify", "mathruler": "mathruler"}


def installed(name: str) -> bool:
    """Whether a peer can be imported."""
    return importlib.util.find_spec(_MODULES[name]) is not None


def _verdict(right: object) -> Verdict:
    return Verdict(1.0, "correct") if right is True else Verdict(0.0, "wrong")


def math_verify(problem: Problem, reply: str) -> Verdict:
    """math-verify (github.com/huggingface/Math-Verify) with its default extraction; the gold in a box."""
    peer = importlib.import_module("math_verify")
    return _verdict(peer.verify(peer.parse(f"\\boxed{{{problem.answer}}}"), peer.parse(reply)))


def mathruler(problem: Problem, reply: str) -> Verdict:
    """mathruler (github.com/hiyouga/MathRuler): the last box, as EasyR1 calls it."""
    peer = importlib.import_module("mathruler.grader")
    return _verdict(bool(peer.grade_answer(peer.extract_boxed_content(reply), problem.answer)))
