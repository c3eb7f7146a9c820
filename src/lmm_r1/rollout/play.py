"""The turn loop: an engine and environments play episodes, and each becomes one or more append-only Rollouts.

Inside a rollout nothing is ever rendered or tokenised a second time: the prompt is encoded once, replies are the engine's
own ids, and feedback adds only its new tokens. The engine echoes the ids it ran, and they must be ours. With full memory
an episode is one rollout; with a window (memory.py) every turn is a rollout of its own, a segment of the episode.
Episodes do not wait for each other: a reply is answered when it comes, whatever the others do.

Axis legend: T tokens of one rollout, as in types.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import get_args

import numpy as np

from lmm_r1.errors import EngineError
from lmm_r1.rewards.format import opening_of
from lmm_r1.rollout.memory import windowed
from lmm_r1.seams import Environment, MakeEnvironment, ModelAdapter, RolloutEngine, Step
from lmm_r1.types import Encoded, Image, Message, Problem, Reply, Request, Rollout, Stop, Text, Turn

#: Log-probs are at most 0, up to the rounding of an engine's arithmetic.
LOGPROB_ROUNDING = 1e-2
#: An episode: one rollout, or the chain of its segments.
Episode = tuple[Rollout, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn and remembered; as in config.RolloutConfig.

    window: (pictures, actions) that a prompt shows of the past; None = everything. max_turns: None = as the game says.
    """

    max_new_tokens: int
    temperature: float
    top_p: float = 1.0
    max_context: int = 1_000_000
    window: tuple[int, int] | None = None
    max_turns: int | None = None


