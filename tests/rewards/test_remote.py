"""A verifier behind HTTP: what is refused, what is tried again, and what is never made up."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lmm_r1.config import Reward
from lmm_r1.errors import EngineError, RecipeError
from lmm_r1.rewards.remote import MAX_BODY, TOKEN_VARIABLE, RemoteVerifier, VerifierServer
from lmm_r1.rewards.score import make_scorer
from lmm_r1.types import Problem, Verdict
from tests.fakes import said

TOKEN = "a token for tests"
SEVEN = Problem("p", (), "7", meta={"note": "é"})


@pytest.fixture
def server() -> Iterator[VerifierServer]:
    made = VerifierServer(TOKEN)
    made.start()
    yield made
    made.stop()


def raw(
    server: VerifierServer, body: bytes, token: str = TOKEN, path: str = "/verify", **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)  # type: ignore[arg-type]
    connection.request("POST", path, body, {"Authorization": f"Bearer {token}", **headers})
    response = connection.getresponse()
    return response.status, response.read()


def test_the_same_verdicts_as_here(server: VerifierServer) -> None:
    """Catches a problem that loses its choices or its verifier on the way."""
    remote = RemoteVerifier(server.url, TOKEN)
    assert remote(SEVEN, "\\boxed{7}") == Verdict(1.0, "correct")
    assert remote(SEVEN, "\\boxed{8}") == Verdict(0.0, "wrong")
    assert remote(Problem("p", (), "B", "choice", choices=("1", "2")), "\\boxed{2}").value == 1.0
    assert remote(Problem("p", (), "100", "numeric", meta={"tolerance": 0.05}), "\\boxed{104}").value == 1.0


def test_what_the_server_refuses(server: VerifierServer) -> None:
    """Catches an open door, and a body that is read without a limit."""
    good = json.dumps({"problem": {"answer": "7"}, "reply": "\\boxed{7}"}).encode()
    assert raw(server, good)[0] == 200
    assert raw(server, good, token="wrong")[0] == 401
    assert raw(server, good, path="/other")[0] == 404
    for bad in (
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"problem": {"answer": "7"}, "reply": 7}',
        b'{"problem": {}, "reply": ""}',
        b"[" * 99_999,
    ):
        assert raw(server, bad)[0] == 400, bad[:20]
    assert raw(server, b"x", **{"Content-Length": str(MAX_BODY + 1)})[0] == 413
    assert raw(server, good)[0] == 200  # it lives on


def test_no_token_no_server_and_no_client() -> None:
    """Catches a verifier that anyone may use, and an address that is no address."""
    for token in ("", "short"):
        with pytest.raises(RecipeError, match="token"):
            VerifierServer(token)
    with pytest.raises(RecipeError, match="token"):
        RemoteVerifier("http://127.0.0.1:1", "")
    for url in ("ftp://x", "http://", "http://a@b", "file:///etc/passwd", "x"):
        with pytest.raises(RecipeError, match="address"):
            RemoteVerifier(url, TOKEN)


class Strange(BaseHTTPRequestHandler):
    """Answers by the number of the call."""

    answers: list[tuple[int, bytes]]
    calls = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, body = self.answers[min(type(self).calls, len(self.answers) - 1)]
        type(self).calls += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


GOOD = (200, b'{"value": 1, "reason": "correct"}')


@pytest.mark.parametrize(
    ("answers", "calls", "right"),
    [
        ([(500, b""), GOOD], 2, True), ([(200, b"not json"), (503, b""), GOOD], 3, True), ([(401, b"")], 1, False),
        ([(200, b'{"value": 2, "reason": "x"}')], 3, False), ([(200, b'{"value": NaN, "reason": "x"}')], 3, False),
        ([(200, b'{"value": true, "reason": "x"}')], 3, False), ([(200, b"x" * 100_000)], 3, False), ([(302, b"")], 3, False),
    ],
)  # fmt: skip
def test_bounded_tries_and_never_a_zero(answers: list[tuple[int, bytes]], calls: int, right: bool) -> None:
    """Catches a reward that is made up when the server fails, and tries without end."""
    handler = type("Handler", (Strange,), {"answers": answers, "calls": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    remote = RemoteVerifier(f"http://127.0.0.1:{server.server_address[1]}", TOKEN, tries=3, wait_s=0.01)
    try:
        if right:
            assert remote(SEVEN, "") == Verdict(1.0, "correct")
        else:
            with pytest.raises(EngineError, match="no verdict"):
                remote(SEVEN, "")
        assert handler.calls == calls  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()


def test_a_run_stops_when_its_verifier_is_gone(monkeypatch: pytest.MonkeyPatch, server: VerifierServer) -> None:
    """Catches a scorer that turns a lost server into zero rewards."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    score = make_scorer(Reward(verifier=server.url))
    assert score(SEVEN, said("<think>t</think><answer>7</answer>"), "eos").reward == 1.5
    server.stop()
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(EngineError):
        score(SEVEN, said("<think>t</think><answer>7</answer>"), "eos")


