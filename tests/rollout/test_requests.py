"""What every engine asks of a request, without an engine."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lmm_r1.errors import EngineError
from lmm_r1.rollout.requests import Limits, claim, without_room
from lmm_r1.types import Image, Request

PICTURE = Image("a" * 64, 56, 28)  # two cells of 28 pixels
LIMITS = Limits(
    vocabulary=10, image_token=7, cells=lambda image: image.width // 28 * (image.height // 28), context=8
)  # fmt: skip
GOOD = Request(3, np.array([0, 7, 7, 9], np.int32), (PICTURE,), seed=1, max_new_tokens=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": np.zeros(0, np.int32), "images": ()}, "request 3: no tokens, or ids outside the vocabulary of 10"),
        ({"token_ids": np.array([10, 7, 7], np.int32)}, "vocabulary"),
        ({"token_ids": np.array([-1, 7, 7], np.int32)}, "vocabulary"),
        ({"images": ()}, "request 3: 2 image placeholders for 0 pictures of 0 cells"),
        ({"images": (PICTURE, PICTURE)}, "2 image placeholders for 2 pictures of 4 cells"),
        ({"temperature": 0.0}, "request 3: temperature, top_p or max_new_tokens is out of range"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)  # fmt: skip
def test_what_no_engine_takes(change: dict[str, object], message: str) -> None:
    """Catches a limit that moved or went: the engines have no other check."""
    LIMITS.check(GOOD)
    with pytest.raises(EngineError, match=message):
        LIMITS.check(replace(GOOD, **change))


def test_an_id_is_in_work_once() -> None:
    """Catches two replies under one id, also of requests that come together."""
    taken = {1}
    claim(GOOD, taken)
    assert taken == {1, 3}
    with pytest.raises(EngineError, match="request 3 is in work already"):
        claim(replace(GOOD, seed=2), taken)


def test_the_room_of_a_reply() -> None:
    """Catches a reply that outgrows its budget or the context, and one to a full context that is not empty."""
    assert [LIMITS.room(replace(GOOD, max_new_tokens=n)) for n in (2, 4, 5)] == [2, 4, 4]
    full = replace(GOOD, token_ids=np.zeros(8, np.int32), images=())
    assert LIMITS.room(full) == 0
    reply = without_room(full, version=6)
    assert (reply.id, len(reply.token_ids), len(reply.logprobs), reply.stop, reply.version) == (3, 0, 0, "context", 6)


def test_one_prompt_is_its_tokens_and_its_pictures() -> None:
    """Catches a prefill shared by prompts of other tokens or pictures, and siblings that do not share theirs."""
    sibling = replace(GOOD, id=4, token_ids=GOOD.token_ids.copy(), seed=9, max_new_tokens=5, temperature=0.5)
    assert sibling.prompt_key == GOOD.prompt_key
    assert replace(GOOD, token_ids=np.array([1, 7, 7, 9], np.int32)).prompt_key != GOOD.prompt_key
    assert replace(GOOD, images=(replace(PICTURE, sha="b" * 64),)).prompt_key != GOOD.prompt_key
