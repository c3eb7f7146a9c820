"""`check` is what the run does: a table of faulty recipes, each through both, with the same lines and the same exit code.

Nothing may be loaded or written by a run that is refused, and no fault may hide another.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmm_r1 import cli
from lmm_r1.check import check, models_near, require
from lmm_r1.errors import LmmR1Error, RecipeError
from lmm_r1.models.reply_opening import reply_opening
from lmm_r1.planning import here
from lmm_r1.recipes import dump_recipe, load_recipe
from lmm_r1.rewards.remote import TOKEN_VARIABLE
from lmm_r1.runs.folder import RunFolder
from lmm_r1.settings import SHIPPED

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
TOML = """
name = "ready"
[engine]
slots = 4
max_context = 256
[evaluate]
sets = ["text"]
items = 2
[stage.first]
steps = 1
data = [{ source = "synthetic", domain = "text" }]
rollout = { prompts = 2, siblings = 2, max_new_tokens = 8, max_prompt_tokens = 128 }
[stage.later]
from = "first"
steps = 1
data = [{ source = "problems", path = "rows.jsonl" }]
rollout = { prompts = 2, siblings = 2, max_new_tokens = 8, max_prompt_tokens = 128 }
"""
VERIFIERS = """
import time
def right(problem, reply): return problem.answer in reply
def raises(problem, reply): raise RuntimeError("oops")
def sleeps(problem, reply): time.sleep(60)
"""
GAMES = """
from tests.own_game import Guess
class Fool(Guess): fault = "fool"
class Lives(Guess): fault = "many lives"
class Sound(Guess): pass
"""


def row(identity: str, question: str = "1+1?", **more: Any) -> str:
    content = [{"type": "text", "text": question}]
    return json.dumps({"id": identity, "messages": [{"role": "user", "content": content}], "answer": "2", **more})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe that is ready, its rows, and modules with verifiers and games; it is the present folder."""
    (tmp_path / "r.toml").write_text(TOML)
    (tmp_path / "rows.jsonl").write_text("\n".join(row(f"r{i}", f"1+{i}?") for i in range(3)) + "\n")
    (tmp_path / "ready_verifiers.py").write_text(VERIFIERS)
    (tmp_path / "ready_games.py").write_text(GAMES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("lmm_r1.check.this_machine", lambda: here.Machine((), 2**36))
    monkeypatch.setattr("time.sleep", lambda _: None)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(here.shutil, "disk_usage", lambda _: usage._replace(free=10**13))
    return tmp_path


def model(folder: Path, template: str = "") -> Path:
    """A copy of the micro model whose weights are not copied; template: what its generation prompt ends with."""
    out = folder / "model"
    out.mkdir()
    for path in SHIPPED.iterdir():
        if path.suffix == ".safetensors":
            (out / path.name).symlink_to(path)
        else:
            shutil.copy(path, out / path.name)
    if template:
        path = out / "chat_template.jinja"
        text = path.read_text()
        assert r"'<|im_start|>assistant\n'" in text
        path.write_text(text.replace(r"'<|im_start|>assistant\n'", rf"'<|im_start|>assistant\n{template}'"))
    return out


def no_tokenizer(folder: Path) -> list[str]:
    (model(folder) / "tokenizer.json").unlink()
    return ["model.base=model"]


def large(folder: Path) -> list[str]:
    """A folder whose config.json is that of a model of three billion parameters."""
    config = json.loads((model(folder) / "config.json").read_text())
    text = config.get("text_config", config)
    text |= {"hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36}
    text["layer_types"] = ["full_attention"] * 36
    (folder / "model" / "config.json").write_text(json.dumps(config))
    return ["model.base=model"]


def templated(ending: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        model(folder, ending)
        return ["model.base=model"]

    return make


def bare_template(folder: Path) -> list[str]:
    """A template that takes no system message, which the recipe's prompt profile is."""
    path = model(folder) / "chat_template.jinja"
    path.write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + path.read_text()
    )
    return ["model.base=model"]


def with_rows(*rows: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
        return []

    return make


def in_the_way(name: str, *inside: str) -> Callable[[Path], list[str]]:
    """A file of that name in the run folder, or a folder where `inside` names one."""

    def make(folder: Path) -> list[str]:
        path = folder / "run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if inside else path.touch()
        return []

    return make


def begun(folder: Path) -> list[str]:
    """A run of this recipe with a finished stage; it is then asked for with another seed."""
    run = RunFolder(folder / "run")
    run.keep_recipe("seed = 7\n")
    (run.stage("first").checkpoints / "step_000001").mkdir()
    return []


def verifier(name: str, **more: object) -> list[str]:
    return [
        f"stage.later.reward.verifier={name}",
        *(f"stage.later.reward.{key}={value}" for key, value in more.items()),
    ]


def playing(name: str) -> list[str]:
    return [f'stage.later.data=[{{source="game",game="{name}"}}]']


Made = list[str] | Callable[[Path], list[str]]
#: what is wrong, --set overrides or what makes it and returns them, exit code of a run, words of the fault
FAULTY: list[tuple[str, Made, int, str]] = [
    ("a verifier's module", verifier("no_such_module:judge"), 2, "ModuleNotFoundError"),
    ("a verifier's function", verifier("ready_verifiers:no_such"), 2, "no_such"),
    ("a verifier that raises", verifier("ready_verifiers:raises"), 2, "later.reward.verifier"),
    ("a verifier that hangs", verifier("ready_verifiers:sleeps", limit_s=0.2), 2, "later.reward.verifier"),
    ("a game's module", playing("no_such_module:game"), 2, "cannot be imported"),
    ("a game whose expert loses", playing("ready_games:Fool"), 2, "breaks its contract: players"),
    ("a game that starts twice", playing("ready_games:Lives"), 2, "breaks its contract: once"),
    ("a later stage's file", ['stage.later.data=[{source="problems",path="gone.jsonl"}]'], 3, "the data is not here"),
    ("a later stage's row", with_rows(row("a"), row("a"), row("b", answer="")), 3, "rows.jsonl:2"),
    ("a later stage's pass rates", ['stage.later.data.0.difficulty=rates.jsonl'], 3, "the pass rates are not here"),
    ("a prompt over the limit", with_rows(row("a"), row("b", "long " * 200)), 3, "rows.jsonl:2 [messages]"),
    ("an evaluation set", ['evaluate.sets=["text","tixt"]'], 2, 'did you mean "text"?'),
    ("a stage's name", ["stage.latr.update.lr=1e-5"], 2, "did you mean stage.later?"),
    ("a stage's beginning", ["stage.later.from=frist"], 2, "names no stage"),
    ("a model folder", ["model.base=./nowhere"], 4, "no such model folder"),
    ("a model folder's tokenizer", no_tokenizer, 4, "model"),
    ("a template that begins the answer", templated("<answer>"), 2, "would never be paid"),
    ("a template that says something", templated("Sure: "), 2, "would never be paid"),
    ("a template that cannot be rendered", templated("' + none.x + '"), 4, "cannot be rendered"),
    ("a template without a system message", bare_template, 4, "cannot be rendered: no system"),
    ("a file for TensorBoard's folder", in_the_way("tensorboard"), 4, "is a file"),
    ("a file for a later stage's folder", in_the_way("later"), 4, "is a file"),
    ("a folder for the metrics", in_the_way("first/metrics.jsonl", "folder"), 4, "is a folder"),
    ("another recipe's run", begun, 2, "started with 7"),
]  # fmt: skip
#: The same for what is no fault of the recipe: pending for check, refused by a run.
NOT_HERE: list[tuple[str, Made, int, str]] = [
    ("a device", ["model.device=cuda"], 2, "needs a CUDA device; there is none here"),
    ("a device for a large model", large, 2, "billion parameters needs a CUDA device"),
    ("data to obtain", ['stage.later.data=[{source="problems",path="gone.jsonl",obtain="ask"}]'], 3, "(ask)"),
    ("a verifier's server", verifier("http://127.0.0.1:9"), 7, "later.reward.verifier"),
]


def both(world: Path, made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """((code, lines) of check, (code, lines) of train); train must write nothing and load nothing."""
    monkeypatch.setenv(TOKEN_VARIABLE, "a token of length")
    overrides = made(world) if callable(made) else made
    arguments = ["r.toml", "--out", "run", *(word for o in overrides for word in ("--set", o))]
    before = sorted((p, p.stat().st_mtime_ns) for p in world.rglob("*") if "__pycache__" not in p.parts)
    capsys.readouterr()
    code = cli.run(["check", *arguments])
    told = capsys.readouterr()
    lines = [
        line.partition(": ")[2] for line in (told.err + told.out).splitlines() if line.startswith("lmm-r1: error: ")
    ]
    lines = [line.removeprefix("lmm-r1: ").partition(": ") for line in (told.err + told.out).splitlines()]
    judged = [rest for kind, _, rest in lines if kind in ("error", "pending")]
    monkeypatch.setattr("lmm_r1.chain.RunFolder", lambda *_: pytest.fail("the run began"))
    trained = cli.run(["train", *arguments])
    said = [line.removeprefix("lmm-r1: ") for line in capsys.readouterr().err.splitlines()]
    assert sorted((p, p.stat().st_mtime_ns) for p in world.rglob("*") if "__pycache__" not in p.parts) == before
    return (code, judged, told.out.splitlines()[-1:]), (trained, said)


@pytest.mark.parametrize(("made", "code", "words"), [case[1:] for case in FAULTY], ids=[case[0] for case in FAULTY])
def test_a_run_refuses_what_check_refuses(
    made: Made, code: int, words: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a fault that only one of the two finds, another exit code, and a refused run that leaves something behind."""
    checked, trained = both(world, made, capsys, monkeypatch)
    assert (checked[0], checked[1]) == trained, "the same code and the same lines"
    assert checked[0] == code and any(words in line for line in checked[1]), checked


@pytest.mark.parametrize(("made", "code", "words"), [case[1:] for case in NOT_HERE], ids=[case[0] for case in NOT_HERE])
def test_what_is_not_here_is_never_called_ok(
    made: Made, code: int, words: str, world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an `ok` for a recipe that cannot run here, and an error for one that is right."""
    checked, trained = both(world, made, capsys, monkeypatch)
    assert checked[0] == 0 and "not ready" in checked[2][0] and not checked[2][0].endswith("ok")
    assert trained == (code, checked[1]) and any(words in line for line in trained[1])


def test_what_is_ready_is_ready(
    world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a check that refuses sound verifiers, games and templates: all the faults above would prove nothing."""
    model(world, "<think>")
    asked = [*verifier("ready_verifiers:right"), "model.base=model"]
    assert check("r.toml", asked, out=world / "run")["ready"]
    assert check("r.toml", playing("ready_games:Sound"), out=world / "run")["ready"]
    assert check("r.toml", ["stage.later.reward.format=0.0"])["ready"]
    require(load_recipe("r.toml"), Path("r.toml"), out=world / "run")


def test_faults_of_all_layers_come_at_once(world: Path) -> None:
    """Catches a typing error that hides the next one: key, type, stage, set, model, verifier, game, data and folder in one go."""
    wrong = [
        "engine.slotz=1", "stage.first.update.lr=fast", "stage.first.update.minibatches=3", "stage.first.algoritm.name=ppo",
        "stage.later.from=frist", "stage.latr.steps=2", "model.base=./nowhere", 'evaluate.sets=["tixt"]',
        'stage.later.data=[{source="problems",path="gone.jsonl"},{source="game",game="sokobann"}]',
        "stage.first.reward.verifier=no_such_module:judge",
    ]  # fmt: skip
    (world / "run").mkdir()
    (world / "run" / "tensorboard").touch()
    report = check("r.toml", wrong, out=world / "run")
    assert report["exit_code"] == 2
    assert [e["field"] or Path(e["file"]).name for e in report["errors"]] == [
        "stage.latr", "engine.slotz", "stage.first.update.lr", "stage.first.algoritm", "stage.first",
        "stage.later.from", "evaluate.sets", "stage.later.data.1.options", "model.base", "stage.first.reward.verifier",
        "stage.later.data.0.path", "tensorboard",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (["stage.first.data.0.domain=txt"], ["stage.first.data.0.domain"]),
        (["stage.first.rollout.promptz=8", "stage.first.update.minibatches=4"], ["stage.first.rollout.promptz"]),
        (["engine.max_contxt=9000", "stage.later.rollout.max_new_tokens=5000"], ["engine.max_contxt"]),
        (["stage.first.algorithm.nam=ppo", "stage.first.critic={}"], ["stage.first.algorithm.nam"]),
    ],
)
def test_a_fault_brings_no_others_about(changes: list[str], fields: list[str], world: Path) -> None:
    """Catches a second fault that is only there because the first one was mended: nobody wrote it."""
    assert [e["field"] for e in check("r.toml", changes)["errors"]] == fields


@pytest.mark.parametrize("value", ["-1", '"x"', "[]", "{}", "inf", "{ z = 1 }", "0"])
def test_check_never_raises(value: str, world: Path) -> None:
    """Catches a check that dies of what it looks for, and a fault that comes with the exit code of none."""
    fields = [
        "model", "model.base", "model.max_pixels", "engine", "engine.kind", "evaluate.sets", "evaluate.prompt", "evaluate.memory",
        "stage", "stage.first", "stage.first.from", "stage.first.data", "stage.first.data.0", "stage.first.data.0.domain",
        "stage.later.data.0.path", "stage.later.prompt", "stage.later.rollout", "stage.later.algorithm", "stage.first.critic",
        "stage.first.algorithm.lam", "stage.first.lora", "stage.later.reward.verifier", "compare", "prompts", "cluster.ranks",
    ]  # fmt: skip
    for field in fields:
        report = check("r.toml", [f"{field}={value}"], lambda _, __, problems: [5] * len(problems), out=world / "run")
        assert report["ok"] == (report["exit_code"] == 0) == (not report["errors"]), (field, report)


def test_memory_over_the_devices_is_told_with_a_knob(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that loads for minutes and dies, where the plan knew; on a processor and on a device."""
    recipe = load_recipe(RECIPES / "lmm_r1_3b" / "fre_text.toml")
    (fault,) = here.missing_here(recipe, here.Machine((79 * 2**30,), 2**40))
    assert "on the device" in fault.message and "there are 79.0" in fault.message and "would fit" in fault.remedy
    assert here.missing_here(recipe, here.Machine((79 * 2**30,) * 7, 2**40))  # one process uses one
    overlaid = load_recipe(RECIPES / "lmm_r1_3b" / "fre_text.toml", (), [RECIPES / "lmm_r1_3b/hardware/one_80gb.toml"])
    assert not here.missing_here(overlaid, here.Machine((79 * 2**30,), 2**40))
    on_cpu = recipe.model_copy(update={"model": recipe.model.model_copy(update={"device": "cpu"})})
    assert "of this machine's memory" in here.missing_here(on_cpu, here.Machine((), 2**36))[0].message
    assert not here.missing_here(on_cpu, here.Machine((), 2**40))
    small = load_recipe("r.toml")
    assert not here.missing_here(small, here.Machine((), 2**32))
    assert here.missing_here(small, here.Machine((), 2**24))
    assert here.missing_here(recipe, here.Machine(None, 2**36)) == [], "where only torch can tell, torch tells"


def test_too_few_devices_for_a_cluster(world: Path) -> None:
    """Catches a cluster that waits for devices which are not there."""
    cluster = {"address": "local", "ranks": 2, "engines": 1, "layout": "split"}
    recipe = load_recipe("r.toml", [f"cluster.{key}={value}" for key, value in cluster.items()])
    assert "needs 3 CUDA devices" in here.missing_here(recipe, here.Machine((2**36,) * 2, 2**40))[0].message
    assert not here.missing_here(recipe, here.Machine((2**36,) * 3, 2**40))
    elsewhere = load_recipe("r.toml", ["cluster.address=head:6379", "model.device=cuda"])
    assert not here.missing_here(elsewhere, here.Machine((), 2**30))


def test_the_disk_is_looked_at_first(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that trains for a day and has nowhere to put it; what a resumed run has on the disk counts."""
    usage = shutil.disk_usage(world)
    monkeypatch.setattr(here.shutil, "disk_usage", lambda _: usage._replace(free=20_000_000))
    recipe = load_recipe("r.toml", ["save.keep=1"])
    with pytest.raises(LmmR1Error, match="20 MB free, the checkpoints and models of this run need") as caught:
        require(recipe, Path("r.toml"), out=world / "run")
    assert caught.value.exit_code == 4 and not (world / "run").exists()
    for stage in ("first", "later"):
        held = world / "run" / stage / "checkpoints" / "step_000001"
        held.mkdir(parents=True)
        with (held / "model.safetensors").open("wb") as file:
            os.truncate(file.fileno(), 16_000_000)
    assert here.disk_fault(recipe, {n: world / "run" / n for n in recipe.stage}, world / "run") is None


def test_a_folder_cannot_be_made_in_a_file(world: Path) -> None:
    """Catches a traceback, and a base that is evaluated first, for --out below a file."""
    (world / "file").touch()
    report = check("r.toml", out=world / "file" / "run")
    assert report["exit_code"] == 4 and "no folder can be made" in report["errors"][0]["message"]
    assert check("r.toml", out=world / "file")["exit_code"] == 4


@pytest.mark.parametrize("given", ["run", "run/first", "run/first/checkpoints/step_000001", "run/first/checkpoints"])
@pytest.mark.parametrize("verb", ["evaluate", "sample", "difficulty", "play", "recipe"])
def test_a_run_in_place_of_its_model_is_told_so(
    given: str, verb: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches "config.json is missing" for a person who means the model of that run, stage or checkpoint."""
    stage = world / "run" / "first"
    (stage / "checkpoints" / "step_000001").mkdir(parents=True)
    shutil.copytree(SHIPPED, stage / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    arguments = {
        "evaluate": ["evaluate", given],
        "sample": ["sample", given, "--prompt", "?"],
        "difficulty": ["difficulty", given, "rows.jsonl", "--out", "rates.jsonl"],
        "play": ["play", given, "--game", "sokoban"],
        "recipe": ["train", "r.toml", "--out", "new", "--set", f"model.base={given}"],
    }[verb]
    assert cli.run(arguments) == 4
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "did you mean run/first/model?" in told
    assert models_near(Path("run/first/model")) == []


def test_an_evaluation_is_refused_in_one_go(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an evaluation that names its faults one a call, or loads a model first."""
    assert cli.run(["evaluate", "nowhere/at/all", "--sets", "text,tixt,geo-metry", "--threads", "1"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and 'did you mean "text"?' in told[0] and "geometry" in told[1] and "[MODEL]" in told[2]
    assert cli.run(["evaluate", "micro", "--sets", " , "]) == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "micro", "--prompt", "caf\udce9"],
        ["train", "r\udcff.toml"],
        ["prepare", "rows", "--out", "\udc80"],
        ["verify", "\udce9", "2"],
        ["nonsense\udce9"],
    ],
)
def test_arguments_that_are_not_utf8_are_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback for bytes of another encoding, of any verb."""
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "is not UTF-8" in told and r"\udc" in told


@pytest.mark.parametrize("verb", ["train", "check", "plan"])
@pytest.mark.parametrize("left_out", ["", "name", "seeds"])
def test_a_study_in_place_of_a_recipe_is_told_so(
    verb: str, left_out: str, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches unknown keys for a file that is right, given to the wrong verb."""
    lines = ['name = "s"', 'base = "r.toml"', "seeds = [1]", "[[axis]]", 'name = "a"', "[axis.values]", "x = []"]
    (world / "s.toml").write_text("\n".join(line for line in lines if not (left_out and line.startswith(left_out))))
    assert cli.run([verb, "s.toml"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "this is a study, not a recipe" in told and "lmm-r1 study s.toml" in told


def test_a_recipe_in_place_of_a_study_is_told_so(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches seven lines of required fields for a file that is right; a study's own typing error has its near match."""
    assert cli.run(["study", "r.toml"]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "this is a recipe, not a study" in told and "lmm-r1 train r.toml" in told
    (world / "s.toml").write_text(
        'name = "s"\nbase = "r.toml"\nseedz = [1]\n[[axis]]\nname = "a"\n[axis.values]\nx = []\n'
    )
    assert cli.run(["study", "s.toml"]) == 2
    told = capsys.readouterr().err
    assert 'did you mean "seeds"?' in told and "seeds]: is required" in told


def test_a_study_is_refused_before_its_first_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a grid that trains for hours before a cell with a wrong verifier, or without its data, is reached."""
    values = 'good = []\nbad = ["stage.later.reward.verifier=no_such_module:judge"]\ngone = ["stage.later.data.0.path=gone.jsonl"]'
    (world / "s.toml").write_text(
        f'name = "s"\nbase = "r.toml"\nstage = "later"\nseeds = [1, 2]\n[[axis]]\nname = "a"\n[axis.values]\n{values}\n'
    )
    assert cli.run(["study", "s.toml", "--out", "out", "--threads", "1"]) == 2
    told = capsys.readouterr().err
    assert told.count("ModuleNotFoundError") == 1 and told.count("the data is not here") == 1
    assert not (world / "out").exists()


@pytest.mark.parametrize(
    ("template", "opening"),
    [
        ("<think>", "<think>"),
        (r"<think>\n", "<think>\n"),
        ("", ""),
        (r"<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n"),
    ],
)
def test_the_opening_is_what_the_tokenizer_renders(template: str, opening: str, tmp_path: Path) -> None:
    """Catches a rendering of our own that is not the one of the library that a run renders with."""
    transformers = pytest.importorskip("transformers")
    folder = model(tmp_path, template)
    assert reply_opening(folder)[0] == opening
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True).endswith(
        f"assistant\n{opening}"
    )


def test_a_server_that_answers_is_no_fault(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run refused for a stage that is finished: its verifier, its data and its game are not asked any more."""
    monkeypatch.setenv(TOKEN_VARIABLE, "a token of length")
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        asked = verifier(f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert not check("r.toml", asked, out=world / "run")["ready"]
        run = RunFolder(world / "run")
        run.keep_recipe(dump_recipe(load_recipe("r.toml", asked)))
        (run.stage("later").path / "model").mkdir()
        (run.stage("later").checkpoints / "step_000001").mkdir()
        assert check("r.toml", asked, out=world / "run")["ready"]
        assert not check("r.toml", [*asked, "stage.later.steps=2"], out=world / "run")["ready"], "it would train on"
    with pytest.raises(RecipeError, match="did you mean"):
        require(load_recipe("r.toml"), Path("r.toml"), stage="latr")
