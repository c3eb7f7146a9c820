"""How the micro base model learned to reply: a mixture of habits, most of them bad.

Rule-based RL sharpens what a base half knows. So the base is taught the right skill to convergence and
then taught to show it rarely: most replies guess, or skip the tags. Habits differ in length (a guess,
steps, steps with a check). Used only by `lmm-r1 build-base`; RL never sees a worked solution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lmm_r1.data.synthetic.items import Item, Maker, careful, draw, pick
from lmm_r1.data.synthetic.perception import READ_QUESTION, glyphs, grid, shapes, strip
from lmm_r1.data.synthetic.problems import DOMAINS
from lmm_r1.data.synthetic.text import recall

#: Share of steps, steps with a check, guesses in tags, and replies without tags.
SKILL = (0.6, 0.4, 0.0, 0.0)
HABITS_WITH_PROMPT = (0.20, 0.12, 0.45, 0.23)
HABITS_WITHOUT_PROMPT = (0.14, 0.08, 0.34, 0.44)

#: What lessons are about. First only what is cheap and dense: sums in words, and reading glyphs and objects; then
#: everything; and while the habits are learned, much of what must stay as it is.
FIRST_MIX = {"text": 0.40, "strip": 0.30, "glyphs": 0.13, "shapes": 0.12, "grid": 0.05}
MIX = {
    "text": 0.15, "geometry": 0.13, "perception": 0.30, "read": 0.10, "glyphs": 0.03, "shapes": 0.08, "grid": 0.11,
    "recall": 0.10,
}  # fmt: skip
HABIT_MIX = {"text": 0.22, "geometry": 0.18, "perception": 0.22, "read": 0.20, "shapes": 0.06, "grid": 0.12}

#: Lessons for the base only; their replies are always careful.
DRILLS: dict[str, Maker] = {"strip": strip, "glyphs": glyphs, "shapes": shapes, "grid": grid, "recall": recall}

_THOUGHTS = ("I guess", "maybe", "looks like this", "not sure")


@dataclass(frozen=True, slots=True)
class Lesson:
    """One supervised example: the picture and question, and the reply to imitate."""

    item: Item
    question: str
    reply: str
    prompted: bool


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
    if part in DRILLS:
        item = draw(DRILLS[part], split, seed, index, part)
        return Lesson(item, item.question, careful(item, check=False), prompted)
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
