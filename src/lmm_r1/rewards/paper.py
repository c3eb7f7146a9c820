"""`compat = "paper"`: the released LMM-R1 rules, their holes included, so that a run can be compared with the paper's.

Source: arXiv 2503.07536, section 3.2, and what the released math_verifier.py and sokoban_verifier.py do. Never
the default: this rule reads the whole reply, thoughts first; pays every reply when the gold cannot be read; and
knows no words. The comparison itself is ours (the release calls math-verify 0.5.2), after the release's extraction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lmm_r1.rewards.answers import Opaque, read
from lmm_r1.rewards.exact import TooBig
from lmm_r1.rewards.math import judge
from lmm_r1.rewards.spelling import tidy
from lmm_r1.types import Problem, Verdict

_BOX = re.compile(r"\\boxed\s{0,4}\{")
_DOLLARS = re.compile(r"\$\$?([^$]{1,2000})\$")
_WORD = re.compile(r"\\text|[a-zA-Z]{2,}")
_COMMAND = re.compile(r"\\[a-zA-Z]+|(?<![a-zA-Z])(?:cm|mm|km|m|kg|g|ft|in|sin|cos|tan|log|ln|sqrt|pi)(?![a-zA-Z])")
MAX_REPLY = 200_000


def first_box(text: str) -> str | None:
    """The inside of the first \\boxed{...} whose braces balance."""
    for match in _BOX.finditer(text):
        depth = 1
        for at in range(match.end(), min(len(text), match.end() + 2_000)):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[match.end() : at]
    return None


def paper_answer(reply: str) -> str | None:
    """What the release reads: the first box anywhere, else the last $...$; None without either."""
    boxed = first_box(reply[:MAX_REPLY])
    if boxed is not None:
        return boxed
    found = _DOLLARS.findall(reply[-MAX_REPLY:])
    return found[-1] if found else None


def _is_words(text: str) -> bool:
    return _WORD.search(_COMMAND.sub(" ", text.replace("\\text{ ", "{").replace("\\text{", "{"))) is not None


def _readable(gold: str) -> bool:
    try:
        return bool(gold.strip(" $")) and not isinstance(read(tidy(gold)), Opaque)
    except TooBig:
        return False


def paper_verdict(problem: Problem, reply: str) -> Verdict:
    """The released accuracy rule: 1.0 for every reply when the gold cannot be read."""
    gold = problem.answer
    if not _readable(gold) and not re.fullmatch(r"\s*\$?[A-Za-z]+\$?\s*", gold):
        return Verdict(1.0, "correct")
    answer = paper_answer(reply)
    if answer is None:
        return Verdict(0.0, "no_answer")
    if "\\text{" in answer and _is_words(answer):
        return Verdict(0.0, "unparsable_answer")
    return judge(gold.strip().strip("$"), answer)


#: Shape of the released Sokoban reward.
MAX_ACTIONS = 50
ACTIONS = frozenset(("left", "right", "up", "down"))
SOLVED_STEP = 3.0


def repeats(actions: Sequence[str], most: int = 7) -> bool:
    """Whether a run of 1 to 5 actions comes more than `most` times in a row."""
    for size in range(1, 6):
        for start in range(len(actions) - size):
            gram, count = actions[start : start + size], 1
            while actions[start + count * size : start + (count + 1) * size] == gram:
                count += 1
                if count > most:
                    return True
    return False


def sokoban_reward(reply: str, play: Callable[[Sequence[str]], Sequence[float]]) -> dict[str, float]:
    """The released Sokoban reward: {"reward", "task", "actions", "thinking_words"}.

    play(actions) -> the game's reward of every step it took. Gate: one of each tag, and only the four directions
    in the answer; else 0. Then max(0, best running sum over the first 50 steps, ending when a step pays more than
    3) + 0.5 + a bonus for the number of actions + one for the words of the thoughts.
    """
    nothing = {"reward": 0.0, "task": 0.0, "actions": 0.0, "thinking_words": 0.0}
    if any(reply.count(tag) != 1 for tag in ("<think>", "</think>", "<answer>", "</answer>")):
        return nothing
    inside = reply.partition("<answer>")[2].partition("</answer>")[0]
    actions = [token.strip().lower() for token in inside.split(",")]
    if not all(action in ACTIONS for action in actions):
        return nothing
    best = total = 0.0
    for paid in play(actions[:MAX_ACTIONS]):
        total += paid
        best = max(best, total)
        if paid > SOLVED_STEP:
            break
    n = len(actions)
    length = 0.05 * n if n < 20 else 1.0 - 0.2 * ((n - 20) / 30) ** 2
    if repeats(actions):
        length = min(0.0, length - 0.2)
    thoughts = reply.partition("<think>")[2].partition("</think>")[0]
    counted = sum(len(word) > 1 for word in thoughts.split(" "))
    reward = best + 0.5 + length + min(0.2, 0.001 * counted)
    return {"reward": reward, "task": best, "actions": float(n), "thinking_words": float(counted)}
