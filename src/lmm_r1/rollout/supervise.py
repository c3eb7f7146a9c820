"""problems with solutions -> Groups of one: what supervised fine-tuning learns from, in the types of everything else.

Data flow: Problem.meta["solution"] -> the reply that a model should have written -> its tokens behind the prompt, as the
chat template writes an assistant's message. Nothing is sampled, so log-probs are 0 and rewards mean nothing. Left out:
games.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from lmm_r1.config import RolloutConfig
from lmm_r1.errors import DataError, Fault
from lmm_r1.rollout.collect import Collected, fitting
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Encoded, Group, Message, Problem, Rollout, Score, Text, Turn


def supervise(
    take: Callable[[int], list[Problem]], adapter: ModelAdapter, config: RolloutConfig, *, max_context: int
) -> Collected:
    """`config.prompts` problems with their solutions, one each; too long ones are dropped whole and counted.

    DataError for a problem without a solution, or when the chat template does not continue its own prompt.
    """
    groups: list[Group] = []
    dropped = 0
    while len(groups) < config.prompts:
        problems, encoded, too_long = fitting(take, adapter, config.prompts - len(groups), config.max_prompt_tokens)
        dropped += too_long
        for problem in problems:
            made = _demonstration(problem, encoded[problem.id], adapter)
            room = min(config.max_new_tokens, max_context - len(encoded[problem.id].token_ids))
            if made.reply_tokens > room:
                dropped += 1
                if dropped > 1000 and not groups:
                    raise DataError(f"no solution fits into rollout.max_new_tokens = {config.max_new_tokens}")
                continue
            groups.append(Group(problem, ((made,),), (Score(1.0, {}, {}),)))
    return Collected(tuple(groups), {"collect/dropped_long": float(dropped), "collect/rounds": 1.0})


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


def _demonstration(problem: Problem, prompt: Encoded, adapter: ModelAdapter) -> Rollout:
    """The prompt and the solution as one stream that was \"written\" by the policy, its stop token included."""
    reply = solution_of(problem)
    spoken = adapter.encode((*problem.messages, Message("assistant", (Text(reply),))))
    start = len(prompt.token_ids)
    tail = spoken.token_ids[start:]
    stops = np.flatnonzero(np.isin(tail, adapter.stop_ids))
    if not np.array_equal(spoken.token_ids[:start], prompt.token_ids) or not len(stops):
        raise DataError(f"the chat template does not continue the prompt of problem {problem.id} with its reply")
    token_ids = np.concatenate([prompt.token_ids, tail[: stops[0] + 1]]).astype(np.int32)
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
        turns=(Turn(start, len(token_ids), reply),),
        stop="eos",
        versions=(),
    )
