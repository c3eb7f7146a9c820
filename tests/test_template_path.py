"""Chat templates that begin the reply: what they write and what the model writes are judged as one, on every path."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lmm_r1 import cli
from lmm_r1.config import Model, Reward, RolloutConfig
from lmm_r1.data.images import ImageStore
from lmm_r1.data.stream import ListSource
from lmm_r1.difficulty import measure
from lmm_r1.envs.games import draw_problem, game, open_environment, options_of
from lmm_r1.evaluation.evaluate import evaluate_set
from lmm_r1.models.adapters import make_adapter
from lmm_r1.models.micro import MICRO_DIR
from lmm_r1.models.qwen_vl import QwenVLAdapter
from lmm_r1.rewards.format import format_can_be_right
from lmm_r1.rewards.score import make_scorer
from lmm_r1.rollout.play import Sampling, play, turns_of
from lmm_r1.rollout.scoring import play_and_score
from lmm_r1.rollout.supervise import supervise
from lmm_r1.seams import ModelAdapter
from lmm_r1.types import Message, Problem, Reply, Request, Text
from tests.fakes import ScriptedEngine

ROOT = Path(__file__).parents[1]
MARK = "{{- '<|im_start|>assistant\\n' -}}"
#: What a template puts behind the mark of the assistant's turn.
OPENINGS = {
    "none": "",
    "think": "<think>",
    "think and line": "<think>\n",
    "closed": "<think>\n\n</think>\n\n",
    "answer": "<answer>",
    "words": "Let me think ",
}
#: Another family's marks, as a template of somebody's own may have them.
OTHER_MARKS = (
    "{%- for message in messages -%}{{- message.role | upper + ': ' -}}{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}{{- part.text -}}{%- endfor -%}{%- endif -%}{{- '<|im_end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'ASSISTANT: <think>' -}}{%- endif -%}"
)


def folder_of(tmp_path: Path, opening: str) -> Path:
    """The micro base with a template that begins each reply so."""
    folder = tmp_path / "model"
    shutil.copytree(MICRO_DIR, folder)
    template = (folder / "chat_template.jinja").read_text()
    assert template.count(MARK) == 1
    begun = MARK.replace("\\n'", "\\n" + opening.replace("\n", "\\n") + "'")
    (folder / "chat_template.jinja").write_text(template.replace(MARK, begun))
    return folder


def adapter_of(tmp_path: Path, opening: str, images: ImageStore | None = None) -> ModelAdapter:
    return make_adapter(str(folder_of(tmp_path, opening)), ImageStore() if images is None else images, Model())


class Saying(ScriptedEngine):
    """Writes the same text each time, in the adapter's tokens."""

    def __init__(self, adapter: ModelAdapter, text: str) -> None:
        super().__init__(lambda r: text)
        assert isinstance(adapter, QwenVLAdapter)
        self.ids = np.asarray(adapter.tokenizer(text + "<|im_end|>", add_special_tokens=False).input_ids, np.int32)

    def finished(self) -> Iterator[Reply]:
        while self._waiting:
            request: Request = self._waiting.pop()
            yield Reply(request.id, request.token_ids, self.ids, np.full(len(self.ids), -0.5, np.float32), "eos", 0)


def asked(text: str = "3 + 4?") -> tuple[Message, ...]:
    return (Message("system", (Text("Think."),)), Message("user", (Text(text),)))


@pytest.mark.parametrize("name", list(OPENINGS))
def test_the_adapter_knows_what_the_template_begins(name: str, tmp_path: Path) -> None:
    """Catches a beginning that is lost in a prompt or in feedback, and one that a row of data spells."""
    adapter = adapter_of(tmp_path, OPENINGS[name])
    prompt = adapter.encode(asked())
    assert prompt.opening == OPENINGS[name]
    assert adapter.decode(prompt.token_ids).endswith("<|im_start|>assistant\n" + OPENINGS[name])
    assert adapter.encode_feedback((Message("user", (Text("again"),)),)).opening == OPENINGS[name]
    assert adapter.encode(asked("<|im_start|>assistant\n<answer>")).opening == OPENINGS[name]


def test_a_template_with_other_marks_is_read_too(tmp_path: Path) -> None:
    """Catches a rule that only knows one family's marks."""
    folder = folder_of(tmp_path, "")
    for text, opening in ((OTHER_MARKS, "<think>"), (OTHER_MARKS.replace("<think>", ""), "")):
        (folder / "chat_template.jinja").write_text(text)
        assert make_adapter(str(folder), ImageStore(), Model()).encode(asked()).opening == opening


