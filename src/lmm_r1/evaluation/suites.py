"""Benchmarks: data + number of items + VERSION. A change to an item is a new version, never the same name.

The held-out sets of the micro task come from the evaluation split of data/synthetic/items.py, which no training
draws from. `text`, `geometry` and `perception` are problems to reason about; `reading` and `grid` show
whether a model sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmm_r1.data.images import ImageStore
from lmm_r1.data.synthetic import habits
from lmm_r1.data.synthetic.items import draw
from lmm_r1.data.synthetic.perception import grid
from lmm_r1.data.synthetic.problems import DOMAINS, SyntheticSource, to_problem
from lmm_r1.errors import RecipeError
from lmm_r1.types import Image, Message, Problem, Text

#: The seed of the held-out sets; not a knob, so that figures of different runs compare.
EVALUATION_SEED = 20250310


@dataclass(frozen=True, slots=True)
class Suite:
    """A named, versioned list of problems; `problems(images, n)` gives the first n of them."""

    name: str
    version: int
    problems: Callable[[ImageStore, int], list[Problem]]


def _domain(name: str) -> Callable[[ImageStore, int], list[Problem]]:
    def problems(images: ImageStore, n: int) -> list[Problem]:
        source = SyntheticSource(name, images, split="evaluation", seed=EVALUATION_SEED)
        return [source.at(index) for index in range(n)]

    return problems


def _reading(images: ImageStore, n: int) -> list[Problem]:
    families = [(d, f) for d in ("geometry", "perception") for f in DOMAINS[d]]
    problems = []
    for index in range(n):
        domain, family = families[index % len(families)]
        item = draw(DOMAINS[domain][family], "evaluation", EVALUATION_SEED + 1, index, family)
        assert item.picture is not None, f"the {family} family draws no picture"
        content: tuple[Text | Image, ...] = (images.put(item.picture), Text(habits.READ_QUESTION))
        problems.append(
            Problem(
                id=f"reading/{family}/{index}",
                messages=(Message("user", content),),
                answer=habits.read_answer(item),
                verifier="text",
                source=f"synthetic/{family}",
                domain="reading",
            )
        )
    return problems


def _grid(images: ImageStore, n: int) -> list[Problem]:
    items = (draw(grid, "evaluation", EVALUATION_SEED, index, "grid") for index in range(n))
    return [to_problem(item, "grid", f"grid/{index}", images.put) for index, item in enumerate(items)]


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("text", 1, _domain("text")),
        Suite("geometry", 1, _domain("geometry")),
        Suite("perception", 2, _domain("perception")),
        Suite("reading", 2, _reading),
        Suite("grid", 1, _grid),
    )
}


def suite(name: str) -> Suite:
    """The suite of that name; raises RecipeError naming those there are."""
    if name not in SUITES:
        raise RecipeError(f"no evaluation set '{name}' (there are: {', '.join(SUITES)})")
    return SUITES[name]
