"""Scripted fakes of the seams: tests of the loop need no model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from lmm_r1.types import Encoded, Image, Int32, Message, Reply, Request, Text, Turn

VOCABULARY = 128
STOP = 2


def said(*replies: str) -> list[Turn]:
    """The turns of an episode with these replies."""
    return [Turn(0, len(reply), reply) for reply in replies]


class CharAdapter:
    """One token per character; a picture is four placeholder tokens of id 1."""

    vocabulary = VOCABULARY
    stop_ids = (STOP,)
    banned_ids = (1,)
    pad_id = 0

    def encode(self, messages: Sequence[Message]) -> Encoded:
        ids: list[int] = []
        images: list[Image] = []
        for message in messages:
            for part in message.content:
                if isinstance(part, Text):
                    ids += [ord(c) % VOCABULARY for c in part.text]
                else:
                    ids += [1] * 4
                    images.append(part)
        return Encoded(np.asarray([*ids, 3], np.int32), tuple(images))

    def encode_feedback(self, messages: Sequence[Message]) -> Encoded:
        return self.encode(messages)

    def decode(self, token_ids: Int32) -> str:
        return "".join(chr(t) for t in token_ids if t != STOP)


class ScriptedEngine:
    """Answers each request with `script(request)`; the newest request ends first, to shake out order bugs."""

    def __init__(self, script: Callable[[Request], str], version: int = 0) -> None:
        self.script, self.version = script, version
        self.requests: list[Request] = []
        self._waiting: list[Request] = []

    def submit(self, requests: Sequence[Request]) -> None:
        self.requests += requests
        self._waiting += requests

    def finished(self) -> Iterator[Reply]:
        while self._waiting:
            request = self._waiting.pop()
            ids = np.asarray([*(ord(c) for c in self.script(request)), STOP], np.int32)
            yield Reply(request.id, request.token_ids, ids, np.full(len(ids), -0.5, np.float32), "eos", self.version)

    def cancel(self, ids: Iterable[int]) -> None:
        gone = set(ids)
        self._waiting = [r for r in self._waiting if r.id not in gone]

    @contextmanager
    def awake(self, parts: Sequence[str] = ()) -> Iterator[None]:
        yield
