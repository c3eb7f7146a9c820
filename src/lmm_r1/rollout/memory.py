"""What a model is shown of an episode's past: everything (`full`), or a window of it.

Full: one append-only token stream. Window: every turn has a prompt of its own, freshly rendered from the opening's words,
the last actions and the last pictures, so an episode of any length fits, and old frames cost nothing.
Source of the window: MageBench's online agents, as LMM-R1 plays them (arXiv 2503.07536, C.3): one picture, five actions.
"""

from __future__ import annotations

from collections.abc import Sequence

from lmm_r1.types import Image, Message, Text

#: How the past is told in a windowed prompt.
BEFORE = "Before: "
#: Stands for a turn whose reply was no move.
NOTHING = "nothing"


def windowed(
    opening: Sequence[Message],
    observations: Sequence[Sequence[Message]],
    played: Sequence[str],
    pictures: int,
    actions: int,
) -> tuple[Message, ...]:
    """The prompt of the next turn: the opening's system messages and one user message.

    opening: the environment's first messages. observations: its feedback to each reply so far. played: the action of each
    reply so far. The user message holds the opening's words, the last `actions` actions, the words of the last
    observation, and the last `pictures` pictures of all, the opening's included. Without observations: the opening itself.
    """
    if not observations:
        return tuple(opening)
    system = tuple(m for m in opening if m.role == "system")
    asked = [m for m in opening if m.role != "system"]
    seen = _pictures([*asked, *(message for o in observations for message in o)])
    words = _words(asked)
    recent = [action or NOTHING for action in played[max(0, len(played) - actions) :]]
    if recent:
        words.append(Text(BEFORE + "; ".join(recent)))
    words += _words(observations[-1])
    content: list[Text | Image] = [
        *seen[max(0, len(seen) - pictures) :],
        *(Text(part.text + "\n") for part in words[:-1]),
    ]
    return (*system, Message("user", (*content, *words[-1:])))


def _words(messages: Sequence[Message]) -> list[Text]:
    return [part for message in messages for part in message.content if isinstance(part, Text)]


def _pictures(messages: Sequence[Message]) -> list[Image]:
    return [part for message in messages for part in message.content if isinstance(part, Image)]
