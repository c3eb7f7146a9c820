"""Weight transfer: what must be noticed when it does not arrive whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from lmm_r1.config import Update
from lmm_r1.errors import EngineError
from lmm_r1.rollout.embedded.engine import EmbeddedEngine
from lmm_r1.rollout.weights import TOLERANCES, LocalLink, Probe, digest, digest_of_lines, weight_line
from lmm_r1.trainers.local import LocalTrainer
from lmm_r1.types import Request
from tests.rollout.engine_fixture import Kit, make_kit


@pytest.fixture
def kit(tmp_path: object, tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return make_kit(tmp_path_factory.mktemp("micro"))


@pytest.fixture
def trainer(kit: Kit) -> LocalTrainer:
    return LocalTrainer(kit.model, None, kit.adapter, Update(), total_updates=1, temperature=0.8)


def probes(kit: Kit) -> list[Probe]:
    text, picture = kit.prompts()[:2]
    return [Probe(text.token_ids, ()), Probe(picture.token_ids, picture.images)]


def empty_engine(kit: Kit) -> EmbeddedEngine:
    return EmbeddedEngine(kit.model.config, kit.adapter, slots=2, max_context=128)


def test_digest_sees_name_dtype_shape_and_every_byte_but_not_order() -> None:
    """Would catch a digest that two different sets of weights share."""
    a, b = torch.arange(6.0), torch.ones(2, 3)
    whole = digest([("a", a), ("b", b)])
    assert whole == digest([("b", b.clone()), ("a", a)])
    changed = a.clone()
    changed[5] = float(np.nextafter(np.float32(5), np.float32(6)))
    others = [
        [("a", changed), ("b", b)],
        [("a", a.reshape(2, 3)), ("b", b)],
        [("a", a.view(torch.int32)), ("b", b)],
        [("c", a), ("b", b)],
        [("a", a)],
        [("a", a), ("b", b.T)],
    ]
    assert len({whole, *map(digest, others)}) == 7
    assert digest([("a", torch.ones(2, 3).T)]) == digest([("a", torch.ones(3, 2))])  # by value, not by layout
    assert digest([("a", torch.ones(3, dtype=torch.bfloat16))]) != digest([("a", torch.ones(3, dtype=torch.float16))])
    with pytest.raises(EngineError, match="twice"):
        digest([("a", a), ("a", a)])


@pytest.mark.parametrize("in_place", [False, True])
def test_sync_moves_the_version_and_the_sampler_follows_the_trainer(
    kit: Kit, trainer: LocalTrainer, in_place: bool
) -> None:
    """Would catch an engine that shares the trainer's memory, or keeps stale weights or picture features."""
    engine = empty_engine(kit)
    link = LocalLink(trainer, engine, probes(kit), temperature=0.8, in_place=in_place)
    first = link.sync(version=1)
    wanted = digest_of_lines(weight_line(n, t, lanes=in_place) for n, t in trainer.weights())
    assert engine.version == 1 and first == wanted
    probe = probes(kit)[1]
    before = engine.score(probe.token_ids, probe.images, 0.8)
    with torch.no_grad():
        for _, weight in trainer.weights():
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(engine.score(probe.token_ids, probe.images, 0.8), before)
    assert link.sync(version=2) != first and engine.version == 2
    after = engine.score(probe.token_ids, probe.images, 0.8)
    assert np.abs(after - before).max() > 1e-3
    np.testing.assert_allclose(after, trainer.score(probe.token_ids, probe.images), atol=1e-4)


class SwappedEngine(EmbeddedEngine):
    """Fuses gate and up the wrong way round: every byte arrives, and the model is another one."""

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        found = super().load_weights(source, version, in_place)
        for layer in self._weights.layers:
            layer.gate_up.copy_(torch.cat(layer.gate_up.chunk(2)[::-1]))
        return found


class BlindEngine(EmbeddedEngine):
    """Its vision tower loses a weight after the digest was taken."""

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        found = super().load_weights(source, version, in_place)
        self._vision.targets["merger.mlp.2.weight"].zero_()
        return found


class LossyEngine(EmbeddedEngine):
    """Rounds one tensor on the way."""

    def load_weights(self, source: Iterable[tuple[str, torch.Tensor]], version: int, in_place: bool = False) -> str:
        return super().load_weights(
            ((n, t.bfloat16().float() if n.endswith("norm.weight") else t) for n, t in source), version, in_place
        )


class NanEngine(EmbeddedEngine):
    """Its log-probs are no numbers."""

    def score(self, token_ids: np.ndarray, images: Sequence[object], temperature: float = 1.0) -> np.ndarray:
        return np.full(len(token_ids), np.nan, np.float32)


@pytest.mark.parametrize(
    ("kind", "message"),
    [(SwappedEngine, "probe 0"), (BlindEngine, "probe 1"), (LossyEngine, "engine holds"), (NanEngine, "nan")],
)
def test_weights_that_did_not_arrive_stop_the_run(
    kit: Kit, trainer: LocalTrainer, kind: type[EmbeddedEngine], message: str
) -> None:
    """Would catch a link that trusts a version number, one of the two proofs missing, or NaN taken for agreement."""
    engine = kind(kit.model.config, kit.adapter, slots=2, max_context=128)
    with pytest.raises(EngineError, match=message):
        LocalLink(trainer, engine, probes(kit), temperature=0.8).sync(version=5)
    assert engine.version == -1
    prompt = kit.prompts()[0]
    with pytest.raises(EngineError, match="no weights"):
        engine.submit([Request(0, prompt.token_ids, (), 0, 4)])


def test_bounds_hold_the_mean_and_the_largest() -> None:
    """Would catch a bound that one improbable token breaks in 16 bits, one that many slightly wrong tokens pass, and a NaN that passes."""
    bound = TOLERANCES[torch.bfloat16]
    scattered = np.full(100, 0.01)
    scattered[3] = 1.5
    assert not bound.broken_by(scattered)
    assert bound.broken_by(np.full(100, 0.06)) and bound.broken_by(scattered * 2)
    assert bound.broken_by(np.array([0.0, np.nan])) and not bound.broken_by(np.zeros(1))
    assert TOLERANCES[torch.float32].broken_by(np.array([0.0] * 99 + [2e-4]))
