"""How hard each row is for a model: k sampled replies per row, and the share of them that is right.

A row's line is appended when its replies are judged, rows in order, and a killed measurement goes on where it stopped:
rows are sampled in fixed batches and a batch that was cut is sampled again whole, so that the file ends the same.
Recipes use the file by `difficulty`, `keep_between` and `order` (data/curriculum.py).

A line: id, row (hash of the row), n, right, pass_rate (mean of the verifier's values), mean_length (tokens), truncated
(share of replies without an end), verdicts (reason code -> number), weights_sha256, and the settings. A prompt over
max_prompt_tokens has n = 0 and no pass rate.

Left out: which engine samples (`measure` takes any), and format rewards, which say nothing of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from lmm_r1.ask import ad_hoc, settle_for, workshop
from lmm_r1.build import base_folder
from lmm_r1.config import Reward
from lmm_r1.data.images import ImageStore
from lmm_r1.data.jsonl_source import open_rows
from lmm_r1.data.stream import First, Source, with_system
from lmm_r1.data.synthetic.problems import SyntheticSource
from lmm_r1.envs.single_turn import SingleTurn
from lmm_r1.errors import DataError, Fault, RecipeError
from lmm_r1.rewards import VERIFIERS
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.collect import as_seen
from lmm_r1.rollout.judged import unjudged
from lmm_r1.rollout.play import Sampling
from lmm_r1.rollout.scoring import play_and_score
from lmm_r1.runs.jsonl import append_line, read_lines, repair
from lmm_r1.seams import ModelAdapter, RolloutEngine, Scorer
from lmm_r1.settings import Asked
from lmm_r1.types import Encoded, Problem, Rollout, Score

#: Problems of a synthetic domain when nobody says how many.
SYNTHETIC_ITEMS = 500


def rows_to_measure(data: str, items: int | None, seed: int, images: ImageStore) -> Source:
    """The rows that a command names: a problems.jsonl, or "synthetic:DOMAIN" with families after a second colon.

    items: only the first so many. Raises RecipeError for an unknown domain, DataError for a bad file.
    """
    kind, _, rest = data.partition(":")
    if kind == "synthetic":
        domain, _, families = rest.partition(":")
        chosen = [family for family in families.split(",") if family]
        return First(SyntheticSource(domain, images, families=chosen, seed=seed), items or SYNTHETIC_ITEMS)
    path = Path(data)
    if not path.is_file():
        raise DataError(Fault("the data is not here", file=data))
    source = open_rows(path, images, VERIFIERS)
    return source if items is None else First(source, min(items, source.size or items))


def measure_model(
    model: str,
    data: str,
    out: Path,
    *,
    items: int | None = None,
    samples: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    **asked: Unpack[Asked],
) -> dict[str, Any]:
    """Measure the rows of `data` that `out` does not hold yet with a model folder (or "micro"); returns `summary`."""
    used = settle_for(model, asked)
    recipe = ad_hoc(model, seed, used)
    context = used.max_prompt_tokens + used.max_new_tokens
    shop = workshop(recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"max_context": context})}))
    source = rows_to_measure(data, items, seed, shop.images)
    engine, adapter, digest = shop.loaded(base_folder(model))
    settings = {
        "samples": samples, "temperature": used.temperature, "top_p": used.top_p, "max_new_tokens": used.max_new_tokens,
        "max_prompt_tokens": used.max_prompt_tokens, "min_pixels": used.min_pixels, "max_pixels": used.max_pixels,
        "prompt": used.prompt, "seed": seed, "weights_sha256": digest,
    }  # fmt: skip
    batch = max(1, recipe.engine.slots // samples)
    with closing(make_scorer(Reward())) as score, engine.awake():
        measure(
            source, out, settings, engine, adapter, score, batch, system=used.system, say=say,
            forget=lambda: shop.images.forget(()),
        )  # fmt: skip
    return {
        "model": model,
        "data": data,
        **settings,
        "settings_from": used.told()["settings_from"],
        **summary(out, source),
    }


def measure(
    source: Source,
    out: Path,
    settings: Mapping[str, Any],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    score: Scorer,
    batch: int,
    *,
    system: str = "",
    say: Callable[[str], None] = lambda line: None,
    forget: Callable[[], None] = lambda: None,
) -> None:
    """Append a line to `out` for every row of a finite source that has none, `batch` rows at a time.

    settings: keys samples, temperature, max_new_tokens, max_prompt_tokens, seed, if need be top_p, and whatever else fixes the numbers;
    they stand in every line, and a file with other ones is refused (RecipeError), as is one with changed rows (DataError).
    """
    hashes = list(source.rows())
    done = _done(out, dict(hashes), settings)
    total = len(hashes)
    for start in range(0, total, batch):
        part = hashes[start : start + batch]
        if all(identity in done for identity, _ in part):
            continue
        # Whole, even when some of it is there: what a reply is may hang on its batch mates by the last bit.
        problems = [with_system(source.at(start + at), system) for at in range(len(part))]
        for (identity, digest), line in zip(part, _sampled(problems, settings, engine, adapter, score), strict=True):
            if identity not in done:
                append_line(out, {"id": identity, "row": digest.hex(), **line, **settings})
        forget()
        say(f"{min(start + batch, total)} of {total} rows")


def _done(out: Path, rows: Mapping[str, bytes], settings: Mapping[str, Any]) -> set[str]:
    """Ids of the rows that `out` holds already, after cutting off a torn last line."""
    out.parent.mkdir(parents=True, exist_ok=True)
    repair(out)
    done: set[str] = set()
    for number, line in enumerate(read_lines(out), start=1):
        for name, value in settings.items():
            if line.get(name) != value:
                what = f"was measured with {name} = {line.get(name)!r}, now it is {value!r}"
                raise RecipeError(Fault(what, str(out), number, name, "use another --out"))
        identity = str(line.get("id"))
        if identity in rows and line.get("row") != rows[identity].hex():
            remedy = "use another --out"
            raise DataError(Fault(f"row {identity} has changed since it was measured", str(out), number, "row", remedy))
        done.add(identity)
    return done


def _sampled(
    problems: list[Problem],
    settings: Mapping[str, Any],
    engine: RolloutEngine,
    adapter: ModelAdapter,
    score: Scorer,
) -> Iterator[dict[str, Any]]:
    """What the line of each problem says, without its names and the settings."""
    samples, limit = int(settings["samples"]), int(settings["max_prompt_tokens"])
    encoded: dict[str, Encoded] = {p.id: adapter.encode(p.messages) for p in problems}
    problems = [as_seen(p, encoded[p.id]) for p in problems]
    fits = [p for p in problems if len(encoded[p.id].token_ids) <= limit]
    sampling = Sampling(
        int(settings["max_new_tokens"]),
        float(settings["temperature"]),
        float(settings.get("top_p", 1.0)),
        max_context=limit + int(settings["max_new_tokens"]),
    )
    episodes = [(p, sibling) for p in fits for sibling in range(samples)]
    key = ("difficulty", settings["seed"])
    played, scored = play_and_score(episodes, engine, adapter, SingleTurn, score, sampling, key, encoded)
    judged = iter(zip(played, scored, strict=True))
    for problem in problems:
        if len(encoded[problem.id].token_ids) > limit:
            yield _line(problem, [], [])
            continue
        mine = [next(judged) for _ in range(samples)]
        yield _line(problem, [rollout for episode, _ in mine for rollout in episode], [found for _, found in mine])


def _line(problem: Problem, rollouts: list[Rollout], scores: list[Score]) -> dict[str, Any]:
    """The figures of one row; n and the pass rate are of the replies that were judged."""
    values = [float(s.parts["accuracy"]) for s in scores if not unjudged(problem, s)]
    return {
        "n": len(values),
        "right": sum(value == 1.0 for value in values),
        "pass_rate": float(np.mean(values)) if values else None,
        "mean_length": float(np.mean([r.reply_tokens for r in rollouts])) if rollouts else None,
        "truncated": float(np.mean([r.stop != "eos" for r in rollouts])) if rollouts else None,
        "verdicts": dict(sorted(Counter(s.verdicts["accuracy"] for s in scores).items())),
    }


def summary(out: Path, source: Source) -> dict[str, Any]:
    """Of the source's rows: how many, their mean pass rate and length, and {right replies: rows}.

    never, always: rows with pass rate 0 and 1, which a recipe drops by keep_between = [0, 1]. too_long: without a reply.
    """
    wanted = {identity for identity, _ in source.rows()}
    lines = [line for line in read_lines(out) if line["id"] in wanted]
    sampled = [line for line in lines if line["pass_rate"] is not None]
    rates = [line["pass_rate"] for line in sampled]
    return {
        "out": str(out),
        "rows": len(lines),
        "too_long": len(lines) - len(sampled),
        "pass_rate": float(np.mean(rates)) if rates else None,
        "mean_length": float(np.mean([line["mean_length"] for line in sampled])) if rates else None,
        "never": sum(rate == 0 for rate in rates),
        "always": sum(rate == 1 for rate in rates),
        "by_right": {str(k): n for k, n in sorted(Counter(line["right"] for line in sampled).items())},
    }
