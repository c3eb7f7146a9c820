"""Verdicts a second, next to math-verify in the same run; and what share the exact path decides.

    python benchmarks/verifier.py [--data FOLDER] [--pairs 400]

Pairs are made afresh from the golds of FOLDER/math500.jsonl and FOLDER/deepscaler_2000.jsonl: a response of 1.5 kB
that ends in a box, half of them with the gold itself and half with another row's gold. One process, no cache of
verdicts, the two checkers in turn over blocks of pairs (A B A B), medians of the blocks. math-verify is timed only
if it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from lmm_r1.rewards import math as verifier
from lmm_r1.rewards import verify
from lmm_r1.rewards.terms import Term
from lmm_r1.rewards.values import Value

FILLER = "We write the quantity as $a_{k} = \\frac{k}{2} + 3$ and look at each case in turn, so that nothing is lost. "


def response(answer: str, rng: random.Random) -> str:
    """1.5 kB of reasoning, then the box."""
    text = "".join(FILLER.replace("k", rng.choice("kmnpq")) for _ in range(14))
    return f"<think>{text}</think><answer>\\boxed{{{answer}}}</answer>"


def pairs_of(golds: list[str], count: int, rng: random.Random) -> list[tuple[str, str]]:
    """(gold, response): half right, half wrong."""
    found = []
    for at in range(count):
        gold = rng.choice(golds)
        answer = gold if at % 2 else next(g for g in iter(lambda: rng.choice(golds), "") if g != gold)
        found.append((gold, response(answer, rng)))
    return found


def seconds(check: Callable[[str, str], object], pairs: list[tuple[str, str]]) -> float:
    """Wall time for all pairs."""
    started = time.perf_counter()
    for gold, reply in pairs:
        check(gold, reply)
    return time.perf_counter() - started


def ours(gold: str, reply: str) -> object:
    """One verdict without the memory of golds read before."""
    verifier._read_gold.cache_clear()
    return verify(gold, reply)


def peer() -> Callable[[str, str], object] | None:
    """math-verify as its users call it, or None."""
    if importlib.util.find_spec("math_verify") is None:
        return None
    module = importlib.import_module("math_verify")
    return lambda gold, reply: module.verify(module.parse(f"\\boxed{{{gold}}}"), module.parse(reply))


def by_value(golds: list[str]) -> float:
    """Share of golds that are compared by value at points, not exactly."""
    read = [verifier._read_gold(gold) for gold in golds]
    return sum(
        any(isinstance(x, Value) and isinstance(x.parsed.value, Term) for x in found[1:]) for found in read if found
    ) / len(golds)


def report(name: str, golds: list[str], count: int, blocks: int = 6) -> None:
    """A line for one set of golds."""
    rng, other = random.Random(7), peer()
    a, b = [], []
    for _ in range(blocks):
        pairs = pairs_of(golds, count, rng)
        a.append(count / seconds(ours, pairs))
        if other is not None:
            few = pairs[: max(20, count // 8)]
            b.append(len(few) / seconds(other, few))
    ratio = (
        f"  math-verify {statistics.median(b):8.0f}/s  ratio {statistics.median(a) / statistics.median(b):6.1f}"
        if b
        else ""
    )
    print(
        f"{name:22} {len(golds):5} golds  {statistics.median(a):8.0f}/s  by value {by_value(golds):6.1%}{ratio}",
        flush=True,
    )


def golds_of(path: Path) -> list[str]:
    """The answers of a JSONL file."""
    return [str(json.loads(line)["answer"]) for line in path.read_text("utf-8").splitlines() if line.strip()]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--pairs", type=int, default=400)
    options = parser.parse_args()
    rng = random.Random(1)
    quick = [str(rng.randint(-999, 9999)) for _ in range(500)] + [f"\\frac{{{k}}}{{{k + 3}}}" for k in range(1, 200)]
    pairs = [(g, f"<think>t</think><answer>{rng.choice((g, '7'))}</answer>") for g in quick * 20]
    rates = [len(pairs) / seconds(verify, pairs) for _ in range(5)]
    print(
        f"{'whole numbers, fractions':22} {len(quick):5} golds  {statistics.median(rates):8.0f}/s, short replies, one process"
    )
    for name in ("math500", "deepscaler_2000"):
        path = options.data / f"{name}.jsonl"
        if path.is_file():
            report(name, golds_of(path), options.pairs)
        else:
            print(f"{name}: {path} is not here")


if __name__ == "__main__":
    main()
