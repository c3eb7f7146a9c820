"""An episode played by a scripted player, without a model: for the rows beside a model's, and for looking on.

Leaves out: demonstrations for supervised stages, which need a model's tokens (supervise.py).
"""

from __future__ import annotations

from collections.abc import Callable

from lmm_r1.rollout.play import turn_of
from lmm_r1.seams import Environment, MakeEnvironment, Player
from lmm_r1.types import Problem, Turn


def scripted(
    problem: Problem, make: MakeEnvironment, player: Player, watch: Callable[[Environment, Turn], None] | None = None
) -> list[Turn]:
    """The turns of an episode, tokens left out. watch(environment, turn) is called after each turn."""
    env = make(problem)
    turns: list[Turn] = []
    try:
        env.start()
        done = False
        while not done:
            reply = player(env)
            step = env.step(reply)
            turns.append(turn_of(reply, step))
            if watch is not None:
                watch(env, turns[-1])
            done = step.done
    finally:
        env.close()
    return turns