def seed_of(*parts: object) -> int:
    """A seed below 2**63 that depends on all parts and nothing else."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(slots=True)
class _Segment:
    """A rollout while it is played."""

    images: tuple[Image, ...]
    token_ids: list[np.ndarray] = field(default_factory=list)
    logprobs: list[np.ndarray] = field(default_factory=list)
    trainable: list[np.ndarray] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    versions: list[tuple[int, int]] = field(default_factory=list)
    stop: Stop = "eos"
    opening: str = ""  # of the next reply, as the chat template begins it

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


class LiveEpisode:
    """An episode while it is played: its environment, and the segments so far.

    encoded: the problem's prompt; it may be known already. Where the chat template begins the reply, environment and
    verifiers see that beginning and the reply as one text.
    """

    def __init__(
        self,
        problem: Problem,
        sibling: int,
        make: MakeEnvironment,
        adapter: ModelAdapter,
        sampling: Sampling,
        encoded: Encoded | None = None,
    ) -> None:
        self.problem, self.sibling = problem, sibling
        self._adapter, self._sampling = adapter, sampling
        self.env: Environment = make(problem)
        self._opening = problem.messages
        if self.env.start() != problem.messages:  # turns of a window repeat it, and its prompt may be known already
            raise EngineError(
                f"the environment {problem.env} opens problem {problem.id} with other messages than its own"
            )
        self._observations: list[tuple[Message, ...]] = []
        self._played: list[str] = []
        self._segments: list[_Segment] = []
        self.encoded = encoded or adapter.encode(self._opening)
        self._begin(self.encoded)

    @property
    def prompt(self) -> np.ndarray:
        """Everything the next reply is asked for with, int32[T]."""
        return self._segments[-1].context()

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures in the prompt."""
        return self._segments[-1].images

    @property
    def opening(self) -> str:
        """What the chat template has begun of the next reply."""
        return self._segments[-1].opening

    @property
    def turns(self) -> int:
        """Replies so far."""
        return len(self._played)

    @property
    def last_turn(self) -> Turn:
        """The newest reply and what came of it."""
        return next(segment.turns[-1] for segment in reversed(self._segments) if segment.turns)

    def answer(self, reply: Reply) -> bool:
        """Append a reply and the environment's answer; True when another reply is wanted.

        EngineError when the engine ran other ids than the prompt.
        """
        segment, context = self._segments[-1], self.prompt
        if not np.array_equal(reply.prompt_ids, context):
            raise EngineError(
                f"the engine ran {len(reply.prompt_ids)} prompt tokens that differ from the {len(context)} asked "
                f"(problem {self.problem.id}, sibling {self.sibling})"
            )
        start, end = len(context), len(context) + len(reply.token_ids)
        segment.extend(reply.token_ids, reply.logprobs)
        segment.versions.append((start, reply.version))
        segment.stop = reply.stop
        opening = segment.opening
        text = opening + self._adapter.decode(reply.token_ids)
        step = self.env.step(text)
        segment.turns.append(turn_of(text, step, start, end, opening))
        self._observations.append(step.feedback)
        self._played.append(step.action)
        limit = self._sampling.max_turns
        if step.done or reply.stop != "eos" or (limit is not None and self.turns >= limit):
            return False
        return self._go_on(step.feedback)

    def _go_on(self, feedback: tuple[Message, ...]) -> bool:
        """Append the feedback, or begin the next segment; False when the context has no room for another reply."""
        sampling, segment = self._sampling, self._segments[-1]
        room = sampling.max_context - sampling.max_new_tokens
        if sampling.window is not None:
            shown = windowed(self._opening, self._observations, self._played, *sampling.window)
            prompt = self._adapter.encode(shown)
            if len(prompt.token_ids) > room:
                segment.stop = "context"
                return False
            self._begin(prompt)
            return True
        added = self._adapter.encode_feedback(feedback)
        if len(self.prompt) + len(added.token_ids) > room:
            segment.stop = "context"
            return False
        segment.extend(added.token_ids, None)
        segment.images += added.images
        segment.opening = opening_of(added.opening)
        return True

    def _begin(self, prompt: Encoded) -> None:
        segment = _Segment(prompt.images, opening=opening_of(prompt.opening))
        segment.extend(prompt.token_ids, None)
        self._segments.append(segment)

    def rollouts(self, index: int) -> Episode:
        """The finished episode; a segment that got no reply is left out."""
        return tuple(
            Rollout(
                problem=self.problem,
                sibling=self.sibling,
                episode=index,
                segment=number,
                token_ids=segment.context().astype(np.int32, copy=False),
                trainable=np.concatenate(segment.trainable),
                logprobs=np.concatenate(segment.logprobs).astype(np.float32, copy=False),
                images=segment.images,
                turns=tuple(segment.turns),
                stop=segment.stop,
                versions=tuple(segment.versions),
            )
            for number, segment in enumerate(self._segments)
            if segment.turns
        )


def play(
    episodes: Sequence[tuple[Problem, int]],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    make: MakeEnvironment,
    sampling: Sampling,
    seed: Sequence[object],
    encoded: Mapping[str, Encoded] | None = None,
    watch: Callable[[Environment, Turn], None] | None = None,
    finished: Callable[[int, Episode], None] | None = None,
) -> list[Episode]:
    """Play (problem, sibling) episodes to their end; they come back in the order asked.

    seed: what each reply's seed derives from, besides problem, sibling and turn. encoded: prompts that
    are known already, by problem id. watch(environment, turn) is called after each turn of any episode, finished(index, episode) when
    one has ended, while others are still played. Raises EngineError when the engine ran other ids than asked, or for a reply that
    `check_reply` refuses.
    """
    prompts = dict(encoded or {})
    played: list[LiveEpisode] = []
    ended: dict[int, Episode] = {}
    with ExitStack() as closing:  # a game may hold processes: each is closed, whatever happens
        for problem, sibling in episodes:
            episode = LiveEpisode(problem, sibling, make, adapter, sampling, prompts.get(problem.id))
            prompts.setdefault(problem.id, episode.encoded)
            played.append(episode)
            closing.callback(episode.env.close)
        # Nobody would read what is open when this is left early, and an engine with open requests takes no new weights.
        closing.push(lambda kind, *_: engine.cancel(range(len(played))) if kind is not None else None)
        waiting = {index: _request(index, episode, sampling, seed) for index, episode in enumerate(played)}
        engine.submit(list(waiting.values()))
        for reply in engine.finished():
            check_reply(reply, waiting.pop(reply.id, None), adapter)
            wanted = played[reply.id].answer(reply)
            if watch is not None:
                watch(played[reply.id].env, played[reply.id].last_turn)
            if wanted:
                waiting[reply.id] = _request(reply.id, played[reply.id], sampling, seed)
                engine.submit([waiting[reply.id]])
            else:
                played[reply.id].env.close()
                ended[reply.id] = played[reply.id].rollouts(reply.id)
                if finished is not None:
                    finished(reply.id, ended[reply.id])
    if waiting:  # of an episode's later turns as well
        first = played[min(waiting)].problem.id
        raise EngineError(f"the engine returned no reply for {len(waiting)} episodes, the first of problem {first}")
    return [ended[index] for index in range(len(played))]


