"""RayEngine: N engines in worker processes behind one RolloutEngine.

Siblings of a prompt go to one engine, and prompts are dealt so that each engine expects as many tokens; which engine gets a
request is a function of the requests alone. A worker that dies or falls silent is started anew with the current weights and
asked again for what it still owed: every request gets exactly one reply. What a worker returns is checked, and one that
answers what it was not asked counts as lost. A fault that an engine raises is no loss: it would come again.
A reply is a function of weights, request and seed; batch mates decide at most its last bits (products of few rows are summed
in another order), so replies after a restart, or with another number of engines, agree to about 1e-6 nats.
Leaves out: processes and their pulse (cluster.py), the worker's half (seat.py).
Source: design of this project; longest-processing-time-first dealing after Graham (1969).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.cluster import Call, Cluster, Worker, WorkerLost
from lmm_r1.distributed.seat import Seat
from lmm_r1.distributed.shipment import Shipment, ship
from lmm_r1.errors import EngineError, LmmR1Error
from lmm_r1.rollout.requests import claim
from lmm_r1.rollout.weights import TOLERANCES
from lmm_r1.types import Float32, Image, Int32, PromptKey, Reply, Request

_SEAT = f"{Seat.__module__}:{Seat.__name__}"
#: What a worker is asked for beside `advance`: from the index of its engine to the arguments.
_Arguments = Callable[["_Post"], Sequence[Any]]


@dataclass(eq=False, slots=True)
class _Post:
    """The place of one engine, whoever fills it.

    flight: calls under way, in order, with their methods. inbox: requests to be sent. owed: those sent and not answered.
    cancelled: ids that the worker has not heard of. deaf: ids whose replies are no longer wanted.
    known: pictures that the worker has.
    """

    index: int
    worker: Worker
    flight: deque[tuple[str, Call]] = field(default_factory=deque)
    inbox: list[Request] = field(default_factory=list)
    owed: dict[int, Request] = field(default_factory=dict)
    cancelled: list[int] = field(default_factory=list)
    deaf: set[int] = field(default_factory=set)
    known: set[str] = field(default_factory=set)


def deal(requests: Sequence[Request], load: Sequence[int]) -> list[int]:
    """The engine of each request, where engine i expects load[i] tokens already.

    Requests of one prompt stay together, except that more than an engine's fair share of the tokens is cut into such
    shares. The costliest first, each to the engine that expects the least; ties go to the first.
    """
    groups: dict[PromptKey, list[int]] = {}
    for at, request in enumerate(requests):
        groups.setdefault(request.prompt_key, []).append(at)
    fair = sum(request.max_new_tokens for request in requests) / len(load)
    parts: list[tuple[int, list[int]]] = []
    for members in groups.values():
        part: list[int] = []
        tokens = 0
        for at in members:
            if part and tokens + requests[at].max_new_tokens > fair:
                parts.append((tokens + len(requests[at].token_ids), part))
                part, tokens = [], 0
            part.append(at)
            tokens += requests[at].max_new_tokens
        parts.append((tokens + len(requests[members[0]].token_ids), part))
    expected = list(load)
    engine = [0] * len(requests)
    for cost, part in sorted(parts, key=lambda p: -p[0]):  # stable: equals keep the order of arrival
        least = expected.index(min(expected))
        expected[least] += cost
        for at in part:
            engine[at] = least
    return engine


class RayEngine:
    """Implements seams.RolloutEngine, and what weights.LocalLink needs, over the engines of a cluster."""

    def __init__(self, cluster: Cluster, images: ImageStore, factory: str, arguments: Mapping[str, Any]) -> None:
        """factory: "module:name" of a seat.Factory, called in each worker with its own image store and `arguments`.
        images: where the pictures of requests are found. EngineError when the workers do not come up."""
        self._cluster, self._images = cluster, images
        self._making = {"factory": factory, "arguments": dict(arguments)}
        self._version = -1
        self._shipment: Shipment | None = None
        self._spare: Callable[[], Shipment] | None = None  # where a shipment can be had
        self._in_place = False
        self._digest = ""  # of the weights; "" = there are none
        self._awake: tuple[str, ...] | None = None
        self._ids: set[int] = set()  # submitted, and not yielded yet
        self._home: dict[int, int] = {}  # of a request's id, as long as anything is open
        self._load: list[int] = []
        self._done: deque[Reply] = deque()
        self._posts: list[_Post] = []
        for index in range(cluster.knobs.engines):
            worker, call = cluster.start("engine", index, _SEAT, self._making)
            self._posts.append(_Post(index, worker, deque([("make", call)])))
        self.dtype: torch.dtype = getattr(torch, self._everyone("dtype")[0])

    # ---- the seam

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; allowed while `finished` is being read.

        EngineError without weights, for an id that is still in work, or a picture that is not in the store; then none
        is queued. What an engine has against a request is raised by `finished`.
        """
        if not self._digest:
            raise EngineError("the engine has no weights (or ones that failed their proof)")
        taken = set(self._ids)
        for request in requests:
            claim(request, taken)
            for image in request.images:
                if image.sha not in self._images:
                    raise EngineError(f"request {request.id}: no picture {image.sha} in the image store")
        if not self._open():
            self._begin({image.sha for request in requests for image in request.images})
        self._ids = taken
        # A later turn goes where the earlier ones were, whenever it comes: its prompt is known there.
        fresh = [request for request in requests if request.id not in self._home]
        for request, engine in zip(fresh, deal(fresh, self._load), strict=True):
            self._home[request.id] = engine
        for request in requests:
            engine = self._home[request.id]
            self._load[engine] += request.max_new_tokens
            self._posts[engine].inbox.append(request)

    def finished(self) -> Iterator[Reply]:
        """Yield replies as they end, until nothing is queued or running. A reader may stop early and come back.

        EngineError for a fault of an engine, and when more workers are lost than `restarts` allows.
        """
        while self._done or self._open():
            while self._done:
                reply = self._done.popleft()
                self._ids.discard(reply.id)
                yield reply
            # Only now: what a reader submits upon a reply goes out with the next command, whatever the clock says.
            for post in self._posts:
                self._advance(post)
            if not self._open():
                return
            for _, answer in self._receive():
                if isinstance(answer, LmmR1Error):
                    raise answer

    def cancel(self, ids: Iterable[int]) -> None:
        """Drop requests; no Reply comes for them. Unknown ids are ignored: they may just have ended."""
        gone = set(ids)
        self._ids -= gone
        self._done = deque(reply for reply in self._done if reply.id not in gone)
        for post in self._posts:
            post.inbox = [request for request in post.inbox if request.id not in gone]
            for number in gone & post.owed.keys():
                del post.owed[number]
                post.cancelled.append(number)
                post.deaf.add(number)

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        """Send weights through shared memory; the digest that all engines found. EngineError while requests are running,
        when engines disagree, and for what an engine has against the weights: then there are no weights.

        The last weights stay in shared memory for engines that are started anew, and go before the next ones come.
        """
        if self._open():
            raise EngineError("weights cannot change while requests are running")
        self._drop()
        self._version, self._in_place = version, in_place
        shipment = ship(source)
        try:
            found = self._everyone("load", lambda post: (version, in_place, shipment.manifest, *shipment.references))
        except BaseException:
            shipment.release()
            raise
        if len(set(found)) != 1:
            differ = ", ".join(f"engine {index} {digest[:12]}" for index, digest in enumerate(found))
            shipment.release()
            self.unload()
            raise EngineError(f"the engines hold different weights: {differ}")
        self._shipment, self._digest = shipment, found[0]
        return found[0]

    @contextmanager
    def awake(self, parts: Sequence[str] = ("weights", "cache")) -> Iterator[None]:
        """Hold the memory of all engines; on leaving with requests still running, they keep it."""
        self._everyone("wake", lambda post: (tuple(parts),))
        self._awake = tuple(parts)
        try:
            yield
        finally:
            self._awake = None
            if not self._open():
                self._everyone("rest")

    # ---- beyond the seam

    @property
    def version(self) -> int:
        """Of the weights that all engines hold."""
        return self._version

    @version.setter
    def version(self, version: int) -> None:
        self._version = version
        self._everyone("set_version", lambda post: (version,))

    def unload(self) -> None:
        """Refuse to sample until weights arrive again. EngineError while requests are running."""
        if self._open():
            raise EngineError("weights cannot go while requests are running")
        self._drop()
        self._everyone("unload")

    def receivers(self) -> list[Worker]:
        """The workers of all engines, none of them busy; they have no weights any more, and may be sent some."""
        self.unload()
        return [post.worker for post in self._posts]

    def adopt(self, found: str, spare: Callable[[], Shipment]) -> None:
        """All engines were sent the same weights past this process. found: the digest, by lanes; spare: asked once when an
        engine is lost, for the weights of the one that is started in its place."""
        self._digest, self._spare, self._in_place = found, spare, True

    def score(self, token_ids: Int32, images: Sequence[Image], temperature: float = 1.0) -> Float32:
        """Log-prob float32[T] of every token of a stream, 0 for the first and for media tokens. All engines are asked, and
        must agree as an engine must with its trainer; else EngineError, and there are no weights."""
        ids = np.asarray(token_ids)
        asked = tuple(images)
        found = self._everyone("score", lambda post: (self._pictures(post, asked), ids, asked, temperature))
        for index, other in enumerate(found):
            gaps = np.abs(found[0].astype(np.float64) - other)
            if TOLERANCES[self.dtype].broken_by(gaps):
                self.unload()
                raise EngineError(f"engines 0 and {index} differ by {gaps.max():.3g} nats on a probe")
        return np.array(found[0])

    def close(self) -> None:
        """End the worker processes. The engine cannot be used any more."""
        for post in self._posts:
            self._cluster.kill(post.worker)
        self._posts = []
        self._drop()

    # ---- commands and answers

    def _drop(self) -> None:
        """Forget the weights, and let them go from shared memory."""
        if self._shipment is not None:
            self._shipment.release()
        self._shipment, self._spare, self._digest = None, None, ""

    def _open(self) -> bool:
        """Whether any request waits or runs."""
        return any(post.inbox or post.owed for post in self._posts)

    def _begin(self, pictures: set[str]) -> None:
        """Nothing is open: deal anew, and forget the pictures that the new requests do not show."""
        self._home, self._load = {}, [0] * len(self._posts)
        for post in self._posts:
            if post.known - pictures:
                post.known &= pictures
                self._ask(post, "forget", tuple(post.known))

    def _ask(self, post: _Post, method: str, *arguments: Any) -> Call:
        call = self._cluster.call(post.worker, method, *arguments)
        post.flight.append((method, call))
        return call

    def _pictures(self, post: _Post, images: Iterable[Image]) -> dict[str, NDArray[np.uint8]]:
        """Pixels of the pictures that a worker does not have yet, once each."""
        new = {image.sha: self._images.get(image.sha) for image in images if image.sha not in post.known}
        post.known.update(new)
        return new

    def _advance(self, post: _Post) -> None:
        """Let an engine go on, with all that came for it meanwhile; nothing while it is at it."""
        if any(method == "advance" for method, _ in post.flight) or not (post.inbox or post.owed or post.cancelled):
            return
        requests, cancelled = post.inbox, post.cancelled
        post.owed.update((request.id, request) for request in requests)
        post.inbox, post.cancelled, post.deaf = [], [], set()
        pictures = self._pictures(post, (image for request in requests for image in request.images))
        self._ask(post, "advance", pictures, cancelled, requests)

    def _receive(self) -> list[tuple[Call, Any]]:
        """Wait for some engine's oldest call, and take what ended; a fault stands for the answer, except that one of
        `advance` is raised. Lost workers are replaced."""
        heads = {post.flight[0][1]: post for post in self._posts if post.flight}
        answers: list[tuple[Call, Any]] = []
        try:
            ended = self._cluster.wait(list(heads))
        except WorkerLost as lost:
            self.replace(lost)
            return answers
        for call in ended:
            post = heads[call]
            method, _ = post.flight.popleft()
            try:
                value = self._cluster.result(call)
                if method == "advance":
                    self._accept(post, value)
                elif method == "load" and self._digest and value != self._digest:
                    raise WorkerLost(
                        post.worker, f"started anew, it holds weights {value[:12]} for {self._digest[:12]}"
                    )
                answers.append((call, value))
            except WorkerLost as lost:
                self.replace(lost)
            except LmmR1Error as error:
                answers.append((call, error))
                if method == "advance":  # nothing of this batch is worth an answer any more
                    self.cancel(set(self._ids))
                    raise
        return answers

    def _everyone(self, method: str, arguments: _Arguments = lambda post: ()) -> list[Any]:
        """Call a method of all engines; their answers in order. A lost engine is replaced and asked again."""
        while any(post.cancelled for post in self._posts):  # told before anything else is asked
            for post in self._posts:
                self._advance(post)
            self._receive()
        asked = {self._ask(post, method, *arguments(post)): post for post in self._posts}
        answers: dict[int, Any] = {}
        while asked:
            for call, value in self._receive():
                if call in asked:
                    answers[asked.pop(call).index] = value
                elif isinstance(value, LmmR1Error):  # of an engine that was being made
                    raise value
            for call, post in list(asked.items()):
                if call.worker is not post.worker:  # replaced meanwhile
                    del asked[call]
                    asked[self._ask(post, method, *arguments(post))] = post
        for answer in answers.values():
            if isinstance(answer, LmmR1Error):
                raise answer
        return [answers[post.index] for post in self._posts]

    def _accept(self, post: _Post, replies: Any) -> None:
        """Take replies over, each of them once. WorkerLost for anything but what was asked for."""
        for reply in replies:
            if not isinstance(reply, Reply):
                raise WorkerLost(post.worker, f"it returned a {type(reply).__name__} for a reply")
            if reply.id in post.deaf:
                continue
            request = post.owed.get(reply.id)
            if request is None:
                raise WorkerLost(post.worker, f"it answered request {reply.id}, which it did not owe")
            if not np.array_equal(reply.prompt_ids, request.token_ids) or reply.version != self._version:
                raise WorkerLost(
                    post.worker, f"its reply to request {reply.id} is to another prompt, or of other weights"
                )
            if len(reply.logprobs) != len(reply.token_ids):
                raise WorkerLost(post.worker, f"its reply to request {reply.id} lacks log-probs")
            del post.owed[reply.id]
            # Copies: a view would keep an object of the store alive for as long as the rollout.
            ids, logprobs = np.array(reply.token_ids), np.array(reply.logprobs)
            self._done.append(Reply(reply.id, request.token_ids, ids, logprobs, reply.stop, reply.version))

    def replace(self, lost: WorkerLost) -> None:
        """Start a lost engine anew, as it was, and put what it owed back into its queue. EngineError when that is not
        allowed any more."""
        post = next(post for post in self._posts if post.worker is lost.worker)
        self._cluster.kill(post.worker)
        self._cluster.count_restart(lost)
        post.inbox = [*post.owed.values(), *post.inbox]
        post.owed, post.cancelled, post.deaf, post.known = {}, [], set(), set()
        post.worker, call = self._cluster.start("engine", post.index, _SEAT, self._making)
        post.flight = deque([("make", call)])
        if self._shipment is None and self._spare is not None:
            self._shipment = self._spare()
        if self._shipment is not None:
            shipment = self._shipment
            self._ask(post, "load", self._version, self._in_place, shipment.manifest, *shipment.references)
        if self._awake is not None:
            self._ask(post, "wake", self._awake)
