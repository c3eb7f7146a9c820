"""Google Research Football: ticks per second without pictures, and turns per second with one picture each.

    python benchmarks/football_grf.py [--width 640] [--height 360] [--turns 40] [--display auto]

Needs the extra "football" (docs/football.md).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time

from lmm_r1.envs.football.grf import GoogleFootball
from lmm_r1.envs.football.state import ACTIONS
from lmm_r1.envs.football.turn import run_turn

SCENARIOS = ("empty_goal_close", "3_vs_1_with_keeper", "corner", "11_vs_11")


def ticks(engine: GoogleFootball, scenario: str, seconds: float = 3.0) -> tuple[float, float]:
    """(ticks per second, median seconds of a reset) of random actions."""
    dice = random.Random(0)
    resets, count, playing = [], 0, 0.0
    seed, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        engine.reset(scenario, seed)
        resets.append(time.perf_counter() - started)
        seed += 1
        started = time.perf_counter()
        while not engine.over and time.perf_counter() < until:
            engine.step(dice.choice(ACTIONS))
            count += 1
        playing += time.perf_counter() - started
    return count / playing, statistics.median(resets)


def turns(
    engine: GoogleFootball, scenario: str, width: int, height: int, count: int
) -> tuple[list[float], list[float]]:
    """Seconds of every turn with its picture, and of the pictures alone; episodes start anew as they end."""
    dice = random.Random(0)
    whole, drawing, seed = [], [], 0
    state = engine.reset(scenario, seed)
    engine.frame(width, height)  # another scenario's teams are loaded once
    while len(whole) < count:
        started = time.perf_counter()
        state = run_turn(engine, state, dice.choice(ACTIONS)).state
        played = time.perf_counter()
        engine.frame(width, height)
        whole.append(time.perf_counter() - started)
        drawing.append(time.perf_counter() - played)
        if engine.over:
            seed += 1
            state = engine.reset(scenario, seed)
    return whole, drawing


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--display", default="auto")
    args = parser.parse_args()
    engine = GoogleFootball(display=args.display)
    print(f"load of the machine {os.getloadavg()[0]:.1f}")
    for scenario in SCENARIOS:
        rate, reset = ticks(engine, scenario)
        print(f"{scenario}: {rate:.0f} ticks/s without pictures, a reset {1000.0 * reset:.0f} ms")
    started = time.perf_counter()
    engine.reset(SCENARIOS[0], 0)
    engine.frame(args.width, args.height)
    print(f"first picture {time.perf_counter() - started:.1f} s")
    for scenario in SCENARIOS:
        whole, drawing = turns(engine, scenario, args.width, args.height, args.turns)
        print(
            f"{scenario}: {len(whole) / sum(whole):.1f} turns/s with a picture of {args.width} x {args.height} each; "
            f"picture median {statistics.median(drawing):.2f} s, longest {max(drawing):.2f} s"
        )
    started = time.perf_counter()
    engine.close()
    print(f"closed in {time.perf_counter() - started:.1f} s; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