BROKEN = {
    "does not end": ("{% for x in", "cannot be rendered"),
    "no system turn": ("{{- raise_exception('no such turn') if messages[0].role == 'system' -}}", "no such turn"),
    "calls nothing": ("{{- messages.none_such() -}}", "cannot be rendered"),
    "begins no reply": (None, "begins no reply"),
    "begins no reply, other marks": (OTHER_MARKS.replace("if add_generation_prompt", "if false"), "begins no reply"),
}


@pytest.mark.parametrize("name", list(BROKEN))
@pytest.mark.parametrize(
    "command",
    [
        ["sample", "--prompt", "3 + 4?", "--system", "Think."],
        ["evaluate", "--sets", "text", "--items", "2"],
        ["play", "--game", "sokoban", "--prompt", "think"],
        ["check"],
    ],
    ids=lambda c: c[0],
)
def test_a_template_that_cannot_be_used_is_one_line(
    name: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback, and a prompt that leaves the reply in the user's turn; in check and in every command alike."""
    folder = folder_of(tmp_path, "")
    template, said = BROKEN[name]
    whole = (folder / "chat_template.jinja").read_text()
    if template is None:
        assert whole.count("add_generation_prompt") == 1
        template = whole.replace("if add_generation_prompt", "if false")
    (folder / "chat_template.jinja").write_text(template if name != "no system turn" else template + whole)
    verb, *options = command
    if verb == "check":
        arguments = ["check", str(ROOT / "recipes" / "micro_rl.toml"), "--set", f"model.base={folder}"]
    else:
        arguments = [verb, str(folder), *options, "--threads", "1"][: None if verb != "play" else -2]
    assert cli.run(arguments) == 4
    told = capsys.readouterr().err
    assert said in told and "chat template" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("name", "reply", "format_", "accuracy"),
    [
        ("none", "<think>x</think><answer>7</answer>", 1.0, 1.0),
        ("none", "x</think><answer>7</answer>", 0.0, 1.0),
        ("think", "x</think><answer>7</answer>", 1.0, 1.0),
        ("think", "x</think><answer>8</answer>", 1.0, 0.0),
        ("think", "<think>x</think><answer>7</answer>", 0.0, 1.0),
        ("think", "<answer>7</answer>", 0.0, 0.0),  # in thoughts that never end
        ("think and line", "x</think><answer>7</answer>", 1.0, 1.0),
        ("think and line", "<think>x</think><answer>7</answer>", 0.0, 1.0),
        ("closed", "<answer>7</answer>", 1.0, 1.0),
        ("closed", "<think>x</think><answer>7</answer>", 0.0, 1.0),
        ("answer", "7</answer>", 0.0, 1.0),
        ("words", "about it.<answer>7</answer>", 0.0, 1.0),
    ],
)
def test_beginning_and_reply_are_judged_as_one(
    name: str, reply: str, format_: float, accuracy: float, tmp_path: Path
) -> None:
    """Catches a right reply that is paid nothing, and a second <think> that is paid."""
    adapter = adapter_of(tmp_path, OPENINGS[name])
    problem = Problem("p", asked(), "7")
    sampling, make = Sampling(64, 1.0, max_context=400), open_environment(lambda pixels: pytest.fail("no picture"))
    _, (found,) = play_and_score(
        [(problem, 0)], Saying(adapter, reply), adapter, make, make_scorer(Reward()), sampling, (0,)
    )  # fmt: skip
    assert (found.parts["format"], found.parts["accuracy"]) == (format_, accuracy)


@pytest.mark.parametrize("name", ["think", "think and line"])
def test_evaluation_and_difficulty_judge_the_same_text(name: str, tmp_path: Path) -> None:
    """Catches a path that reads the reply alone."""
    images = ImageStore()
    adapter = adapter_of(tmp_path, OPENINGS[name], images)
    engine, score = Saying(adapter, "3 + 4 = 7</think><answer>7</answer>"), make_scorer(Reward())
    sampling = Sampling(64, 1.0, max_context=4000)
    found = evaluate_set("text", 4, engine, adapter, images, score, sampling, system="", seed=0).summary()
    assert (found["format_rate"], found["reasoning_share"]) == (1.0, 1.0)
    knobs = {"samples": 2, "temperature": 1.0, "max_new_tokens": 64, "max_prompt_tokens": 90, "seed": 0}
    measure(ListSource([Problem("p", asked(), "7")]), tmp_path / "d.jsonl", knobs, engine, adapter, score, 1)
    assert json.loads((tmp_path / "d.jsonl").read_text())["pass_rate"] == 1.0


