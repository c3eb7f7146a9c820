"""An evaluation in which verifiers fail: such items are in no share, are counted, and too many of them stop it."""

from __future__ import annotations

import pytest

from lmm_r1.difficulty import _line
from lmm_r1.errors import EngineError
from lmm_r1.evaluation.evaluate import ItemResult, SetResult, difference, guard_unjudged_items, result_from
from lmm_r1.rollout.judged import unjudged
from lmm_r1.types import Problem, Score


def item(name: str, accuracy: float, failed: str = "") -> ItemResult:
    return ItemResult(name, "", accuracy, 1.0, 0.0, failed or "correct", 3, unjudged=bool(failed))


@pytest.mark.parametrize("kind", ["timeout", "error"])
def test_a_failed_verdict_is_in_no_share(kind: str) -> None:
    """Catches an accuracy that a verifier's own failures lower, and a paired difference that takes them for wrong answers."""
    ours = SetResult("text", 1, (item("a", 1.0), item("b", 0.0, kind), item("c", 1.0)))
    theirs = SetResult("text", 1, (item("a", 0.0), item("b", 1.0), item("c", 1.0)))
    summary = ours.summary()
    assert (summary["n"], summary["unjudged"], summary["accuracy"]) == (2, 1, 1.0) and summary["verdicts"][kind] == 1
    assert theirs.summary()["unjudged"] == 0
    found = difference("x", "y", {"x": {"text": ours}, "y": {"text": theirs}}, "text")
    assert found["n"] == 2 and found["mean"] == 0.5
    assert result_from(ours.record()) == ours
    blind = SetResult("text", 1, ours.items, (item("a", 0.0), item("b", 0.0), item("c", 0.0, kind)))
    assert blind.summary()["blind"]["n"] == 1


@pytest.mark.parametrize(
    ("failed", "allowed", "stops"), [(1, 0.05, True), (1, 0.5, False), (4, 1.0, True), (0, 0.0, False)]
)
def test_too_many_stop_the_evaluation(failed: int, allowed: float, stops: bool) -> None:
    """Catches figures of a handful of items under the name of a set; and the stop must say which items."""
    items = [item(f"p{k}", 0.0, "timeout" if k < failed else "") for k in range(4)]
    if not stops:
        guard_unjudged_items("text", items, allowed)
        return
    with pytest.raises(EngineError, match=rf"evaluation on text: {failed} of 4 replies .*problem p0: timeout"):
        guard_unjudged_items("text", items, allowed)


def test_a_pass_rate_is_of_judged_replies() -> None:
    """Catches a row that counts as hard because its verifier failed."""
    problem = Problem("p", (), "1")
    scores = [Score(1.0, {"accuracy": 1.0}, {"accuracy": v}) for v in ("correct", "error")]
    scores[1].parts["accuracy"] = 0.0  # type: ignore[index]
    line = _line(problem, [], scores)
    assert (line["n"], line["pass_rate"], line["verdicts"]) == (1, 1.0, {"correct": 1, "error": 1})
    assert _line(problem, [], scores[1:])["pass_rate"] is None


def test_an_outcome_of_a_game_is_no_verdict() -> None:
    """Catches episodes left out because a game calls its turn limit a timeout."""
    score = Score(0.0, {"accuracy": 0.0}, {"accuracy": "timeout"})
    assert unjudged(Problem("q", (), "1"), score) and not unjudged(Problem("g", (), "", env="sokoban"), score)
