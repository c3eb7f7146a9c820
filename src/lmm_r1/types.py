"""The nouns of the project, one per stage of life of a training example.

A row of data is a `Problem`; a model answers it in a `Rollout`; verifiers turn that into a
`Score`; siblings of one problem form a `Group`; frozen models add `Anchors`; an algorithm adds
`Credit`; a trainer sees `Sample`s. No field is None until later: a new stage of life is a new type.

One alignment holds everywhere: element t of a per-token array belongs to token t, and a log-prob is
log p(token[t] | token[<t]) in nats, at the sampling temperature, with media tokens masked.

Axis legend: T = all tokens of one rollout, in the order the model saw them: prompt, replies and
environment text, image placeholders expanded.  G = siblings of one problem.

Left out on purpose: padded batches (they exist only inside `trainers/`) and pixels (they travel by
sha256 and become features inside the model's adapter). Standard library and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Int32 = NDArray[np.int32]
Float32 = NDArray[np.float32]
Bool = NDArray[np.bool_]
#: What two token streams must share to be one prompt: the bytes of their ids, and the shas of their pictures in order.
PromptKey = tuple[bytes, tuple[str, ...]]

Role = Literal["system", "user", "assistant"]
#: `Problem.env` of a question: one reply ends it, and a verifier judges it.
SINGLE_TURN = "single_turn"
#: Why a reply ended: the model stopped, its token budget ran out, or the context was full.
Stop = Literal["eos", "length", "context"]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text inside a message. Media tokens written in it are data, never placeholders."""

    text: str


@dataclass(frozen=True, slots=True)
class Image:
    """A picture by name: `sha` is the sha256 of its RGB pixels and size (see data/images.py)."""

    sha: str
    width: int
    height: int


def prompt_key(token_ids: Int32, images: Iterable[Image]) -> PromptKey:
    """Equal for equal prompts alone: who has the same one can share its prefill, its row or its engine."""
    return token_ids.tobytes(), tuple(image.sha for image in images)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; `content` keeps text and pictures in reading order."""

    role: Role
    content: tuple[Text | Image, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One prepared row: what is asked, and how an answer is checked.

    id: unique and stable; seeds derive from it.  verifier: a key of rewards.VERIFIERS.
    env: SINGLE_TURN, or the name of a game (envs/games.py).  choices: option texts of a multiple-choice row, in order A, B, ...
    """

    id: str
    messages: tuple[Message, ...]
    answer: str
    verifier: str = "math"
    env: str = SINGLE_TURN
    source: str = ""
    choices: tuple[str, ...] | None = None
    domain: str = ""
    meta: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_game(self) -> bool:
        """Whether an environment answers each reply and pays for it; else it is a question with an answer."""
        return self.env != SINGLE_TURN

    @property
    def images(self) -> tuple[Image, ...]:
        """The pictures of all messages, in reading order."""
        return tuple(p for m in self.messages for p in m.content if isinstance(p, Image))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says of one answer: `value` in [0, 1] and a reason code.

    Reason codes: correct, wrong, no_answer, unparsable_answer, ambiguous, timeout, too_big, error.
    detail: of a verifier that failed, what happened, on one line for people; no part of what the verdict is.
    """

    value: float
    reason: str
    detail: str = field(default="", compare=False)


#: Reason codes of a verifier that failed: they say nothing about the reply.
FAILED_VERDICTS = frozenset({"timeout", "error"})


@dataclass(frozen=True, slots=True)
class Turn:
    """One reply inside a rollout: its tokens are [start, end); the rest is what the environment made of it.

    reply: the whole text that is judged. It begins with `opening`, what the chat template had begun of it in the prompt;
    the tokens of the opening stand before `start`.
    feedback: its answer, as text.  action: what was played, "" for nothing.  outcome: a reason code, see seams.Step.
    success: how far the episode's goal is reached by now, in [0, 1].  score: the benchmark's score by now, None of a
    game that has none.
    """

    start: int
    end: int
    reply: str
    feedback: str = ""
    reward: float = 0.0
    action: str = ""
    outcome: str = ""
    success: float = 0.0
    score: float | None = None
    opening: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One append-only token stream that the model saw and wrote.

    token_ids int32[T], trainable bool[T] (True where the policy wrote the token), logprobs
    float32[T] (0 where not trainable). images: canonical pictures in stream order.
    versions: spans (first token index, weight version).
    """

    problem: Problem
    sibling: int
    episode: int
    segment: int
    token_ids: Int32
    trainable: Bool
    logprobs: Float32
    images: tuple[Image, ...]
    turns: tuple[Turn, ...]
    stop: Stop
    versions: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if len(self.trainable) != n or len(self.logprobs) != n:
            raise ValueError(
                f"rollout of problem {self.problem.id}: {n} tokens, {len(self.trainable)} trainable "
                f"flags, {len(self.logprobs)} log-probs; the three must be equally long"
            )
        for array in (self.token_ids, self.trainable, self.logprobs):
            array.setflags(write=False)

    @property
    def reply_tokens(self) -> int:
        """How many tokens the policy wrote."""
        return int(self.trainable.sum())

    @property
    def prompt_end(self) -> int:
        """Index of the first reply token: everything before it is the prompt shared by siblings."""
        return self.turns[0].start


