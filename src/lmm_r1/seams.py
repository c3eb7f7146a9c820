"""The narrow Protocols that the loop imports and the parts implement; see docs/architecture.md.

A Protocol has at most five methods. What it must not know is part of its contract: an engine knows
nothing of rewards, a verifier nothing of models, an algorithm nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lmm_r1.types import (
    Anchors,
    Credit,
    Encoded,
    Failure,
    Float32,
    Group,
    Image,
    Int32,
    Message,
    Problem,
    Reply,
    Request,
    Rollout,
    Sample,
    Score,
    Turn,
    Verdict,
)

if TYPE_CHECKING:  # torch never loads in verifier, game or report processes
    import torch


class RolloutEngine(Protocol):
    """Samples replies. Must not know rewards or algorithms.

    In synchronous use the batch composition is a pure function of the requests and reply lengths.
    """

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; allowed while `finished` is being read."""

    def finished(self) -> Iterator[Reply]:
        """Yield replies as they end, until nothing is queued or running."""

    def cancel(self, ids: Iterable[int]) -> None:
        """Drop requests; no Reply comes for them."""

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        """Take over weights by Hugging Face name; returns the digest of what was received: `rollout.weights.digest`, or with
        in_place, where tensors need not pass through the host's memory, the one of `lanes_digest`. A tensor is good until the
        next one. Refused with EngineError while requests are running."""

    def awake(self, parts: Sequence[str] = ("weights", "cache")) -> AbstractContextManager[None]:
        """Hold the engine's memory; outside the block it may be given to the trainer."""


class WeightLink(Protocol):
    """Carries weights from one trainer to one engine, and proves that they arrived."""

    def sync(self, version: int) -> str:
        """Send, compare digests and a probe's log-probs, then move the version; returns the digest."""


class Verifier(Protocol):
    """Checks one reply against one problem. Must not know models, token ids or siblings."""

    def __call__(self, problem: Problem, reply: str) -> Verdict: ...


#: Keep a picture, uint8[H, W, 3], and name it: how a game shows something without knowing where pictures live.
Put = Callable[[NDArray[np.uint8]], Image]


@dataclass(frozen=True, slots=True)
class Step:
    """What an environment says to a reply; `feedback` is empty when the episode is done.

    reward: of this turn.  action: what was played, as a later prompt may repeat it; "" when the reply was no move.
    outcome: a reason code in words such as "solved", "played", "bad_reply", "turn_limit".  success: how far the episode's
    goal is reached by now, in [0, 1].  score: the benchmark's score by now, in its own unit; None of a game without one.
    """

    feedback: tuple[Message, ...]
    reward: float
    done: bool
    action: str = ""
    outcome: str = ""
    success: float = 0.0
    score: float | None = None


class Environment(Protocol):
    """One episode, single-use, seeded from the problem's id. Must not know tokens or engines."""

    def start(self) -> tuple[Message, ...]:
        """The first messages: those of the problem. A second call is refused (RuntimeError): an episode is played once."""

    def step(self, reply: str) -> Step:
        """Answer a reply. Never raises for what a model wrote; RuntimeError before `start` and after the end."""

    def close(self) -> None:
        """Free what the episode holds."""


#: make(problem) -> its environment
MakeEnvironment = Callable[[Problem], Environment]
#: player(environment) -> the reply of a scripted player, which may look into its own game's environment
Player = Callable[[Any], str]


class Game(Protocol):
    """A kind of episodes: makes their problems and environments. Must not know models, engines or rewards' weights.

    `lmm-r1 check --env NAME` tries whether an object keeps to this; users name theirs "module:attribute".
    """

    name: str
    options: type[Any]  # a frozen pydantic model: what a recipe may set

    def problem(self, identity: str, seed: int, options: Any, put: Put) -> Problem:
        """The problem of a seed: the opening messages, pictures included. problem.env is the game's name; problem.meta is
        JSON-able, holds all that `environment` needs, and "key", equal for two seeds that give the same task."""

    def environment(self, problem: Problem, put: Put) -> Environment:
        """A fresh episode of a problem."""

    def player(self, name: str, problem: Problem) -> Player:
        """A scripted player: "idle" does nothing that counts, "random" plays at random (the same for the same problem),
        "expert" plays well. ValueError for another name."""


