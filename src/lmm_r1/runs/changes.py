"""Changes of a recipe between two sessions of one run, sorted by what they would change.

Taken, and written down: what leaves all finished work as it is. Evaluation sets and their items, stages that are added or not
begun, more steps, intervals, bounds, the machines. Refused, each field with what it would change and the way out: whatever
finished replies, weights or figures hang on. Finished work is what progress of a run says: a stage's checkpoints or model, and
stored evaluations; what a later session would do again anyway is none.

More steps of a stage that has begun: its finished steps had the learning rate of a schedule over the former number, the others
get that of the new one. The record says so; the run is then not the one that the recipe alone would give.
Left out: where all this lies (runs/folder.py).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmm_r1.errors import Fault

#: Fields that alter no weight and no number, or, as engines and processes do, none beyond rounding: a run goes on with any.
FREE_FIELDS = (
    "name",
    "description",
    "compare",
    "save",
    "guards",
    "model.gradient_checkpointing",
    "engine.slots",
    "engine.prefill_tokens",
    "engine.gpu_memory_utilization",
    "engine.enforce_eager",
    "cluster.address",
    "cluster.ranks",
    "cluster.engines",
    "cluster.layout",
    "cluster.sequence",
    "cluster.offload",
    "cluster.weights",
    "cluster.lost_s",
    "cluster.stacks_s",
    "cluster.restarts",
)
#: The same inside a stage.
FREE_IN_STAGE = ("rollouts_of", "update.micro_tokens", "reward.workers")
#: Of [evaluate]: what is measured more, or less often; figures that are there stay as they are.
MEASURED = {
    "sets": "sets that are there are kept, others are measured",
    "items": "sets are measured anew with that number of items",
    "blind": "sets are measured anew with that blind check",
    "every": "",
    "also_without_prompt": "an arm more, or less, in the results",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """Finished work of a stage or arm. step: of its newest checkpoint, 0 without one; model: its export is there; sets: evaluated."""

    step: int
    model: bool
    sets: tuple[str, ...]

    @property
    def trained(self) -> bool:
        """Whether weights of it are there."""
        return self.model or self.step > 0


@dataclass(frozen=True, slots=True)
class Change:
    """A change that is taken: dotted field, was, now, and what it does where that is not plain."""

    field: str
    was: str
    now: str
    effect: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.was} -> {self.now}" + (f" ({self.effect})" if self.effect else "")


@dataclass(frozen=True, slots=True)
class Sorted:
    """Changes that are taken and faults of those that are refused; reopened: finished stages that train on."""

    taken: tuple[Change, ...]
    refused: tuple[Fault, ...]
    reopened: tuple[str, ...]


class _Refusal(Exception):
    """what: it would change. remove: paths below the run without which it may. instead: another way out."""

    def __init__(self, what: str, remove: Sequence[str], instead: str = "") -> None:
        super().__init__(what)
        self.what, self.remove, self.instead = what, remove, instead


def sort_changes(run: Path, old: Mapping[str, Any], new: Mapping[str, Any], progress: Mapping[str, Progress]) -> Sorted:
    """Sort what differs between the recipe of a run and the one it is called with now. Recipes: as tables, defaults written out."""
    case = _Case(run, old, new, progress)
    taken, refused, reopened = [], [], []
    for field, was, now in changed_fields(old, new):
        try:
            taken.append(Change(field, was, now, case.effect(field)))
            name = case.stage_of(field)
            if field == f"stage.{name}.steps" and name in progress and progress[name].model:
                reopened.append(name)
        except _Refusal as refusal:
            message = f"this run was started with {was}, the recipe now says {now}, which would change {refusal.what}"
            refused.append(Fault(message, str(run / "recipe.toml"), None, field, case.way_out(refusal)))
    return Sorted(tuple(taken), tuple(refused), tuple(reopened))


@dataclass(frozen=True, slots=True)
class _Case:
    """A run and the two recipes."""

    run: Path
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    progress: Mapping[str, Progress]

    def effect(self, field: str) -> str:
        """What the change of a field does. Raises _Refusal."""
        if _under(field, FREE_FIELDS):
            return ""
        top, _, rest = field.partition(".")
        name = self.stage_of(field)
        if top == "stage" and name:
            return self._of_stage(name, field.removeprefix(f"stage.{name}").removeprefix("."))
        if top == "evaluate" and (part := re.split(r"[.\[]", rest)[0]):
            return MEASURED[part] if part in MEASURED else self._of_figures("the figures of finished evaluations")
        if top == "prompts":
            return self._of_profile(rest)
        if field == "cluster.ahead":
            begun = [stage for stage, made in self.progress.items() if made.step and not made.model]
            if begun:
                raise _Refusal(
                    f"how the finished steps of {_listed(begun)} were sampled", self._with_those_after(begun)
                )
            return ""
        raise _Refusal("all that is finished of it", ())

    def _of_figures(self, what: str) -> str:
        arms = [name for name, made in self.progress.items() if made.sets]
        if arms:
            raise _Refusal(what, tuple(f"{arm}/evaluations" for arm in arms))
        return ""

    def _of_profile(self, profile: str) -> str:
        """A system prompt: whoever used it."""
        stages = self.old.get("stage", {})
        users = [n for n, made in self.progress.items() if made.trained and stages.get(n, {}).get("prompt") == profile]
        if users:
            raise _Refusal(f"what {_listed(users)} learned from", self._with_those_after(users))
        if self.old.get("evaluate", {}).get("prompt") == profile:
            return self._of_figures("the prompt of finished evaluations")
        return ""

    def _of_stage(self, name: str, part: str) -> str:
        """A field of a stage; "" = the stage as a whole, which is added or taken away."""
        mine = self.progress.get(name)
        after = [other for other in self._after(name) if other in self.progress and self.progress[other].trained]
        if mine is None or not mine.trained:
            if after:
                raise _Refusal(f"what {_listed(after)} started from", self._with_those_after(after))
            return "a stage is added" if name not in self.old.get("stage", {}) else ""
        if part == "":
            raise _Refusal(
                "the results, which would leave it out", (name, *after), "--stage NAME runs a part of a recipe"
            )
        if _under(part, FREE_IN_STAGE):
            return ""
        if not mine.model and re.fullmatch(r"data\[\d+\]\.(path|obtain)", part):
            return "its rows must be the same: they are compared with those of the checkpoint"
        if part == "steps":
            return self._of_steps(name, mine, after)
        done = f"the finished stage {name}" if mine.model else f"the {mine.step} finished steps of {name}"
        raise _Refusal(done + (f", and {_listed(after)} after it" if after else ""), self._with_those_after([name]))

    def _of_steps(self, name: str, mine: Progress, after: Sequence[str]) -> str:
        """More or fewer steps of a stage that has begun."""
        before, now = self.old["stage"][name], self.new["stage"][name]
        was, wanted = int(before["steps"]), int(now["steps"])
        gone = self._with_those_after([name])
        onward = f'model.base = "{self.run / name / "model"}" with another --out goes on from its weights'
        if mine.model and (wanted < was or mine.step < was):
            why = f"the model of the finished stage {name}"
            if wanted > was:
                why += ": its last checkpoint is gone, and a model alone has no optimiser state to train on with"
            raise _Refusal(why, gone, onward)
        if wanted < mine.step:
            raise _Refusal(f"the {mine.step} finished steps of {name}", gone)
        if after:
            raise _Refusal(f"what {_listed(after)} started from", self._with_those_after(after), onward)
        update = now.get("update", {})
        if update.get("final_lr") == 1.0 and update.get("warmup") == 0.0:
            effect = "the learning rate is constant"
        else:
            effect = f"steps 1 to {mine.step} had the learning rate of a schedule over {was} steps, the others have that over {wanted}"
        if any(data.get("order", "shuffle") != "shuffle" for data in now.get("data", ())):
            effect += "; so has the order of the rows"
        return effect

    def stage_of(self, field: str) -> str:
        """The stage of a dotted field, whose name may hold dots; "" when it is of no stage."""
        known = sorted({**self.new.get("stage", {}), **self.old.get("stage", {})}, key=len, reverse=True)
        return next((name for name in known if _under(field, [f"stage.{name}"])), "")

    def _after(self, name: str) -> list[str]:
        """Stages that start from this one, directly or not, by either recipe."""
        found, stages = [name], {**self.new.get("stage", {}), **self.old.get("stage", {})}
        for known in found:
            found += [n for n, table in stages.items() if table.get("from") == known and n not in found]
        return found[1:]

    def _with_those_after(self, names: Sequence[str]) -> tuple[str, ...]:
        """Stages and all that start from them, as far as they have a folder."""
        all_of_them = dict.fromkeys(n for name in names for n in (name, *self._after(name)))
        return tuple(name for name in all_of_them if name in self.progress)

    def way_out(self, refusal: _Refusal) -> str:
        """What a person can do, in words."""
        ways = ["take the change back", "use another --out for the changed recipe"]
        if refusal.instead:
            ways.append(refusal.instead)
        else:
            last = [name for name, made in self.progress.items() if made.model]
            if last:
                model = self.run / last[-1] / "model"
                ways.append(f'with another --out, model.base = "{model}" goes on from finished weights')
        paths = [str(self.run / path) for path in refusal.remove] or [str(self.run)]
        ways.append(f"to do it anew: rm -r {shlex.join(paths)}")
        return "; ".join(ways)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)


def _under(name: str, prefixes: Sequence[str]) -> bool:
    """Whether a dotted field name is one of `prefixes` or lies inside one."""
    return any(name == prefix or name.startswith((f"{prefix}.", f"{prefix}[")) for prefix in prefixes)


def changed_fields(old: Any, new: Any, at: str = "") -> list[tuple[str, str, str]]:
    """(dotted field, before, after) of every leaf that differs between two nested dicts; "nothing" = absent."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in [*old, *(k for k in new if k not in old)]:
            found += changed_fields(old.get(key, _ABSENT), new.get(key, _ABSENT), f"{at}.{key}" if at else str(key))
        return found
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            change
            for i, pair in enumerate(zip(old, new, strict=True))
            for change in changed_fields(*pair, f"{at}[{i}]")
        ]
    return [] if old == new and type(old) is type(new) else [(at, _shown(old), _shown(new))]


_ABSENT = object()


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else repr(value) if len(repr(value)) <= 60 else repr(value)[:57] + "..."
