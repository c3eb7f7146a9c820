"""The command: exit codes, one line per fault, JSON where it was asked for, and a start that loads no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from lmm_r1 import cli
from lmm_r1.errors import CheckpointError, DataError, Fault, FolderInUseError, Interrupted, NumericError
from lmm_r1.verbs import loading

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SUMMARY = {"n": 4, "accuracy": 0.5, "low": 0.1, "high": 0.9}
RESULTS = {"arms": {"base": {"text": SUMMARY}, "fre_text": {"text": SUMMARY}}, "findings": ["text: undecided"]}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...], dict[str, Any]]]:
    """Records what the verbs ask of build.py, chain.py and ask.py, which are replaced: it would load torch and train."""
    seen: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
    answers = {
        "run_recipe": RESULTS,
        "evaluate_model": {"arms": {"micro": {"text": SUMMARY}}},
        "sample_model": {"samples": [{"text": "four\x1b[2J"}], "prompt_token_ids": [1]},
        "build_base": Path("made"),
        "set_threads": None,
    }

    def fake(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            seen.append((name, args, kwargs))
            return answers[name]

        return call

    work = types.SimpleNamespace(**{name: fake(name) for name in answers})
    monkeypatch.setattr(loading, "work", lambda part: work)
    monkeypatch.setenv("LMM_R1_THREADS", "2")
    return seen


def test_train_passes_recipe_overrides_and_folder(
    calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an option of `train` that is read and then lost."""
    arguments = ["train", str(RECIPES / "quickstart.toml"), "--set", "stage.fre_text.update.lr=3e-5", "--seed", "9"]
    arguments += [
        "--out",
        str(tmp_path / "run"),
        "--stage",
        "mgt_geo",
        "--threads",
        "1",
        "--json",
        str(tmp_path / "r.json"),
    ]
    assert cli.run(arguments) == 0
    assert calls[0] == ("set_threads", (1,), {})
    _, (recipe, path, out), options = calls[1]
    assert (recipe.seed, recipe.stage["fre_text"].update.lr) == (9, 3e-5)
    assert (path, out, options) == (
        RECIPES / "quickstart.toml",
        tmp_path / "run",
        {"stage": "mgt_geo", "checked": True},
    )
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == RESULTS
    shown = capsys.readouterr().out
    assert "text: undecided" in shown
    assert str(tmp_path / "run" / "report.html") in shown


def test_an_overlay_reaches_the_run(calls: list[Any], tmp_path: Path) -> None:
    """Catches a --with that is read and then lost, so that a run would start on the settings of another machine."""
    overlay = tmp_path / "small.toml"
    overlay.write_text("[engine]\nslots = 3\n", encoding="utf-8")
    arguments = ["train", str(RECIPES / "quickstart.toml"), "--with", str(overlay), "--out", str(tmp_path / "run")]
    assert cli.run(arguments) == 0
    assert calls[1][1][0].engine.slots == 3
    assert cli.run(["check", str(RECIPES / "quickstart.toml"), "--with", str(tmp_path / "absent.toml")]) == 2


def test_quickstart_runs_its_recipe(calls: list[Any], tmp_path: Path) -> None:
    """Catches a quickstart that only works in one working directory."""
    assert cli.run(["quickstart", "--out", str(tmp_path)]) == 0
    assert calls[1][1][0].name == "quickstart"


