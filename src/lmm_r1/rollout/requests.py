"""What every engine asks of a request before it queues it, and what it makes of one whose prompt leaves no room.

Engines differ in how they run a prompt. Which prompts and settings they take is the same, and so are the words of a refusal.
Leaves out: whether an engine has weights, where pictures are kept, and what vLLM makes of a prompt (vllm_prompts.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lmm_r1.errors import EngineError
from lmm_r1.types import Image, Int32, Reply, Request


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine can run.

    vocabulary: ids are 0 to vocabulary - 1. image_token: the placeholder, one for each cell of a picture. cells(image):
    how many a canonical picture has. context: tokens of prompt and reply together.
    """

    vocabulary: int
    image_token: int
    cells: Callable[[Image], int]
    context: int

    def check(self, request: Request) -> None:
        """EngineError for a prompt as in `check_prompt`, and for sampling settings out of range."""
        self.check_prompt(request.token_ids, request.images, f"request {request.id}")
        if not request.temperature > 0 or not 0 < request.top_p <= 1 or request.max_new_tokens < 1:
            raise EngineError(f"request {request.id}: temperature, top_p or max_new_tokens is out of range")

    def check_prompt(self, token_ids: Int32, images: Sequence[Image], what: str) -> None:
        """EngineError when a prompt is empty, holds unknown ids, or its placeholders are not its pictures' cells."""
        if not len(token_ids) or int(token_ids.min()) < 0 or int(token_ids.max()) >= self.vocabulary:
            raise EngineError(f"{what}: no tokens, or ids outside the vocabulary of {self.vocabulary}")
        places, cells = int((token_ids == self.image_token).sum()), sum(map(self.cells, images))
        if places != cells:
            raise EngineError(f"{what}: {places} image placeholders for {len(images)} pictures of {cells} cells")

    def room(self, request: Request) -> int:
        """How many tokens a reply may have; 0 or less when the prompt fills the context."""
        return min(request.max_new_tokens, self.context - len(request.token_ids))


def claim(request: Request, taken: set[int]) -> None:
    """Add a request's id to those in work. EngineError when it is among them already."""
    if request.id in taken:
        raise EngineError(f"request {request.id} is in work already")
    taken.add(request.id)


def without_room(request: Request, version: int) -> Reply:
    """The reply to a prompt that fills the context: no token, by the weights that would have written it."""
    return Reply(
        request.id, request.token_ids, np.zeros(0, np.int32), np.zeros(0, np.float32), stop="context", version=version
    )
