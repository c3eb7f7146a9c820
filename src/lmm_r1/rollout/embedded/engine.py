"""The embedded engine: samples replies in the trainer's process, from weights of its own.

Continuous batching: requests wait in the order they came, a freed slot takes the next one. Replies to the same prompt
share one prefill, pictures are encoded once. Which requests run together is a function of the requests and the reply
lengths alone, and each reply's randomness of its own seed.
Axis legend: T = tokens of a stream, R = prompts of a prefill batch, L = padded length, B = running replies, D = width.
Leaves out: rewards, templates and text: it sees token ids and canonical pictures only.
Source: slots and refill as in iteration-level scheduling (Orca, OSDI 2022); the rest is the model's own (decoder.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from lmm_r1.errors import EngineError
from lmm_r1.models.load import DTYPES, whole_float32
from lmm_r1.models.logprobs import masked_logits, token_logprobs
from lmm_r1.rollout.embedded.decoder import Decoder
from lmm_r1.rollout.embedded.sampling import draw
from lmm_r1.rollout.embedded.slots import Prefix, Slots
from lmm_r1.rollout.embedded.text_weights import TextWeights
from lmm_r1.rollout.embedded.vision import Vision
from lmm_r1.rollout.requests import Limits, claim, without_room
from lmm_r1.rollout.weights import digest_of_lines, weight_line
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Float32, Image, Int32, PromptKey, Reply, Request, Stop

#: Prompts that ran and whose siblings still wait are kept, at most this many.
_PREFIXES_KEPT = 32


@dataclass(frozen=True, slots=True)
class Counters:
    """What the engine did so far, in tokens and pictures: prompts run (without padding), replies drawn."""

    prefill_tokens: int = 0
    prefills: int = 0
    sampled_tokens: int = 0
    pictures: int = 0


class EmbeddedEngine:
    """Implements seams.RolloutEngine, and `score` for weights.LocalLink."""

    def __init__(
        self,
        model_config: Qwen2_5_VLConfig,
        adapter: ModelAdapter,
        slots: int = 128,
        max_context: int = 1024,
        prefill_tokens: int = 8192,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
    ) -> None:
        """An engine without weights. slots: replies decoded at once. max_context: tokens of prompt and reply together.
        prefill_tokens: padded prompt tokens of one prefill batch (a single longer prompt still runs).

        EngineError when the configuration needs what the engine does not compute.
        """
        whole_float32()
        self.dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
        self.version = -1
        self._device = torch.device(device)
        self._adapter, self._capacity = adapter, slots
        self._prefill_tokens = prefill_tokens
        self._image_token = int(model_config.image_token_id)
        self._weights = TextWeights(model_config, self.dtype, self._device)
        self._vision = Vision(model_config, adapter, self.dtype, self._device)
        self._limits = Limits(self._weights.vocabulary, self._image_token, self._vision.cells, max_context)
        self._decoder = Decoder(self._weights, max_context)
        self._slots = Slots(self._weights)
        self._banned = torch.tensor(adapter.banned_ids, dtype=torch.int64, device=self._device)
        self._stops = torch.zeros(self._weights.vocabulary, dtype=torch.bool, device=self._device)
        self._stops[list(adapter.stop_ids)] = True
        self._queue: deque[Request] = deque()
        self._done: deque[Reply] = deque()
        self._prefixes: dict[PromptKey, Prefix] = {}
        self._ready = False
        self._prefilled = self._prefills = self._sampled = 0

    # ---- the seam

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; allowed while `finished` is being read.

        EngineError without weights, for an id that is still in work, or a prompt whose placeholders are not its
        pictures' cells; then none of `requests` is queued.
        """
        if not self._ready:
            raise EngineError("the engine has no weights (or ones that failed their proof)")
        taken = {r.id for r in self._queue} | {r.id for r in self._slots.requests} | {r.id for r in self._done}
        for request in requests:
            claim(request, taken)
            self._limits.check(request)
        self._queue.extend(requests)

    def finished(self) -> Iterator[Reply]:
        """Yield replies as they end, until nothing is queued or running. A reader may stop early and come back."""
        while self._done or self._queue or self._slots.running:
            while self._done:
                yield self._done.popleft()
            self._step()

    def cancel(self, ids: Iterable[int]) -> None:
        """Drop requests; no Reply comes for them. Unknown ids are ignored: they may just have ended."""
        gone = set(ids)
        self._queue = deque(r for r in self._queue if r.id not in gone)
        self._done = deque(r for r in self._done if r.id not in gone)
        rows = [row for row, request in enumerate(self._slots.requests) if request.id in gone]
        if rows:
            self._remove(rows)

    @torch.no_grad()
    def load_weights(self, source: Iterable[tuple[str, Tensor]], version: int, in_place: bool = False) -> str:
        """Copy weights in by their published names; returns the digest of what the engine now holds.

        A tensor that was sent in another dtype is converted, and the digest is of what was received. in_place: the digest is
        computed on the device that a tensor is on, by lanes. EngineError while
        requests are running, and for a missing, unknown or misshapen tensor: the engine then has no weights.
        """
        if self._queue or self._slots.running:
            raise EngineError("weights cannot change while requests are running")
        self.unload()
        targets = {f"text.{n}": t for n, t in self._weights.targets.items()}
        targets |= {f"vision.{n}": t for n, t in self._vision.targets.items()}
        waiting = set(targets)
        lines: list[tuple[str, str]] = []
        for name, tensor in source:
            key = _own_name(name)
            if key == "text.lm_head.weight" and self._weights.tied:
                lines.append(weight_line(name, tensor, in_place))
                continue
            target = targets.get(key)
            if target is None:
                raise EngineError(f"weight {name} has no place in the engine")
            if target.shape != tensor.shape:
                raise EngineError(f"weight {name} is {tuple(tensor.shape)}, wanted {tuple(target.shape)}")
            target.copy_(tensor)
            waiting.discard(key)
            lines.append(weight_line(name, target if target.dtype == tensor.dtype else tensor, in_place))
        if waiting:
            raise EngineError(f"{len(waiting)} weights were not sent, the first is {min(waiting)}")
        found = digest_of_lines(lines)
        self.version, self._ready = version, True
        return found

    @contextmanager
    def awake(self, parts: Sequence[str] = ("weights", "cache")) -> Iterator[None]:
        """Hold memory for sampling. On leaving, the cache and picture features are given back when "cache" is among
        the parts; the weights stay: they are what the next `load_weights` writes into."""
        try:
            yield
        finally:
            if "cache" in parts and not self._slots.running:
                self._slots.free()
                self._vision.forget()
                self._prefixes.clear()

    # ---- beyond the seam

    def unload(self) -> None:
        """Refuse to sample until weights arrive again. EngineError while requests are running."""
        if self._queue or self._slots.running:
            raise EngineError("weights cannot go while requests are running")
        self._ready = False
        self._vision.forget()
        self._prefixes.clear()

    @torch.inference_mode()
    def score(self, token_ids: Int32, images: Sequence[Image], temperature: float = 1.0) -> Float32:
        """Log-prob float32[T] of every token of a stream, through this engine's layers; 0 for the first token and for
        media tokens. EngineError without weights or when placeholders and pictures disagree."""
        if not self._ready:
            raise EngineError("the engine has no weights (or ones that failed their proof)")
        self._limits.check_prompt(token_ids, images, "score")
        hidden, _, _ = self._decoder.prefill(*self._prompts([(token_ids, tuple(images))]))
        targets = torch.from_numpy(token_ids[1:].astype(np.int64)).to(self._device)
        banned = self._adapter.banned_ids
        found, _ = token_logprobs(hidden[0, :-1], self._weights.head, targets, temperature, banned)
        out = np.zeros(len(token_ids), np.float32)
        out[1:] = found.cpu().numpy()
        out[np.isin(token_ids, banned)] = 0
        return out

    @property
    def counters(self) -> Counters:
        """What was done since the engine was made."""
        return Counters(self._prefilled, self._prefills, self._sampled, self._vision.encoded)

    # ---- one step

    @torch.inference_mode()
    def _step(self) -> None:
        """Admit what fits, draw one token for every running reply, end those that are done, run the layers."""
        self._admit()
        slots = self._slots
        count = slots.running
        if not count:
            return
        logits = torch.nn.functional.linear(slots.hidden[:count], self._weights.head)
        logits = masked_logits(logits, slots.temperature[:count, None], self._banned)
        uniform = slots.uniform[:count].gather(-1, slots.written[:count, None])[:, 0]
        tokens, logprobs = draw(logits, uniform, None if slots.all_top_p_one else slots.top_p[:count])
        slots.record(tokens, logprobs)
        self._sampled += count
        stopped = self._stops[tokens]
        ended = (stopped | (slots.written[:count] >= slots.budget[:count])).nonzero()[:, 0].tolist()
        if ended:
            self._end(ended, stopped[ended].tolist())
        count = slots.running
        if not count:
            return
        lengths = slots.lengths[:count]
        span = int(lengths.max()) + 1
        slots.mask[torch.arange(count, device=self._device), lengths] = 0
        slots.hidden[:count] = self._decoder.decode(
            slots.tokens[:count], slots.positions[:count], lengths, slots.keys, slots.values, slots.mask[:count, :span]
        )
        slots.lengths[:count] += 1
        slots.positions[:count] += 1

    def _end(self, rows: list[int], stopped: list[bool]) -> None:
        """Make replies of finished rows, in row order, and free the rows."""
        for row, at_stop, (ids, logprobs) in zip(rows, stopped, self._slots.replies(rows), strict=True):
            request = self._slots.requests[row]
            if not np.isfinite(logprobs).all():
                raise EngineError(f"request {request.id}: log-probs that are not finite (version {self.version})")
            stop: Stop = "eos" if at_stop else "length" if len(ids) >= request.max_new_tokens else "context"
            self._done.append(Reply(request.id, request.token_ids, ids, logprobs, stop, self.version))
        self._remove(rows)

    @torch.inference_mode()
    def _remove(self, rows: Sequence[int]) -> None:
        self._slots.remove(rows)

    # ---- prompts

    def _admit(self) -> None:
        """Move waiting requests into free slots, when enough are free to be worth a prefill."""
        free = self._capacity - self._slots.running
        if not self._queue or free < min(max(1, self._capacity // 8), len(self._queue)):
            return
        budgets: dict[int, int] = {}
        groups: dict[PromptKey, list[Request]] = {}
        while self._queue and len(budgets) < free:
            request = self._queue.popleft()
            budget = self._limits.room(request)
            if budget < 1:
                self._done.append(without_room(request, self.version))
                continue
            budgets[request.id] = budget
            groups.setdefault(request.prompt_key, []).append(request)
        if not groups:
            return
        longest = max(len(r.token_ids) + budgets[r.id] for group in groups.values() for r in group)
        self._decoder.ensure_positions(longest)
        self._slots.reserve(
            min(self._capacity, self._slots.running + len(budgets) + len(self._queue)), longest, max(budgets.values())
        )
        waiting = Counter(r.prompt_key for r in self._queue)
        for key in [k for k in self._prefixes if k in groups]:
            self._start(groups.pop(key), budgets, self._prefixes[key])
        for batch in self._batches(groups):
            for key, prefix in self._run([(key, groups[key][0]) for key in batch]):
                self._start(groups[key], budgets, prefix)
                if waiting[key] and len(self._prefixes) < _PREFIXES_KEPT:
                    self._prefixes[key] = prefix
        self._prefixes = {k: p for k, p in self._prefixes.items() if waiting[k]}

    def _start(self, requests: list[Request], budgets: dict[int, int], prefix: Prefix) -> None:
        self._slots.start(requests, [budgets[r.id] for r in requests], prefix)

    def _batches(self, groups: dict[PromptKey, list[Request]]) -> Iterator[list[PromptKey]]:
        """Prompts of similar length together, within `prefill_tokens` padded tokens."""
        batch: list[PromptKey] = []
        for key in sorted(groups, key=lambda k: len(k[0])):  # stable: equal lengths keep the order of arrival
            longest = len(groups[key][0].token_ids)
            if batch and (len(batch) + 1) * longest > self._prefill_tokens:
                yield batch
                batch = []
            batch.append(key)
        if batch:
            yield batch

    def _run(self, prompts: list[tuple[PromptKey, Request]]) -> Iterator[tuple[PromptKey, Prefix]]:
        """Prefill distinct prompts."""
        x, positions = self._prompts([(r.token_ids, r.images) for _, r in prompts])
        hidden, keys, values = self._decoder.prefill(x, positions)
        for row, (key, request) in enumerate(prompts):
            length = len(request.token_ids)
            self._prefilled += length
            self._prefills += 1
            following = int(positions[:, row, :length].max()) + 1
            # Copies: a view would keep the whole batch alive for as long as one sibling waits.
            own_keys, own_values = (cache[:, row, :, :length].clone() for cache in (keys, values))
            yield key, Prefix(own_keys, own_values, hidden[row, length - 1].clone(), following)

    def _prompts(self, prompts: Sequence[tuple[Int32, tuple[Image, ...]]]) -> tuple[Tensor, Tensor]:
        """(input embeddings [R, L, D] with picture features in place, positions int64[3, R, L]), right-padded."""
        longest = max(len(ids) for ids, _ in prompts)
        ids = np.full((len(prompts), longest), self._adapter.pad_id, np.int64)
        positions = np.zeros((3, len(prompts), longest), np.int64)
        for row, (token_ids, images) in enumerate(prompts):
            ids[row, : len(token_ids)] = token_ids
            positions[:, row, : len(token_ids)] = self._adapter.positions(token_ids, images)
        self._decoder.ensure_positions(int(positions.max()) + 1)
        tokens = torch.from_numpy(ids).to(self._device)
        x = self._weights.embed[tokens]
        pictures = [image for _, images in prompts for image in images]
        if pictures:
            features = self._vision.features(pictures)
            x[tokens == self._image_token] = torch.cat([features[i.sha] for i in pictures]).to(x.dtype)
        return x, torch.from_numpy(positions).to(self._device)


def _own_name(name: str) -> str:
    """A published weight name (of a live model, or of a checkpoint file) as the engine's own."""
    for prefix, own in (
        ("model.visual.", "vision."),
        ("visual.", "vision."),
        ("model.language_model.", "text."),
        ("model.", "text."),
        ("lm_head.", "text.lm_head."),
    ):
        if name.startswith(prefix):
            return own + name.removeprefix(prefix)
    return name
