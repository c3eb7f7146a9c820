"""What a synthetic problem is before it becomes a `Problem`, and how train and evaluation stay apart.

An `Item` carries the worked solution (used to make the micro base model and for
supervised stages, never in RL), the
numbers that stand in its picture (for the reading tasks) and a `key`: the family and the numbers that
decide the answer. The split is a hash of the key, so an evaluation item cannot occur in training in
any wording or drawing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

#: Share of all keys that belong to evaluation, in 1/256.
EVALUATION_SHARE = 26


@dataclass(frozen=True, slots=True)
class Item:
    """One synthetic problem with its worked solution.

    steps: right equations in order, the last one ends in the answer.  check: an inverse computation.
    labels: what is written in the picture, in reading order.  picture: uint8[H, W, 3], sides
    multiples of 28, or None.
    """

    family: str
    question: str
    answer: str
    steps: tuple[str, ...]
    check: str
    key: str
    picture: Picture | None = None
    labels: tuple[str, ...] = ()
    verifier: str = "math"
    choices: tuple[str, ...] | None = None


def careful(item: Item, check: bool) -> str:
    """The worked solution in the right format."""
    thought = "; ".join((*item.steps, f"check {item.check}") if check else item.steps)
    return f"<think>{thought}</think><answer>{item.answer}</answer>"


Maker = Callable[[np.random.Generator], Item]


def is_evaluation(key: str) -> bool:
    """Whether items with this key belong to the evaluation split."""
    return hashlib.sha256(key.encode()).digest()[0] < EVALUATION_SHARE


def draw(maker: Maker, split: str, seed: int, index: int, salt: str) -> Item:
    """The `index`-th item of a family in a split: a pure function of its arguments."""
    digest = hashlib.sha256(f"{salt}:{split}:{seed}:{index}".encode()).digest()
    rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
    for _ in range(10_000):
        item = maker(rng)
        if is_evaluation(item.key) == (split == "evaluation"):
            return item
    raise RuntimeError(f"family {salt} has no item in the {split} split")


def pick(rng: np.random.Generator, options: tuple[str, ...] | list[str]) -> str:
    """One of the options, uniformly."""
    return options[int(rng.integers(len(options)))]


def number(rng: np.random.Generator, low: int, high: int) -> int:
    """An integer in [low, high], uniformly."""
    return int(rng.integers(low, high + 1))


def add(a: int, b: int) -> str:
    """The equation a + b."""
    return f"{a}+{b}={a + b}"


def sub(a: int, b: int) -> str:
    """The equation a - b."""
    return f"{a}-{b}={a - b}"


def mul(a: int, b: int) -> str:
    """The equation a * b."""
    return f"{a}*{b}={a * b}"


def div(a: int, b: int) -> str:
    """The equation a / b, where b divides a."""
    return f"{a}/{b}={a // b}"
