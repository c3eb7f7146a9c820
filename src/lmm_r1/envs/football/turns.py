"""The Football Game for a language model: problems from seeds, and episodes of one action word a turn.

A reply's answer is one of the sixteen words; turn.py plays it out over some ticks, and the next picture follows.
Anything else is answered by the game's own words and costs the turn, while the match stands still. Data flow: seed ->
instance of a scenario -> Problem with the first picture; reply -> word -> ticks -> Step. The default reward of a turn is
what it adds to `worth`: 1 for a goal, less for bringing the ball forward and keeping it in play, nothing for kicking.
Leaves out: engines (academy.py, grf.py), pictures (picture.py) and scores (score.py).
Source of the words and of one action a turn: MageBench, arXiv 2412.04531, as LMM-R1 plays it (arXiv 2503.07536, C.3).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmm_r1.drawing import Picture
from lmm_r1.envs.episode import Once, answer_of, dice, said
from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.game import Football
from lmm_r1.envs.football.grf import GoogleFootball
from lmm_r1.envs.football.grf_renderer import SHARED
from lmm_r1.envs.football.picture import full_picture, grid_picture
from lmm_r1.envs.football.policies import POLICIES
from lmm_r1.envs.football.scenarios import SCENARIOS
from lmm_r1.envs.football.score import ShapedScore, goal
from lmm_r1.envs.football.state import ACTIONS, Engine, State
from lmm_r1.envs.football.turn import run_turn
from lmm_r1.seams import Player, Put, Step
from lmm_r1.types import Message, Problem, Text

#: Share of the default reward for bringing the ball to the line without a goal.
PROGRESS = 0.1
#: Shortest way that progress is a share of, in coordinates.
SHORTEST = 0.3
#: Points of the shaped score that a goal alone gives: what "shaped" rewards are divided by.
GOAL_POINTS = 40.0


class FootballOptions(BaseModel):
    """What a recipe may set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scenarios: tuple[str, ...] = Field(("3_vs_1_with_keeper",), min_length=1, description="in turn: see SCENARIOS")
    engine: Literal["academy", "grf"] = Field(
        "academy", description="our own, or Google Research Football ([football])"
    )
    ticks: int = Field(10, ge=1, le=100, description="of a direction at most, 0.1 s each")
    max_turns: int = Field(40, ge=1, description="replies of one episode")
    picture: Literal["full", "grid"] = Field("full", description="drawn or rendered, or an object per 28-pixel cell")
    columns: int = Field(14, ge=4, le=14, description="grid: cells of the right half, one of them the goal's")
    rows: Literal[4, 6, 8] = Field(8, description="grid: cells")
    width: int = Field(640, ge=160, le=1920, description="full: pixels")
    height: int = Field(360, ge=90, le=1080, description="full: pixels")
    brief: bool = Field(False, description="a prompt of few words, for a model that knows the game")
    reward: Literal["goal", "shaped"] = Field(
        "goal",
        description="of a turn: what it adds to worth; or to the benchmark's score, which pays for passes and shots too",
    )

    @model_validator(mode="after")
    def _together(self) -> FootballOptions:
        for scenario in self.scenarios if self.engine == "academy" else ():
            if scenario not in SCENARIOS:
                raise ValueError(f"no scenario '{scenario}' (there are: {', '.join(SCENARIOS)})")
        return self


class FootballGame:
    """Implements seams.Game."""

    name = "football"
    options: type[Any] = FootballOptions

    def problem(self, identity: str, seed: int, options: FootballOptions, put: Put) -> Problem:
        """An instance of a scenario. ValueError for a scenario that the engine does not have."""
        scenario, drawn = options.scenarios[seed % len(options.scenarios)], seed % 2**31
        engine = _engine(options)
        try:
            picture = _seen(engine, engine.reset(scenario, drawn), options)
        finally:
            engine.close()
        return Problem(
            id=identity,
            messages=(Message("user", (put(picture), Text(_instructions(options)))),),
            answer="",
            verifier="",
            env="football",
            source=f"football/{options.engine}/{scenario}",
            domain="football",
            meta={
                "key": f"{scenario}/{drawn}", "scenario": scenario, "seed": drawn,
                "options": options.model_dump(mode="json"),
            },
        )  # fmt: skip

    def of_level(self, identity: str, level: str, index: int, options: FootballOptions, put: Put) -> Problem:
        """The `index`-th instance of a scenario."""
        return self.problem(identity, index, options.model_copy(update={"scenarios": (level,)}), put)

    def environment(self, problem: Problem, put: Put) -> FootballEpisode:
        """A fresh episode."""
        return FootballEpisode(problem, put)

    def gymnasium(self) -> Football:
        """The game itself."""
        return Football()

    def player(self, name: str, problem: Problem) -> Player:
        """One of policies.POLICIES; what it says is the answer, and doing nothing is no word."""
        if name not in POLICIES:
            raise ValueError(f'no player "{name}" (there are: {", ".join(POLICIES)})')
        policy = POLICIES[name](dice(problem, "random player"))
        return lambda episode: said("", policy(episode.state) or "")