def shouted(problem: Problem, reply: str) -> bool:
    """A user's verifier."""
    return reply == reply.upper()


def test_a_users_function_by_dotted_path() -> None:
    """Catches a recipe whose verifier is not the one that runs, and the paper's rule that is not."""
    score = make_scorer(Reward(verifier="tests.rewards.test_remote:shouted", workers=1, limit_s=5.0))
    assert score(SEVEN, said("YES"), "eos").parts == {"format": 0.0, "accuracy": 1.0}
    assert score(SEVEN, said("no"), "eos").parts["accuracy"] == 0.0
    paper = make_scorer(Reward(compat="paper"))
    assert paper(SEVEN, said("<think>\\boxed{7}</think><answer>8</answer>"), "eos").reward == 1.5


class Dripping(BaseHTTPRequestHandler):
    """A right answer, a byte at a time from the place named."""

    slow_from = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"value": 1, "reason": "correct"}'
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        at = {"head": 5, "body": len(head) + 2}[self.slow_from]  # type: ignore[index]
        answer = head + body
        try:
            self.wfile.write(answer[:at])
            for k in range(at, len(answer)):
                time.sleep(0.05)
                self.wfile.write(answer[k : k + 1])
        except OSError:
            self.close_connection = True  # the client has gone

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize("slow_from", ["head", "body"])
def test_a_limit_is_for_the_whole_answer(slow_from: str) -> None:
    """Catches a server that holds a run for ever by a byte now and then (trial 44)."""
    handler = type("Handler", (Dripping,), {"slow_from": slow_from})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        with pytest.raises(EngineError, match=r"no whole answer in 0\.4 s"):
            RemoteVerifier(url, TOKEN, limit_s=0.4, tries=2, wait_s=0.01)(SEVEN, "")
        assert RemoteVerifier(url, TOKEN, limit_s=60.0, tries=1)(SEVEN, "") == Verdict(1.0, "correct")
    finally:
        server.shutdown()
        server.server_close()


def test_what_a_server_says_of_its_fault_is_told() -> None:
    """Catches "status 500" as the whole story."""
    answers = [(500, b'{"error": "KeyError: \'smiles\' (checks.py:7) \\u001b[2J"}')]
    handler = type("Handler", (Strange,), {"answers": answers, "calls": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(EngineError, match=r"status 500: KeyError: 'smiles' \(checks\.py:7\)") as raised:
            RemoteVerifier(f"http://127.0.0.1:{server.server_address[1]}", TOKEN, tries=1)(SEVEN, "")
        assert "\x1b" not in str(raised.value)
    finally:
        server.shutdown()
        server.server_close()


def test_a_call_under_way_ends_when_its_scorer_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that is stopped and then waits for the limit of a request, four times."""
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    asked, ended = threading.Event(), threading.Event()

    class Silent(Strange):
        def do_POST(self) -> None:
            asked.set()
            ended.wait(60)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    scorer = make_scorer(Reward(verifier=f"http://127.0.0.1:{server.server_address[1]}", limit_s=600.0))
    waiting = scorer.submit(SEVEN, said("7"), "eos")
    assert asked.wait(30)
    scorer.close()
    assert waiting.done()
    ended.set()
    server.shutdown()
    server.server_close()
