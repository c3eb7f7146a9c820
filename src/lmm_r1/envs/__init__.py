"""Environments by the name that a problem uses. Never imports torch."""

from __future__ import annotations

from collections.abc import Callable

from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.seams import Environment
from lmm_r1.types import Problem

ENVIRONMENTS: dict[str, Callable[[Problem], Environment]] = {"single_turn": SingleTurn}
