"""Sokoban levels per second: drawn from seeds, each solved with the fewest pushes and played through to check that.

    python benchmarks/sokoban.py [--size small_v0] [--count 10000] [--processes 2] [--boxoban FILE]

With --boxoban the solver is tried on the levels of a file in Boxoban's format instead ("; number" between levels).
"""

from __future__ import annotations

import argparse
import statistics
import time
from multiprocessing import get_context
from pathlib import Path

from lmm_r1.envs.sokoban.level import read_levels
from lmm_r1.envs.sokoban.levels import SIZES, generate
from lmm_r1.envs.sokoban.solver import solution


def proved(task: tuple[str, int]) -> tuple[str, int]:
    """(level, pushes) of a seed; AssertionError when its solution does not solve it."""
    puzzle = generate(*task)
    assert puzzle.level.play(puzzle.solution.directions).solved
    return str(puzzle.level), puzzle.pushes


def boxoban(path: Path) -> None:
    """Seconds, pushes and positions looked at of each level of a file."""
    seconds, solved = [], 0
    levels = read_levels(path)
    for level in levels:
        started = time.perf_counter()
        found = solution(level)
        seconds.append(time.perf_counter() - started)
        solved += found is not None and level.play(found.directions).solved
    print(f"{solved} of {len(levels)} solved; median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=list(SIZES), default="small_v0")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--boxoban", type=Path)
    args = parser.parse_args()
    if args.boxoban:
        boxoban(args.boxoban)
        return
    started = time.perf_counter()
    with get_context("spawn").Pool(args.processes) as pool:
        found = pool.map(proved, [(args.size, seed) for seed in range(args.count)], chunksize=100)
    seconds = time.perf_counter() - started
    pushes = [pushes for _, pushes in found]
    print(
        f"{args.count} levels of {args.size} in {seconds:.1f} s with {args.processes} processes: "
        f"{len({level for level, _ in found})} distinct; pushes {min(pushes)} to {max(pushes)}, median {statistics.median(pushes):g}"
    )


if __name__ == "__main__":
    main()
