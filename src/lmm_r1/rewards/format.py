"""The format part of the reward, and whether a reply reasons.

Source: arXiv 2503.07536, section 3.2 and Appendix E; the exact rule is that of the released code: the
reply is <think>...</think><answer>...</answer>, with nothing before, between or after.
A chat template may begin the reply itself ("<think>"): what is judged is that beginning and the reply together.
Left out: whether the answer is right (score.py adds the two).
"""

from __future__ import annotations

import re

from lmm_r1.types import Problem, Verdict

_OPEN, _CLOSE, _ANSWER, _END = "<think>", "</think>", "<answer>", "</answer>"

#: An equation: something stands on both sides of a single "=".
_RELATION = re.compile(r"[\w)}\]%°.]\s?=\s?[\w({\[\\$+.−-]")
_WORD = re.compile(r"[^\W\d_]{2,}")
_WORDS_OF_A_STEP = 12


#: White space behind a tag that the next tag, or the end, follows.
_AFTER_TAG = re.compile(r"(</?think>|<answer>)\s+(?=</?think>|<answer>|\Z)")
#: A reply in the format: whatever may follow a beginning that can be right is, in its form, one of its ends.
_WHOLE = "<think>t</think><answer>a</answer>"


def opening_of(begun: str) -> str:
    """What a chat template begins of a reply, as it is judged: its own white space around tags is not the reply's fault."""
    return _AFTER_TAG.sub(r"\1", begun)


def format_can_be_right(opening: str) -> bool:
    """Whether some reply behind this beginning has the format; False for a template under which none could ever be paid."""
    opening = opening_of(opening)
    return any(format_ok(opening + _WHOLE[at:]) for at in range(len(_WHOLE) + 1))


def format_ok(reply: str) -> bool:
    """Whether a reply has the published format.

    Begins with <think>; </think> is followed at once by <answer>; ends with </answer>; neither body
    holds its own closing tag; one <think> and one <answer> in all. Empty bodies pass, as published,
    and white space around the whole is forgiven.
    """
    text = reply.strip()
    if not (text.startswith(_OPEN) and text.endswith(_END)):
        return False
    if text.count(_OPEN) != 1 or text.count(_ANSWER) != 1:
        return False
    _, found, rest = text.partition(_CLOSE)
    return bool(found) and rest.startswith(_ANSWER) and rest.index(_END) == len(rest) - len(_END)


def format_verdict(problem: Problem, reply: str) -> Verdict:
    """`format_ok` as a Verifier: 1 or 0, "correct" or "wrong"."""
    return Verdict(1.0, "correct") if format_ok(reply) else Verdict(0.0, "wrong")


def thoughts(reply: str) -> str:
    """The text between the first <think> and the </think> after it; empty without both."""
    _, found, rest = reply.partition(_OPEN)
    body, closed, _ = rest.partition(_CLOSE)
    return body if found and closed else ""


def reasons(reply: str) -> bool:
    """Whether a reply reasons: its think block holds a worked step.

    A heuristic for reports, never a reward: a worked step is an equation (something on both sides of
    "="), or at least 12 words. "I guess" is no step; twelve words of chatter are taken for one.
    """
    body = thoughts(reply)
    return _RELATION.search(body) is not None or len(_WORD.findall(body)) >= _WORDS_OF_A_STEP
