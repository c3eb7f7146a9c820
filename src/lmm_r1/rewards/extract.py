"""Where the final answer of a reply stands.

One rule for reward, evaluation and report. With an answer block only its inside counts: its last
balanced \\boxed{...}, else its text. Without one, the last balanced box outside the thoughts; bare text
is no answer. Nothing in the thoughts and nothing after the block counts. Two blocks are ambiguous, an
unclosed <think> or <answer> is no answer (the reply was cut off before it committed itself).

The released LMM-R1 checker reads the whole reply, thoughts first; that is its hole, not a feature.
Everything here is one pass over the text, whatever the text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lmm_r1.rewards.beside import spoiled, unit_of_box
from lmm_r1.rewards.units import is_measure, is_scale

#: Longer answers are refused as too_big: no answer of a data set comes near.
MAX_ANSWER = 2_000

_THINK, _THOUGHT, _ANSWER, _END = "<think>", "</think>", "<answer>", "</answer>"
_BRACES = re.compile(r"\\boxed\s{0,4}\{|\\.|[{}]", re.DOTALL)
_LEAD = re.compile(
    r"^(?:(?:so|thus|hence|therefore),? )?(?:(?:the )?(?:final |correct )?(?:answer|result|option|choice|value of \$?[a-zA-Z]\$?) "
    r"(?:is|=)\s*:?\s*)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^(?:final )?answer\s*:\s*", re.IGNORECASE)


_SPACED_TAG = re.compile(r"<\s{0,3}(/?)\s{0,3}answer\s{0,3}>")
_MENTION = re.compile(
    r"[`'\"]<answer>(?:[`'\"]|\s?(?:\.{3}|…)?\s?</answer>[`'\"])|<answer>(?:\s?(?:\.{3}|…|and|/|,|&|your answer|answer)?\s?</answer>)?"
    r"\s(?:and </answer> )?(?:tags?|blocks?|elements?|markers?|format|section)(?![a-z])"
)


class Extracted(NamedTuple):
    """An answer (reason empty), or no answer and the reason code why."""

    answer: str
    reason: str = ""
    unit: str = ""  # what stands right behind a box and may be its unit


def outside_thoughts(reply: str) -> str | None:
    """The reply without its think blocks; None when one is never closed.

    A </think> that comes before any <think> closes a thought that the prompt opened.
    """
    parts: list[str] = []
    opened, closed = reply.find(_THINK), reply.find(_THOUGHT)
    at = closed + len(_THOUGHT) if closed >= 0 and (opened < 0 or closed < opened) else 0
    while True:
        opened = reply.find(_THINK, at)
        if opened < 0:
            return "".join((*parts, reply[at:]))
        parts.append(reply[at:opened])
        closed = reply.find(_THOUGHT, opened)
        if closed < 0:
            return None
        at = closed + len(_THOUGHT)


def last_span(text: str) -> tuple[int, int] | None:
    """Where the inside of the last \\boxed{...} whose braces balance begins and ends (the outer one of nested boxes), or None."""
    opened: list[int | None] = []  # per open brace: where the inside of a box begins, None for other braces
    found: tuple[int, int] | None = None
    first = text.find("\\boxed")
    if first < 0:
        return None
    for match in _BRACES.finditer(text, first):
        token = match.group()
        if token.startswith("\\boxed"):
            opened.append(match.end())
        elif token == "{":
            opened.append(None)
        elif token == "}" and opened:
            start = opened.pop()
            if start is not None:
                found = (start, match.start())
    return found


def _from_box(text: str) -> Extracted | None:
    """What the last box holds, with the unit beside it; "ambiguous" when the words beside it deny it or name another answer."""
    bare = text.strip()
    if bare.startswith("\\boxed{") and bare.endswith("}") and not set("{}\\") & set(inside := bare[7:-1]):
        return _checked(inside, "")  # the usual one: alone, without braces or commands of its own
    found = last_span(text)
    if found is None:
        return None
    start, end = found
    if text[:start].lstrip() == "\\boxed{" and not text[end + 1 :].strip():
        return _checked(text[start:end], "")  # nothing beside it
    before, inside, behind = text[max(0, start - 60) : start], text[start:end], text[end + 1 : end + 61]
    if spoiled(before, inside, behind):
        return Extracted("", "ambiguous")
    unit = ""
    if len(inside) <= 60:
        unit, unsure = unit_of_box(before, behind)
        if not unit and (is_scale(unsure) or is_measure(unsure)):
            unit = unsure
    return _checked(inside, unit)


def extract(reply: str) -> Extracted:
    """The answer that a reply commits itself to, without surrounding words such as "the answer is"."""
    text = outside_thoughts(reply)
    if text is None:
        return Extracted("", "no_answer")
    blocks = text.count(_ANSWER)
    if blocks != 1 or _END not in text:
        text = _without_mentions(text)
        blocks = text.count(_ANSWER)
    if blocks > 1:
        return Extracted("", "ambiguous")
    if blocks:
        _, _, rest = text.partition(_ANSWER)
        text, closed, _ = rest.partition(_END)
        if not closed:
            return Extracted("", "no_answer")
    boxed = _from_box(text) if "\\boxed" in text else None
    if boxed is not None:
        return boxed
    return _checked(text, "") if blocks else Extracted("", "no_answer")


def _without_mentions(text: str) -> str:
    """The reply with its tags spelled alike, and without those that it only speaks of: "in <answer> tags"."""
    if "answer" not in text:
        return text
    text = _SPACED_TAG.sub(r"<\1answer>", text)
    return _MENTION.sub(" ", text) if text.count(_ANSWER) > 1 else text


def _checked(answer: str, unit: str) -> Extracted:
    if len(answer) > MAX_ANSWER:
        return Extracted("", "too_big")
    bare = answer.strip()
    if bare[:1].isalpha():
        bare = _LABEL.sub("", _LEAD.sub("", bare, count=1), count=1).strip()
    return Extracted(bare, "", unit) if bare else Extracted("", "no_answer")