@pytest.mark.parametrize("window", [None, (1, 5)])
def test_a_game_reads_beginning_and_reply_as_one(window: tuple[int, int] | None, tmp_path: Path) -> None:
    """Catches a move that no game can read, in the first turn or in a later one."""
    images = ImageStore()
    adapter = adapter_of(tmp_path, "<answer>", images)
    problem = draw_problem(game("sokoban"), options_of("sokoban", {}), "train", 0, 0, images.put)
    sampling = Sampling(64, 1.0, max_context=32_000, window=window, max_turns=2)
    (episode,) = play(
        [(problem, 0)], Saying(adapter, "up</answer>"), adapter, open_environment(images.put), sampling, (0,)
    )
    turns = turns_of(episode)
    assert [(t.opening, t.reply, t.action) for t in turns] == [("<answer>", "<answer>up</answer>", "up")] * 2


@pytest.mark.parametrize("name", ["none", "think", "think and line"])
def test_solutions_go_on_from_the_beginning(name: str, tmp_path: Path) -> None:
    """Catches a supervised stage that teaches a second <think>, or that refuses the template."""
    adapter = adapter_of(tmp_path, OPENINGS[name])
    rows = [Problem("p", asked(), "7", meta={"solution": "3 + 4 = 7"})]
    got = supervise(
        lambda n: rows, adapter, RolloutConfig(prompts=1), max_context=640, make=lambda p: pytest.fail("no game"),
        expert=lambda p: pytest.fail("no game"),
    )  # fmt: skip
    (rollout,) = got.groups[0].rollouts
    told = adapter.decode(rollout.token_ids)
    assert told.count("<think>") == 1 and re.search(r"assistant\n<think>\n?3 \+ 4 = 7</think><answer>7</answer>$", told)
    assert rollout.turns[0].reply == "<think>3 + 4 = 7</think><answer>7</answer>"
    learned = adapter.decode(rollout.token_ids[rollout.trainable])
    assert learned == rollout.turns[0].reply.removeprefix("<think>" if name != "none" else "")


@pytest.mark.parametrize(
    ("opening", "possible"),
    [
        ("", True), ("<think>", True), ("<think>\n", True), ("<think>Okay, ", True), ("<think>\n\n</think>\n\n", True),
        ("<think>\n</think>\n\n<answer>", True), ("\n<think>", True), ("<thi", True), ("<think></think><answer>7</answer>", True),
        ("<answer>", False), ("Let me think", False), ("<think><think>", False), ("<think></think>So", False),
        ("</think>", False), ("<think></think><answer>7</answer>.", False), ("<|start|>", False),
    ],
)  # fmt: skip
def test_whether_a_format_can_ever_be_right(opening: str, possible: bool) -> None:
    """Catches a template under which nobody could be paid, and one that is refused for nothing."""
    assert format_can_be_right(opening) == possible


@pytest.mark.parametrize("name", ["think", "think and line"])
def test_training_pays_the_format_under_such_a_template(name: str, tmp_path: Path) -> None:
    """Catches format 0 for every right reply of a run, and a report or a line that hides who wrote the beginning."""
    out = tmp_path / "run"
    settings = {
        "model.base": str(folder_of(tmp_path, OPENINGS[name])), "stage.train.steps": "1", "evaluate.sets": "[]",
        "stage.train.rollout.prompts": "4", "stage.train.rollout.siblings": "4",
    }  # fmt: skip
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert cli.run(["train", str(ROOT / "recipes" / "micro_rl.toml"), *options, "--out", str(out)]) == 0
    metrics = json.loads((out / "train" / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["reward/format"] > 0.1  # 0 where the reply is judged alone
    (lines,) = (out / "train" / "rollouts").glob("*.jsonl")
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert all(r["openings"] == ["<think>"] and r["replies"][0].startswith("<think>") for r in records)
    assert 'class="opening"' in (out / "report.html").read_text()


@pytest.mark.parametrize("name", ["do_rescale", "do_normalize"])
def test_a_processor_that_wants_other_pixels_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a setting of the folder that is read by nobody, so that the model sees other pixels than it was trained with."""
    folder = folder_of(tmp_path, "")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: False}))
    recipe = str(ROOT / "recipes" / "micro_rl.toml")
    for arguments in (["sample", str(folder), "--prompt", "?"], ["check", recipe, "--set", f"model.base={folder}"]):
        assert cli.run(arguments) == 4
        assert name in capsys.readouterr().err
