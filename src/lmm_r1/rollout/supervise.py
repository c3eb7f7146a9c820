"""problems with solutions -> Groups of one: what supervised fine-tuning learns from, in the types of everything else.

Data flow: Problem.meta["solution"] -> the reply that a model should have written -> its tokens behind the prompt, as the
chat template writes an assistant's message. Of a game the solution is the play of its scripted expert, turn by turn, with
the memory that the stage asks for. Nothing is sampled, so log-probs are 0 and rewards mean nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lmm_r1.config import RolloutConfig
from lmm_r1.errors import DataError, Fault
from lmm_r1.rewards.format import opening_of
from lmm_r1.rollout.collect import Collected, describe, fitting, sampling_of
from lmm_r1.rollout.play import Episode, LiveEpisode, Sampling, turns_of
from lmm_r1.seams import MakeEnvironment, ModelAdapter, Player
from lmm_r1.types import Encoded, Group, Int32, Message, Problem, Reply, Rollout, Score, Text, Turn


def supervise(
    take: Callable[[int], list[Problem]],
    adapter: ModelAdapter,
    config: RolloutConfig,
    *,
    max_context: int,
    make: MakeEnvironment,
    expert: Callable[[Problem], Player],
) -> Collected:
    """`config.prompts` problems with their solutions, one each; too long ones are dropped whole and counted, as are
    episodes of a game in which its expert fails.

    expert(problem): who plays a game's episode. DataError for a question without a solution, or when the chat template
    does not continue its own prompt.
    """
    groups: list[Group] = []
    dropped = failed = 0
    while len(groups) < config.prompts:
        problems, encoded, too_long = fitting(take, adapter, config.prompts - len(groups), config.max_prompt_tokens)
        dropped += too_long
        for problem in problems:
            if problem.is_game:
                made = _played(problem, adapter, make, expert(problem), sampling_of(config, max_context))
            else:
                made = (_demonstration(problem, encoded[problem.id], adapter),)
            longest = max(turn.end - turn.start for turn in turns_of(made))
            if longest > config.max_new_tokens or max(len(r.token_ids) for r in made) > max_context:
                dropped += 1
                if dropped > 1000 and not groups:
                    raise DataError(f"no solution fits into rollout.max_new_tokens = {config.max_new_tokens}")
                continue
            if problem.is_game and turns_of(made)[-1].success <= 0:
                failed += 1
                if failed > 1000 and not groups:
                    raise DataError(f"the expert of {problem.env} never succeeds: there is nothing to imitate")
                continue
            groups.append(Group(problem, (made,), (Score(1.0, {}, {}),)))
    counts = {"collect/dropped_long": float(dropped), "collect/discarded": float(failed), "collect/rounds": 1.0}
    counts["collect/imitated"] = float(len(groups))
    counts |= {name: value for name, value in describe(groups).items() if not name.startswith("reward/")}
    return Collected(tuple(groups), counts)


def careless(expert: Player, other: Player, slips: float, rng: random.Random) -> Player:
    """A player that leaves a share `slips` of its turns, drawn by `rng`, to another.

    What is imitated then holds a bad habit beside the good one, as the micro base does for problems, and boards that the
    expert alone never comes to. Reinforcement learning can tell the two apart; imitation cannot.
    """
    return lambda environment: (other if rng.random() < slips else expert)(environment)


def solution_of(problem: Problem) -> str:
    """The whole reply to imitate: a solution that lacks the tags becomes the thoughts before the answer."""
    solution = problem.meta.get("solution")
    if not isinstance(solution, str) or not solution.strip():
        raise DataError(
            Fault(
                f"problem {problem.id} has no solution to imitate",
                field="meta.solution",
                remedy="prepare data with solutions, or data = [{ ..., solutions = true }] for synthetic ones",
            )
        )
    if "<answer>" in solution:
        return solution.strip()
    return f"<think>{solution.strip()}</think><answer>{problem.answer}</answer>"


def _played(
    problem: Problem, adapter: ModelAdapter, make: MakeEnvironment, player: Player, sampling: Sampling
) -> Episode:
    """An episode as the player plays it, its replies as if the policy had written them."""
    episode = LiveEpisode(problem, 0, make, adapter, sampling)
    wanted = True
    try:
        while wanted:
            ids = _reply_ids(player(episode.env).removeprefix(episode.opening), adapter)
            wanted = episode.answer(Reply(0, episode.prompt, ids, np.zeros(len(ids), np.float32), "eos", 0))
    finally:
        episode.env.close()
    return episode.rollouts(0)


def _reply_ids(reply: str, adapter: ModelAdapter) -> Int32:
    """A reply's tokens, its stop token included: a template writes them the same whatever stands before."""
    asked = Message("user", (Text("?"),))
    prompt = adapter.encode((asked,))
    start = len(prompt.token_ids)
    if prompt.opening:  # a written message has none of it: where a prompt and an empty message part, the reply begins
        empty = adapter.encode((asked, Message("assistant", (Text(""),)))).token_ids[:start]
        start = int(np.flatnonzero(np.append(prompt.token_ids[: len(empty)] != empty, True))[0])
    tail = adapter.encode((asked, Message("assistant", (Text(reply),)))).token_ids[start:]
    return _up_to_stop(tail, adapter)


def _up_to_stop(tail: Int32, adapter: ModelAdapter) -> Int32:
    """A written reply without what the template puts behind its stop token."""
    stops = np.flatnonzero(np.isin(tail, adapter.stop_ids))
    if not len(stops):
        raise DataError("the chat template ends an assistant's message without a stop token")
    return tail[: stops[0] + 1]


def _demonstration(problem: Problem, prompt: Encoded, adapter: ModelAdapter) -> Rollout:
    """The prompt and the solution as one stream that was \"written\" by the policy, its stop token included."""
    reply, opening = solution_of(problem), opening_of(prompt.opening)
    start = len(prompt.token_ids)
    if opening:
        rest = reply.removeprefix(opening)
        reply, written = opening + rest, _reply_ids(rest, adapter)
    else:
        spoken = adapter.encode((*problem.messages, Message("assistant", (Text(reply),))))
        if not np.array_equal(spoken.token_ids[:start], prompt.token_ids):
            raise DataError(f"the chat template does not continue the prompt of problem {problem.id} with its reply")
        written = _up_to_stop(spoken.token_ids[start:], adapter)
    token_ids = np.concatenate([prompt.token_ids, written]).astype(np.int32)
    trainable = np.arange(len(token_ids)) >= start
    return Rollout(
        problem=replace(problem, meta={}),
        sibling=0,
        episode=0,
        segment=0,
        token_ids=token_ids,
        trainable=trainable,
        logprobs=np.zeros(len(token_ids), np.float32),
        images=prompt.images,
        turns=(Turn(start, len(token_ids), reply, opening=opening),),
        stop="eos",
        versions=(),
    )
