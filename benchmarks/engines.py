"""Reply tokens per second of the embedded engine and of vLLM, on the same prompts, weights and settings.

Both run in this process, in turn, so that what else the machine does meets both. The first round of each only warms up. Beside
the wall clock stands the processor's time, which other work hardly moves: with one thread it is the engine's own.

    python benchmarks/engines.py [--prompts 16] [--siblings 8] [--tokens 64] [--rounds 4]

needs vLLM (`make .venv-distributed/.installed`, then .venv-distributed/bin/python). Prints one line per engine and kind of prompt.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.evaluation.suites import suite
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.vllm_engine import VllmEngine
from lmm_r1.types import Request


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--siblings", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of a reply")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)  # and OMP_NUM_THREADS for vLLM's kernels
    images = ImageStore()
    adapter = QwenVLAdapter.from_folder(MICRO_DIR, images, Model())
    model = load_model(MICRO_DIR)
    slots = asked.prompts * asked.siblings
    engines = {
        "embedded": EmbeddedEngine(model.config, adapter, slots=slots),
        "vllm": VllmEngine(MICRO_DIR, model.config, adapter, images, slots=slots),
    }
    for engine in engines.values():
        engine.load_weights(((name, p.detach()) for name, p in model.named_parameters()), version=0)
    print(f"{slots} replies of at most {asked.tokens} tokens, {asked.threads} threads, load {os.getloadavg()[0]:.1f}")
    for kind in ("text", "geometry"):
        prompts = [adapter.encode(p.messages) for p in suite(kind).problems(images, asked.prompts)]
        speeds: dict[str, list[float]] = {name: [] for name in engines}
        work: dict[str, list[float]] = {name: [] for name in engines}
        lengths: dict[str, list[int]] = {name: [] for name in engines}
        for number in range(asked.rounds):
            for name, engine in engines.items():
                requests = [
                    Request(i, prompt.token_ids, prompt.images, seed=number * slots + i, max_new_tokens=asked.tokens)
                    for i, prompt in enumerate(p for p in prompts for _ in range(asked.siblings))
                ]
                begin, busy = time.perf_counter(), time.process_time()
                engine.submit(requests)
                written = [len(reply.token_ids) for reply in engine.finished()]
                if number:
                    speeds[name].append(sum(written) / (time.perf_counter() - begin))
                    work[name].append(sum(written) / (time.process_time() - busy))
                    lengths[name] += written
        for name in engines:
            all_of_them = ", ".join(f"{speed:,.0f}" for speed in speeds[name])
            median, busy, length = np.median(speeds[name]), np.median(work[name]), np.mean(lengths[name])
            print(
                f"{kind:9} {name:9} {median:8,.0f} tokens/s (rounds: {all_of_them}), {busy:,.0f} by processor time, "
                f"{length:.1f} tokens a reply"
            )


if __name__ == "__main__":
    main()
