"""The blind check: the same items with blank pictures."""

from __future__ import annotations

import numpy as np

from lmm_r1.config import Reward
from lmm_r1.data.images import ImageStore
from lmm_r1.evaluation.evaluate import ItemResult, SetResult, blanked, evaluate_set, result_from
from lmm_r1.evaluation.results import blind_findings
from lmm_r1.evaluation.suites import suite
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.play import Sampling
from tests.fakes import CharAdapter, ScriptedEngine


def item(k: int, right: bool) -> ItemResult:
    return ItemResult(str(k), "", float(right), 1.0, 0.0, "correct" if right else "wrong", 3)


def test_a_blanked_problem_keeps_all_but_the_picture() -> None:
    """Catches a check that changes the question, the size, or the stored picture itself."""
    images = ImageStore()
    problem = suite("geometry").problems(images, 1)[0]
    blind = blanked(problem, images)
    (before,), (after,) = problem.images, blind.images
    assert (images.get(after.sha) == 128).all() and images.get(after.sha).shape == images.get(before.sha).shape
    assert (images.get(before.sha) != 128).any()
    assert (blind.id, blind.answer, blind.messages[0].content[1]) == (
        problem.id,
        problem.answer,
        problem.messages[0].content[1],
    )


def test_sets_with_pictures_are_answered_twice() -> None:
    """Catches a check on other items, on a set without pictures, and one that changes the figures themselves."""
    images = ImageStore()
    engine = ScriptedEngine(lambda r: "<answer>7</answer>")
    sampling = Sampling(30, 1.0, max_context=4000)

    def run(name: str, blind: int) -> SetResult:
        score = make_scorer(Reward())
        return evaluate_set(name, 6, engine, CharAdapter(), images, score, sampling, system="", seed=1, blind=blind)

    seen, plain = run("geometry", 4), run("geometry", 0)
    assert seen.items == plain.items and [i.problem_id for i in seen.blind] == [i.problem_id for i in seen.items[:4]]
    assert run("text", 4).blind == ()
    assert result_from(seen.record()) == seen
    assert "blind" in seen.summary() and "blind" not in plain.summary()


def test_what_seeing_adds_is_paired() -> None:
    """Catches a gain against other items, and a finding that flatters the policy."""
    seeing = tuple(item(k, k % 10 != 0) for k in range(100))
    needs = SetResult("geometry", 1, seeing, tuple(item(k, k % 5 == 0) for k in range(60)))
    check = needs.summary()["blind"]
    assert check["n"] == 60 and np.isclose(check["gain"], 54 / 60 - 12 / 60) and check["low"] > 0
    blind = SetResult("geometry", 1, seeing, seeing[:60])
    assert blind.summary()["blind"]["gain"] == 0.0
    told = blind_findings(
        {"a": {"geometry": needs}, "b": {"geometry": blind}, "c": {"text": SetResult("text", 1, seeing)}}
    )
    assert len(told) == 2 and "needs its pictures" in told[0] and "do not matter to b" in told[1]