@dataclass(frozen=True, slots=True)
class Score:
    """The reward of one episode: the weighted sum, its unweighted parts and their reason codes.

    per_turn: how much of `reward` each turn earned, in order, over all segments; empty = all at the episode's end.
    details: by part, what happened where a verifier failed.  paid_as: in the control arm with shuffled rewards, the score of
    another reply, from which `reward` comes; parts and verdicts are always the reply's own.
    """

    reward: float
    parts: Mapping[str, float]
    verdicts: Mapping[str, str]
    per_turn: tuple[float, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    paid_as: Score | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A reply that a verifier failed to judge: part of the reward, reason code, what happened, the reply's beginning."""

    problem_id: str
    sibling: int
    part: str
    reason: str
    detail: str
    reply: str

    def __str__(self) -> str:
        """One line; the reply is shown as Python writes a string, so that nothing in it reaches a terminal raw."""
        return f"{self.part} of problem {self.problem_id}, reply {self.reply!r}: {self.reason}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Group:
    """Siblings of one problem and their scores; what an algorithm sees.

    episodes[g] is a chain of one or more Rollouts (segments) of sibling g; scores[g] is its score.
    greedy: the reward of the likeliest reply, for algorithms that compare with it; else None.
    """

    problem: Problem
    episodes: tuple[tuple[Rollout, ...], ...]
    scores: tuple[Score, ...]
    greedy: float | None = None

    @property
    def rollouts(self) -> tuple[Rollout, ...]:
        """All rollouts, sibling by sibling, segment by segment."""
        return tuple(r for episode in self.episodes for r in episode)


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """What frozen models said of a rollout before the update; float32[T] each, 0 where not trainable.

    old_logprobs: the policy that the update starts from.  ref_logprobs: the stage's start model, or
    None when the algorithm has no KL term.  values: the critic, or None without one.
    """

    old_logprobs: Float32
    ref_logprobs: Float32 | None = None
    values: Float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Credit:
    """What an algorithm assigns to each token: advantages float32[T], returns float32[T] or None."""

    advantages: Float32
    returns: Float32 | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What a trainer sees."""

    rollout: Rollout
    anchors: Anchors
    credit: Credit


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Messages as the model sees them: token_ids int32[P] with image placeholders expanded to one
    token per merged patch, and the canonical pictures, in order.

    opening: the text that the chat template puts behind the mark of the assistant's turn, "" for most: the reply goes on
    from there, so both are judged together."""

    token_ids: Int32
    images: tuple[Image, ...]
    opening: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One reply asked of an engine. `seed` alone fixes the randomness of this reply."""

    id: int
    token_ids: Int32
    images: tuple[Image, ...]
    seed: int
    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def prompt_key(self) -> PromptKey:
        """What it shares with every other request of its prompt."""
        return prompt_key(self.token_ids, self.images)


@dataclass(frozen=True, slots=True, eq=False)
class Reply:
    """One finished reply. prompt_ids: the ids the engine really ran (the caller compares them).

    token_ids int32[R] include the stop token when the model wrote one; logprobs float32[R] in nats,
    of the distribution that was sampled from (temperature and media mask applied).
    """

    id: int
    prompt_ids: Int32
    token_ids: Int32
    logprobs: Float32
    stop: Stop
    version: int


class Bound(NamedTuple):
    """How far log-probs of the same tokens may lie apart, in nats: in the mean, and on one token."""

    mean: float
    largest: float

    def broken_by(self, gaps: NDArray[np.float64]) -> bool:
        """Whether differences, all of them at least 0, are more than is allowed; a NaN always is."""
        return not (float(np.mean(gaps)) <= self.mean and float(np.max(gaps)) <= self.largest)
