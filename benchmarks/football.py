"""Football: ticks of our engine and pictures per second of CPU time, on one core.

    python benchmarks/football.py [--scenario 11_vs_11] [--ticks 20000] [--frames 1000] [--width 640] [--height 360]
                                  [--repeats 5]

The engine plays runs and waits with a word every tenth tick; pictures are drawn of moments of those games. Prints the
median, the least and the most over the repeats.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable

from lmm_r1.envs.football.academy import Academy
from lmm_r1.envs.football.picture import full_picture, grid_picture
from lmm_r1.envs.football.scenarios import SCENARIOS
from lmm_r1.envs.football.state import DIRECTIONS, State

WORDS = (*DIRECTIONS, "sprint", "release_sprint")


def games(scenario: str, ticks: int, seed: int) -> tuple[float, list[State]]:
    """(CPU seconds without the resets, some of the states) of at least so many ticks."""
    engine, rng = Academy(), random.Random(seed)
    seconds, played, kept = 0.0, 0, []
    while played < ticks:
        kept.append(engine.reset(scenario, seed + played))
        started = time.process_time()
        while not engine.over and played < ticks:
            state = engine.step(rng.choice(WORDS) if played % 10 == 0 else None)
            played += 1
        seconds += time.process_time() - started
        kept.append(state)
    return seconds, kept


def drawn(draw: Callable[[State], object], states: list[State], frames: int) -> float:
    """CPU seconds of so many pictures."""
    started = time.process_time()
    for number in range(frames):
        draw(states[number % len(states)])
    return time.process_time() - started


def line(name: str, rates: list[float]) -> str:
    """A row of the table."""
    return f"{name:34s} median {statistics.median(rates):9,.0f} /s   {min(rates):9,.0f} to {max(rates):,.0f}"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scenario", choices=list(SCENARIOS), default="11_vs_11")
    parser.add_argument("--ticks", type=int, default=20_000)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--height", type=int, default=360)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    ticks, full, grid = [], [], []
    for repeat in range(args.repeats):
        seconds, states = games(args.scenario, args.ticks, repeat)
        ticks.append(args.ticks / seconds)
        full.append(args.frames / drawn(lambda s: full_picture(s, args.width, args.height), states, args.frames))
        grid.append(args.frames / drawn(grid_picture, states, args.frames))
    print(line(f"ticks, {args.scenario}", ticks))
    print(line(f"full pictures, {args.width} x {args.height}", full))
    print(line("grid pictures", grid))


if __name__ == "__main__":
    main()
