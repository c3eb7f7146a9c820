"""Seconds of each phase of a step, with what bounds it, under one set of assumptions.

A phase ends when its slowest GPU ends. Formulas in words: docs/scale.md. Leaves out: verifiers, games and pictures on the host,
checkpoints, start-up, failures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lmm_r1.config import Recipe, Stage
from lmm_r1.planning.assumptions import Assumptions, Setting
from lmm_r1.planning.memory import FLOAT, WIDTH, trained, trained_parts
from lmm_r1.planning.shapes import Shape
from lmm_r1.planning.workload import Load, Passes, load_of, passes_of

PHASES = ("collect", "anchor", "update", "sync", "evaluate")
#: Bytes that AdamW moves for a number that learns: gradient, master and two moments read, the last three written.
ADAM_BYTES = 7 * FLOAT
#: Bytes that `rollout.weights.lanes_digest` moves for a byte of weights: two lanes of nine operations that read and write it, and
#: the sum's wider copy.
LANES_TRAFFIC = 2 * (9 * 2 + 4)


@dataclass(frozen=True, slots=True)
class Phase:
    """seconds, and what would have to be faster or fewer to make them fewer."""

    seconds: float
    bound: str


@dataclass(frozen=True, slots=True)
class Clock:
    """A stage on its machines, under one set of assumptions."""

    recipe: Recipe
    stage: Stage
    shape: Shape
    setting: Setting
    assumed: Assumptions

    @property
    def load(self) -> Load:
        """Tokens of a step."""
        return load_of(self.recipe, self.stage, self.shape, self.setting)

    @property
    def runs(self) -> Passes:
        """Networks that run."""
        return passes_of(self.stage)

    @property
    def width(self) -> int:
        """Bytes of a weight."""
        return WIDTH[self.recipe.model.dtype]

    def phases(self) -> dict[str, Phase]:
        """Every phase of one step; evaluation is dealt to the stage's steps."""
        nothing = Phase(0.0, "-")
        whole = self.evaluate()
        return {
            "collect": self.collect() if self.runs.samples else nothing,
            "anchor": self.anchor(),
            "update": self.update(),
            "sync": self.sync(),
            "evaluate": Phase(whole.seconds / self.stage.steps, whole.bound) if whole.seconds else nothing,
        }

    def collect(self) -> Phase:
        """Prompts are read once for all siblings, pictures once; then all slots write, one token each a decode step."""
        load = self.load
        prompts = math.ceil(load.prompts / self.setting.samplers)
        replies = load.replies / self.setting.samplers
        return self.sample(prompts, replies, load.prompt, load.picture, load.reply, load.longest)

    def sample(
        self, prompts: float, replies: float, prompt: float, picture: float, reply: float, longest: float
    ) -> Phase:
        """One engine's work: prompts that are read, replies that are written, tokens of each."""
        read = self.shape.text_flops(prompts * prompt, prompts * prompt**2 / 2) + self.shape.head_flops(prompts)
        if picture:
            patches = self.shape.vision.patches(picture)
            read += self.shape.vision_flops(prompts * patches, patches)
        reading = read / (self.setting.gpu.flops * self.assumed.prefill)
        replies = max(1.0, replies)
        slots = min(float(self.recipe.engine.slots), replies)
        tail_slots = max(1.0, slots * reply / longest)
        if replies <= slots:  # one wave: as many steps as the longest reply has tokens
            full, tail = 0.0, longest
        else:
            full, tail = replies * reply / slots, longest - reply
        steady = full * self.decode_step(slots, prompt + reply / 2)
        drained = tail * self.decode_step(tail_slots, prompt + longest / 2)
        bounds = {"prompts": reading, "the longest reply": drained, self._decoding(slots, prompt + reply / 2): steady}
        return Phase(reading + steady + drained, max(bounds, key=lambda name: bounds[name]))

    def decode_step(self, slots: float, context: float) -> float:
        """Seconds in which every slot gets a token: the larger of bytes and FLOPs, and what is beside them."""
        beside = self.assumed.step_vllm if self.setting.engine == "vllm" else self.assumed.step_embedded
        return max(self._decode_costs(slots, context)) / self.assumed.decode + beside

    def _decode_costs(self, slots: float, context: float) -> tuple[float, float]:
        """(seconds to move the bytes, seconds to compute), both at the vendor's figures."""
        read = self.shape.text.parameters * self.width + slots * context * self.shape.kv_bytes(self.width)
        computed = self.shape.text_flops(slots, slots * context) + self.shape.head_flops(slots)
        return read / self.setting.gpu.bandwidth, computed / self.setting.gpu.flops

    def _decoding(self, slots: float, context: float) -> str:
        moved, computed = self._decode_costs(slots, context)
        beside = self.assumed.step_vllm if self.setting.engine == "vllm" else self.assumed.step_embedded
        if beside > max(moved, computed) / self.assumed.decode:
            return "the engine's own time of a decode step"
        return "memory bandwidth in decoding" if moved > computed else "arithmetic in decoding"

    def row_flops(self, head: bool) -> tuple[float, float]:
        """(FLOPs of the language model and its head, FLOPs of the vision tower) for one row, forward."""
        load = self.load
        text = self.shape.text_flops(load.row_tokens, load.row_pairs)
        if head:
            text += self.shape.head_flops(load.row_replies * load.reply)
        patches = self.shape.vision.patches(load.picture)
        return text, self.shape.vision_flops(patches, patches) if load.picture else 0.0

    def anchor(self) -> Phase:
        """Forward passes of the frozen opinions: old policy and reference with their heads, values without."""
        runs = self.runs
        with_head, without = sum((runs.old, runs.reference)), int(runs.values and runs.critic)
        if not with_head + without:
            return Phase(0.0, "-")
        flops = with_head * sum(self.row_flops(True)) + without * sum(self.row_flops(False))
        return self._learning(flops, gathers=with_head + without, reduced=0.0, stepped=0.0)

    def update(self) -> Phase:
        """Forward and backward of policy and critic over the step's minibatches, and AdamW."""
        runs, learned = self.runs, trained(self.shape, self.stage)
        again = 1 if self.recipe.model.gradient_checkpointing else 0
        # Weights that do not learn take no gradient of their own; a tower that does not learn runs forward alone.
        parts = trained_parts(self.stage)
        text_passes = (3 if "language" in parts and self.stage.lora is None else 2) + again
        tower_passes = (
            (text_passes if "vision" in parts else 1) if self.stage.lora else (3 + again if "vision" in parts else 1)
        )
        text, tower = self.row_flops(True)
        flops = text_passes * text + tower_passes * tower
        if runs.critic:
            text, tower = self.row_flops(False)
            flops += text_passes * text + tower_passes * tower
        # Each pass fetches the layers twice: forward, and again backward.
        return self._learning(flops, 2 * runs.models, FLOAT * learned * runs.models, ADAM_BYTES * learned * runs.models)

    def _learning(self, row_flops: float, gathers: int, reduced: float, stepped: float) -> Phase:
        """All minibatches of a step. gathers: times that a pass fetches a whole model; reduced, stepped: bytes of gradients,
        and of AdamW, of a whole model."""
        load, setting, assumed = self.load, self.setting, self.assumed
        ranks = setting.ranks
        rows = load.rows / load.minibatches
        each = math.ceil(rows / ranks)
        computed = each * row_flops / (setting.gpu.flops * assumed.train) * (assumed.imbalance if ranks > 1 else 1.0)
        adapters = 0 if self.stage.lora is None else trained(self.shape, self.stage)
        fetched = gathers * (2 * self.shape.parameters + FLOAT * adapters)  # in bfloat16, adapters in float32
        passes = math.ceil(each / load.micro_rows)
        moved = passes * self._moved(fetched, reduced) if ranks > 1 else 0.0
        stepping = stepped / setting.shards / setting.gpu.bandwidth
        bound = "arithmetic" if computed >= moved else "weights and gradients on the way between GPUs"
        if computed >= moved and each > 1.25 * rows / ranks:
            bound = f"{rows:.0f} rows of a minibatch for {ranks} ranks"
        if stepping > max(computed, moved):
            bound = "AdamW's memory traffic"
        return Phase(load.minibatches * (max(computed, moved) + stepping), bound)

    def _moved(self, fetched: float, reduced: float) -> float:
        """Seconds to fetch weights and reduce gradients in one pass: rings within a copy, then between the copies."""
        setting, shards = self.setting, self.setting.shards
        within = (fetched + reduced) * (shards - 1) / shards / (setting.bandwidth(shards) * self.assumed.link)
        copies = setting.ranks // shards
        between = 2 * reduced / shards * (copies - 1) / copies
        return within + between / (setting.bandwidth(setting.ranks) * self.assumed.link)

    def sync(self) -> Phase:
        """Every engine gets all weights; digests of what was sent and of what arrived, one after the other: where the weights
        are, or of what went through the host."""
        size = self.shape.parameters * self.width
        hashing = 2 * LANES_TRAFFIC * size / self.setting.gpu.bandwidth
        if self.recipe.model.device == "cpu" or self.recipe.cluster.weights == "store":
            hashing = 2 * (size / self.assumed.hash_rate + size / self.assumed.host_copy)
        ranks = self.setting.gpus
        sending = (
            size / (self.setting.bandwidth(ranks) * self.assumed.link)
            if ranks > 1
            else size / self.setting.gpu.bandwidth
        )
        return Phase(hashing + sending, "digests of weights" if hashing > sending else "weights on the way")

    def evaluate(self) -> Phase:
        """The held-out sets once per arm, at the stage's end and every evaluate.every steps; items with pictures again blind."""
        knobs = self.recipe.evaluate
        times = 1 + ((self.stage.steps - 1) // knobs.every if knobs.every else 0)
        return self.evaluation(times)

    def evaluation(self, times: int) -> Phase:
        """`times` arms on all sets."""
        knobs, load = self.recipe.evaluate, self.load
        if not knobs.sets or not times:
            return Phase(0.0, "-")
        items = knobs.items + min(knobs.blind, knobs.items)
        each = items / self.setting.samplers
        reply = min(load.reply, knobs.max_new_tokens)
        picture = min(self.setting.picture_tokens, self.recipe.model.max_pixels / self.shape.vision.token_pixels())
        one = self.sample(each, each, self.setting.prompt_tokens + picture, picture, reply, knobs.max_new_tokens)
        return Phase(times * len(knobs.sets) * one.seconds, one.bound)
