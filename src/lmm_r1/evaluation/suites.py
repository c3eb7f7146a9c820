"""Benchmarks: data + number of items + VERSION. A change to an item is a new version, never the same name.

The held-out sets of the micro task come from the evaluation split of data/synthetic/items.py, which no training
draws from. `text`, `geometry` and `perception` are problems to reason about; `reading` and `grid` show
whether a model sees. The games' sets are episodes of seeds whose tasks no training plays (envs/games.py); those named
micro are drawn for the micro model, an object a cell. Online, a prompt shows one picture and five actions, as published
(arXiv 2503.07536, C.3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lmm_r1.data.images import ImageStore
from lmm_r1.data.synthetic import habits
from lmm_r1.data.synthetic.items import draw
from lmm_r1.data.synthetic.perception import grid
from lmm_r1.data.synthetic.problems import DOMAINS, SyntheticSource, to_problem
from lmm_r1.envs.games import draw_problem, game, options_of
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
    window: tuple[int, int] | None = None  # games: pictures and actions that a prompt shows; None = everything
    game: str = ""


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


def _game(name: str, **options: object) -> Callable[[ImageStore, int], list[Problem]]:
    def problems(images: ImageStore, n: int) -> list[Problem]:
        kind, chosen = game(name), options_of(name, options)
        found: dict[object, Problem] = {}  # no task twice
        for index in range(20 * n):
            problem = draw_problem(kind, chosen, "evaluation", EVALUATION_SEED, index, images.put)
            found.setdefault(problem.meta["key"], problem)
            if len(found) == n:
                return list(found.values())
        raise RecipeError(f"game '{name}' has fewer than {n} held-out tasks with these options")

    return problems


#: MageBench's kinds of levels, in turn (arXiv 2412.04531).
SOKOBAN_SIZES = ("small_v0", "small_v1", "v0", "v1", "v2", "large_v0", "large_v1", "huge_v0")
MICRO_SOKOBAN = {
    "sizes": ("micro_5x6",), "most_pushes": 6, "picture": "grid", "brief": True,
}  # fmt: skip
FOOTBALL_SCENARIOS = (
    "empty_goal", "run_to_score", "pass_and_shoot_with_keeper", "run_pass_and_shoot_with_keeper", "3_vs_1_with_keeper",
    "corner", "counterattack_easy", "counterattack_hard", "11_vs_11",
)  # fmt: skip
MICRO_FOOTBALL = {
    "scenarios": ("micro_empty_goal", "micro_1_vs_1", "micro_keeper", "micro_2_vs_1"), "picture": "grid", "brief": True,
    "max_turns": 12, "columns": 8, "rows": 4,
}  # fmt: skip
PUBLISHED_WINDOW = (1, 5)

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("text", 1, _domain("text")),
        Suite("geometry", 1, _domain("geometry")),
        Suite("perception", 2, _domain("perception")),
        Suite("reading", 2, _reading),
        Suite("grid", 1, _grid),
        Suite("sokoban-global", 1, _game("sokoban", mode="global", sizes=SOKOBAN_SIZES), None, "sokoban"),
        Suite("sokoban-online", 1, _game("sokoban", sizes=SOKOBAN_SIZES, max_turns=60), PUBLISHED_WINDOW, "sokoban"),
        Suite("micro-sokoban-global", 1, _game("sokoban", mode="global", **MICRO_SOKOBAN), None, "sokoban"),
        Suite(
            "micro-sokoban-online", 1, _game("sokoban", moves=1, max_turns=10, **MICRO_SOKOBAN), PUBLISHED_WINDOW,
            "sokoban",
        ),
        Suite("football-online", 1, _game("football", scenarios=FOOTBALL_SCENARIOS), PUBLISHED_WINDOW, "football"),
        Suite("micro-football-online", 1, _game("football", **MICRO_FOOTBALL), PUBLISHED_WINDOW, "football"),
    )
}  # fmt: skip


def suite(name: str) -> Suite:
    """The suite of that name; raises RecipeError naming those there are."""
    if name not in SUITES:
        raise RecipeError(f"no evaluation set '{name}' (there are: {', '.join(SUITES)})")
    return SUITES[name]