class ModelAdapter(Protocol):
    """Everything that is particular to one LMM family. Must not know data sets or rewards.

    `canonical` resizing to the patch grid happens inside `encode`: the pictures of an Encoded are
    exactly what trainer, engine and report use.
    """

    vocabulary: int  # rows of the output head: ids are below it
    stop_ids: tuple[int, ...]
    banned_ids: tuple[int, ...]  # media tokens, ids without text: never sampled, masked in the trainer's logits
    pad_id: int

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Chat template with the generation prompt, placeholders expanded."""

    def encode_feedback(self, messages: Sequence[Message]) -> Encoded:
        """Only the new tokens that follow a finished reply: never re-renders what was before."""

    def decode(self, token_ids: Int32) -> str:
        """Text of a reply, without the stop token."""

    def vision_inputs(self, images: Sequence[Image]) -> dict[str, torch.Tensor]:
        """Arguments of the vision tower: pixel_values float32[patches, C], image_grid_thw int64[n, 3]."""

    def positions(self, token_ids: Int32, images: Sequence[Image]) -> NDArray[np.int64]:
        """Rotary positions int64[3, T] (time, height, width) of a whole stream."""


@dataclass(frozen=True, slots=True, eq=False)
class PolicyTokens:
    """The trainable tokens of one batch, all [N]: what a policy loss sees.

    logprobs carry the gradient; old_logprobs (the policy before the update), sampled_logprobs (the engine's) and
    advantages do not. sequences int64: which rollout a token belongs to, 0 to `count` - 1; no rollout is split.
    """

    logprobs: torch.Tensor
    old_logprobs: torch.Tensor
    sampled_logprobs: torch.Tensor
    advantages: torch.Tensor
    sequences: torch.Tensor
    count: int


#: value_loss(values, old values, returns), all [N] -> per-token loss [N]
ValueLoss = Callable[["torch.Tensor", "torch.Tensor", "torch.Tensor"], "torch.Tensor"]
#: policy_loss(tokens) -> (per-token loss [N], {name: per-token value [N]})
PolicyLoss = Callable[[PolicyTokens], "tuple[torch.Tensor, dict[str, torch.Tensor]]"]


@dataclass(frozen=True)
class Algorithm:
    """A named composition of pure functions (algorithms/named.py). Must not know models or files.

    loss of one optimiser step = sum over its trainable tokens of
    weight * (policy_loss + kl_coef * kl - entropy_coef * entropy).
    The weights are fixed over the whole optimiser step before anything is split, so micro-batches,
    packing and ranks cannot change the gradient. A critic's loss is the token mean of `value_loss`.
    """

    name: str
    credit: Callable[[Sequence[Group], Sequence[Anchors]], list[Credit]]
    policy_loss: PolicyLoss
    token_weights: Callable[[Sequence[Sample]], list[Float32]]
    kl_coef: float = 0.0  # of the KL term in the loss; 0 when KL is in the reward or absent
    kl_estimator: str = "k3"
    entropy_coef: float = 0.0
    needs: frozenset[str] = frozenset({"old"})  # of {"old", "ref", "values", "greedy", "solution"}
    keep: Callable[[Group], bool] | None = None  # dynamic sampling: which groups are worth learning from
    value_loss: ValueLoss | None = None  # of the critic
    steer_kl: Callable[[float, int], float] | None = None  # (KL of a step, its episodes) -> the next KL coefficient
    with_kl: Callable[[float], Algorithm] | None = None  # the same algorithm at another KL coefficient
    parameters: Mapping[str, object] = field(default_factory=dict)


class Trainer(Protocol):
    """Holds the trained weights and the optimiser. Must not know engines or rewards."""

    def anchors(self, rollouts: Sequence[Rollout], needs: frozenset[str]) -> list[Anchors]:
        """Log-probs of the frozen models, before any update of this step."""

    def update(
        self, samples: Sequence[Sample], algorithm: Algorithm, *, bounds: Mapping[str, float] = ...
    ) -> dict[str, float]:
        """One optimiser step over all samples, at the schedule's rate; returns its metrics. NumericError before a bad step,
        also when a metric (a mean per token, or a maximum) is over its bound: no weight has moved then."""

    def weights(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Trained weights by Hugging Face name, without tied copies."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write all tensors that a later run needs into an existing folder, as safetensors; returns JSON-able scalars."""

    def load(self, folder: Path, scalars: Mapping[str, Any]) -> None:
        """The exact inverse of `save`, whoever saved: one process, or any number of ranks."""


class Tracker(Protocol):
    """Writes what happened. Must not know anything else."""

    def log(self, step: int, metrics: Mapping[str, float | str]) -> None:
        """Merge metrics into the record of `step`; the line is written by `commit`."""

    def save_rollouts(self, step: int, groups: Sequence[Group], credits: Sequence[Credit]) -> None:
        """Keep some groups of this step for the report."""

    def save_failures(self, step: int, failures: Sequence[Failure]) -> None:
        """Keep some of what verifiers failed to judge in this step; before the step can be stopped for it."""

    def commit(self, step: int) -> None:
        """Write the line of `step`."""


#: score(problem, turns, stop) -> Score of an episode: its turns over all segments, and why its last reply ended
Scorer = Callable[[Problem, Sequence[Turn], str], Score]


@runtime_checkable
class ParallelScorer(Protocol):
    """A Scorer that also works beside its caller: several episodes at a time, while others are still played."""

    def __call__(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Score: ...

    def submit(self, problem: Problem, turns: Sequence[Turn], stop: str) -> Future[Score]:
        """The same score, when it is there."""