def test_evaluate_sample_and_build_base(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a flag that does not arrive, and a reply that reaches the terminal with its escape codes."""
    assert cli.run(["evaluate", "micro", "--sets", "text, geometry", "--items", "5", "--seed", "3"]) == 0
    assert calls[1][1:] == (
        ("micro",),
        {
            "sets": ["text", "geometry"],
            "items": 5,
            "blind": 0,
            "seed": 3,
            **dict.fromkeys(("prompt", "temperature", "top_p", "max_new_tokens", "min_pixels", "max_pixels")),
        },
    )
    out = tmp_path / "sample.json"
    options = [
        "--prompt",
        "2+2?",
        "--image",
        "a.png",
        "--image",
        "b.png",
        "--n",
        "2",
        "--max-pixels",
        "15680",
        "--json",
        str(out),
    ]
    assert cli.run(["sample", "micro", *options]) == 0
    assert calls[3][2]["images"] == [Path("a.png"), Path("b.png")]
    assert calls[3][2]["n"] == 2 and calls[3][2]["max_pixels"] == 15680
    assert json.loads(out.read_text(encoding="utf-8"))["prompt_token_ids"] == [1]
    assert cli.run(["build-base", "--out", str(tmp_path / "base"), "--steps", "3"]) == 0
    assert calls[5] == ("build_base", (tmp_path / "base",), {"steps": 3, "seed": None, "start": None, "done": 1})
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError(Fault("bad", "rows.jsonl", 3, "answer")), 3),
        (CheckpointError("broken"), 4),
        (NumericError("nan"), 5),
        (FolderInUseError("held"), 6),
        (Interrupted(15), 143),
        (OSError(28, "No space left on device", "runs/x"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_faults_are_one_line_and_an_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback for a user's fault, and an exit code that a script cannot rely on."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(
        loading, "work", lambda part: types.SimpleNamespace(run_recipe=fail, set_threads=lambda n: None)
    )
    assert cli.run(["train", str(RECIPES / "quickstart.toml")]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    assert len(shown.strip().splitlines()) == (0 if isinstance(error, KeyboardInterrupt) else 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train"],
        ["train", "absent.toml"],
        ["trian"],
        ["evaluate", "micro", "--items", "0"],
        ["evaluate", "micro", "--prompt", "unheard-of"],
        ["sample", "micro", "--prompt", "x", "--temperature", "0"],
        ["train", str(RECIPES / "quickstart.toml"), "--set", "seeed=1"],
        ["report"],
    ],
)
def test_usage_faults_exit_with_2(arguments: list[str], calls: list[Any]) -> None:
    """Catches a usage fault that looks like success, or like a crash, to a script."""
    assert cli.run(arguments) == 2
    assert not [name for name, _, _ in calls if name != "set_threads"]


def test_threads_must_be_a_number(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a typing error in the environment that quietly changes the numbers."""
    monkeypatch.setenv("LMM_R1_THREADS", "two")
    assert cli.run(["quickstart"]) == 2


def test_check_writes_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a check whose exit code, JSON and text disagree."""
    out = tmp_path / "check.json"
    assert cli.run(["check", str(RECIPES / "quickstart.toml"), "--set", "engine.slotz=1", "--json", str(out)]) == 2
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["ok"] is False
    assert report["errors"][0]["remedy"] == 'did you mean "slots"?'
    assert "engine.slotz" in capsys.readouterr().err


def test_check_tries_a_game(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `check --env` that says ok of a game it did not try, and a verb that takes both or neither."""
    assert cli.run(["check", "--env", "sokoban"]) == 0 and "sokoban: ok" in capsys.readouterr().out
    assert cli.run(["check", "--env", "nogame", "--json", str(tmp_path / "c.json")]) == 2
    assert "no game 'nogame'" in capsys.readouterr().err
    assert json.loads((tmp_path / "c.json").read_text())["errors"][0]["message"] == "no game 'nogame'"
    assert cli.run(["check"]) == 2
    assert cli.run(["check", str(RECIPES / "quickstart.toml"), "--env", "sokoban"]) == 2


def test_play_shows_an_episode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a player that plays unseen, a film that is not written, and options that get lost."""
    arguments = ["play", "expert", "--game", "sokoban", "--option", "picture=grid", "--option", "max_turns=30"]
    arguments += ["--level", "micro_5x5", "--gif", str(tmp_path / "a.gif"), "--json", str(tmp_path / "a.json")]
    assert cli.run(arguments) == 0
    shown = capsys.readouterr().out
    assert "solved" in shown and "#####" in shown and (tmp_path / "a.gif").stat().st_size > 100
    told = json.loads((tmp_path / "a.json").read_text())
    assert told["success"] == 1.0 and told["player"] == "expert" and told["turns"][-1]["outcome"] == "solved"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--game", "chess"], "no game 'chess'"),
        (["--game", "sokoban", "--option", "moves"], "an option looks like"),
        (["--game", "sokoban", "--option", "moves=no"], "[moves]"),
        (["--game", "sokoban", "--level", "nix"], "no size 'nix'"),
        (["--game", "sokoban", "--memory", "0,5"], "full or PICTURES,ACTIONS"),
        (["--game", "sokoban", "--option", "see=text", "--gif", "x.gif"], ""),
    ],
)
def test_play_names_what_is_wrong(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path,
                                  monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Catches a traceback, or a fault without its option."""
    monkeypatch.chdir(tmp_path)
    code = cli.run(["play", "idle", *arguments])
    err = capsys.readouterr().err
    assert (code == 2 and said in err and err.count("\n") == 1) if said else code == 0


def test_the_command_starts_without_torch() -> None:
    """Catches an import that makes `--help` and `check` wait seconds for torch."""
    code = "import sys, lmm_r1.cli as c; r = c.run(['check', sys.argv[1]]); print(r, 'torch' in sys.modules)"
    arguments = [sys.executable, "-c", code, str(RECIPES / "quickstart.toml")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.splitlines()[-1] == "0 False"
