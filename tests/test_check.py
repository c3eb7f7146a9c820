"""`check`: data and model folders are judged without training, and what is only absent is pending."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmm_r1.chain import run_recipe
from lmm_r1.check import check
from lmm_r1.config import Model
from lmm_r1.data.images import ImageStore
from lmm_r1.errors import RecipeError
from lmm_r1.planning.here import Machine
from lmm_r1.recipes import load_recipe
from lmm_r1.rewards.remote import TOKEN_VARIABLE
from lmm_r1.settings import SHIPPED
from lmm_r1.types import Problem, Text
from tests.tiny import tiny_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def row(identity: str, question: str = "1+1?", **more: Any) -> dict[str, Any]:
    content = [{"type": "text", "text": question}]
    return {"id": identity, "messages": [{"role": "user", "content": content}], "answer": "2", **more}


def recipe(folder: Path, rows: Sequence[object] | None, obtain: str = "", domain: str = "") -> Path:
    """A recipe over problems.jsonl with these rows; None leaves the file out."""
    if rows is not None:
        lines = (r if isinstance(r, str) else json.dumps(r) for r in rows)
        (folder / "problems.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = folder / "model"
    shutil.copytree(SHIPPED, model, ignore=shutil.ignore_patterns("*.safetensors"))
    (model / "model.safetensors").symlink_to(SHIPPED / "model.safetensors")
    path = folder / "recipe.toml"
    extra = f', obtain = "{obtain}"' if obtain else ""
    extra += f', domain = "{domain}"' if domain else ""
    path.write_text(
        f'name = "x"\n[model]\nbase = "{model}"\n[stage.only]\nsteps = 1\n'
        f'data = [{{ source = "problems", path = "problems.jsonl"{extra} }}]\n',
        encoding="utf-8",
    )
    return path


def words(model: Model, images: ImageStore, problems: Sequence[Problem]) -> list[int]:
    """A stand-in counter: words of all messages."""
    return [sum(len(p.text.split()) for m in q.messages for p in m.content if isinstance(p, Text)) for q in problems]


def test_the_3b_recipe_is_valid_before_anything_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a check that calls absent weights, obtainable data or a machine without a device wrong, or hides that they are absent."""
    monkeypatch.setattr("lmm_r1.check.this_machine", lambda: Machine((), 2**40))
    monkeypatch.setattr("lmm_r1.check.disk_fault", lambda *_: None)
    report = check(RECIPES / "lmm_r1_3b" / "fre_text.toml")
    assert report["ok"] and not report["ready"], report["errors"]
    assert [p["field"] for p in report["pending"]] == ["model.base", "model.device", "stage.fre_text.data.0.path"]
    assert all(p["remedy"] for p in report["pending"])


def test_good_rows_pass(tmp_path: Path) -> None:
    """Catches a check that finds fault with good data."""
    report = check(recipe(tmp_path, [row("a"), row("b")]), count=words)
    assert report == {"ok": True, "ready": True, "errors": [], "pending": [], "notes": [], "exit_code": 0}


def test_bad_rows_are_named(tmp_path: Path) -> None:
    """Catches a bad row that is skipped, or named without its file, row and field."""
    rows = [row("a"), "{not json", row("a"), {**row("c"), "answer": ""}, {**row("d"), "messages": []}]
    report = check(recipe(tmp_path, rows))
    assert not report["ok"]
    assert report["exit_code"] == 3
    assert {(e["row"], e["field"]) for e in report["errors"]} >= {(3, "id"), (4, "answer"), (5, "messages")}
    assert {e["row"] for e in report["errors"]} == {2, 3, 4, 5}
    assert all(e["file"].endswith("problems.jsonl") and e["message"] for e in report["errors"])


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    """Catches data whose pictures were left behind: the run would die hours later."""
    bad = row("a")
    bad["messages"][0]["content"].insert(0, {"type": "image", "image": "images/gone.png"})
    (error,) = check(recipe(tmp_path, [bad]))["errors"]
    assert error["row"] == 1
    assert "gone.png" in error["message"] + error["field"]


