"""Two stages, text and then pictures, through everything at once: vLLM and two FSDP2 ranks in workers of a Ray cluster.

The rollouts of the run are replayed by the local trainer, whose weights must come out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lmm_r1.algorithms.named import make_algorithm
from lmm_r1.chain import run_recipe
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.load import load_model
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.recipes import load_recipe
from lmm_r1.seams import Algorithm
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Sample
from tests.closeness import relative_of_all
from tests.distributed.support import required
from tests.tiny import tiny_recipe

required("ray")
required("vllm")
from lmm_r1.distributed.ray_trainer import RayTrainer  # noqa: E402

SETTINGS = [
    'engine.kind="vllm"',
    'cluster.address="local"',
    "cluster.ranks=2",
    "evaluate.items=2",
    "cluster.lost_s=120",
]


@pytest.mark.parametrize("weights", ["store", "shared"])
def test_two_stages_give_the_local_trainers_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    """Catches a share of a step that is lost, doubled or weighed anew on its way to a rank, a picture that arrives as another
    one, an engine whose log-probs are not the trainer's, and a stage that does not start from the weights of the one before."""
    _, path = tiny_recipe(tmp_path, steps=2)
    recipe, run = (
        load_recipe(
            path, [*SETTINGS, f'cluster.weights="{weights}"', f"cluster.engines={2 if weights == 'shared' else 1}"]
        ),
        tmp_path / "run",
    )
    learned: list[tuple[list[Sample], dict[str, float]]] = []
    kept = ImageStore()
    update = RayTrainer.update

    def recording(self: RayTrainer, samples: list[Sample], algorithm: Algorithm, **more: Any) -> dict[str, float]:
        for image in (image for sample in samples for image in sample.rollout.images):
            kept.put(self._images.get(image.sha))
        metrics = update(self, samples, algorithm, **more)
        learned.append((list(samples), metrics))
        return metrics

    monkeypatch.setattr(RayTrainer, "update", recording)
    results = run_recipe(recipe, path, run)
    assert set(results["arms"]) == {"base", "base_no_prompt", "first", "second"} and len(learned) == 4
    assert any(sample.rollout.images for sample in learned[3][0]), "no picture was learned from"
    for stage in ("first", "second"):
        for line in map(json.loads, (run / stage / "metrics.jsonl").read_text().splitlines()):
            assert line["logprob_gap/max"] < 1e-4
    start = str(MICRO_DIR)
    for number, (name, stage) in enumerate(recipe.stage.items()):
        trainer = LocalTrainer(
            load_model(start, dtype="float32", device="cpu"), load_model(start, dtype="float32", device="cpu"),
            make_adapter(start, kept, Model()), stage.update, stage.steps,
        )  # fmt: skip
        algorithm = make_algorithm(stage.algorithm, 1, stage.rollout.max_new_tokens, False)
        for samples, metrics in learned[2 * number : 2 * number + 2]:
            anchors = trainer.anchors([sample.rollout for sample in samples], algorithm.needs)
            again = [Sample(s.rollout, a, s.credit) for s, a in zip(samples, anchors, strict=True)]
            mine = trainer.update(again, algorithm)
            assert metrics["grad_norm"] == pytest.approx(mine["grad_norm"], rel=2e-5)
            assert metrics["tokens"] == mine["tokens"]
        start = str(run / name / "model")
        exported = load_model(start, dtype="float32", device="cpu")
        assert relative_of_all(dict(trainer.weights()), dict(exported.named_parameters())) < 1e-5
