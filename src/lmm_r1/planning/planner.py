"""A recipe on its machines: memory and seconds of each stage, hours and cost of all, what does not fit and what would help.

Leaves out: the two models (memory.py, phases.py) and the tables (show.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from lmm_r1.config import Recipe, Stage
from lmm_r1.errors import Fault, RecipeError
from lmm_r1.planning.assumptions import Assumptions, Setting
from lmm_r1.planning.gpus import GIB
from lmm_r1.planning.memory import Memory, memory_of
from lmm_r1.planning.phases import PHASES, Clock, Phase
from lmm_r1.planning.shapes import Shape, shape_of
from lmm_r1.planning.workload import Load, load_of

#: A recipe and its machines, changed by one knob; None where it turns nothing.
Turned = tuple[Recipe, Setting] | None


@dataclass(frozen=True, slots=True)
class Remedy:
    """A knob: bytes that it saves at the peak, and bytes left over then (negative: still too much)."""

    knob: str
    saves: float
    spare: float


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage. phases by pace; step: seconds of one step by pace, hours: of the stage."""

    name: str
    load: Load
    memory: Memory
    phases: dict[str, dict[str, Phase]]
    step: dict[str, float]
    hours: dict[str, float]
    remedies: tuple[Remedy, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """A recipe on its machines. Hours by pace; cost in the price's unit, None without a price."""

    recipe: str
    shape: Shape
    setting: Setting
    stages: tuple[StagePlan, ...]
    before: dict[str, float]  # hours of evaluating the base
    hours: dict[str, float]
    cost: dict[str, float] | None

    @property
    def fits(self) -> bool:
        """Whether every stage does."""
        return all(stage.memory.peak[1] <= self.setting.gpu.memory for stage in self.stages)

    def record(self) -> dict[str, Any]:
        """As JSON: bytes, seconds, hours."""
        stages = [
            asdict(stage)
            | {"peak": dict(zip(("phase", "bytes"), stage.memory.peak, strict=True))}
            | {"fits": stage.memory.peak[1] <= self.setting.gpu.memory}
            for stage in self.stages
        ]
        shape = {"name": self.shape.name, "parameters": self.shape.parameters}
        setting = asdict(self.setting) | {"ranks": self.setting.ranks, "samplers": self.setting.samplers}
        return {
            "recipe": self.recipe, "model": shape, "setting": setting, "fits": self.fits, "stages": stages,
            "before": self.before, "hours": self.hours, "cost": self.cost,
        }  # fmt: skip


def plan(recipe: Recipe, setting: Setting, assumed: dict[str, Assumptions], price: float | None = None) -> Plan:
    """Predict a run of `recipe`. price: of one GPU for one hour, in any currency.

    RecipeError for a model without known sizes, and for 4-bit weights on several ranks, which no trainer has.
    """
    shape = shape_of(recipe.model.base)
    four_bit = [name for name, stage in recipe.stage.items() if _four_bit(stage)]
    if four_bit and setting.ranks > 1:
        what = f"4-bit weights are not sharded over {setting.ranks} ranks"
        remedy = "four_bit = false, or --gpus 1"
        raise RecipeError(Fault(what, field=f"stage.{four_bit[0]}.lora.four_bit", remedy=remedy))
    stages = []
    for name in recipe.order():
        clocks = {pace: Clock(recipe, recipe.stage[name], shape, setting, a) for pace, a in assumed.items()}
        phases = {pace: clock.phases() for pace, clock in clocks.items()}
        step = {pace: step_seconds(found, setting) for pace, found in phases.items()}
        stages.append(
            StagePlan(
                name=name,
                load=load_of(recipe, recipe.stage[name], shape, setting),
                memory=memory_of(recipe, recipe.stage[name], shape, setting),
                phases=phases,
                step=step,
                hours={pace: seconds * recipe.stage[name].steps / 3600 for pace, seconds in step.items()},
                remedies=tuple(remedies(recipe, name, shape, setting)),
            )
        )
    arms = 1 + int(recipe.evaluate.also_without_prompt)
    first = recipe.stage[recipe.order()[0]]
    before = {p: Clock(recipe, first, shape, setting, a).evaluation(arms).seconds / 3600 for p, a in assumed.items()}
    hours = {pace: before[pace] + sum(stage.hours[pace] for stage in stages) for pace in assumed}
    cost = None if price is None else {pace: h * setting.gpus * price for pace, h in hours.items()}
    return Plan(recipe.name, shape, setting, tuple(stages), before, hours, cost)


def _four_bit(stage: Stage) -> bool:
    return stage.lora is not None and stage.lora.four_bit


def grown(recipe: Recipe, times: float) -> Recipe:
    """The recipe with so many times the prompts a step, and as many fewer steps: about the same replies in all."""

    def larger(stage: Stage) -> Stage:
        prompts = max(1, round(stage.rollout.prompts * times))
        rollout = stage.rollout.model_copy(update={"prompts": prompts})
        return stage.model_copy(update={"rollout": rollout, "steps": max(1, round(stage.steps / times))})

    return recipe.model_copy(update={"stage": {name: larger(stage) for name, stage in recipe.stage.items()}})


def step_seconds(phases: dict[str, Phase], setting: Setting) -> float:
    """Of one step: one phase after the other, unless sampling runs ahead on GPUs of its own."""
    seconds = {name: phases[name].seconds for name in PHASES}
    if setting.layout == "split" and setting.ahead:
        learning = seconds["anchor"] + seconds["update"]
        return max(seconds["collect"], learning) + seconds["sync"] + seconds["evaluate"]
    return sum(seconds.values())


def remedies(recipe: Recipe, name: str, shape: Shape, setting: Setting) -> Iterator[Remedy]:
    """Where a stage does not fit: every knob that saves something, those that make it fit first; then, when none does alone
    on these machines, some of them together, in the order of what they save."""
    room = setting.gpu.memory

    def peak(turned: tuple[Recipe, Setting]) -> float:
        return memory_of(turned[0], turned[0].stage[name], shape, turned[1]).peak[1]

    now = (recipe, setting)
    need = peak(now)
    if need <= room:
        return
    found: list[tuple[Remedy, Callable[[Recipe, str, Setting], Turned]]] = []
    for label, turn in _knobs(recipe, name, setting):
        turned = turn(recipe, name, setting)
        if turned is not None and (saved := need - peak(turned)) > 0.01 * GIB:
            found.append((Remedy(label, saved, room - need + saved), turn))
    found.sort(key=lambda pair: (pair[0].spare < 0, abs(pair[0].spare)))
    yield from _first_of_each_knob([remedy for remedy, _ in found])
    here = [pair for pair in found if not pair[0].knob.startswith("--")]
    if here and all(remedy.spare < 0 for remedy, _ in here):
        labels: dict[str, str] = {}  # of a knob that is turned further, its last value
        for remedy, turn in sorted(here, key=lambda pair: -pair[0].saves):
            turned = turn(*(now[0], name, now[1]))
            if turned is None or peak(turned) >= peak(now):
                continue
            now = turned
            labels[remedy.knob.partition(" = ")[0]] = remedy.knob
            if (after := peak(now)) <= room:
                yield Remedy(" and ".join(labels.values()), need - after, room - after)
                return


def _first_of_each_knob(found: Sequence[Remedy]) -> list[Remedy]:
    """Of the values of one knob the mildest that fits, or the one that comes nearest."""
    best: dict[str, Remedy] = {}
    for remedy in found:
        best.setdefault(remedy.knob.partition(" = ")[0], remedy)
    return list(best.values())


def _knobs(
    recipe: Recipe, name: str, setting: Setting
) -> Iterator[tuple[str, Callable[[Recipe, str, Setting], Turned]]]:
    """What may be turned, as (words, function)."""

    def knob(path: str, value: Any, drop: str = "") -> tuple[str, Callable[[Recipe, str, Setting], Turned]]:
        label = path.replace("stage.*", f"stage.{name}")
        return f"{label} = {_toml(value)}", lambda r, n, s: _with(r, n, s, path, value, drop)

    slots, micro = recipe.engine.slots, recipe.stage[name].update.micro_tokens
    for share in (0.75, 0.5, 0.375, 0.25, 0.125, 0.0625):
        if int(slots * share):
            yield knob("engine.slots", int(slots * share))
        if int(micro * share) >= 256:
            yield knob("stage.*.update.micro_tokens", int(micro * share))
    if not recipe.model.gradient_checkpointing:
        yield knob("model.gradient_checkpointing", True)
    yield knob("model.dtype", "bfloat16")
    yield knob("stage.*.update.freeze", ["vision", "merger"])
    yield knob("stage.*.algorithm.kl_coef", 0.0)
    yield knob("stage.*.algorithm.name", "reinforce_pp_baseline", drop="critic")
    yield knob("stage.*.critic", {"trunk": "shared"})
    yield knob("stage.*.lora", {})
    four_bit = _four_bit(recipe.stage[name])
    if setting.ranks == 1:  # 4-bit weights are not sharded
        yield knob("stage.*.lora", {"four_bit": True})
    for times in (2, 4, 8) if not four_bit else ():
        more = setting.gpus * times
        # The embedded engine is one process: several GPUs have vLLM's.
        yield (
            f"--gpus = {more}" + " --engine vllm" * (setting.engine == "embedded"),
            _on_machines(gpus=more, engine="vllm"),
        )
    if setting.layout == "colocated" and setting.gpus > 1 and not four_bit:
        yield "--layout = split", _on_machines(layout="split")


def _toml(value: Any) -> str:
    """A value as --set takes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }" if value else "{}"
    return json.dumps(value)


def _on_machines(**changes: Any) -> Callable[[Recipe, str, Setting], Turned]:
    """The same recipe on other machines."""
    return lambda recipe, _, setting: (recipe, replace(setting, **changes))


def _with(recipe: Recipe, name: str, setting: Setting, path: str, value: Any, drop: str) -> Turned:
    """The recipe with one field of one stage (or of the whole) changed; None where that makes no recipe, or the same."""
    raw = recipe.model_dump(by_alias=True)
    keys = path.replace("*", name).split(".")
    table = raw
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = value
    if drop:
        raw["stage"][name][drop] = None
    if keys[-1] == "lora":  # the published rates and freezes are for weights
        raw["stage"][name]["update"]["freeze"] = ()
    try:
        changed = Recipe.model_validate(raw)
    except ValidationError:
        return None
    return None if changed == recipe else (changed, setting)