def test_prompts_over_the_limit_are_named(tmp_path: Path) -> None:
    """Catches a prompt that would be cut, or silently dropped by the loop; the system prompt counts."""
    path = recipe(tmp_path, [row("a"), row("b", "word " * 509)])
    (error,) = check(path, count=words)["errors"]
    assert error["row"] == 2
    assert "513 tokens" in error["message"]
    assert check(path, ["stage.only.rollout.max_prompt_tokens=600"], count=words)["ok"]


def test_absent_data_is_an_error_unless_it_can_be_obtained(tmp_path: Path) -> None:
    """Catches a typing error in a path that looks like data to be fetched."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    without = check(recipe(tmp_path / "a", None))
    assert [e["field"] for e in without["errors"]] == ["stage.only.data.0.path"]
    with_hint = check(recipe(tmp_path / "b", None, obtain="ask for it"))
    assert with_hint["ok"]
    assert with_hint["pending"][0]["remedy"] == "ask for it"


def test_a_domain_without_rows_is_an_error(tmp_path: Path) -> None:
    """Catches a stage that would wait for problems that never come."""
    (error,) = check(recipe(tmp_path, [row("a", domain="text")], domain="geometry"))["errors"]
    assert "geometry" in error["message"]


def test_model_folders(tmp_path: Path) -> None:
    """Catches a model folder without its processor files: training would start with another preprocessing."""
    path = recipe(tmp_path, [row("a")])
    (tmp_path / "model" / "preprocessor_config.json").unlink()
    (tmp_path / "model" / "model.safetensors").unlink()
    report = check(path)
    assert report["exit_code"] == 4
    assert [e["field"] for e in report["errors"]] == ["model.base"]
    assert len(report["pending"]) == 1
    (tmp_path / "model" / "config.json").write_text('{"model_type": "other"}', encoding="utf-8")
    assert any("'other'" in e["message"] for e in check(path)["errors"])
    assert not check(path, ["model.base=./nowhere"])["ok"]


def test_a_broken_recipe_is_reported_not_raised(tmp_path: Path) -> None:
    """Catches a check that dies of what it looks for."""
    report = check(tmp_path / "absent.toml")
    assert (report["ok"], report["exit_code"], len(report["errors"])) == (False, 2, 1)
    assert set(report["errors"][0]) == {"file", "row", "field", "message", "remedy"}


def picky(problem: Problem, reply: str) -> bool:
    """A user's verifier that needs a field which the row must bring."""
    return bool(problem.meta["tolerance"])


def right(problem: Problem, reply: str) -> bool:
    """A user's verifier that works."""
    return problem.answer in reply


def with_verifier(folder: Path, verifier: str) -> dict[str, Any]:
    path = recipe(folder, [row("a")])
    path.write_text(f'{path.read_text()}reward = {{ verifier = "{verifier}", workers = 1, limit_s = 5.0 }}\n')
    return check(path, count=words)


def test_a_verifier_is_tried_before_a_run(tmp_path: Path) -> None:
    """Catches a run that loads a model and its data before it finds that nothing can judge a reply."""
    for at, verifier in enumerate(
        ("no_such_module:judge", "tests.test_check:no_such_function", "tests.test_check:picky")
    ):
        (folder := tmp_path / str(at)).mkdir()
        report = with_verifier(folder, verifier)
        (error,) = report["errors"]
        assert error["field"] == "stage.only.reward.verifier" and error["remedy"], error
        assert report["exit_code"] == RecipeError.exit_code
    (folder := tmp_path / "good").mkdir()
    assert with_verifier(folder, "tests.test_check:right")["ok"]


