"""How the micro base model learned to reply: a mixture of habits, most of them bad.

Rule-based RL sharpens what a base half knows. So the base is taught the right skill to convergence and
then taught to show it rarely: most replies guess, or skip the tags. Habits differ in length (a guess,
steps, steps with a check). Used only by `lmm-r1 build-base`; RL never sees a worked solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lmm_r1.data.items import Item, Maker, draw, pick
from lmm_r1.data.synthetic import DOMAINS
from lmm_r1.data.synthetic_perception import READ_QUESTION, glyphs, grid, strip

#: Share of steps, steps with a check, guesses in tags, and replies without tags.
SKILL = (0.6, 0.4, 0.0, 0.0)
HABITS_WITH_PROMPT = (0.16, 0.10, 0.49, 0.25)
HABITS_WITHOUT_PROMPT = (0.12, 0.07, 0.36, 0.45)

#: What lessons are about. First only what is cheap and dense: sums in words, and reading glyphs; then everything.
FIRST_MIX = {"text": 0.42, "strip": 0.40, "glyphs": 0.13, "grid": 0.05}
MIX = {"text": 0.30, "geometry": 0.23, "perception": 0.19, "read": 0.13, "glyphs": 0.05, "grid": 0.10}

_THOUGHTS = ("I guess", "maybe", "looks like this", "not sure")


@dataclass(frozen=True, slots=True)
class Lesson:
    """One supervised example: the picture and question, and the reply to imitate."""

    item: Item
    question: str
    reply: str
    prompted: bool


def careful(item: Item, check: bool) -> str:
    """The worked solution in the right format."""
    thought = "; ".join((*item.steps, f"check {item.check}") if check else item.steps)
    return f"<think>{thought}</think><answer>{item.answer}</answer>"


def _guess(item: Item, maker: Maker, rng: np.random.Generator) -> str:
    """A plausible answer of this family that does not depend on the numbers."""
    return pick(rng, list("ABCD")) if item.verifier == "choice" else maker(rng).answer


def reply(item: Item, maker: Maker, shares: tuple[float, ...], rng: np.random.Generator) -> str:
    """One reply out of a mixture of habits."""
    habit = int(rng.choice(4, p=shares))
    if habit < 2:
        return careful(item, check=habit == 1)
    guess = _guess(item, maker, rng)
    if habit == 2:
        return f"<think>{pick(rng, _THOUGHTS)}</think><answer>{guess}</answer>"
    return pick(rng, (guess, f"The answer is {guess}.", f"I think {guess}"))


def lesson(seed: int, index: int, skill_only: bool, split: str = "train", mix: Mapping[str, float] = MIX) -> Lesson:
    """The `index`-th lesson: a pure function of its arguments. Training passes split = "train" only."""
    rng = np.random.default_rng([seed, index, 77])
    part = str(rng.choice(list(mix), p=list(mix.values())))
    prompted = bool(rng.random() < 0.6)
    if part in ("grid", "strip"):
        item = draw(grid if part == "grid" else strip, split, seed, index, part)
        return Lesson(item, item.question, careful(item, check=False), prompted)
    if part == "glyphs":
        item = draw(glyphs, split, seed, index, "glyphs")
        return Lesson(item, READ_QUESTION, read_reply(item), prompted)
    domain = part
    if part == "read":
        domain = "geometry" if rng.random() < 0.5 else "perception"
    family = pick(rng, list(DOMAINS[domain]))
    maker = DOMAINS[domain][family]
    item = draw(maker, split, seed, index, family)
    if part == "read":
        return Lesson(item, READ_QUESTION, read_reply(item), prompted)
    shares = SKILL if skill_only else HABITS_WITH_PROMPT if prompted else HABITS_WITHOUT_PROMPT
    return Lesson(item, item.question, reply(item, maker, shares, rng), prompted)


def read_answer(item: Item) -> str:
    """What is written in the picture, in reading order."""
    return ", ".join(item.labels)


def read_reply(item: Item) -> str:
    """The right reply to READ_QUESTION."""
    return f"<think>labels</think><answer>{read_answer(item)}</answer>"