def check_reply(reply: Reply, request: Request | None, adapter: ModelAdapter) -> None:
    """EngineError, one line, when a reply is none to this request: what an engine says is learned from as it stands.

    request: the one that waits under the reply's id; None when there is none (unknown, or answered before).
    """
    if request is None:
        raise EngineError(f"the engine returned a reply with id {reply.id!r}, for which no request waits")
    ids, logprobs = np.asarray(reply.token_ids), np.asarray(reply.logprobs)
    what = ""
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or ids.size == 0):
        what = f"token ids of type {ids.dtype} and shape {ids.shape}"
    elif logprobs.shape != ids.shape or not (np.issubdtype(logprobs.dtype, np.floating) or ids.size == 0):
        what = f"{ids.size} tokens with log-probs of type {logprobs.dtype} and shape {logprobs.shape}"
    elif ids.size > request.max_new_tokens:
        what = f"{ids.size} tokens where {request.max_new_tokens} were asked for"
    elif ids.size and not (ids.min() >= 0 and ids.max() < adapter.vocabulary):
        what = f"token ids from {ids.min()} to {ids.max()} of a vocabulary of {adapter.vocabulary}"
    elif np.isin(ids, adapter.banned_ids).any():
        what = f"token {ids[np.isin(ids, adapter.banned_ids)][0]}, which must never be sampled"
    elif not np.isfinite(logprobs).all():
        what = f"a log-prob of {logprobs[~np.isfinite(logprobs)][0]}"
    elif ids.size and logprobs.max() > LOGPROB_ROUNDING:
        what = f"a log-prob of {logprobs.max():.3g}, above 0"
    elif reply.stop not in get_args(Stop):
        what = f"the unknown stop {reply.stop!r}"
    if what:
        raise EngineError(f"the engine's reply {reply.id} (version {reply.version!r}) is malformed: it has {what}")


def turn_of(reply: str, step: Step, start: int = 0, end: int = 0, opening: str = "") -> Turn:
    """A reply that begins with `opening`, its own tokens [start, end), and what the environment made of it."""
    feedback = "".join(p.text if isinstance(p, Text) else "<image>" for m in step.feedback for p in m.content)
    return Turn(start, end, reply, feedback, step.reward, step.action, step.outcome, step.success, step.score, opening)


def turns_of(episode: Episode) -> list[Turn]:
    """The turns of an episode over all its segments."""
    return [turn for rollout in episode for turn in rollout.turns]


def _request(index: int, episode: LiveEpisode, sampling: Sampling, seed: Sequence[object]) -> Request:
    return Request(
        id=index,
        token_ids=episode.prompt,
        images=episode.images,
        seed=seed_of(*seed, episode.problem.id, episode.sibling, episode.turns),
        max_new_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
    )
