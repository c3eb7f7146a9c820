"""Training, evaluation and pass rates judge places in the picture that the model sees, at whatever size it sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lmm_r1.config import Model, Reward, RolloutConfig
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import ListSource
from lmm_r1.difficulty import measure
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import DataError
from lmm_r1.evaluation import evaluate as evaluation
from lmm_r1.evaluation.suites import Suite
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.collect import collect
from lmm_r1.rollout.play import Sampling
from lmm_r1.rollout.supervise import supervise
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Message, Problem, Reply, Request, Text

#: Size of the picture, gold, radius, least and most pixels of a canonical picture, the size it is seen in, and the
#: answer that is true there.
CASES = [
    ((840, 840), "[200, 200, 600, 600]", 0, 784, 15_680, (112, 112), "[27, 27, 80, 80]"),
    ((60, 60), "[6, 6, 30, 30]", 0, 50_176, 87_808, (224, 224), "[22, 22, 112, 112]"),
    ((100, 30), "[20, 0, 100, 30]", 0, 784, 87_808, (112, 28), "[22, 0, 112, 28]"),
    ((840, 420), "(420, 210)", 42, 784, 31_360, (224, 112), "(120, 58)"),
]


class Answers:
    """An engine that always says the same."""

    def __init__(self, answer: str, adapter: ModelAdapter) -> None:
        tokenizer = adapter.tokenizer  # type: ignore[attr-defined]
        text = f"<think>here</think><answer>{answer}</answer>"
        self._ids = np.array([*tokenizer(text).input_ids, adapter.stop_ids[0]], np.int32)
        self._waiting: list[Request] = []

    def submit(self, requests: list[Request]) -> None:
        self._waiting += requests

    def finished(self):  # type: ignore[no-untyped-def]
        while self._waiting:
            r = self._waiting.pop(0)
            yield Reply(r.id, r.token_ids, self._ids, np.zeros(len(self._ids), np.float32), "eos", 0)

    def cancel(self, ids: object) -> None:
        self._waiting.clear()


Case = tuple[Problem, ModelAdapter, ImageStore, tuple[int, int], str]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}->{case[5]}")
def case(request: pytest.FixtureRequest) -> Case:
    size, gold, radius, least, most, seen, true = request.param
    images = ImageStore()
    shown = images.put(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8))
    problem = Problem(
        "b", (Message("user", (shown, Text("Where?"))),), gold, "boxes", meta={"radius": radius} if radius else {}
    )
    adapter = make_adapter(MICRO_DIR, images, Model(min_pixels=least, max_pixels=most))
    (image,) = adapter.encode(problem.messages).images
    assert (image.width, image.height) == seen, "the case is what it says"
    return problem, adapter, images, seen, true


def trained(case: Case, answer: str) -> float:
    problem, adapter, *_ = case
    config = RolloutConfig(prompts=1, siblings=2, max_prompt_tokens=400)
    engine, score = Answers(answer, adapter), make_scorer(Reward())
    got = collect(lambda n: [problem] * n, engine, adapter, SingleTurn, score, config, max_context=600, seed=(0,))  # type: ignore[arg-type]
    (group,) = got.groups
    assert group.rollouts[0].problem is group.problem and group.problem.images == group.rollouts[0].images
    return group.scores[0].parts["accuracy"]


def evaluated(case: Case, answer: str, monkeypatch: pytest.MonkeyPatch) -> float:
    problem, adapter, images, *_ = case
    monkeypatch.setattr(evaluation, "suite", lambda name: Suite(name, 1, lambda store, n: [problem]))
    sampling, score = Sampling(64, 1.0, max_context=600), make_scorer(Reward())
    result = evaluation.evaluate_set(
        "own", 1, Answers(answer, adapter), adapter, images, score, sampling, system="", seed=0
    )  # type: ignore[arg-type]
    return result.items[0].accuracy


def measured(case: Case, answer: str, folder: Path) -> float:
    problem, adapter, *_ = case
    knobs = {"samples": 2, "temperature": 1.0, "max_new_tokens": 64, "max_prompt_tokens": 400, "seed": 0}
    out = folder / f"{len(list(folder.iterdir()))}.jsonl"
    measure(ListSource([problem]), out, knobs, Answers(answer, adapter), adapter, make_scorer(Reward()), 1)  # type: ignore[arg-type]
    return float(json.loads(out.read_text())["pass_rate"])


def test_what_is_true_in_the_picture_that_is_seen_is_paid(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches training, evaluation and difficulty that judge a place in the pixels of the picture as it lies on the disk."""
    problem, *_, true = case
    ways: list[Callable[[str], float]] = [
        lambda answer: trained(case, answer),
        lambda answer: evaluated(case, answer, monkeypatch),
        lambda answer: measured(case, answer, tmp_path),
    ]
    for judged in ways:
        assert judged(true) == 1.0
        if problem.images[0].width > 100:  # the picture of 100 x 30 is hardly another one
            assert judged(problem.answer) == 0.0


def test_a_picture_that_is_not_resized_changes_nothing() -> None:
    """Catches a gold that is written anew, or a problem that is another object, where there was nothing to scale."""
    images = ImageStore()
    shown = images.put(np.zeros((56, 84, 3), np.uint8))
    adapter = make_adapter(MICRO_DIR, images, Model())
    config = RolloutConfig(prompts=1, siblings=1, max_prompt_tokens=400)
    for gold, verifier in (("[ 3,4, 50,  40 ]", "boxes"), ("7", "math")):
        problem = Problem("b", (Message("user", (shown, Text("Where?"))),), gold, verifier)
        engine, score = Answers("[3, 4, 50, 40]", adapter), make_scorer(Reward())
        got = collect(
            lambda n, p=problem: [p] * n, engine, adapter, SingleTurn, score, config, max_context=600, seed=(0,)
        )  # type: ignore[misc, arg-type]
        assert got.groups[0].problem is problem


def test_a_solution_is_imitated_in_the_pixels_that_are_seen(case: Case) -> None:
    """Catches a supervised stage that teaches the places of another picture: it says that there is no such solution."""
    problem, adapter, *_ = case
    told = Problem("b", problem.messages, problem.answer, "boxes", meta={**problem.meta, "solution": "At the red one."})
    config = RolloutConfig(prompts=1, siblings=1, max_prompt_tokens=400, max_new_tokens=64)
    with pytest.raises(DataError, match="no solution to imitate"):
        supervise(
            lambda n: [told] * n, adapter, config, max_context=600, make=SingleTurn, expert=lambda p: lambda e: ""
        )  # type: ignore[arg-type, return-value]
