"""Bytes on the GPU that has most, part by part, while it samples and while it learns.

A trainer of one process (trainers/local.py) holds weights in the recipe's dtype and float32 masters; of several ranks (FSDP2)
each holds its share of float32 masters and gathers layers in bfloat16; with adapters its share of the frozen weights in the
recipe's dtype, and of the adapters in float32. An engine sleeps while its GPU learns: its cache is
given back, and of vLLM its weights too.
Formulas in words: docs/scale.md. Leaves out: what the host holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmm_r1.config import Lora, Recipe, Stage
from lmm_r1.planning.assumptions import Setting
from lmm_r1.planning.gpus import GIB
from lmm_r1.planning.shapes import PARTS, Shape
from lmm_r1.planning.workload import Load, load_of, passes_of

WIDTH = {"float32": 4, "bfloat16": 2}
FLOAT = 4  # bytes of float32
#: models.logprobs.LOGITS_AT_ONCE, rollout.embedded.slots._ROUND and engine._PREFIXES_KEPT, kept equal by a test.
LOGITS_AT_ONCE = 16 * 1024 * 1024
SLOT_ROUND = 64
PREFIXES_KEPT = 32
#: Bytes of one logit at the peak of its backward pass: the product, its float32 copy at temperature, the masked copy, the
#: entropy's, the softmax's gradient, and the gradient in the model's dtype.
LOGIT_BYTES = 20
#: nf4 with quantised scales, bytes of a weight: 4 bits and 0.127 for the scales (QLoRA, arXiv 2305.14314, section 3).
FOUR_BIT = (4 + 0.127) / 8
#: CUDA context and libraries of a process; NCCL's buffers; CUDA graphs of vLLM; share that allocation wastes. Assumptions.
CONTEXT, COLLECTIVES, GRAPHS, WASTE = 1.5 * GIB, 1.0 * GIB, 1.5 * GIB, 0.05

Parts = dict[str, float]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes by part of the fullest GPU in each phase."""

    collect: Parts
    learn: Parts

    @property
    def peak(self) -> tuple[str, float]:
        """(phase, bytes)."""
        sums = {"collect": sum(self.collect.values()), "learn": sum(self.learn.values())}
        phase = max(sums, key=lambda name: sums[name])
        return phase, sums[phase]


def trained_parts(stage: Stage) -> tuple[str, ...]:
    """Parts whose own weights, or whose adapters, learn."""
    if stage.lora is not None:
        return tuple(stage.lora.parts)
    return tuple(part for part in PARTS if part not in stage.update.freeze)


def trained(shape: Shape, stage: Stage) -> int:
    """Numbers that one network learns."""
    if stage.lora is not None:
        return shape.adapters(stage.lora.rank, stage.lora.parts)
    return sum(shape.part(part) for part in trained_parts(stage))


def base_bytes(shape: Shape, lora: Lora | None, width: int) -> float:
    """Weights of a whole model as it lies there, adapters left out."""
    if lora is None or not lora.four_bit:
        return float(shape.parameters * width)
    return (shape.parameters - shape.text.linear) * width + shape.text.linear * FOUR_BIT


def network(shape: Shape, stage: Stage, ranks: int, width: int) -> Parts:
    """One network that learns: its weights, masters, gradients and AdamW's two moments, as they lie on one rank."""
    learned = trained(shape, stage)
    weights, masters = float(shape.parameters * width), 0.0
    if stage.lora is not None:  # adapters are float32 themselves
        weights = base_bytes(shape, stage.lora, width) + FLOAT * learned
    elif ranks > 1:
        weights, masters = 0.0, float(FLOAT * shape.parameters)
    elif width < FLOAT:
        masters = float(FLOAT * learned)
    whole = {"weights": weights, "master weights": masters}
    whole |= {"gradients": float(FLOAT * learned), "optimiser state": float(2 * FLOAT * learned)}
    return {name: size / ranks for name, size in whole.items()}


def gathered(shape: Shape, stage: Stage, width: int, ranks: int) -> float:
    """What FSDP2 holds whole at once: the embedding with its gradient, and two layers with theirs (one is on its way). Under
    adapters these alone have one, and are gathered in float32."""
    if ranks == 1:
        return 0.0
    layer = shape.text.linear / shape.text.layers
    if stage.lora is None:
        return (width + FLOAT) * (shape.text.embedding + 2 * layer)
    beside = shape.adapters(stage.lora.rank, ["language"]) / shape.text.layers if "language" in stage.lora.parts else 0
    return width * (shape.text.embedding + 2 * layer) + 2 * FLOAT * 2 * beside


