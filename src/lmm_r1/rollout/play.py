"""The turn loop: an engine and environments play episodes, and each becomes an append-only Rollout.

Inside a rollout nothing is ever rendered or tokenised a second time: the prompt is encoded once per
problem, replies are the engine's own ids, and feedback adds only its new tokens. The engine echoes the
ids it ran, and they must be ours. Leaves out: windowed memory (each turn a rollout of its own).

Axis legend: T tokens of one rollout, as in types.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lmm_r1.errors import EngineError
from lmm_r1.seams import Environment, ModelAdapter, RolloutEngine
from lmm_r1.types import Encoded, Image, Problem, Reply, Request, Rollout, Stop, Turn

MakeEnvironment = Callable[[Problem], Environment]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn; as in config.RolloutConfig."""

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    max_context: int = 1_000_000


def seed_of(*parts: object) -> int:
    """A seed below 2**63 that depends on all parts and nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(slots=True)
class _Episode:
    """An episode while it is played."""

    problem: Problem
    sibling: int
    env: Environment
    images: tuple[Image, ...]
    token_ids: list[np.ndarray]
    logprobs: list[np.ndarray]
    trainable: list[np.ndarray]
    turns: list[Turn] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)
    stop: Stop = "eos"

    def context(self) -> np.ndarray:
        """All tokens so far, int32[T]."""
        if len(self.token_ids) > 1:
            self.token_ids = [np.concatenate(self.token_ids)]
        return self.token_ids[0]

    def extend(self, ids: np.ndarray, logprobs: np.ndarray | None) -> None:
        """Append tokens: the policy's with log-probs, others without."""
        self.token_ids.append(ids)
        self.logprobs.append(np.zeros(len(ids), np.float32) if logprobs is None else logprobs)
        self.trainable.append(np.full(len(ids), logprobs is not None))

    def rollout(self, index: int) -> Rollout:
        """The finished rollout."""
        return Rollout(
            problem=self.problem,
            sibling=self.sibling,
            episode=index,
            segment=0,
            token_ids=self.context().astype(np.int32, copy=False),
            trainable=np.concatenate(self.trainable),
            logprobs=np.concatenate(self.logprobs).astype(np.float32, copy=False),
            images=self.images,
            turns=tuple(self.turns),
            stop=self.stop,
            versions=tuple(self.versions),
        )


def play(
    episodes: Sequence[tuple[Problem, int]],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    environments: Mapping[str, MakeEnvironment],
    sampling: Sampling,
    seed: Sequence[object],
    encoded: Mapping[str, Encoded] | None = None,
) -> list[Rollout]:
    """Play (problem, sibling) episodes to their end; rollouts come back in the order asked.

    seed: what each reply's seed derives from, besides problem, sibling and turn. encoded: prompts that
    are known already, by problem id. Raises EngineError when the engine ran other ids than asked.
    """
    prompts = dict(encoded or {})
    played: list[_Episode] = []
    requests: list[Request] = []
    for index, (problem, sibling) in enumerate(episodes):
        env = environments[problem.env](problem)
        opening = env.start()
        if problem.id not in prompts:
            prompts[problem.id] = adapter.encode(opening)
        prompt = prompts[problem.id]
        episode = _Episode(problem, sibling, env, prompt.images, [], [], [])
        episode.extend(prompt.token_ids, None)
        played.append(episode)
        requests.append(_request(index, episode, sampling, seed))
    engine.submit(requests)
    for reply in engine.finished():
        episode = played[reply.id]
        follow_up = _answer(episode, reply, adapter, sampling)
        if follow_up:
            engine.submit([_request(reply.id, episode, sampling, seed)])
        else:
            episode.env.close()
    missing = [e.problem.id for e in played if not e.turns]
    if missing:
        raise EngineError(
            f"the engine returned no reply for {len(missing)} episodes, the first of problem {missing[0]}"
        )
    return [episode.rollout(index) for index, episode in enumerate(played)]


def _request(index: int, episode: _Episode, sampling: Sampling, seed: Sequence[object]) -> Request:
    return Request(
        id=index,
        token_ids=episode.context(),
        images=episode.images,
        seed=seed_of(*seed, episode.problem.id, episode.sibling, len(episode.turns)),
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )


def _answer(episode: _Episode, reply: Reply, adapter: ModelAdapter, sampling: Sampling) -> bool:
    """Append a reply and the environment's answer; True when another reply is wanted."""
    context = episode.context()
    if not np.array_equal(reply.prompt_ids, context):
        raise EngineError(
            f"the engine ran {len(reply.prompt_ids)} prompt tokens that differ from the {len(context)} asked "
            f"(problem {episode.problem.id}, sibling {episode.sibling})"
        )
    start = len(context)
    episode.extend(reply.token_ids, reply.logprobs)
    episode.versions.append((start, reply.version))
    text = adapter.decode(reply.token_ids)
    step = episode.env.step(text)
    feedback = "".join(getattr(part, "text", "<image>") for m in step.feedback for part in m.content)
    episode.turns.append(Turn(start, start + len(reply.token_ids), text, feedback, step.reward))
    episode.stop = reply.stop
    if step.done or reply.stop != "eos":
        return False
    added = adapter.encode_feedback(step.feedback)
    if start + len(reply.token_ids) + len(added.token_ids) + sampling.max_new_tokens > sampling.max_context:
        episode.stop = "context"
        return False
    episode.extend(added.token_ids, None)
    episode.images += added.images
    return True
