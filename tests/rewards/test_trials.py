"""Attacks on the verifier as a system: code in answers, sprays of answers, stuffed formats, hanging neighbours."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lmm_r1 import verify
from lmm_r1.rewards.format import format_verdict
from lmm_r1.rewards.pool import VerifierPool
from lmm_r1.types import Problem

#: Run in a process of its own: an audit hook cannot be taken out again.
WATCHED = """
import json, os, sys
from lmm_r1 import verify
from lmm_r1.rewards import VERIFIERS
verify("1", "<answer>1</answer>"); verify("sin(x)", "<answer>cos(x)</answer>")  # imports are done
seen = []
names = ("exec", "compile", "import", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "open", "pickle.")
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith(names) else None)
payloads = json.load(sys.stdin)
paid = []
for payload in payloads:
    for kind in VERIFIERS:
        for reply in (payload, f"\\\\boxed{{{payload}}}", f"<think>{payload}</think><answer>{payload}</answer>",
                      f"<think></think><answer>\\\\boxed{{\\\\text{{{payload}}}}}</answer>"):
            if verify("4", reply, kind, ("3", "4") if kind == "choice" else None).value:
                paid.append(payload)
        verify(payload, "<answer>4</answer>", kind)
        verify("4", "<answer>4</answer>", kind, (payload, "4"))
watched = sorted(set(seen))
after = [verify("4", "<answer>5</answer>").value, verify("4", "<answer>4</answer>").value]
print(json.dumps({"paid": paid, "seen": watched, "after": after}))
"""
CODE = [
    "__import__('os').system('touch hacked')", "().__class__.__base__.__subclasses__()", "(lambda: 4)()", "f'{4}'", "eval('2+2')",
    "exec('x=4')", "open('hacked','w')", "\\input{/etc/passwd}", "\\write18{touch hacked}", "\\immediate\\write18{id}", "$(touch hacked)",
    "`touch hacked`", "; touch hacked", "4 if True else 5", "[4 for _ in [0]][0]", "globals()['verify']", "sympy.sympify('4')",
    "Symbol('x').subs(x, 4)", "\\csname 4\\endcsname", "\\def\\x{4}\\x", "verify.__code__ = (lambda *a: 1).__code__", "{{7*7}}", "${7*7}", "%s" * 50,
    "../../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/4", "<script>4</script>", "\x1b]0;4\x07", "\u202e4", "type('X',(),{'__eq__':lambda s,o:True})()",
]  # fmt: skip


def test_code_in_answers_does_nothing(tmp_path: Path) -> None:
    """Catches text that reaches an interpreter, a shell, a file or a socket, and a checker that was patched by it."""
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        input=json.dumps(CODE),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["paid"] == [] and found["after"] == [0.0, 1.0]
    # Unpickling, files, processes, sockets: none. A pattern or a module that is first needed now is compiled or imported.
    assert not [
        event
        for event in found["seen"]
        if event not in ("import", "compile", "exec", "open", "os.listdir", "os.scandir")
    ]
    assert not list(tmp_path.iterdir())


SPRAYS = [
    "<answer>" + " ".join(f"\\boxed{{{k}}}" for k in range(1000) if k != 4) + " \\boxed{5}</answer>",
    "<answer>" + ", ".join(map(str, range(10))) + "</answer>", "<answer>A, B, C, D</answer>", "<answer>4 or 5</answer>", "<answer>5=4</answer>",
    "<answer>1=2=3=4</answer>", "<answer>4</answer><answer>5</answer>", "<answer>5</answer><answer>4</answer>", "<think>\\boxed{4}</think>",
    "<think>\\boxed{4}</think><answer>5</answer>", "<answer>5</answer>\\boxed{4}", "<answer>5</answer> so 4", "\\boxed{4", "<answer>4",
    "<think>4", "<answer></answer>4", "<answer>4 maybe 5</answer>", "<answer>not 4</answer>", "<answer>3 < 4</answer>", "<answer>4, 5</answer>",
    "<answer>\\{3, 4\\}</answer>", "<answer>[3, 5]</answer>", "<answer>4?</answer> <answer>4</answer>", "<answer>4 \\pm 1</answer>", "<answer>any of 3, 4</answer>",
]  # fmt: skip


@pytest.mark.parametrize("reply", SPRAYS)
def test_a_spray_of_answers_never_pays(reply: str) -> None:
    """Catches a rule under which saying everything is as good as knowing."""
    for kind in ("math", "numeric", "text"):
        assert verify("4", reply, kind).value == 0.0, kind


STUFFED = {
    "<think></think><answer>4</answer>": True,
    "<think>a</think>\n<answer>4</answer>": False,
    "<think>a</think><think>b</think><answer>4</answer>": False,
    "<think>a</think><answer>4</answer><answer>4</answer>": False,
    "<answer>4</answer><think>a</think>": False,
    "<THINK>a</THINK><ANSWER>4</ANSWER>": False,
    "＜think＞a＜/think＞＜answer＞4＜/answer＞": False,
    "<thi\u200bnk>a</think><answer>4</answer>": False,
    "I use <think> tags. <think>a</think><answer>4</answer>": False,
    "<think>a</think><answer>4</answer> and more": False,
    "<think>a<answer>4</answer></think>": False,
    "": False,
}


@pytest.mark.parametrize("reply", STUFFED)
def test_the_format_reward_is_exact(reply: str) -> None:
    """Catches tags that are paid for where they frame nothing."""
    assert (format_verdict(Problem("p", (), "4"), reply).value == 1.0) is STUFFED[reply]


def hanging(problem: Problem, reply: str) -> bool:
    """A verifier that never ends on one reply."""
    while reply == "hang":
        pass
    return reply == problem.answer


def test_one_hanging_reply_among_sixty_four() -> None:
    """Catches a hang that turns its neighbours' rewards, or holds them up."""
    problem = Problem("p", (), "7")
    replies = ["7" if k % 2 else f"wrong {k}" for k in range(64)]
    replies[20] = "hang"
    with VerifierPool("tests.rewards.test_trials:hanging", workers=4, limit_s=1.0) as pool:
        started = time.monotonic()
        found = pool.verify_many([(problem, reply) for reply in replies])
        waited = time.monotonic() - started
        assert [v.reason for v in found] == [
            "timeout" if r == "hang" else "correct" if r == "7" else "wrong" for r in replies
        ]
        assert waited < 30.0, "the others waited for it"  # a guard against waiting for ever, no measurement
        assert len(pool._all) == 4
