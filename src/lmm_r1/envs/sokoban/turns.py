"""Sokoban for a language model: problems from seeds, and episodes of one plan (`global`) or many short turns (`online`).

A reply's moves stand in its answer, separated by commas; anything else there is no move, is answered by the game's own
words, and costs the turn. Data flow: seed -> puzzle (levels.py) -> Problem with the first picture; reply ->
`plan_of` -> moves -> Step with the next picture. The default reward of a turn is what it adds to `worth`: together 1 for
a solved level, less for boxes brought home (or for moves that come nearer to a solution), nothing for others. An episode
ends when the level is solved, when a box stands where it can never come home from, or at the turn limit.
Leaves out: the game (game.py), its pictures (picture.py).
Sources: the two modes, MageBench (arXiv 2412.04531); `compat = "paper"`, sokoban_verifier.py of LMM-R1's released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmm_r1.drawing import Picture
from lmm_r1.envs.episode import Once, answer_of, dice, said
from lmm_r1.envs.sokoban.game import (
    ACTIONS,
    PROGRESS,
    Sokoban,
    best_sum,
    paid,
    paper_reward,
    plan_of,
    rewards_of,
    worth,
)
from lmm_r1.envs.sokoban.level import Level, parse, read_levels
from lmm_r1.envs.sokoban.levels import NODES, SIZES, Puzzle, generate
from lmm_r1.envs.sokoban.picture import MAX_GRID, full_picture, grid_picture
from lmm_r1.envs.sokoban.solver import dead_cells, solution
from lmm_r1.seams import Player, Put, Step
from lmm_r1.types import Image, Message, Problem, Text

#: Moves of a plan that count, in one reply: as in the released reward.
PLAN = 50
#: What a grid picture shows for each glyph of a level.
MARKS = {
    "#": "gray square", " ": "nothing", ".": "green ring", "$": "brown square", "*": "green square", "@": "blue disc",
    "+": "blue ring",
}  # fmt: skip
LEGENDS = {
    "full": "Brick is wall, a red ring with a dot is a target, a crate is a box (green when it stands on a target).",
    "grid": "Gray squares are walls, green rings are targets, brown squares are boxes (green on a target), you are blue.",
    "text": "# is wall, . a target, $ a box (* on a target), @ is you (+ on a target).",
}


class SokobanOptions(BaseModel):
    """What a recipe may set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["global", "online"] = Field("online", description="the whole plan in one reply, or turn by turn")
    sizes: tuple[str, ...] = Field(("small_v0",), min_length=1, description="of the levels, in turn: see SIZES")
    least_pushes: int = Field(1, ge=1, description="of a shortest solution")
    most_pushes: int | None = Field(None, ge=1, description="of a shortest solution; None = any number")
    moves: int = Field(5, ge=1, le=PLAN, description="online: moves of one reply at most")
    max_turns: int = Field(20, ge=1, description="online: replies of one episode")
    picture: Literal["full", "grid"] = Field("full", description="sprites, or an object per 28-pixel cell")
    cell: int = Field(48, ge=8, le=256, description="full: pixels of a cell")
    see: Literal["picture", "text", "both"] = Field("picture", description="how the board is shown")
    brief: bool = Field(False, description="a prompt of few words, for a model that knows the game")
    progress: Literal["boxes", "moves"] = Field(
        "boxes",
        description="of the default reward: boxes brought home, or moves nearer to the solution (solved at every turn)",
    )
    compat: Literal["none", "paper"] = Field("none", description='"paper": the released reward, its holes included')

    @model_validator(mode="after")
    def _together(self) -> SokobanOptions:
        for size in self.sizes:
            if size not in SIZES:
                raise ValueError(f"no size '{size}' (there are: {', '.join(SIZES)})")
            if self.picture == "grid" and (SIZES[size][1] > MAX_GRID[0] or SIZES[size][0] > MAX_GRID[1]):
                raise ValueError(f"a board of size {size} is too large for a grid picture")
        if self.compat == "paper" and self.mode != "global":
            raise ValueError('compat = "paper" is the reward of whole plans: mode = "global"')
        if self.most_pushes is not None and self.most_pushes < self.least_pushes:
            raise ValueError("most_pushes is less than least_pushes")
        return self