def test_a_verifiers_server_that_is_down_is_pending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a recipe called wrong because a server is not up yet, and one called ready without its token."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setenv(TOKEN_VARIABLE, "a token of length")
    (up := tmp_path / "up").mkdir()
    report = with_verifier(up, "http://127.0.0.1:9")
    assert report["ok"] and [p["field"] for p in report["pending"]] == ["stage.only.reward.verifier"]
    monkeypatch.delenv(TOKEN_VARIABLE)
    (bare := tmp_path / "bare").mkdir()
    assert not with_verifier(bare, "http://127.0.0.1:9")["ok"]


def test_a_library_that_is_missing_is_told_before_anything_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an error that check prints and then exits 0 over, and a run that evaluates its base before it stops."""
    path = recipe(tmp_path, [row("a")])
    asked = ["stage.only.lora={ rank = 4, four_bit = true }"]
    monkeypatch.setattr("lmm_r1.check.find_spec", lambda name: None if name == "bitsandbytes" else name)
    report = check(path, asked)
    assert not report["ok"] and report["exit_code"] == RecipeError.exit_code
    (error,) = report["errors"]
    assert error["field"] == "stage.only.lora" and "bitsandbytes" in error["message"] and "qlora" in error["remedy"]
    with pytest.raises(RecipeError, match="bitsandbytes"):
        run_recipe(load_recipe(path, asked), path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_vllm_that_is_missing_is_told_before_anything_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an engine that is missed only when the base has been read."""
    path = recipe(tmp_path, [row("a")])
    asked = ['engine.kind="vllm"']
    monkeypatch.setattr("lmm_r1.check.find_spec", lambda name: None if name == "vllm" else name)
    report = check(path, asked)
    (error,) = report["errors"]
    assert not report["ok"] and report["exit_code"] == RecipeError.exit_code
    assert error["field"] == "engine.kind" and "vllm" in error["message"] and "lmm-r1[vllm]" in error["remedy"]
    with pytest.raises(RecipeError, match="vllm"):
        run_recipe(load_recipe(path, asked), path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_vllm_are_refused_elsewhere(tmp_path: Path) -> None:
    """Catches a recipe that sets how much memory an engine takes which takes what it needs."""
    path = recipe(tmp_path, [row("a")])
    (error,) = check(path, ["engine.gpu_memory_utilization=0.5"])["errors"]
    assert 'kind "vllm"' in error["message"] and error["field"].startswith("engine")


def test_a_cluster_without_ray_is_named_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an import error in the middle of a run, and a check that a recipe without a cluster fails."""
    _, path = tiny_recipe(tmp_path)
    monkeypatch.setattr("lmm_r1.check.find_spec", lambda name: None if name == "ray" else name)
    assert check(path)["ok"]
    asked = ["cluster.address=local"]
    report = check(path, asked)
    assert not report["ok"] and report["exit_code"] == RecipeError.exit_code
    (error,) = report["errors"]
    assert error["field"] == "cluster.address" and "library ray" in error["message"] and "[ray]" in error["remedy"]
    with pytest.raises(RecipeError, match="library ray"):
        run_recipe(load_recipe(path, asked), path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert check(path, ["cluster.address=nowhere"])["errors"][0]["field"] == "cluster.address"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["stage.mgt_sokoban.data.0.options.least_pushes=90", "stage.mgt_sokoban.data.0.options.most_pushes=91"],
            "no level of size",
        ),
        (["stage.mgt_sokoban.rollout.max_prompt_tokens=20"], "more than rollout.max_prompt_tokens = 20"),
        (["stage.mgt_sokoban.reward.verifier=json:dumps"], "a game pays by itself"),
    ],
)
def test_games_are_tried_before_they_are_trained_on(
    changes: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches options that make no level, and openings that every step would drop."""
    monkeypatch.setattr("lmm_r1.envs.sokoban.levels.TRIES", 20)
    count = lambda model, images, problems: [100] * len(problems)  # noqa: E731
    recipe = Path(__file__).resolve().parents[1] / "recipes" / "micro_mgt_sokoban.toml"
    report = check(recipe, changes, count)
    assert not report["ok"] and any(said in e["message"] for e in report["errors"]), report["errors"]
    assert check(recipe, (), count)["ok"]
