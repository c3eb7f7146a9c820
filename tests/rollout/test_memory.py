"""What a windowed prompt shows of the past."""

from __future__ import annotations

import pytest

from lmm_r1.rollout.memory import windowed
from lmm_r1.types import Image, Message, Text

OPENING = (Message("system", (Text("sys"),)), Message("user", (Image("p0", 28, 28), Text("rules"))))


def seen(number: int) -> tuple[Message, ...]:
    return (Message("user", (Image(f"p{number}", 28, 28), Text(f"now {number}"))),)


def told(message: Message) -> list[str]:
    return [part.sha if isinstance(part, Image) else part.text for part in message.content]


def test_the_first_turn_is_the_opening() -> None:
    """Catches a first prompt that differs from that of siblings with another memory."""
    assert windowed(OPENING, [], [], 1, 5) == OPENING


@pytest.mark.parametrize(
    ("pictures", "actions", "expected"),
    [
        (1, 5, ["p3", "rules\n", "Before: a; nothing; c\n", "now 3"]),
        (2, 1, ["p2", "p3", "rules\n", "Before: c\n", "now 3"]),
        (9, 0, ["p0", "p1", "p2", "p3", "rules\n", "now 3"]),
    ],
)
def test_a_later_turn_shows_the_last_pictures_and_actions(pictures: int, actions: int, expected: list[str]) -> None:
    """Catches the first frame shown for ever, an action too many, a bad turn that leaves no trace, and lost rules."""
    system, user = windowed(OPENING, [seen(1), seen(2), seen(3)], ["a", "", "c"], pictures, actions)
    assert system == OPENING[0]
    assert told(user) == expected
