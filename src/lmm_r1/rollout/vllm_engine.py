"""vLLM as a RolloutEngine: samples replies in the trainer's process, with vLLM's scheduler, caches and kernels.

What is kept from vLLM: continuous batching, the prefix cache (siblings share a prompt), the cache of encoded pictures. What is
not left to it: which pictures it sees (the adapter's canonical ones, and it is an error when it would resize them), which tokens
are possible, what a log-prob is (vllm_worker.py), the ids of a prompt (vllm_prompts.py), and where weights come from.
One engine at a time in a process: vLLM keeps its process groups in globals.
Leaves out: adapters as such (merged weights arrive), more than one device, text. Sampled tokens differ from those of the embedded
engine with the same seed: vLLM turns a seed into noise in its own way.
Source: vLLM 0.32.0; what was run on which hardware stands in docs/scale.md.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, Qwen2_5_VLConfig
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.exceptions import VLLMError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.llm_engine import LLMEngine
from vllm.v1.executor import Executor

from lmm_r1.config import Model
from lmm_r1.errors import EngineError
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.load import DTYPES, resolve_folder
from lmm_r1.models.pictures import PatchGrid
from lmm_r1.models.qwen_vl import PixelStore
from lmm_r1.rollout.parcels import SharedFile, parcels
from lmm_r1.rollout.requests import Limits, claim, without_room
from lmm_r1.rollout.vllm_prompts import Prompts, one_line
from lmm_r1.rollout.vllm_weights import expected_weights, live_name
from lmm_r1.rollout.vllm_worker import BACKEND, WHOLE_DISTRIBUTION, WORKER
from lmm_r1.rollout.weights import digest_of_lines
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Float32, Image, Int32, PromptKey, Reply, Request, Stop

#: Tokens of a cache block on the CPU; vLLM's default of 128 is longer than most prompts of a small model, and only whole blocks
#: are shared.
CPU_BLOCK = 32
#: What vLLM and torch raise when a step or a load goes wrong; afterwards the engine's state is unknown.
BROKEN = (
    EngineDeadError,
    VLLMError,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    OSError,
)


class VllmEngine:
    """Implements seams.RolloutEngine, and `score` for weights.LocalLink."""

    def __init__(
        self,
        folder: str | Path,
        model_config: Qwen2_5_VLConfig,
        adapter: ModelAdapter,
        images: PixelStore,
        model: Model | None = None,
        slots: int = 128,
        max_context: int = 1024,
        prefill_tokens: int = 8192,
        dtype: str | torch.dtype = "float32",
        device: str = "cpu",
        gpu_memory_utilization: float = 0.4,
        enforce_eager: bool = False,
        sleeps: bool = True,
    ) -> None:
        """An engine for the architecture, tokenizer and processor in a local `folder`; it samples after `load_weights`. (vLLM reads
        the folder's weights all the same: its dummy weights would overwrite the pixel normalisation, which is a buffer.)

        images: where canonical pictures live. model: the adapter's settings; None = the defaults. slots: replies decoded
        at once. max_context: tokens of prompt and reply together, at most what the model has positions for. prefill_tokens:
        prompt tokens of one step. gpu_memory_utilization: share of the device's memory for weights and cache; on the CPU the
        most of the machine's memory that the cache may take. sleeps: give memory back between batches, where vLLM can: of
        use where a trainer needs the same device.

        EngineError when vLLM cannot start, or was built for another device.
        """
        self.dtype = DTYPES[dtype] if isinstance(dtype, str) else dtype
        self.version = -1
        if current_platform.is_cpu() != (device == "cpu"):
            raise EngineError(f"the installed vLLM runs on {current_platform.device_type}, the recipe on {device}")
        text, vision = model_config.text_config, model_config.vision_config
        knobs = model or Model()
        self._adapter = adapter
        grid = PatchGrid(
            vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size, knobs.min_pixels, knobs.max_pixels
        )
        context = min(max_context, int(text.max_position_embeddings) - 1)
        self._expected = expected_weights(model_config)
        self._running: dict[str, Request] = {}  # by vLLM's name of the request
        self._names = map(str, itertools.count())
        self._done: deque[Reply] = deque()
        self._ready, self._fault, self._asleep = False, "", False
        self._sleeps = sleeps and current_platform.is_sleep_mode_available() and device != "cpu"
        settings = EngineArgs(
            model=str(folder),
            dtype=str(self.dtype).removeprefix("torch."),
            seed=0,
            max_model_len=context + 1,  # a stream that is scored may fill the context, and vLLM adds a token
            max_num_seqs=slots,
            max_num_batched_tokens=max(prefill_tokens, slots, context + 1),
            # On the CPU a prompt is run whole: vLLM 0.32 rewinds the generator of a request whose prompt is not finished, which a
            # generator of the CPU cannot do ("CPU Generator does not use offset").
            enable_chunked_prefill=device != "cpu",
            enable_prefix_caching=True,
            async_scheduling=False,  # on a GPU as on a CPU, where it is tested
            enforce_eager=enforce_eager or device == "cpu",
            logprobs_mode="processed_logits",
            logits_processors=[WHOLE_DISTRIBUTION],
            worker_extension_cls=WORKER,
            weight_transfer_config=WeightTransferConfig(backend=BACKEND),
            generation_config="vllm",  # a model folder's sampling defaults are no business of training
            mm_processor_kwargs={
                "size": {"shortest_edge": knobs.min_pixels, "longest_edge": knobs.max_pixels}
            },  # areas, in spite of the names
            mm_processor_cache_gb=0.25,  # pictures come back in later turns, not in later steps
            skip_mm_profiling=device == "cpu",
            enable_sleep_mode=self._sleeps,
            trust_remote_code=knobs.trust_remote_code,
            disable_log_stats=True,
            **_memory(text, slots, context + 1, gpu_memory_utilization, device),
            use_tqdm_on_load=False,
        )
        self._llm = _start(settings)
        self._prompts = Prompts(self._llm, adapter, images, grid, int(model_config.image_token_id))
        self._limits = Limits(int(text.vocab_size), int(model_config.image_token_id), self._prompts.cells, context)
        self._workers("lmm_r1_ban", list(adapter.banned_ids))

    # ---- the seam

    def submit(self, requests: Sequence[Request]) -> None:
        """Queue requests; allowed while `finished` is being read.

        EngineError without weights, for an id that is still in work, for a prompt whose placeholders are not its pictures'
        cells, or that vLLM would expand or resize to something else; then none of `requests` is queued.
        """
        self._must_be_ready()
        taken = {r.id for r in self._running.values()} | {r.id for r in self._done}
        prompts: dict[PromptKey, Any] = {}
        for request in requests:
            claim(request, taken)
            self._limits.check(request)
            if self._limits.room(request) > 0 and request.prompt_key not in prompts:
                prompts[request.prompt_key] = self._prompts.rendered(request.token_ids, request.images)
        self._wake()
        for request in requests:
            if self._limits.room(request) > 0:
                name, sampling = next(self._names), self._sampling(request)
                self._running[name] = request
                self._add(name, prompts[request.prompt_key], sampling)
            else:
                self._done.append(without_room(request, self.version))

    def finished(self) -> Iterator[Reply]:
        """Yield replies as they end, until nothing is queued or running. A reader may stop early and come back."""
        while self._done or self._running:
            while self._done:
                yield self._done.popleft()
            for output in self._step() if self._running else ():
                if output.finished and output.request_id in self._running:
                    self._done.append(self._reply(self._running.pop(output.request_id), output))

    def cancel(self, ids: Iterable[int]) -> None:
        """Drop requests; no Reply comes for them. Unknown ids are ignored: they may just have ended."""
        gone = set(ids)
        self._done = deque(reply for reply in self._done if reply.id not in gone)
        names = [name for name, request in self._running.items() if request.id in gone]
        for name in names:
            del self._running[name]
        if names:
            with self._or_dead("cancelling"):
                self._llm.abort_request(names)

    def load_weights(self, source: Iterable[tuple[str, Tensor]], version: int, in_place: bool = False) -> str:
        """Hand weights to vLLM's loader by their published names; returns the digest of what its workers received.

        A tensor that was sent in another dtype is converted, and the digest is of what was received. in_place: vLLM's worker
        is in this process and takes tensors from where they are; else they go through shared memory. EngineError while
        requests are running, and for a missing, unknown or misshapen tensor: the engine then has no weights.
        """
        self.unload()
        self._wake()
        self._workers("start_weight_update")
        memory = SharedFile()
        try:
            if in_place:
                for pair in self._whole(source):
                    self._workers("update_weights", {"tensors": [pair]})
            else:
                for parcel in parcels(self._whole(source)):
                    path, size = memory.write(parcel)
                    self._workers("update_weights", {"path": path, "size": size, "packed": parcel.packed})
        finally:
            memory.close()
            if not self._fault:
                self._workers("finish_weight_update")
        answers = self._workers("lmm_r1_received")
        for lines, unfilled in answers:
            if unfilled:
                raise EngineError(f"vLLM filled all but {len(unfilled)} of its weights, the first is {unfilled[0]}")
            if lines != answers[0][0]:
                raise EngineError("vLLM's workers received different weights")
        found = digest_of_lines(answers[0][0])
        self._forget()
        self.version, self._ready = version, True
        return found

    @contextmanager
    def awake(self, parts: Sequence[str] = ("weights", "cache")) -> Iterator[None]:
        """Hold memory for sampling. On leaving, when "cache" is among the parts, vLLM sleeps at level 1: the cache is given back
        and the weights wait in the host's memory. Where vLLM cannot sleep (the CPU) nothing is given back."""
        self._wake()
        try:
            yield
        finally:
            if self._sleeps and "cache" in parts and not self._running and not self._fault:
                with self._or_dead("going to sleep"):
                    self._llm.sleep(level=1)
                self._asleep = True

    def _whole(self, source: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights that are the model's own, all of them; else EngineError."""
        waiting = set(self._expected)
        for name, tensor in source:
            key = live_name(name)
            if key not in self._expected:
                raise EngineError(f"weight {name} has no place in the engine")
            if self._expected[key] != tuple(tensor.shape):
                raise EngineError(f"weight {name} is {tuple(tensor.shape)}, wanted {self._expected[key]}")
            waiting.discard(key)
            yield name, tensor
        if waiting:
            raise EngineError(f"{len(waiting)} weights were not sent, the first is {min(waiting)}")

    # ---- beyond the seam

    def unload(self) -> None:
        """Refuse to sample until weights arrive again. EngineError while requests are running."""
        if self._running:
            raise EngineError("weights cannot change while requests are running")
        if self._fault:
            raise EngineError(self._fault)
        self._ready = False

    def score(self, token_ids: Int32, images: Sequence[Image], temperature: float = 1.0) -> Float32:
        """Log-prob float32[T] of every token of a stream, through this engine's layers, without its prefix cache; 0 for the first
        token and for media tokens. EngineError without weights, while requests are running, when placeholders and
        pictures disagree, or for a stream longer than the context."""
        self._must_be_ready()
        if self._running:
            raise EngineError("a stream cannot be scored while requests are running")
        self._limits.check_prompt(token_ids, images, "score")
        if len(token_ids) > self._limits.context:
            raise EngineError(f"score: {len(token_ids)} tokens, the engine's context holds {self._limits.context}")
        out = np.zeros(len(token_ids), np.float32)
        if len(token_ids) == 1:
            return out
        self._wake()
        settings = SamplingParams(
            max_tokens=1, temperature=1.0, seed=0, prompt_logprobs=0, flat_logprobs=True, detokenize=False,
            skip_reading_prefix_cache=True, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        self._workers("lmm_r1_scoring", temperature)
        try:
            self._add(next(self._names), self._prompts.rendered(token_ids, images), settings)
            found: list[Any] = []
            while not found:
                found = [output for output in self._step() if output.finished]
        finally:
            if not self._fault:
                self._workers("lmm_r1_scoring", None)
        flat = found[0].prompt_logprobs
        # At each position its own token comes first; there is nothing for the first position.
        out[1:] = [flat.logprobs[start] for start in flat.start_indices[1:]]
        out[np.isin(token_ids, self._adapter.banned_ids)] = 0
        return out

    def fits(self, model_config: Qwen2_5_VLConfig, adapter: ModelAdapter) -> bool:
        """Whether this engine can take the weights of another model: the same tensors, and the same ids with a meaning."""
        same_ids = (adapter.stop_ids, adapter.banned_ids) == (self._adapter.stop_ids, self._adapter.banned_ids)
        return not self._fault and same_ids and expected_weights(model_config) == self._expected

    def close(self) -> None:
        """Give everything back; the engine is of no use afterwards. Also frees the place for another one in this process."""
        self._fault = self._fault or "the engine is closed"
        self._running.clear()
        self._done.clear()
        self._llm.engine_core.shutdown()
        del self._llm, self._prompts
        gc.collect()  # vLLM's parts refer to each other, and the next engine wants the device empty
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    # ---- vLLM

    def _sampling(self, request: Request) -> SamplingParams:
        return SamplingParams(
            max_tokens=self._limits.room(request),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            stop_token_ids=list(self._adapter.stop_ids),
            ignore_eos=True,  # the stop tokens are the adapter's, all of them and no others
            logprobs=0,  # of the sampled token alone
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _add(self, name: str, prompt: Any, settings: SamplingParams) -> None:
        with self._or_dead("taking a request"):
            self._llm.add_request(name, prompt, settings)

    def _step(self) -> list[Any]:
        """One step of vLLM's scheduler and model; its outputs. The process's random state stays as it was."""
        with self._or_dead("sampling"), torch.random.fork_rng(devices=[]):
            return list(self._llm.step())

    def _reply(self, request: Request, output: Any) -> Reply:
        """What vLLM returned, as a Reply."""
        (made,) = output.outputs
        ids, logprobs = np.asarray(made.token_ids, np.int32), np.asarray(made.logprobs.logprobs, np.float32)
        if made.logprobs.token_ids != list(made.token_ids) or not np.isfinite(logprobs).all():
            raise EngineError(f"request {request.id}: log-probs that are not finite or not of the reply's tokens")
        stop: Stop = "length" if len(ids) >= request.max_new_tokens else "context"
        if made.finish_reason == "stop":
            stop = "eos"
        elif made.finish_reason != "length":
            raise EngineError(f"request {request.id} ended with {made.finish_reason}")
        prompt_ids = np.asarray(output.prompt_token_ids, np.int32)
        return Reply(request.id, prompt_ids, ids, logprobs, stop, self.version)

    def _workers(self, method: str, *arguments: Any) -> list[Any]:
        with self._or_dead(method):
            return list(self._llm.collective_rpc(method, args=arguments))

    def _forget(self) -> None:
        """Drop what the old weights computed: keys and values of prompts, features of pictures."""
        with self._or_dead("resetting caches"):
            if not self._llm.reset_prefix_cache():
                raise EngineError("vLLM did not reset its prefix cache")
            self._llm.reset_encoder_cache()

    def _wake(self) -> None:
        if self._asleep:
            with self._or_dead("waking"):
                self._llm.wake_up()
            self._asleep = False

    def _must_be_ready(self) -> None:
        if self._fault:
            raise EngineError(self._fault)
        if not self._ready:
            raise EngineError("the engine has no weights (or ones that failed their proof)")

    @contextmanager
    def _or_dead(self, doing: str) -> Iterator[None]:
        """Whatever vLLM raises ends this engine: EngineError now and for every later call."""
        if self._fault:
            raise EngineError(self._fault)
        try:
            yield
        except BROKEN as error:
            self._fault = f"vLLM died while {doing}: {type(error).__name__}: {one_line(error)}"
            self._running.clear()
            raise EngineError(self._fault) from error


def _memory(text: Any, slots: int, context: int, share: float, device: str) -> dict[str, Any]:
    """vLLM's memory settings. On the CPU: what `slots` contexts need when all are full, within `share` of the machine's memory."""
    if device != "cpu":
        return {"gpu_memory_utilization": share}
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token = 2 * text.num_hidden_layers * text.num_key_value_heads * width * 4
    blocks = slots * (-(-context // CPU_BLOCK) + 1)
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"block_size": CPU_BLOCK, "kv_cache_memory_bytes": min(blocks * CPU_BLOCK * token, int(share * machine))}


def from_folder(images: PixelStore, *, folder: str, model: Mapping[str, Any], **options: Any) -> VllmEngine:
    """The engine of a model folder in a worker (distributed/seat.py, Factory). model: fields of config.Model; options: as
    VllmEngine takes them."""
    path, knobs = resolve_folder(folder), Model(**model)
    config = AutoConfig.from_pretrained(path, local_files_only=True)
    return VllmEngine(path, config, make_adapter(folder, images, knobs), images, knobs, **options)


def _start(settings: EngineArgs) -> LLMEngine:
    """vLLM in this process, without traces in it: generators, thread count and log level stay as they were.

    EngineError with vLLM's reason.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else a worker process, with a copy of the weights to reach it
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the newer one has no hook between temperature and top_p
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    states, set_threads = (random.getstate(), np.random.get_state()), torch.set_num_threads
    try:
        with torch.random.fork_rng(devices=[]):
            config = settings.create_engine_config()
            return LLMEngine(config, Executor.get_class(config), log_stats=False, multiprocess_mode=False)
    except BROKEN as error:
        raise EngineError(f"vLLM does not start: {one_line(error)}") from error
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_num_threads = set_threads  # vLLM's CPU worker replaces it by a function that does nothing