def _engine(options: FootballOptions) -> Engine:
    if options.engine == "academy":
        return Academy()
    SHARED.hold(FootballGame)  # between one episode and the next no engine may be open
    return GoogleFootball()


def _seen(engine: Engine, state: State, options: FootballOptions) -> Picture:
    if options.picture == "grid":
        return grid_picture(state, (options.columns, options.rows))
    own = engine.frame(options.width, options.height)
    return full_picture(state, options.width, options.height) if own is None else own


def _instructions(options: FootballOptions) -> str:
    if options.brief:
        return "Score a goal. Action?"
    shown = {
        "full": "Your team attacks the goal on the right; the marked player is yours to move.",
        "grid": "Your team attacks the green goal on the right. An orange disc is your player with the ball (a ring: the ball "
        "is free at its feet), a blue ring your player without it, a yellow disc the free ball. Blue discs are your men, red "
        "ones opponents (a triangle: their keeper), purple is who else has the ball.",
    }
    return (
        f"This is football. {shown[options.picture]} Each reply is one action: a direction to run in (left, top_left, top, "
        "top_right, right, bottom_right, bottom, bottom_left), short_pass, high_pass, long_pass, shot, or sprint, "
        "release_sprint, dribble, release_dribble. Score a goal before the ball is lost. Give your action, as in "
        "<answer>right</answer>."
    )


def worth(start: State, best: float, now: State, over: str = "") -> float:
    """What the default reward gives by now: 1 for a goal, 0 once the ball is out or in the own goal, else PROGRESS * how far
    the team has brought the ball.

    best: the largest x that the ball had in the left team's possession; the way is from the start's x to the line, at
    least SHORTEST: who starts beside the goal gains little by one step. over: why the match has ended.
    """
    if goal(now):
        return 1.0
    if over in ("out", "conceded"):
        return 0.0
    way = max(1.0 - float(start.ball[0]), SHORTEST)
    return PROGRESS * min(1.0, max(0.0, best - float(start.ball[0])) / way)


class FootballEpisode(Once):
    """One instance of a scenario, played by words."""

    def __init__(self, problem: Problem, put: Put) -> None:
        """ValueError for a problem that is none of this game's."""
        super().__init__(problem)
        self.options = FootballOptions(**problem.meta["options"])  # type: ignore[arg-type]  # a mapping, by construction
        self._put, self._turn = put, 0
        self._engine = _engine(self.options)
        self.state = self._first = self._engine.reset(str(problem.meta["scenario"]), int(problem.meta["seed"]))  # type: ignore[call-overload]
        self._score = ShapedScore()
        self._best = float(self.state.ball[0])
        self._states: tuple[State, ...] = ()

    def step(self, reply: str) -> Step:
        """Play a reply's word out; a reply without one is complained about and costs the turn."""
        self.playing()
        self._turn += 1
        word = _word(reply)
        points, before = 0.0, worth(self._first, self._best, self.state)
        self._states = ()
        if word is not None:
            turned = run_turn(self._engine, self.state, word, self.options.ticks)
            for now in turned.states:
                points += self._score.update(self.state, now, word)
                if self.state.ball_owned_team == 0 and now.ball_owned_team == 0:
                    self._best = max(self._best, float(now.ball[0]))
                self.state = now
            self._states = turned.states
        gained = worth(self._first, self._best, self.state, self._engine.over) - before
        over = self._engine.over or ("turn_limit" if self._turn >= self.options.max_turns else "")
        self._over = bool(over)
        shaped = self.options.reward == "shaped"
        return Step(
            feedback=() if over else self._feedback(word is None),
            reward=points / GOAL_POINTS if shaped else gained,
            done=bool(over),
            action=word or "",
            outcome=over or ("played" if word is not None else "bad_reply"),
            success=float(goal(self.state)),
            score=self._score.total,
        )

    def film(self) -> list[Picture]:
        """What was seen since the last reply, every second tick; an engine that draws itself shows the last moment."""
        if self.options.engine != "academy":
            return [_seen(self._engine, self.state, self.options)]
        states = [*self._states[1::2]] or [self.state]
        return [_seen(self._engine, state, self.options) for state in states]

    def close(self) -> None:
        """Let go of the engine."""
        super().close()
        self._engine.close()

    def _feedback(self, refused: bool) -> tuple[Message, ...]:
        """The pitch as it is now, and what was wrong with the reply."""
        owner = {0: "Your team has", 1: "The opponents have", -1: "Nobody has"}[self.state.ball_owned_team]
        words = "" if self.options.brief else f"{owner} the ball, {self.state.steps_left} ticks are left. "
        if refused:
            words = f"No action: end with one of {', '.join(ACTIONS)} in <answer></answer>. {words}"
            if self.options.brief:
                words = "No action: end with <answer>right</answer>. "
        return (Message("user", (self._put(_seen(self._engine, self.state, self.options)), Text(f"{words}Action?"))),)


def _word(reply: str) -> str | None:
    answer = answer_of(reply)
    word = "" if answer is None else answer.lower().replace(" ", "_")
    return word if word in ACTIONS else None
