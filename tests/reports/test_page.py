"""The report: whole, self-contained, honest in words, and safe with whatever a model wrote."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_fixture import STAGES, fabricate

from lmm_r1.errors import RecipeError
from lmm_r1.reports import plots
from lmm_r1.reports.page import in_words, write_report
from lmm_r1.reports.rollouts import pick, question, stage_rollouts
from lmm_r1.reports.safety import clipped, picture, safe
from lmm_r1.runs.folder import RunFolder
from lmm_r1.runs.jsonl import read_lines, write_lines


class Elements(HTMLParser):
    """Every element of a page with its attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return fabricate(tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def page(run: RunFolder) -> str:
    return write_report(run.path).read_text(encoding="utf-8")


def test_page_shows_every_arm_set_stage_and_difference(run: RunFolder, page: str) -> None:
    """Catches an arm, a set, a stage's curves or a comparison that falls off the page."""
    text = Elements(page).text
    results = json.loads(run.results.read_text())
    for arm, cells in results["arms"].items():
        assert arm in text
        for cell in cells.values():
            assert f"{100 * cell['accuracy']:.1f} %" in text
            assert f"{100 * cell['low']:.1f} – {100 * cell['high']:.1f}" in text
    for difference in results["differences"]:
        assert in_words(difference) in text
    assert page.count("data:image/svg+xml") == 2 + len(STAGES)
    assert page.count('class="node"') == 1 + len(STAGES)
    assert "lmm-r1 quickstart" in text and "torch 2.13.0" in text


def test_page_counts_what_the_verifier_said(run: RunFolder, page: str) -> None:
    """Catches a run whose unreadable answers and failed verifications cannot be told from wrong ones."""
    text = Elements(page).text
    assert "no answer" in text and "Verdicts on training replies, first to last steps: correct" in text
    for cells in json.loads(run.results.read_text())["arms"].values():
        for cell in cells.values():
            assert f"<td>{cell['verdicts']['no_answer']}</td>" in page


def test_page_needs_nothing_from_outside(page: str) -> None:
    """Catches a script, an event handler, a link to a network, or a policy that would allow one."""
    elements = Elements(page)
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "form", "a", "base"}
    for _, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")]
        assert (attributes.get("src") or "data:image/").startswith("data:image/")
    policies = [a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and (policies[0] or "").startswith(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    )
    outside_data = re.sub(r'src="data:[^"]*"', "", page)
    assert "http://" not in outside_data and "https://" not in outside_data and "url(http" not in outside_data


def test_hostile_texts_are_shown_as_text(tmp_path: Path) -> None:
    """Catches a reply, a prompt, a verdict or a name that becomes markup, or carries control characters."""
    run = fabricate(tmp_path / "run", only=("fre_text",))
    folder = run.stage("fre_text")
    path = folder.rollouts / "step_000001.jsonl"
    bad = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[2J\u202e\x00\ud800'\""
    lines = read_lines(path)
    for line in lines:
        line.update(
            {
                "replies": [bad],
                "prompt": bad,
                "answer": bad,
                "stop": bad,
                "verdicts": {"accuracy": bad},
                "images": [bad, 3],
            }
        )
    write_lines(path, lines)
    results = json.loads(run.results.read_text())
    results["arms"][bad] = results["arms"]["base"]
    results["differences"][0]["a"] = bad
    run.write_json("results.json", results)
    run.write_json("provenance.json", {bad: bad, "nested": {bad: bad}})
    page = write_report(run.path).read_text(encoding="utf-8")
    elements = Elements(page)
    assert "script" not in {tag for tag, _ in elements.found}
    assert not [1 for tag, a in elements.found if tag == "img" and not (a["src"] or "").startswith("data:")]
    assert "<script>alert(1)</script>" in elements.text, "shown, as text"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", page)


@pytest.mark.parametrize("sha", ["../../secret", "a" * 63, "A" * 64, "", None, 7, "a" * 64 + "\n"])
def test_picture_is_read_by_hash_only(tmp_path: Path, sha: object) -> None:
    """Catches a rollout line that makes the report inline any file of the machine."""
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (tmp_path / "images" / "x").mkdir(parents=True)
    assert "<img" not in picture(tmp_path / "images" / "x", sha)


def test_picture_that_is_none_is_not_shown(tmp_path: Path) -> None:
    """Catches a missing picture or another file type that breaks the page."""
    (tmp_path / f"{'a' * 64}.png").write_bytes(b"<svg onload=x>")
    assert "not a PNG" in picture(tmp_path, "a" * 64) and "missing" in picture(tmp_path, "b" * 64)


def test_words_say_when_the_interval_includes_zero() -> None:
    """Catches a page that sells a difference which the data do not show, and a sign the wrong way round."""
    base = {"a": "x", "b": "y", "set": "text", "n": 500}
    assert "includes zero" in in_words(base | {"mean": 0.03, "low": -0.01, "high": 0.07})
    assert "includes zero" in in_words(base | {"mean": 0.0, "low": 0.0, "high": 0.0})
    up = in_words(base | {"mean": 0.1, "low": 0.05, "high": 0.15})
    assert up == "x is 10.0 points better than y on text: the interval excludes zero."
    assert "10.0 points worse" in in_words(base | {"mean": -0.1, "low": -0.15, "high": -0.05})
    assert "not compared" in in_words(base | {"mean": None, "low": 0, "high": 0})


def test_unfinished_run_has_a_page(tmp_path: Path) -> None:
    """Catches a report that needs results, metrics or provenance before it can be looked at."""
    run = RunFolder(tmp_path / "run")
    run.keep_recipe('name = "young"\n[stage.fre]\nsteps = 2\n[[stage.fre.data]]\ndomain = "text"\n')
    text = Elements(write_report(run.path).read_text()).text
    assert "No arm has been evaluated yet" in text and "young" in text
    run.stage("fre").metrics.write_text('{"step": 1, "stage": "fre", "reward/accuracy": null}\n{"step": 2, "sta')
    assert "fre" in Elements(write_report(run.path).read_text()).text


def test_missing_cells_and_an_unknown_recipe_do_not_end_the_report(tmp_path: Path) -> None:
    """Catches a page that dies on an arm evaluated on fewer sets, a null, or a recipe of another version."""
    run = RunFolder(tmp_path)
    run.keep_recipe('name = "old"\nfield_of_another_version = 1\n[stage.fre]\nsteps = 2\n')
    cell = {"n": 5, "accuracy": 0.4, "low": None, "high": 0.9}
    run.write_json("results.json", {"arms": {"base": {"text": cell}, "fre": {"geometry": cell}}, "differences": []})
    text = Elements(write_report(run.path).read_text()).text
    assert "40.0 %" in text and "not evaluated" in text


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    """Catches an empty page for a mistyped path."""
    with pytest.raises(RecipeError, match="holds no run"):
        write_report(tmp_path)


def test_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    """Catches dates or random identifiers in the figures: a report in a repository would change for nothing."""
    run = fabricate(tmp_path, only=("mgt_geo",))
    assert write_report(run.path).read_bytes() == write_report(run.path).read_bytes()


def test_reports_never_import_torch() -> None:
    """Catches a report that takes seconds and a gigabyte to start, or needs torch on the reader's machine."""
    code = "import sys, lmm_r1.reports.page; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_running_mean_leaves_gaps_alone() -> None:
    """Catches a missing step that poisons its neighbours, or a curve drawn where nothing was measured."""
    nan = float("nan")
    assert str(plots.running_mean([1.0, nan, 3.0], 1)) == "[1.0, nan, 3.0]"
    assert plots.running_mean([1.0, 2.0, 6.0], 1) == [1.5, 3.0, 4.0]


def test_graph_survives_a_cycle_and_a_missing_start() -> None:
    """Catches an endless loop on a recipe that the check would have refused."""
    graph = plots.stage_graph({"a": "b", "b": "a", "c": "nowhere", "d": "base"}, {}, {}, safe)
    assert graph.count('class="node"') == 2


def test_small_pieces() -> None:
    """Catches a prompt shown with hundreds of placeholders, uncut replies, and steps picked twice."""
    prompt = (
        "<|im_start|>user\n<|vision_start|>"
        + "<|image_pad|>" * 99
        + "<|vision_end|>Hi<b><|im_end|>\n<|im_start|>assistant\n"
    )
    assert question(prompt) == '<span class="role">question</span><span>[picture] Hi&lt;b&gt;</span>'
    assert len(clipped("x" * 9000, 100)) < 200 and "8900 characters left out" in clipped("x" * 9000, 100)
    paths = [Path(str(i)) for i in range(9)]
    assert pick(paths, 3) == [paths[0], paths[4], paths[8]] and pick(paths[:2], 3) == paths[:2]
    assert plots.colour_of(["base", "base_no_prompt", "x"])["base"] == plots.GREY


SHUFFLED = [  # (gold, reply, own parts, own verdict, the verdict that was paid)
    ("20", "<think>5+13=18; 18+2=20</think><answer>20</answer>", (1.0, 1.0), "correct", "no_answer"),
    ("26", "A  gets C 25.", (0.0, 0.0), "no_answer", "correct"),
]


@pytest.mark.parametrize(("gold", "reply", "own", "verdict", "paid"), SHUFFLED)
def test_badges_tell_the_truth_where_rewards_were_shuffled(
    tmp_path: Path, gold: str, reply: str, own: tuple[float, float], verdict: str, paid: str
) -> None:
    """Catches a right reply with the badge of another's score, and a payment that nobody can explain."""
    folder = RunFolder(tmp_path).stage("shuffled")
    other = {"parts": {"format": 1 - own[0], "accuracy": 1 - own[1]}, "verdicts": {"accuracy": paid}}
    record = {
        "problem_id": "p", "answer": gold, "prompt": "q", "replies": [reply], "images": [], "reward": 1.5 * (1 - own[1]),
        "parts": {"format": own[0], "accuracy": own[1]}, "verdicts": {"accuracy": verdict}, "paid_as": other, "stop": "eos",
    }  # fmt: skip
    write_lines(folder.rollouts / "step_000001.jsonl", [record])
    page = stage_rollouts(folder)
    badges = re.findall(r'<span class="tag (good|bad)">([^<]*)</span>', page)
    assert badges == [
        ("good" if own[1] else "bad", verdict.replace("_", " ")),
        ("good", "well-formed") if own[0] else ("bad", "format broken"),
    ]
    words = f"{paid.replace('_', ' ')}, {'format broken' if own[0] else 'well-formed'}"
    assert f'<span class="paid">paid as: {words} (rewards were dealt at random)</span>' in page
    game = record | {"episode": 0, "sibling": 0, "turns": [{"outcome": "solved", "success": 1.0, "reward": 1.0}]}
    write_lines(folder.rollouts / "step_000001.jsonl", [game])
    assert "solved" in stage_rollouts(folder) and f"paid as: {words}" in stage_rollouts(folder)


def test_failures_of_verifiers_stand_in_the_report(tmp_path: Path) -> None:
    """Catches a run whose verifier failed and whose page says nothing, and a reply that gets into the page raw."""
    run = fabricate(tmp_path, only=("fre_text",))
    stage = run.stage("fre_text")
    hostile = "<script>alert(1)</script>\x1b[2J"
    lines = [
        {"step": step, "of": 3, "problem_id": "p7", "sibling": 1, "part": "accuracy", "reason": reason, "detail": detail, "reply": hostile}
        for step, reason, detail in ((1, "error", "RuntimeError: oops (own.py:3)"), (1, "timeout", "took longer than limit_s = 1"), (2, "error", "RuntimeError: oops (own.py:3)"))
    ]  # fmt: skip
    write_lines(stage.failures, lines)
    page = write_report(tmp_path).read_text()
    assert "6 failed verdicts of verifiers" in page and "RuntimeError: oops (own.py:3)" in page
    assert "took longer than limit_s = 1" in page and "p7" in page
    assert "<script>alert" not in page and "\x1b" not in page
