"""Seconds that the weights of a trainer take to its engines, by the ways that cluster.weights knows, in turn (A B A B).

    python benchmarks/sync.py [--rounds 4] [--engines 2] [--width 2048]

Two ranks and some embedded engines in workers of a Ray cluster on this machine, with random weights of the micro model's shape
made wider. Proof by digests is counted, probes are not. Needs Ray.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, Qwen2_5_VLForConditionalGeneration

from lmm_r1.config import Cluster as Knobs
from lmm_r1.config import Data, Model, Stage, Update
from lmm_r1.data.images import ImageStore
from lmm_r1.distributed.cluster import Cluster
from lmm_r1.distributed.direct import DirectLink
from lmm_r1.distributed.ray_engine import RayEngine
from lmm_r1.distributed.ray_trainer import RayTrainer
from lmm_r1.models.load import export_model
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.rollout.weights import LocalLink, Probe


def wide_model(folder: Path, width: int) -> int:
    """Write a random model; bytes of its weights in float32."""
    config = AutoConfig.from_pretrained(MICRO_DIR)
    text = config.text_config
    heads = width // text.hidden_size
    text.num_attention_heads, text.num_key_value_heads = (
        heads * text.num_attention_heads,
        heads * text.num_key_value_heads,
    )
    text.hidden_size, text.intermediate_size = width, 4 * width
    config.vision_config.out_hidden_size = width
    model = Qwen2_5_VLForConditionalGeneration(config)
    export_model(model, MICRO_DIR, folder)
    return sum(parameter.numel() * 4 for parameter in model.parameters())


def measured(layout: str, folder: Path, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each round of each way that a layout allows."""
    stage = Stage(steps=1, data=(Data(domain="text"),), update=Update())
    rank = {
        "start": str(folder), "model": Model().model_dump(), "stage": stage.model_dump(by_alias=True), "exact": True,
        "critic_seed": 0, "offload": False, "device": "cpu", "sequence": 1,
    }  # fmt: skip
    made = {"folder": str(folder), "model": Model().model_dump(), "slots": 2, "max_context": 64}
    knobs = Knobs(address="local", ranks=2, engines=arguments.engines, layout=layout)
    with tempfile.TemporaryDirectory() as home, Cluster(knobs, Path(home)) as cluster:
        images = ImageStore()
        engine = RayEngine(cluster, images, "lmm_r1.distributed.seat:embedded", made)
        trainer = RayTrainer(cluster, images, rank)
        probes = [Probe(np.arange(300, 308, dtype=np.int32), ())]
        shared = layout == "colocated"
        direct = DirectLink(cluster, trainer, engine, probes, 1.0, shared=shared, device="cpu")
        ways: dict[str, Callable[[], object]] = {
            "store": LocalLink(trainer, engine, probes).transfer,
            "shared" if shared else "broadcast": direct.transfer,
        }
        found: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(arguments.rounds + 1):
            for way, transfer in ways.items():
                trainer.forget(())
                trainer._outdated()  # as after an update: the weights are gathered anew
                started = time.perf_counter()
                transfer()
                found[way].append(time.perf_counter() - started)
    return {way: seconds[1:] for way, seconds in found.items()}  # the first round warms up


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--engines", type=int, default=2)
    parser.add_argument("--width", type=int, default=2048)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        size = wide_model(Path(folder) / "model", arguments.width)
        print(f"{size / 1e9:.2f} GB of weights to {arguments.engines} engines; seconds, median (least to most)")
        for layout in ("colocated", "split"):
            for way, seconds in measured(layout, Path(folder) / "model", arguments).items():
                middle, least, most = statistics.median(seconds), min(seconds), max(seconds)
                print(f"  {layout:10} {way:10} {middle:6.2f} ({least:.2f} to {most:.2f})")


if __name__ == "__main__":
    main()