class SokobanGame:
    """Implements seams.Game."""

    name = "sokoban"
    options: type[Any] = SokobanOptions

    def problem(self, identity: str, seed: int, options: SokobanOptions, put: Put) -> Problem:
        """A level of the seed; meta holds it with its proof. ValueError when the sizes have no such level."""
        size = options.sizes[seed % len(options.sizes)]
        longest = PLAN if options.mode == "global" else None  # a plan of more moves than count could not be paid
        puzzle = generate(size, seed, options.least_pushes, options.most_pushes, longest)
        return problem_of(identity, puzzle, options, put, size)

    def of_level(self, identity: str, level: str, index: int, options: SokobanOptions, put: Put) -> Problem:
        """The `index`-th level of a file in the ASCII format, or of a size. ValueError when it cannot be solved."""
        if not Path(level).is_file():
            return self.problem(identity, index, options.model_copy(update={"sizes": (level,)}), put)
        levels = read_levels(Path(level))
        if index >= len(levels):
            raise ValueError(f"{level} holds {len(levels)} levels: there is none of number {index}")
        found = solution(levels[index])
        if found is None:
            raise ValueError(f"no solution was found of level {index} of {level}")
        return problem_of(identity, Puzzle(levels[index], found), options, put)

    def environment(self, problem: Problem, put: Put) -> SokobanEpisode:
        """A fresh episode."""
        return SokobanEpisode(problem, put)

    def gymnasium(self) -> Sokoban:
        """The game itself."""
        return Sokoban()

    def player(self, name: str, problem: Problem) -> Player:
        """ "idle" walks nowhere, "random" moves at random, "expert" follows a solution with fewest pushes."""
        if name == "idle":
            return lambda _: said("", "")
        if name == "random":
            rng = dice(problem, "random player")
            return lambda episode: said("", ", ".join(rng.choice(ACTIONS) for _ in range(episode.most)))
        if name == "expert":
            return _expert
        raise ValueError(f'no player "{name}" (there are: idle, random, expert)')


def problem_of(identity: str, puzzle: Puzzle, options: SokobanOptions, put: Put, size: str = "") -> Problem:
    """The problem of a puzzle, which may come from anywhere."""
    level = puzzle.level
    bound = best_sum(rewards_of(level, puzzle.solution.directions))
    content: list[Text | Image] = [*_shown(level, options, put, "At the start"), Text(_instructions(options))]
    return Problem(
        id=identity,
        messages=(Message("user", tuple(content)),),
        answer="",
        verifier="",
        env="sokoban",
        source=f"sokoban/{options.mode}/{size or f'{level.height}x{level.width}'}",
        domain="sokoban",
        meta={
            "key": str(level), "level": str(level), "pushes": puzzle.pushes, "bound": bound,
            "options": options.model_dump(mode="json"),
        },
    )  # fmt: skip


def _instructions(options: SokobanOptions) -> str:
    many = options.mode == "global" or options.moves > 1
    if options.brief:
        return "Push the box to the ring. Moves?" if many else "Push the box to the ring. Which way?"
    legend = LEGENDS["text" if options.see == "text" else options.picture]
    most = f"up to {options.moves} moves" if options.moves > 1 else "one move"
    asked = "Give all moves that solve the level" if options.mode == "global" else f"Give your next {most}"
    example = "left, up, up" if many else "left"
    return (
        f"This is Sokoban. {legend} Each move (up, down, left, right) takes one step; walking into a box pushes it, if the "
        f"cell behind it is free. Bring every box onto a target. {asked}, separated by commas, as in "
        f"<answer>{example}</answer>."
    )


def _shown(level: Level, options: SokobanOptions, put: Put, when: str) -> list[Text | Image]:
    """The board as it is at a time; as text it says when, since a windowed prompt repeats the opening's words."""
    content: list[Text | Image] = []
    if options.see != "text":
        content.append(put(grid_picture(level) if options.picture == "grid" else full_picture(level, options.cell)))
    if options.see != "picture":
        content.append(Text(f"{when}:\n{level}\n"))
    return content


