"""Sokoban: the game and its rewards (game), levels, solver, pictures, and turns for a language model."""

from lmm_r1.envs.sokoban.game import (
    ACTIONS,
    Sokoban,
    paper_reward,
    plan_of,
    plan_reward,
    progress,
    score,
    solve,
    worth,
)

__all__ = ["ACTIONS", "Sokoban", "paper_reward", "plan_of", "plan_reward", "progress", "score", "solve", "worth"]
