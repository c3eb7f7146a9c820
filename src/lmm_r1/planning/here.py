"""This machine, and what a recipe needs of it: a CUDA device, memory, disk. Found without torch.

A recipe needs a CUDA device when `model.device` says so, or when it leaves the device open ("auto") and the model is too large
to be trained on a processor (LARGE). The memory is the plan's (memory.py): an estimate, so that only what is above it by more
than MARGIN is refused. The disk is counted: checkpoints and models that the run will keep.
Leaves out: machines of a cluster that was started elsewhere.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lmm_r1.config import Recipe, Stage
from lmm_r1.errors import CheckpointError, Fault, RecipeError
from lmm_r1.planning.assumptions import Setting
from lmm_r1.planning.gpus import GIB, Gpu
from lmm_r1.planning.memory import CONTEXT, FLOAT, WIDTH, memory_of, trained
from lmm_r1.planning.planner import remedies
from lmm_r1.planning.shapes import Shape, shape_of
from lmm_r1.planning.workload import passes_of

#: Parameters from which on a processor would take months.
LARGE = 500_000_000
#: Share by which the plan's memory may be off.
MARGIN = 0.10
#: A whole control group without a limit says a number beyond any machine.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Machine:
    """devices: bytes of memory of each CUDA device that a run may use; None where only torch can tell. memory: bytes of the host."""

    devices: tuple[int, ...] | None
    memory: int


@cache
def this_machine() -> Machine:
    """What is here; devices as CUDA_VISIBLE_DEVICES leaves them, none under a torch that was built for processors."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [pages]
    for path in _LIMITS:
        with suppress(OSError, ValueError):
            limits.append(int(path.read_text(encoding="ascii")))
    try:
        built = version("torch").partition("+")[2]
    except PackageNotFoundError:
        built = ""
    devices = () if built.startswith("cpu") else None if built.startswith("rocm") else _cuda_devices()
    return Machine(devices, min(limits))


def _cuda_devices() -> tuple[int, ...]:
    """Bytes of memory of each device, by the driver's own library; no context is made on them."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        if driver.cuInit(0) != 0:
            return ()
        count = ctypes.c_int()
        if driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
            return ()
        found = []
        for index in range(count.value):
            device, size = ctypes.c_int(), ctypes.c_size_t()
            failed = driver.cuDeviceGet(ctypes.byref(device), index)
            failed = failed or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
            if not failed:
                found.append(size.value)
    except (OSError, AttributeError):
        return ()
    return tuple(found)


def missing_here(recipe: Recipe, machine: Machine) -> list[Fault]:
    """What the recipe needs and this machine has not: devices, or memory. [] for machines that are elsewhere."""
    if recipe.cluster.address not in ("", "local") or machine.devices is None:
        return []
    try:
        shape: Shape | None = shape_of(recipe.model.base)
    except (RecipeError, CheckpointError):  # of which check says more
        shape = None
    device = recipe.model.device
    if device == "cuda" and not machine.devices:
        remedy = 'run it on a machine with one, or set model.device = "cpu"'
        return [Fault("needs a CUDA device; there is none here", field="model.device", remedy=remedy)]
    if shape is None:
        return []
    if device == "auto" and not machine.devices and shape.parameters >= LARGE:
        what = f"a model of {shape.parameters / 1e9:.1f} billion parameters needs a CUDA device; there is none here"
        remedy = 'run it on a machine with one; model.device = "cpu" trains on the processor all the same'
        return [Fault(what, field="model.device", remedy=remedy)]
    on_device = device != "cpu" and bool(machine.devices)
    wanted = _devices_of(recipe)
    if on_device and len(machine.devices) < wanted:
        what = f"needs {wanted} CUDA devices; there {'is' if len(machine.devices) == 1 else 'are'} {len(machine.devices)} here"
        return [Fault(what, field="cluster", remedy="fewer cluster.ranks or cluster.engines, or another machine")]
    try:
        return list(_too_much(recipe, shape, min(machine.devices) if on_device else machine.memory, on_device))
    except RecipeError:  # of an algorithm whose values do not go together: a fault of the recipe, which says so
        return []


def _devices_of(recipe: Recipe) -> int:
    """Devices that a run uses where each worker has one."""
    knobs = recipe.cluster
    if not knobs.address:
        return 1
    return max(knobs.ranks, knobs.engines) if knobs.layout == "colocated" else knobs.ranks + knobs.engines


def _too_much(recipe: Recipe, shape: Shape, room: int, on_device: bool) -> Iterator[Fault]:
    """Stages whose planned memory is over what is here. room: bytes of one device, or of the host."""
    knobs = recipe.cluster
    split = bool(knobs.address) and knobs.layout == "split"
    board = Gpu("this machine's", room / GIB, 1.0, 1.0, 1.0, 1.0, "")
    setting = Setting(
        gpu=board,
        gpus=_devices_of(recipe),
        layout="split" if split else "colocated",
        engines=knobs.engines if split else 0,
        engine=recipe.engine.kind,
    )
    where = "on each device" if setting.gpus > 1 else "on the device" if on_device else "of this machine's memory"
    for name, stage in recipe.stage.items():
        phase, need = memory_of(recipe, stage, shape, setting).peak
        need -= 0.0 if on_device else CONTEXT
        if need > (1 + MARGIN) * room:
            knob = next((r.knob for r in remedies(recipe, name, shape, setting) if r.spare >= 0), "")
            remedy = f"{knob} would fit; " * bool(knob) + "lmm-r1 plan shows the parts"
            what = f"needs about {need / GIB:.1f} GiB {where} to {phase}; there are {room / GIB:.1f}"
            yield Fault(what, field=f"stage.{name}", remedy=remedy)


def checkpoint_bytes(recipe: Recipe, stage: Stage, shape: Shape) -> int:
    """Bytes of a checkpoint of a stage: weights in their masters' dtype, AdamW's two moments, and the same of a critic."""
    width, learned = WIDTH[recipe.model.dtype], trained(shape, stage)
    frozen = 0 if stage.lora is not None else width * (shape.parameters - learned)
    return (3 * FLOAT * learned + frozen) * (2 if passes_of(stage).critic else 1)


def disk_fault(recipe: Recipe, stages: Mapping[str, Path], out: Path) -> Fault | None:
    """What the disk of a run folder lacks for the checkpoints and models of its stages, which are not finished.

    stages: their folders. out: the run's, which need not be there.
    """
    try:
        shape = shape_of(recipe.model.base)
    except (RecipeError, CheckpointError):
        return None
    need = 0
    for name, folder in stages.items():
        stage = recipe.stage[name]
        saves = -(-stage.steps // recipe.save.every) if recipe.save.every else 1
        kept = min(saves, recipe.save.keep + 1) * checkpoint_bytes(recipe, stage, shape)  # one more while it is written
        whole = kept + WIDTH[recipe.model.dtype] * shape.parameters
        need += max(0, whole - sum(path.stat().st_size for path in folder.rglob("*.safetensors")))
    here = out
    while not here.exists() and here != here.parent:
        here = here.parent
    free = shutil.disk_usage(here).free
    if need <= free:
        return None
    what = f"the disk has {free / 1e6:,.0f} MB free, the checkpoints and models of this run need {need / 1e6:,.0f} MB"
    remedy = "free some space, lower save.keep, or use another --out"
    return Fault(what, file=str(out), remedy=remedy)