def layer_elements(shape: Shape) -> int:
    """Numbers per token that one decoder layer keeps for its backward pass: norms and their inputs, queries, keys and values
    before and after rotation, attention's output, and the four of the MLP."""
    t = shape.text
    d = t.head_width
    return 6 * t.hidden + 3 * t.heads * d + 4 * t.kv_heads * d + 4 * t.intermediate


def activations(shape: Shape, load: Load, width: int, checkpointing: bool) -> float:
    """Bytes of one forward and backward pass through the language model."""
    one = load.worst_tokens * (layer_elements(shape) * width + 2 * shape.text.hidden * FLOAT)
    inputs = load.worst_tokens * shape.text.hidden * width
    layers = shape.text.layers * inputs + one if checkpointing else shape.text.layers * one
    mask = load.micro_rows * load.row_tokens**2 * (1 + width) if load.shared else 0.0
    return layers + 2 * inputs + mask


def picture_bytes(shape: Shape, load: Load, width: int, learns: bool, checkpointing: bool) -> float:
    """Bytes of the largest pictures of such a pass: pixels, and the tower's activations if they are kept."""
    v = shape.vision
    patches = v.patches(load.worst_pictures)
    block = (8 * v.hidden + 4 * v.intermediate) * width + 2 * v.hidden * FLOAT
    kept = (v.depth * v.hidden * width + block if checkpointing else v.depth * block) if learns else block
    return patches * (v.pixels * FLOAT + kept)


def cache_bytes(shape: Shape, recipe: Recipe, load: Load, setting: Setting, width: int) -> float:
    """The engine's key-value cache. The embedded one reserves every slot to its end and keeps prompts for siblings; a paged
    one holds what the running replies have."""
    slots = min(recipe.engine.slots, -(-load.replies // setting.samplers))
    token = shape.kv_bytes(width)
    if setting.engine == "embedded":
        reach = -(-recipe.engine.max_context // SLOT_ROUND) * SLOT_ROUND
        return token * (slots * reach + PREFIXES_KEPT * load.prompt)
    return token * (slots * (load.prompt + load.reply) + load.longest)


def memory_of(recipe: Recipe, stage: Stage, shape: Shape, setting: Setting) -> Memory:
    """Bytes by part for a stage."""
    width, ranks = WIDTH[recipe.model.dtype], setting.shards
    load, runs = load_of(recipe, stage, shape, setting), passes_of(stage)
    policy = network(shape, stage, ranks, width)
    critic = sum(network(shape, stage, ranks, width).values()) if runs.critic else 0.0
    reference = shape.parameters * width / ranks if runs.reference and stage.lora is None else 0.0
    checkpointing = recipe.model.gradient_checkpointing
    engine = shape.parameters * width
    vllm = setting.engine == "vllm"
    learn = policy | {
        "weights": policy["weights"] + gathered(shape, stage, width, ranks),  # policy and critic take turns
        "activations": activations(shape, load, width, checkpointing),
        "logits": float(LOGITS_AT_ONCE * LOGIT_BYTES),
        "pictures": picture_bytes(shape, load, width, "vision" in trained_parts(stage), checkpointing),
        "reference model": reference,
        "critic": critic,
        "engine weights": float(engine) if setting.together and not vllm and runs.samples else 0.0,
        "KV cache": 0.0,
    }
    collect: Parts = {
        "weights": policy["weights"],
        "gradients": 0.0,
        "optimiser state": policy["optimiser state"],
        "master weights": policy["master weights"],
        "activations": prefill_bytes(shape, recipe, width),
        "logits": min(recipe.engine.slots, load.replies) * shape.text.vocabulary * (width + 3 * FLOAT),
        "pictures": picture_bytes(shape, load, width, False, True),
        "reference model": reference,
        "critic": critic - policy["gradients"] if runs.critic else 0.0,
        "engine weights": float(engine),
        "KV cache": cache_bytes(shape, recipe, load, setting, width),
    }
    if not setting.together:
        for name in ("weights", "optimiser state", "master weights", "reference model", "critic"):
            collect[name] = 0.0
    if not runs.samples:
        collect = dict.fromkeys(collect, 0.0)
    extra = (
        CONTEXT + (COLLECTIVES if setting.ranks > 1 else 0.0) + (CONTEXT + GRAPHS if vllm and setting.together else 0.0)
    )
    return Memory(*(part | {"overhead": extra + WASTE * sum(part.values())} for part in (collect, learn)))


def prefill_bytes(shape: Shape, recipe: Recipe, width: int) -> float:
    """Bytes of one prefill: a layer's numbers, nothing kept for a backward pass."""
    return recipe.engine.prefill_tokens * (layer_elements(shape) * width + 2 * shape.text.hidden * FLOAT)
