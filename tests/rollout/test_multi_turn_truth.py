"""Multi-turn truth: a three-turn episode with three pictures has the same log-probs in engine and trainer, whatever the
memory, and nothing that the game wrote is trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.algorithms.token_weights import token_mean
from lmm_r1.config import AlgorithmConfig, Update
from lmm_r1.rollout.play import Episode, Sampling, play, turns_of
from lmm_r1.seams import Algorithm, Step
from lmm_r1.trainers.collate import collate
from lmm_r1.trainers.local import LocalTrainer, media_of
from lmm_r1.types import Credit, Message, Problem, Sample, Text
from tests.rollout.engine_fixture import Kit, make_kit

SIZES = ((56, 84), (84, 28), (112, 56))


class Three:
    """Three turns, a picture of another size each."""

    def __init__(self, kit: Kit, problem: Problem) -> None:
        self.kit, self.problem, self.turn = kit, problem, 0

    def start(self) -> tuple[Message, ...]:
        return self.problem.messages

    def step(self, reply: str) -> Step:
        self.turn += 1
        done = self.turn == 3
        shown = () if done else (message(self.kit, self.turn),)
        return Step(shown, 1.0, done, action=f"move {self.turn}")

    def close(self) -> None:
        pass


def message(kit: Kit, turn: int) -> Message:
    return Message("user", (kit.picture(10 + turn, *SIZES[turn]), Text(f"Turn {turn}: what now?")))


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("micro"))


def episodes(kit: Kit, window: tuple[int, int] | None) -> list[Episode]:
    # Stop tokens are rare in a random model, and a cut reply ends a game: here every reply ends where it is cut.
    problem = Problem("g", (message(kit, 0),), "", env="game")
    sampling = Sampling(6, 0.9, max_context=250, window=window)
    engine = kit.engine(max_context=256)
    stop = kit.adapter.stop_ids[0]
    real = engine.finished

    def ended():  # type: ignore[no-untyped-def]
        for reply in real():
            yield replace(reply, stop="eos")

    engine.finished = ended  # type: ignore[method-assign]
    played = play([(problem, s) for s in range(3)], engine, kit.adapter, partial(Three, kit), sampling, (0,))
    assert all(len(turns_of(e)) == 3 for e in played) and stop not in played[0][0].token_ids[-1:]
    return played


def trainer_of(kit: Kit) -> LocalTrainer:
    return LocalTrainer(kit.model, None, kit.adapter, Update(), 10, temperature=0.9)


@pytest.mark.parametrize("window", [None, (1, 5), (2, 1)], ids=["full", "window", "two pictures"])
def test_engine_and_trainer_agree_over_three_turns(kit: Kit, window: tuple[int, int] | None) -> None:
    """Catches rotary positions after the second picture, pictures in the wrong order, and a mask across siblings."""
    played = episodes(kit, window)
    rollouts = [r for e in played for r in e]
    assert sum(len(r.images) for r in played[0]) == (3 if window in (None, (1, 5)) else 5)
    anchors = trainer_of(kit).anchors(rollouts, frozenset({"old"}))
    for rollout, anchor in zip(rollouts, anchors, strict=True):
        assert rollout.trainable.any()
        np.testing.assert_allclose(
            np.where(rollout.trainable, rollout.logprobs, 0), anchor.old_logprobs, atol=1e-4, rtol=0
        )


def test_what_the_game_writes_gets_no_gradient(kit: Kit) -> None:
    """Catches feedback in the loss: its log-probs may be anything without moving the gradient."""
    rollouts = [r for e in episodes(kit, None) for r in e]
    owner = trainer_of(kit)
    media = media_of(kit.model)
    targets = torch.cat([b.targets for b in collate(rollouts, kit.adapter, media, 512)])
    assert len(targets) == sum(r.reply_tokens for r in rollouts)
    written = np.concatenate([r.token_ids[r.trainable] for r in rollouts])
    assert sorted(targets.tolist()) == sorted(written.tolist())
    algorithm = make_algorithm(AlgorithmConfig(name="grpo", kl_coef=0.0))
    anchors = owner.anchors(rollouts, frozenset({"old"}))
    for rollout in rollouts:
        ends = {turn.end for turn in rollout.turns}
        outside = np.ones(len(rollout.token_ids), bool)
        for turn in rollout.turns:
            outside[turn.start : turn.end] = False
        assert not rollout.trainable[outside].any() and len(ends) == 3

    def gradient(noise: float) -> torch.Tensor:
        samples = []
        for rollout, anchor in zip(rollouts, anchors, strict=True):
            advantages = np.where(rollout.trainable, 1.0, noise).astype(np.float32)
            samples.append(Sample(rollout, anchor, Credit(advantages)))
        return owner_gradient(owner, samples, algorithm)

    assert torch.equal(gradient(0.0), gradient(1e6))


def owner_gradient(owner: LocalTrainer, samples: list[Sample], algorithm: Algorithm) -> torch.Tensor:
    owner.model.zero_grad(set_to_none=True)
    owner.accumulate(samples, algorithm, algorithm.token_weights(samples), token_mean(samples))
    found = torch.cat([p.grad.flatten() for p in owner.model.parameters() if p.grad is not None])
    owner.model.zero_grad(set_to_none=True)
    assert found.norm() > 0
    return found.clone()
