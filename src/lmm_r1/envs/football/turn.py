"""One reply's worth of play: an action word becomes the ticks that it takes.

A turn is what a model decides: a direction runs on for up to `most` ticks and stops early when an opponent comes near or
a line does; a pass or a shot is asked for until the ball has left, and then play goes on until somebody has it; sprint
and dribble words take hold and play goes on for a few ticks. So a match takes tens of replies, not hundreds. Works with
any engine. Source of the idea: the football agent of MageBench, arXiv 2412.04531; distances and limits are ours.
Leaves out: what is shown to the model and how its reply is read.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm_r1.envs.football.state import (
    DIRECTIONS,
    HALF_LENGTH,
    HALF_WIDTH,
    KICKS,
    METRES,
    Engine,
    State,
    checked,
    metres,
)

#: An opponent is near at this distance, a line at this one: metres, one tick ahead.
NEAR, BORDER = 4.0, 3.0
#: Metres per tick by which it comes nearer.
CLOSING = 0.15
#: Ticks of a direction, whoever is near.
LEAST = 2
#: Ticks of a word that only sets or releases; ticks for which a kick is asked for; ticks until somebody must have it.
SETTING, ASKED, FLYING = 3, 20, 60


@dataclass(frozen=True, slots=True)
class Turned:
    """What became of a reply: the last state, the states after each tick, their number, and why it is over ("": not)."""

    state: State
    states: tuple[State, ...]
    ticks: int
    over: str


def run_turn(engine: Engine, state: State, action: str | None, most: int = 10) -> Turned:
    """Play an action out from `state`, the engine's present one; None waits `most` ticks.

    ValueError for a word that is no action, or `most` below 1.
    """
    checked(action)
    if most < 1:
        raise ValueError(f"a turn of at most {most} ticks plays nothing: at least 1")
    if engine.over:
        return Turned(state, (), 0, engine.over)
    if action in KICKS:
        states = _kicked(engine, state, action)
    elif action is None or action in DIRECTIONS:
        states = _running(engine, state, action, most)
    else:
        states = _running(engine, state, action, min(SETTING, most))
    return Turned(states[-1], tuple(states), len(states), engine.over)


def threatened(before: State, now: State) -> bool:
    """Whether an opponent will be within NEAR of the controlled player a tick from now, and comes nearer."""
    gaps = _gaps(now)
    if not gaps or min(gaps) >= NEAR or len(before.right_team) != len(gaps) or before.active != now.active:
        return False
    return any(gap < NEAR and gap < earlier - CLOSING for gap, earlier in zip(gaps, _gaps(before), strict=True))


def _gaps(state: State) -> list[float]:
    """Metres from the controlled player to each opponent, a tick from now."""
    x, y = (state.left_team[state.active] + state.left_team_direction[state.active]).tolist()
    return [metres(u - x, v - y) for u, v in (state.right_team + state.right_team_direction).tolist()]


def bordering(state: State) -> bool:
    """Whether the controlled player, with the ball, is about to run over a line."""
    if not state.has_ball or not state.heading:
        return False
    x, y = (state.left_team[state.active] + state.left_team_direction[state.active]).tolist()
    right, down = DIRECTIONS[state.heading]
    return any(
        way * place > 0.0 and (half - abs(place)) * scale < BORDER
        for way, place, half, scale in ((right, x, HALF_LENGTH, METRES[0]), (down, y, HALF_WIDTH, METRES[1]))
    )


def _running(engine: Engine, state: State, action: str | None, most: int) -> list[State]:
    """The word once, then what is sticky, until an opponent comes, a line does, or another player has the ball."""
    owner, active = state.ball_owned_team, state.active
    states = [engine.step(action)]
    while len(states) < most and not engine.over:
        now, before = states[-1], states[-2] if len(states) > 1 else state
        if (now.ball_owned_team, now.active) != (owner, active):
            break
        if len(states) >= LEAST and (threatened(before, now) or bordering(now)):
            break
        states.append(engine.step(None))
    return states


def _kicked(engine: Engine, state: State, action: str) -> list[State]:
    """The kick, alternated with the direction in force, until the ball is gone; then wait until somebody has it.

    Without the ball the word is tried for a few ticks only.
    """
    if not state.has_ball:
        return _running(engine, state, action, SETTING)
    states: list[State] = []
    heading = state.heading or None
    now = state
    while (
        not engine.over and now.ball_owned_team == 0 and now.ball_owned_player == state.active and len(states) < ASKED
    ):
        now = engine.step(action if len(states) % 2 == 0 else heading)
        states.append(now)
    waited = 0
    while not engine.over and now.ball_owned_team == -1 and waited < FLYING:
        now = engine.step(None)
        states.append(now)
        waited += 1
    return states
