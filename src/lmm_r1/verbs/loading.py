"""The parts of the package that verbs load late: torch and transformers take seconds, which `--help` or `check` need not wait for.

The only module of the verbs with imports inside a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.types import Problem

#: build (objects), chain (whole runs), ask, difficulty and playing (one model), study (grids of runs): they load torch.
#: page and dropped (reports), hub (rows of other people's data sets): they load libraries that few verbs need.
Part = Literal["build", "chain", "ask", "difficulty", "playing", "study", "page", "dropped", "hub"]


def work(part: Part) -> ModuleType:
    """The module of that name."""
    if part == "page":
        from lmm_r1.reports import page

        return page
    if part in ("hub", "dropped"):
        from lmm_r1.data.raw import hub
        from lmm_r1.reports import dropped

        return hub if part == "hub" else dropped
    from lmm_r1 import ask, build, chain, difficulty, playing, study

    parts = {"build": build, "chain": chain, "ask": ask, "difficulty": difficulty, "playing": playing, "study": study}
    return parts[part]


def count_tokens(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """Prompt tokens of each problem; loads torch, so only prepared data and games pay for it."""
    counts: list[int] = work("ask").prompt_tokens(model, images, problems)
    return counts