class SokobanEpisode(Once):
    """One level, played. The whole state is `level`: no target is ever lost under a box or the player."""

    def __init__(self, problem: Problem, put: Put) -> None:
        """ValueError or DataError for a problem that is none of this game's."""
        super().__init__(problem)
        self.options = SokobanOptions(**problem.meta["options"])  # type: ignore[arg-type]  # a mapping, by construction
        self.start_level = self.level = parse(str(problem.meta["level"]))
        self._bound = float(problem.meta["bound"])  # type: ignore[arg-type]
        self._put, self._turn = put, 0
        self._dead = dead_cells(self.level)
        self._way = self._moves_left(self.level) if self.options.progress == "moves" else None
        self._total = self._best = 0.0  # of the game's own pay
        self._shots: list[Level] = []
        self._valued = self._worth()  # of the level as the last turn left it

    @property
    def most(self) -> int:
        """Moves that a reply may hold."""
        return PLAN if self.options.mode == "global" else self.options.moves

    def step(self, reply: str) -> Step:
        """Play a reply's moves. A reply without moves, with other words, or with more than `most`, plays none."""
        self.playing()
        self._turn += 1
        self._shots = []
        plan = plan_of(reply)
        refused = plan is None or (self.options.mode == "online" and len(plan) > self.most)
        if plan is not None and not refused:
            self._play(plan[: self.most])
        solved = self.level.solved
        lost = bool(self.level.boxes & self._dead)  # nothing that follows could solve it
        last = self.options.mode == "global" or self._turn >= self.options.max_turns
        self._over = solved or lost or last
        if self.options.compat == "paper":
            reward = paper_reward(self.start_level, reply)["reward"]
        else:
            before, self._valued = self._valued, self._worth()
            reward = self._valued - before
        outcomes = (("solved", solved), ("lost", lost), ("bad_reply", refused), ("turn_limit", last), ("played", True))
        return Step(
            feedback=() if self._over else self._feedback(refused, reply),
            reward=reward,
            done=self._over,
            action="" if plan is None or refused else ", ".join(plan[: self.most]),
            outcome=next(name for name, holds in outcomes if holds),
            success=float(solved),
            score=(self._best - self._bound) * 5.0 + 100.0,
        )

    def _play(self, directions: Sequence[str]) -> None:
        """Move until the level is solved, and keep the game's own pay."""
        for direction in directions:
            if self.level.solved:
                return
            after = self.level.move(direction)
            self._total += paid(self.level, after)
            self._best = max(self._best, self._total)
            self.level = after
            self._shots.append(after)

    def _worth(self) -> float:
        """What the default reward gives for the level as it is now."""
        if self.options.progress == "boxes" or self.level.solved:
            return worth(self.start_level, self.level)
        left = self._moves_left(self.level)
        return PROGRESS * max(0.0, 1.0 - left / self._way) if left is not None and self._way else 0.0

    @staticmethod
    def _moves_left(level: Level) -> int | None:
        """Moves of the solution with fewest pushes; None when there is none, or none is found soon."""
        found = solution(level, NODES)
        return None if found is None else len(found.moves)

    def film(self) -> list[Picture]:
        """What was seen since the last reply, a picture a move; the board as it is comes last."""
        levels = self._shots or [self.level]
        grid = self.options.picture == "grid"
        return [grid_picture(level) if grid else full_picture(level, self.options.cell) for level in levels]

    def board(self) -> str:
        """The board as text."""
        return str(self.level)

    def _feedback(self, refused: bool, reply: str) -> tuple[Message, ...]:
        """The board as it is now, and what was wrong with the reply."""
        home = len(self.level.boxes & self.level.targets)
        words = "" if self.options.brief else f"{home} of {len(self.level.boxes)} boxes on targets. "
        if refused:
            words = f"{self._complaint(reply)} {words}"
        words += "Moves?" if self.options.moves > 1 else "Which way?"
        return (Message("user", (*_shown(self.level, self.options, self._put, "Now"), Text(words))),)

    def _complaint(self, reply: str) -> str:
        answer = answer_of(reply)
        if answer is None:
            return "No move: end with <answer>left</answer>."
        if plan_of(reply) is None:
            return "No move: only up, down, left, right, separated by commas."
        return f"No move: at most {self.most} at a time."


def _expert(episode: SokobanEpisode) -> str:
    """The first moves of a solution with fewest pushes, after the board as it is read; none where the level is lost."""
    found = solution(episode.level)
    moves = () if found is None else found.directions[: episode.most]
    return said(_read(episode.level, episode.options.picture == "grid"), ", ".join(moves))


def _read(level: Level, named: bool) -> str:
    """What is inside the outer wall, row by row: marks by name, as the micro model calls them, or a glyph a cell."""
    rows = [row[1:-1] for row in str(level).splitlines()[1:-1]]
    if named:
        return "; ".join(", ".join(MARKS[glyph] for glyph in row) for row in rows)
    return "/".join(row.replace(" ", "_") for row in rows)
